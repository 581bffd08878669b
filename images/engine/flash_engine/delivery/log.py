"""The log of flash-fetch."""

import json
import sys

from flash_contracts.document import now


def say(event: str, **fields: object) -> None:
    """One line of JSON on standard error."""
    line = json.dumps({"time": now(), "logger": "flash.fetch", "event": event, **fields})
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is the log
