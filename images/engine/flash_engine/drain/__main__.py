"""flash-drain: makes the gate unready, and waits until the engine's requests have finished.

It is the preStop hook of the engine's container, and never fails: it must not keep a container from stopping. Settings:

    FLASH_RUN_DIR        folder shared with the gate: engine.json, drain.json
    FLASH_DRAIN_SECONDS  longest wait (60)
    FLASH_ENGINE_URL     address of the engine (http://127.0.0.1:8000)
    FLASH_API_KEYS_DIR   folder with the keys of the engine's clients (none: the engine serves everybody)
"""

import os
import sys
import time
import urllib.error
from pathlib import Path

from flash_contracts.engine_pod import DEFAULT_ENGINE_URL, DrainRequest
from flash_contracts.engine_record import EngineRecord
from flash_contracts.environment import Environment, SettingError
from flash_engine.drain.drain_progress import DrainProgress
from flash_engine.drain.one_token import WITHOUT_PROXY, gives_a_token
from flash_engine.engine_metrics import EngineCounters, MissingMetricsError
from flash_engine.log import Logger, set_up

log = Logger("flash.drain")

POLL_SECONDS = 0.5
TIMEOUT_SECONDS = 5.0
NO_REQUESTS = EngineCounters(generated=0, running=0, drafted=None, accepted=None)
BAD_SETTINGS = 2


def main() -> int:
    """Entry point."""
    if sys.argv[1:]:
        print(__doc__)  # noqa: T201 - the answer to a person at a terminal
        return 0 if sys.argv[1] in ("-h", "--help") else BAD_SETTINGS
    set_up()
    try:
        environment = Environment(os.environ)
        run_dir, timeout = environment.path("FLASH_RUN_DIR"), environment.seconds("FLASH_DRAIN_SECONDS", 60.0)
    except SettingError as error:
        log.error("bad setting", error=str(error), remedy="see flash-drain --help")
        return BAD_SETTINGS
    request_drain(run_dir)
    engine = environment.text("FLASH_ENGINE_URL", DEFAULT_ENGINE_URL)
    log.info("drained", outcome=wait_until_drained(engine, timeout))
    return 0


def request_drain(run_dir: Path) -> None:
    """Make the gate unready, and the engine's server close its keep-alive connections."""
    try:
        record = EngineRecord.read_or_new(run_dir / EngineRecord.FILE)
        DrainRequest.of(record).write(run_dir / DrainRequest.FILE)
    except OSError as error:
        # The endpoint of a deleted pod is removed anyway.
        log.warning("drain.json not written", error=str(error))


def wait_until_drained(engine: str, timeout: float) -> str:
    """Wait until the engine may stop, and return the reason."""
    began = time.monotonic()
    progress = DrainProgress(began=began, timeout=timeout)
    while True:
        progress = progress.after_counters(counters(engine), time.monotonic())
        outcome = progress.outcome(time.monotonic())
        if outcome:
            return outcome
        if progress.must_ask(time.monotonic()):
            answered = gives_a_token(engine, began + timeout - time.monotonic())
            log.info("no progress, so the engine was asked for a token", answered=answered)
            progress = progress.after_question(answered=answered)
        time.sleep(POLL_SECONDS)


def counters(engine: str) -> EngineCounters | None:
    """The engine's counters; None without a valid answer.

    A refused connection means that there is no engine, for example while it loads, and so no requests.
    """
    try:
        with WITHOUT_PROXY.open(f"{engine}/metrics", timeout=TIMEOUT_SECONDS) as answer:
            return EngineCounters.parse(answer.read().decode())
    except urllib.error.URLError as error:
        return NO_REQUESTS if isinstance(error.reason, ConnectionRefusedError) else None
    except (OSError, ValueError, MissingMetricsError):
        return None


if __name__ == "__main__":
    sys.exit(main())
