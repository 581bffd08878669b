"""An engine stub as a process: python -m engine_stub --port 8000 --script paced --script slow_later:after=10,factor=4

Scripts play in the order given. It takes the arguments of `vllm serve` and ignores them, prints what vLLM prints once
it serves, and dies as its scripts say: by an exit code with last words, or by a signal without any. Further scripts
play when a JSON list of them is posted to /stub/play.
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
    parser.add_argument("--seed", type=int, default=0, help="of all chance")
    parser.add_argument("--script", action="append", default=[], help=f"one of {', '.join(SCRIPTS)}")
    told = "stop making progress once the weights are loaded, as vLLM does where peer writes get lost"
    parser.add_argument("--hangs-with-peer-to-peer", action="store_true", help=told)
    parser.add_argument("--disable-custom-all-reduce", action="store_true", help="of vLLM: no peer-to-peer, no hang")
    options, _ = parser.parse_known_args()
    if options.hangs_with_peer_to_peer and not options.disable_custom_all_reduce:
        hang_after_load()
    try:
        scripts = [read_script(text) for text in options.script]
    except UnknownScriptError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_ARGUMENTS
    engine = EngineStub(*scripts, seed=options.seed, on_death=die)
    # vLLM aborts its requests when it is told to end, unless it is given a --shutdown-timeout.
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
    """Says what vLLM says until then."""
    print("INFO 11-24 12:00:01 [pynccl.py:111] vLLM is using nccl==2.30.4", flush=True)
    print("INFO 11-24 12:01:00 [default_loader.py:300] Loading weights took 31.20 seconds", flush=True)
    while True:
        signal.pause()


def announce(*_: object) -> None:
    print("INFO:     Application startup complete.", flush=True)


def die(traits: Traits) -> None:
    """At once, as a process does whose driver or whose kernel ends it."""
    for line in traits.last_words:
        print(line, file=sys.stderr, flush=True)
    if traits.exit_signal:
        os.kill(os.getpid(), signal.Signals[traits.exit_signal])
    os._exit(traits.exit_code or 0)


if __name__ == "__main__":
    sys.exit(main())
