"""The demonstration over an emulated server, as a program: to be interrupted from outside."""

import sys
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from loadtest import demo, server_process

EMULATED = [sys.executable, str(Path(__file__).with_name("emulated_server.py"))]


def grey_png() -> bytes:
    buffer = BytesIO()
    Image.new("L", (32, 32), 128).save(buffer, "PNG")
    return buffer.getvalue()


def emulated(arguments: list[str], **more: Any) -> AbstractContextManager[str]:
    return server_process.running_server(arguments, command=EMULATED, **more)


if __name__ == "__main__":
    demo.running_server = emulated  # type: ignore[assignment]
    options = demo.DemoOptions(seconds=float(sys.argv[1]), output=sys.argv[2])
    sys.exit(demo.run_demo(options, [(grey_png(), 3)]))
