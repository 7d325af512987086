"""A third-party proxy in an environment of its own: LiteLLM, which speaks every wire format."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REQUIREMENT = "litellm[proxy]==1.106.2"
MASTER_KEY = "sk-key-of-the-test"
READY = b"Uvicorn running on"
START_SECONDS = 120
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Proxy:
    """A running proxy and the port on which it looks for models of its vendors."""

    port: int
    vendor_port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def environment() -> Path:
    """The proxy's Python environment; made once, under the folder of tools, and used again."""
    folder = ROOT / ".tools" / REQUIREMENT.replace("[proxy]==", "-")
    done = folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", REQUIREMENT], check=True)
        done.touch()
    return folder


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running_proxy(folder: Path, models: dict[str, str]) -> Iterator[Proxy]:
    """Run the proxy. Models are named here and lead to the vendor port in the format that their value begins with."""
    proxy = Proxy(free_port(), free_port())
    config = folder / "config.yaml"
    config.write_text(configuration(models, proxy.vendor_port))
    arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(proxy.port)]
    settings = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [environment() / "bin/litellm", *arguments],
        env=settings,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    # Read to the end: a proxy that nobody listens to stops when the pipe is full.
    ready = threading.Event()
    reader = threading.Thread(target=_copy, args=(process, folder / "log", ready))
    reader.start()
    try:
        if not ready.wait(START_SECONDS) or process.poll() is not None:
            raise RuntimeError(f"the proxy did not start, see {folder / 'log'}")
        yield proxy
    finally:
        process.terminate()
        process.wait()
        reader.join()


def _copy(process: subprocess.Popen[bytes], path: Path, ready: threading.Event) -> None:
    assert process.stdout is not None
    with process.stdout, path.open("wb") as log:
        for line in process.stdout:
            log.write(line)
            if READY in line:
                ready.set()
    ready.set()


def configuration(models: dict[str, str], vendor_port: int) -> str:
    """What the proxy reads at its start."""
    lines = ["model_list:"]
    for name, target in models.items():
        lines.append(f"  - model_name: {name}")
        lines.append(f'    litellm_params: {{model: "{target}", api_key: x, ')
        if target == "openai/mock":
            lines[-1] += 'mock_response: "All hands on deck."}'
        else:
            lines[-1] += f'api_base: "http://127.0.0.1:{vendor_port}"}}'
    lines.append(f"general_settings: {{master_key: {MASTER_KEY}}}")
    lines.append("litellm_settings: {telemetry: false, num_retries: 0}")
    lines.append("router_settings: {disable_cooldowns: true}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(f"{environment()}\n")
