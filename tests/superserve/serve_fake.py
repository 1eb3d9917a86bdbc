"""A server process for tests of signals: its queries wait until a line comes on standard input."""

import asyncio
import sys

from superserve.config import Config
from superserve.server.app import create_app
from superserve.server.run import listen, run_server
from tests.superserve.fakes import PROFILES, FakeDispatcher, run_uvloop


async def main(drain_s: float) -> None:
    dispatcher = FakeDispatcher(hold=True)
    config = Config(port=0, drain_s=drain_s)
    listener = listen(config)
    asyncio.get_running_loop().add_reader(sys.stdin, dispatcher.let_go)
    print(listener.getsockname()[1], flush=True)
    app = create_app(dispatcher, config, profiles=PROFILES)
    await run_server(app, config, listener=listener)


if __name__ == "__main__":
    run_uvloop(main(float(sys.argv[1])))
