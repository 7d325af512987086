"""A third-party proxy in an environment of its own: LiteLLM, which speaks every wire format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.upstream.third_party import environment, free_port, running

REQUIREMENT = "litellm[proxy]==1.106.2"
MASTER_KEY = "sk-key-of-the-test"


@dataclass(frozen=True)
class Proxy:
    """A running proxy and the port on which it looks for models of its vendors."""

    port: int
    vendor_port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running_proxy(folder: Path, models: dict[str, str]) -> Iterator[Proxy]:
    """Run the proxy. Models are named here and lead to the vendor port in the format that their value begins with."""
    proxy = Proxy(free_port(), free_port())
    config = folder / "config.yaml"
    config.write_text(configuration(models, proxy.vendor_port))
    arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(proxy.port)]
    settings = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with running([environment(REQUIREMENT) / "bin/litellm", *arguments], folder, b"Uvicorn running on", settings):
        yield proxy


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
