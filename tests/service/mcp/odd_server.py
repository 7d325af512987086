"""A tool server that writes what it is told to, byte for byte: no SDK keeps it from what no SDK would write.

Its answers stand in the folder of its argument, a file for each tool, and for each method beside `tools/call`. In them
`@ID@` stands for the id of the request. What a file's text begins with `!` does is done by the process: `!mute` closes
standard output, `!deaf` standard input, `!exit` ends it, `!silent` answers nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

DEFAULTS = {
    "initialize": b'{"jsonrpc":"2.0","id":@ID@,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},'
    b'"serverInfo":{"name":"odd","version":"1"}}}\n',
    "server/discover": b'{"jsonrpc":"2.0","id":@ID@,"error":{"code":-32601,"message":"Method not found"}}\n',
}


def answer_of(folder: Path, message: dict[str, object]) -> bytes:
    """The bytes that answer a message, as the folder says it."""
    method = str(message.get("method"))
    params = message.get("params")
    name = str(params.get("name")) if method == "tools/call" and isinstance(params, dict) else method.replace("/", "-")
    file = folder / name
    raw = file.read_bytes() if file.exists() else DEFAULTS.get(method, b"")
    if method == "tools/list" and not file.exists():
        tools = [{"name": one.name, "inputSchema": {"type": "object"}} for one in sorted(folder.iterdir())]
        raw = b'{"jsonrpc":"2.0","id":@ID@,"result":{"tools":%s}}\n' % json.dumps(tools).encode()
    return raw.replace(b"@ID@", json.dumps(message.get("id")).encode()).replace(b"@PID@", str(os.getpid()).encode())


def main() -> None:
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        raw = answer_of(folder, message)
        if raw == b"!exit":
            return
        if raw == b"!mute":
            os.close(1)
        elif raw == b"!deaf":
            os.close(0)
            signal.pause()
        elif raw != b"!silent":
            os.write(1, raw) if len(raw) < 4096 else sys.stdout.buffer.write(raw)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
