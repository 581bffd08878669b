"""flash-gate: the readiness of an engine pod.

It waits for the engine, asks it a golden question, measures decode speed and draft acceptance, and serves the
verdict: /readyz for the kubelet, /result for the operator, /metrics. Settings come from the environment:

    FLASH_GATE_CONFIG   path of gate.json: floors, prompts, timeouts
    FLASH_RUN_DIR       folder shared with the launcher: effective.json, engine.json
    FLASH_ENGINE_URL    address of the engine (http://127.0.0.1:8000)
    FLASH_GATE_PORT     port to serve on (9400)
"""

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

import aiohttp
from aiohttp import web

from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.gate import Gate
from flash_engine.gate.server import GateMetrics, make_app
from flash_engine.records import now

BAD_SETTINGS = 2


class JsonFormatter(logging.Formatter):
    """One JSON object a line, like the launcher's."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        line = {"time": now(), "level": record.levelname, "logger": record.name, "event": record.getMessage(), **fields}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def main() -> int:
    """Entry point."""
    if sys.argv[1:]:
        print(__doc__)  # noqa: T201 - the answer to a person at a terminal
        return 0 if sys.argv[1] in ("-h", "--help") else BAD_SETTINGS
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        asyncio.run(serve(Path(os.environ["FLASH_GATE_CONFIG"]), Path(os.environ["FLASH_RUN_DIR"])))
    except KeyError as error:
        logging.getLogger("flash.gate").error("missing setting %s; see flash-gate --help", error)  # noqa: TRY400
        return BAD_SETTINGS
    return 0


async def serve(config_file: Path, run_dir: Path) -> None:
    """Run the gate until SIGTERM."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    metrics = GateMetrics()
    address = os.environ.get("FLASH_ENGINE_URL", "http://127.0.0.1:8000")
    async with aiohttp.ClientSession() as session:
        gate = Gate(EngineClient(session, address), config_file, run_dir, metrics.show)
        runner = web.AppRunner(make_app(gate, metrics, run_dir), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, port=int(os.environ.get("FLASH_GATE_PORT", "9400"))).start()
        watching = asyncio.create_task(gate.watch())
        stopping = asyncio.create_task(stopped.wait())
        # A watch that fails must end the process: the kubelet restarts it, while a gate that watches nothing lies.
        await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        stopping.cancel()
        await runner.cleanup()
        if watching.done() and not watching.cancelled():
            watching.result()


if __name__ == "__main__":
    sys.exit(main())
