"""Starts the activator. Exit codes: 0 stopped by a signal; 1 it broke; 2 bad settings."""

import asyncio
import logging
import signal
import sys

from flash_operator.activator.process import Activator
from flash_operator.activator.settings import ActivatorSettings
from flash_operator.runtime import logs


async def serve(settings: ActivatorSettings) -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Activator(settings).run(stop)


def main() -> int:
    """Entry point."""
    settings = ActivatorSettings.parse(sys.argv[1:])
    logs.configure(settings.log_format)
    # What it logs of a malformed request is a part of that request, which may be a key.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    asyncio.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
