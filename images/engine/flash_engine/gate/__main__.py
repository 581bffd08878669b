"""flash-gate: decides the readiness of an engine pod.

It waits for the engine, asks it a golden question, measures decode speed and draft acceptance, and serves the verdict:
/readyz and /livez for the kubelet, /result for the operator, and /metrics. Settings come from the environment:

    FLASH_GATE_CONFIG   path of gate.json: floors, prompts, timeouts
    FLASH_RUN_DIR       folder shared with the launcher: effective.json, engine.json
    FLASH_NODE_DIR      folder of the pod's annotations: learned floor, granted quarantine (none by default)
    FLASH_ENGINE_URL    address of the engine (http://127.0.0.1:8000)
    FLASH_GATE_PORT     port to serve on (9400)
    FLASH_API_KEYS_DIR  folder with the keys of the engine's clients (none: the engine serves everybody)
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from flash_contracts.engine_pod import DEFAULT_ENGINE_URL
from flash_contracts.environment import Environment, SettingError
from flash_engine.api_keys import keys_folder
from flash_engine.gate.engine_client import EngineClient
from flash_engine.gate.gate import Gate
from flash_engine.gate.gate_metrics import GateMetrics
from flash_engine.gate.server import make_app
from flash_engine.log import Logger, set_up
from flash_engine.pod_address import own_address

log = Logger("flash.gate")

BAD_SETTINGS = 2
SHUTDOWN_SECONDS = 2.0


@dataclass(frozen=True)
class GateSettings:
    """The settings from the pod template."""

    config_file: Path
    run_dir: Path
    node_dir: Path | None
    engine: str
    port: int
    own_address: str | None = None
    """The pod's; None outside of clusters."""
    api_keys_dir: Path | None = None

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> "GateSettings":
        """Raises SettingError if a setting is missing or invalid."""
        environment = Environment(variables)
        return cls(
            config_file=environment.path("FLASH_GATE_CONFIG"),
            run_dir=environment.path("FLASH_RUN_DIR"),
            node_dir=environment.optional_path("FLASH_NODE_DIR"),
            engine=environment.text("FLASH_ENGINE_URL", DEFAULT_ENGINE_URL),
            port=environment.port("FLASH_GATE_PORT", 9400),
            own_address=own_address(variables),
            api_keys_dir=keys_folder(variables),
        )


def main() -> int:
    """Entry point."""
    if sys.argv[1:]:
        print(__doc__)  # noqa: T201 - for a person at a terminal
        return 0 if sys.argv[1] in ("-h", "--help") else BAD_SETTINGS
    set_up()
    try:
        settings = GateSettings.from_environment(os.environ)
    except SettingError as error:
        log.error("bad setting", error=str(error), remedy="see flash-gate --help")
        return BAD_SETTINGS
    asyncio.run(serve(settings))
    return 0


async def serve(settings: GateSettings) -> None:
    """Run the gate until SIGTERM."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    metrics = GateMetrics()
    # One connection per request: a reused one would break when the engine restarts, and look like an engine fault.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        client = EngineClient(session, settings.engine, settings.own_address, settings.api_keys_dir)
        gate = Gate(client, settings.config_file, settings.run_dir, metrics.show, node_dir=settings.node_dir)
        app = make_app(gate, metrics, settings.run_dir)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        await web.TCPSite(runner, port=settings.port).start()
        watching = asyncio.create_task(gate.watch())
        stopping = asyncio.create_task(stopped.wait())
        # If the watch fails, the process must exit so that the kubelet restarts it: its last verdict would be stale.
        await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        stopping.cancel()
        await runner.cleanup()
        if watching.done() and not watching.cancelled():
            watching.result()


if __name__ == "__main__":
    sys.exit(main())
