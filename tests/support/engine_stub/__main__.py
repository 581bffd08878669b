"""An engine stub as a process: python -m engine_stub --port 8000 --script paced --script slow_later:after=10,factor=4

Scripts are applied in the order given. The stub accepts and ignores the arguments of `vllm serve`, prints vLLM's line
once it serves, and dies as its scripts demand: with an exit code after some last lines, or by a signal. POST a JSON
list of scripts to /stub/play to apply more of them.
"""

import argparse
import os
import signal
import sys

from aiohttp import web

from engine_stub.engine import EngineStub
from engine_stub.scripts import SCRIPTS, UnknownScriptError, read_script
from engine_stub.traits import Traits

BAD_ARGUMENTS = 2


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="engine_stub", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=int(os.environ.get("ENGINE_PORT", "8000")), help="port to serve on")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random generator")
    parser.add_argument("--script", action="append", default=[], help=f"one of {', '.join(SCRIPTS)}")
    peer_help = "stop making progress once the weights are loaded, as vLLM does when peer writes get lost"
    parser.add_argument("--hangs-with-peer-to-peer", action="store_true", help=peer_help)
    parser.add_argument(
        "--disable-custom-all-reduce", action="store_true", help="vLLM's flag: no peer-to-peer, so no hang"
    )
    options, _ = parser.parse_known_args()
    if options.hangs_with_peer_to_peer and not options.disable_custom_all_reduce:
        hang_after_load()
    try:
        scripts = [read_script(text) for text in options.script]
    except UnknownScriptError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_ARGUMENTS
    engine = EngineStub(*scripts, seed=options.seed, on_death=die)
    # vLLM aborts its requests on SIGTERM unless it has a --shutdown-timeout.
    web.run_app(with_stage(engine), port=options.port, access_log=None, print=announce, shutdown_timeout=0.1)
    return 0


def with_stage(engine: EngineStub) -> web.Application:
    async def play(request: web.Request) -> web.Response:
        try:
            engine.play(*map(read_script, await request.json()))
        except UnknownScriptError as error:
            return web.Response(status=400, text=str(error))
        return web.Response()

    app = engine.app()
    app.router.add_post("/stub/play", play)
    return app


def hang_after_load() -> None:
    """Print what vLLM prints up to this point, then hang."""
    print("INFO 11-24 12:00:01 [pynccl.py:111] vLLM is using nccl==2.30.4", flush=True)
    print("INFO 11-24 12:01:00 [default_loader.py:300] Loading weights took 31.20 seconds", flush=True)
    while True:
        signal.pause()


def announce(*_: object) -> None:
    print("INFO:     Application startup complete.", flush=True)


def die(traits: Traits) -> None:
    """Exit at once, like a process that its driver or the kernel kills."""
    for line in traits.last_lines:
        print(line, file=sys.stderr, flush=True)
    if traits.exit_signal:
        os.kill(os.getpid(), signal.Signals[traits.exit_signal])
    os._exit(traits.exit_code or 0)


if __name__ == "__main__":
    sys.exit(main())
