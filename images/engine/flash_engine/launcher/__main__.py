"""flash-launch: runs vLLM with the flags that its node needs.

    flash-launch serve MODEL [vLLM's arguments]

Waits for the flags that the operator derives for this node, falls back to the safe flags after a timeout, and runs the
engine with the given arguments and these flags. If that start hangs, or the gate finds wrong answers, it kills the
engine and restarts it with the safe flags, once in a pod's life. Settings come from the environment:

    FLASH_NODE_DIR            folder with the file `engine-flags` (a downwardAPI volume)
    FLASH_RUN_DIR             folder for effective.json and engine.json, shared with the gate, which writes
                              fault-report.json there
    FLASH_HAND_OVER_SECONDS   how long to wait for the flags (30)
    FLASH_FALLBACK_FLAGS      the safe flags, as JSON
    FLASH_ENGINE_COMMAND      the engine's command (vllm)
    FLASH_HANG_SECONDS        how long the engine's start may show no activity before it counts as hung (90; 0: off,
                              but the gate's fault reports still count)
    FLASH_MODEL_CHECK         check of the checkpoint's headers before the engine starts: strict (a complete
                              DeepSeek-V4), files (complete files of any model), or off (off)
    FLASH_MODEL_CACHE         the shared cache in which the model is locked while it is used (none)
    FLASH_JIT_DIR             folder of the JIT cache for later starts (the image's default)
    FLASH_TERMINATION_LOG     the container's terminationMessagePath (/dev/termination-log)
    FLASH_API_KEYS_DIR        folder with the keys of clients (none: the engine serves everybody); without a usable key
                              there, the engine is not started
    FLASH_STOP_SECONDS        seconds from SIGTERM until the engine's processes are killed (0: left to the kubelet)
"""

import os
import signal
import sys

from flash_contracts.document import BadDocumentError
from flash_engine.launcher.container import SIGNALLED, EngineContainer
from flash_engine.launcher.settings import LauncherSettings
from flash_engine.log import Logger, set_up

log = Logger("flash.launcher")

BAD_SETTINGS = 2


def main() -> int:
    """Entry point. Returns the engine's exit code, 128 + n for signal n, or 127 if it could not be started."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)  # noqa: T201 - the answer to a person at a terminal
        return 0 if arguments else BAD_SETTINGS
    # The kernel ignores signals without a handler for PID 1; before the engine runs there is nothing to shut down.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: sys.exit(SIGNALLED + number))
    set_up()
    try:
        settings = LauncherSettings.from_environment(os.environ)
        return EngineContainer(settings, arguments).run()
    except (ValueError, BadDocumentError) as error:
        log.error("bad setting", error=str(error), remedy="see flash-launch --help")
    except OSError as error:
        # No engine without effective.json: its flags must be known afterwards.
        log.error("documents cannot be written", error=str(error), remedy="check the volume mounted at FLASH_RUN_DIR")
    return BAD_SETTINGS


if __name__ == "__main__":
    sys.exit(main())
