"""flash-drain: turn the gate not ready, and wait until the engine's requests have ended.

It is the preStop hook of the engine's container. It never fails: a container that is to end ends. Settings:

    FLASH_RUN_DIR        folder shared with the gate: engine.json, drain.json
    FLASH_DRAIN_SECONDS  longest wait (60)
    FLASH_ENGINE_URL     address of the engine (http://127.0.0.1:8000)
"""

import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from flash_contracts.engine_pod import DrainRequest
from flash_contracts.engine_record import EngineRecord
from flash_engine.drain.waiting import Waiting
from flash_engine.engine_metrics import EngineCounters, MissingMetricsError
from flash_engine.log import Logger, set_up

log = Logger("flash.drain")

LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 5.0
NOBODY = EngineCounters(generated=0, running=0, drafted=None, accepted=None)
BAD_SETTINGS = 2


def main() -> int:
    """Entry point."""
    if sys.argv[1:]:
        print(__doc__)  # noqa: T201 - the answer to a person at a terminal
        return 0 if sys.argv[1] in ("-h", "--help") else BAD_SETTINGS
    set_up()
    try:
        run_dir, timeout = Path(os.environ["FLASH_RUN_DIR"]), float(os.environ.get("FLASH_DRAIN_SECONDS", "60"))
    except (KeyError, ValueError) as error:
        log.error("bad setting", error=str(error), remedy="see flash-drain --help")
        return BAD_SETTINGS
    tell(run_dir)
    log.info("drained", outcome=wait(os.environ.get("FLASH_ENGINE_URL", "http://127.0.0.1:8000"), timeout))
    return 0


def tell(run_dir: Path) -> None:
    """The gate turns not ready, and the engine's server lets go of the connections that it keeps."""
    try:
        record = EngineRecord.read_or_new(run_dir / EngineRecord.FILE)
        DrainRequest.of(record).write(run_dir / DrainRequest.FILE)
    except OSError as error:
        # The endpoint of a pod that is deleted goes all the same.
        log.warning("drain.json not written", error=str(error))


def wait(engine: str, timeout: float) -> str:
    """Until nothing is left to wait for; says why."""
    began = time.monotonic()
    waiting = Waiting(began=began, timeout=timeout)
    while True:
        waiting = waiting.after_look(counters(engine), time.monotonic())
        outcome = waiting.outcome(time.monotonic())
        if outcome:
            return outcome
        time.sleep(LOOK_SECONDS)


def counters(engine: str) -> EngineCounters | None:
    """None where the engine does not answer, or with something else.

    Where nobody listens there is no engine, as while it loads: then there are no requests either.
    """
    try:
        with urllib.request.urlopen(f"{engine}/metrics", timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - our own pod
            return EngineCounters.parse(answer.read().decode())
    except urllib.error.URLError as error:
        return NOBODY if isinstance(error.reason, ConnectionRefusedError) else None
    except (OSError, ValueError, MissingMetricsError):
        return None


if __name__ == "__main__":
    sys.exit(main())
