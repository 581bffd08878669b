"""flash-launch: run vLLM with the flags of the node it is on.

    flash-launch serve MODEL [vLLM's arguments]

It waits for the flags that the operator hands over for this node, falls back to the safe set, and then runs the
engine with the arguments given here and the flags added. Settings come from the environment:

    FLASH_NODE_DIR            folder with the file `engine-flags` (a downwardAPI volume)
    FLASH_RUN_DIR             folder for effective.json and engine.json, shared with the gate
    FLASH_HAND_OVER_SECONDS   how long to wait for the flags (30)
    FLASH_FALLBACK_FLAGS      the safe set, as JSON
    FLASH_ENGINE_COMMAND      the engine's command (vllm)
    FLASH_STOP_SECONDS        how long after SIGTERM the engine's processes are killed (0: never, the kubelet does it)
"""

import json
import math
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flash_engine.launcher.hand_over import HandOver, take_flags
from flash_engine.launcher.supervisor import COMMAND_NOT_FOUND, Engine
from flash_engine.records import (
    EFFECTIVE_FILE,
    ENGINE_FILE,
    BadDocumentError,
    EngineRecord,
    Exit,
    now,
    write_document,
)

BAD_SETTINGS = 2
SIGNALLED = 128


@dataclass(frozen=True)
class Settings:
    """What the pod template says."""

    node_dir: Path
    run_dir: Path
    hand_over_seconds: float
    fallback: str
    command: str
    stop_seconds: float

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Raises KeyError for a missing setting and ValueError for one that is no number of seconds."""
        return cls(
            node_dir=Path(environment["FLASH_NODE_DIR"]),
            run_dir=Path(environment["FLASH_RUN_DIR"]),
            hand_over_seconds=_seconds(environment, "FLASH_HAND_OVER_SECONDS", "30"),
            fallback=environment["FLASH_FALLBACK_FLAGS"],
            command=environment.get("FLASH_ENGINE_COMMAND", "vllm"),
            stop_seconds=_seconds(environment, "FLASH_STOP_SECONDS", "0"),
        )


def _seconds(environment: Mapping[str, str], name: str, default: str) -> float:
    text = environment.get(name, default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{name} is {text!r}, and must be a number of seconds")
    return seconds


def main() -> int:
    """Entry point. Returns the engine's exit code, 128 + n for signal n, 127 where it could not be started."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)  # noqa: T201 - the answer to a person at a terminal
        return 0 if arguments else BAD_SETTINGS
    # A first process that has no handler does not end on a signal; while it waits there is nothing to finish.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: sys.exit(SIGNALLED + number))
    try:
        settings = Settings.from_environment(os.environ)
        return run(settings, arguments)
    except KeyError as error:
        say("missing setting", name=str(error.args[0]), remedy="set it in the environment; see flash-launch --help")
    except (ValueError, BadDocumentError) as error:
        say("bad setting", error=str(error), remedy="see flash-launch --help")
    except OSError as error:
        # Flags that nobody can look up afterwards are a silent guess: no engine without effective.json.
        say("documents cannot be written", error=str(error), remedy="look at the volume behind FLASH_RUN_DIR")
    return BAD_SETTINGS


def run(settings: Settings, arguments: Sequence[str]) -> int:
    """Take the flags, run the engine, write down how it ended. Raises OSError where nothing can be written."""
    record_file = settings.run_dir / ENGINE_FILE
    earlier = with_lost_exit(EngineRecord.read(record_file))
    record = replace(earlier, phase="WaitingForFlags", pid=None, starts=earlier.starts + 1)
    write_document(record_file, record.to_json())
    say("waiting for flags", folder=str(settings.node_dir), seconds=settings.hand_over_seconds)
    taken = take_flags(settings.node_dir, settings.fallback, patience=settings.hand_over_seconds)
    write_document(settings.run_dir / EFFECTIVE_FILE, taken.effective.to_json())
    _tell(taken)
    command = (settings.command, *arguments, *taken.flags.args)
    return _supervise(record_file, replace(record, command=command), taken, settings.stop_seconds)


def with_lost_exit(earlier: EngineRecord) -> EngineRecord:
    """The last record of a run whose launcher was killed with it, and so could not write down the exit.

    The kernel ends a whole container at once when its memory is up (memory.oom.group, set by the kubelet).
    """
    if earlier.phase != "Starting":
        return earlier
    told = "the whole container was killed at once: out of memory, or its node went down"
    return replace(earlier, phase="Exited", exit=Exit(None, "SIGKILL", now(), (told,)))


def _supervise(record_file: Path, record: EngineRecord, taken: HandOver, stop_seconds: float) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in taken.flags.unset}
    environment.update(taken.flags.env)
    say("starting the engine", command=list(record.command))
    try:
        engine = Engine(record.command, environment, stop_seconds=stop_seconds)
    except OSError as error:
        message = f"the engine's command could not be started: {error}"
        ended = Exit(COMMAND_NOT_FOUND, None, now(), (message,))
        _note(record_file, replace(record, phase="Exited", exit=ended))
        say("engine not started", error=message, remedy="check the image, or FLASH_ENGINE_COMMAND")
        return COMMAND_NOT_FOUND
    record = replace(record, phase="Starting", pid=engine.pid, started_at=now())
    _note(record_file, record)
    ended = engine.wait()
    _note(record_file, replace(record, phase="Exited", pid=None, exit=ended))
    say("engine ended", code=ended.code, signal=ended.signal)
    return ended.code if ended.code is not None else SIGNALLED + _signal_number(ended)


def _note(record_file: Path, record: EngineRecord) -> None:
    """A record that cannot be written is no reason to leave an engine that runs without its first process."""
    try:
        write_document(record_file, record.to_json())
    except OSError as error:
        say("engine.json not written", error=str(error), remedy="look at the volume behind FLASH_RUN_DIR")


def _signal_number(ended: Exit) -> int:
    return int(signal.Signals[str(ended.signal)])


def _tell(taken: HandOver) -> None:
    """The flags in force belong in the log, with their reasons: it is the first place people look."""
    say(
        "flags taken", origin=taken.effective.origin, detail=taken.effective.detail, row=taken.flags.document.get("row")
    )
    for item in [*taken.flags.document["args"], *taken.flags.document["env"]]:
        flag = item.get("value") if "name" not in item else f"{item['name']}={item['value']}"
        say("flag", flag=flag, source=item.get("source"), reason=item.get("reason"))


def say(event: str, **fields: object) -> None:
    """One line of JSON on standard error, beside the engine's own output."""
    line = json.dumps({"time": now(), "logger": "flash.launcher", "event": event, **fields})
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is the log


if __name__ == "__main__":
    sys.exit(main())
