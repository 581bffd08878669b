"""flash-launch: run vLLM with the flags of the node it is on.

    flash-launch serve MODEL [vLLM's arguments]

It waits for the flags that the operator hands over for this node, falls back to the safe set, and then runs the
engine with the arguments given here and the flags added. Where that start hangs, or the gate finds wrong answers, it
ends the engine and starts it again with the safe set, once in a pod's life. Settings come from the environment:

    FLASH_NODE_DIR            folder with the file `engine-flags` (a downwardAPI volume)
    FLASH_RUN_DIR             folder for effective.json and engine.json, shared with the gate, which puts
                              suspicion.json there
    FLASH_HAND_OVER_SECONDS   how long to wait for the flags (30)
    FLASH_FALLBACK_FLAGS      the safe set, as JSON
    FLASH_ENGINE_COMMAND      the engine's command (vllm)
    FLASH_HANG_SECONDS        how long the engine's start may stand still before it counts as hung (90; 0: never, but
                              what the gate suspects still counts)
    FLASH_MODEL_CHECK         what the checkpoint's headers must show before the engine is started: strict (a whole
                              DeepSeek-V4), files (of any model, files that are whole), or off (off)
    FLASH_MODEL_CACHE         the cache that others use too, and that the model is held in (none)
    FLASH_JIT_DIR             where compiled code is kept for the next start (where the image says)
    FLASH_STOP_SECONDS        how long after SIGTERM the engine's processes are killed (0: never, the kubelet does it)
"""

import os
import signal
import sys

from flash_contracts.document import BadDocumentError
from flash_engine.launcher.container import SIGNALLED, Lifetime
from flash_engine.launcher.settings import Settings
from flash_engine.log import Logger, set_up

log = Logger("flash.launcher")

BAD_SETTINGS = 2


def main() -> int:
    """Entry point. Returns the engine's exit code, 128 + n for signal n, 127 where it could not be started."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)  # noqa: T201 - the answer to a person at a terminal
        return 0 if arguments else BAD_SETTINGS
    # A first process that has no handler does not end on a signal; while it waits there is nothing to finish.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: sys.exit(SIGNALLED + number))
    set_up()
    try:
        settings = Settings.from_environment(os.environ)
        return Lifetime(settings, arguments).run()
    except KeyError as error:
        log.error(
            "missing setting", name=str(error.args[0]), remedy="set it in the environment; see flash-launch --help"
        )
    except (ValueError, BadDocumentError) as error:
        log.error("bad setting", error=str(error), remedy="see flash-launch --help")
    except OSError as error:
        # Flags that nobody can look up afterwards are a silent guess: no engine without effective.json.
        log.error("documents cannot be written", error=str(error), remedy="look at the volume behind FLASH_RUN_DIR")
    return BAD_SETTINGS


if __name__ == "__main__":
    sys.exit(main())
