"""flash-measure: asks the gate of this pod to measure the engine once, and prints the figures as JSON.

`kubectl dsf bench` runs it in the gate's container. The gate measures while the engine is idle, and its verdict stays
as it is. Settings:

    FLASH_RUN_DIR    folder shared with the gate
    FLASH_GATE_PORT  port of the gate (9400)

Exit status: 0 measured, 1 not measured (the answer says why), 2 no answer.
"""

import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from flash_contracts.engine_pod import MeasureOrder
from flash_contracts.environment import Environment, SettingError

POLL_SECONDS = 1.0
WAIT_SECONDS = 300.0
"""More than an order may wait, and its measurement take."""
TIMEOUT_SECONDS = 5.0
NO_ANSWER = 2

WITHOUT_PROXY = build_opener(ProxyHandler({}))


def main() -> int:
    """Entry point."""
    if sys.argv[1:]:
        print(__doc__)  # noqa: T201 - for a person at a terminal
        return 0 if sys.argv[1] in ("-h", "--help") else NO_ANSWER
    try:
        environment = Environment(os.environ)
        run_dir, port = environment.path("FLASH_RUN_DIR"), environment.port("FLASH_GATE_PORT", 9400)
        answer = measured(run_dir, lambda: _result(port))
    except (OSError, SettingError) as error:
        return _fail(f"the gate cannot be asked: {error}")
    if answer is None:
        return _fail(
            f"the gate did not answer within {WAIT_SECONDS:g} s: it restarted, or another order replaced this one"
        )
    print(json.dumps(answer))  # noqa: T201 - the answer
    return 1 if answer["ordered"].get("problem") else 0


def measured(
    run_dir: Path, result: Callable[[], dict[str, Any]], pause: Callable[[float], None] = time.sleep
) -> dict[str, Any] | None:
    """Order a measurement and wait for its answer; None if there is none. Raises OSError.

    The answer is `ordered` of the gate's result, with the floors as `wanted`.
    """
    order = MeasureOrder(secrets.token_hex(8))
    order.write(run_dir / MeasureOrder.FILE)
    ends = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < ends:
        pause(POLL_SECONDS)
        found = result()
        ordered = found.get("ordered") or {}
        if ordered.get("id") == order.id:
            return {"ordered": ordered, "wanted": found.get("wanted")}
    return None


def _result(port: int) -> dict[str, Any]:
    """The gate's result; empty while it does not answer, because it may be restarting."""
    try:
        with WITHOUT_PROXY.open(f"http://127.0.0.1:{port}/result", timeout=TIMEOUT_SECONDS) as answer:
            found = json.load(answer)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _fail(message: str) -> int:
    print(message, file=sys.stderr)  # noqa: T201 - for whoever runs it
    return NO_ANSWER


if __name__ == "__main__":
    sys.exit(main())
