"""Download a model from a hub or a container registry into a cache folder.

usage: flash-fetch          (all settings come from the environment)

Downloads the files that are missing, resumes interrupted transfers and verifies every file's checksum. Processes that
need the same model in the same cache download it once. Progress is written to FLASH_RUN_DIR/delivery.json every second.
When the model is complete, the link FLASH_RUN_DIR/model points at its folder.

required:
    FLASH_MODEL_SOURCE           hf://OWNER/NAME, oci://REGISTRY/NAME:TAG or oci://REGISTRY/NAME@DIGEST
    FLASH_MODEL_CACHE            folder that holds the cached models
    FLASH_RUN_DIR                folder for delivery.json and the link `model`; shared with the gate and the launcher

model:
    FLASH_MODEL_REVISION         commit, branch or tag of an hf:// source (default: the hub's default branch)
    HF_ENDPOINT                  address of the hub (default: https://huggingface.co)

cache:
    FLASH_MODEL_CACHE_GIBIBYTES  limit for all models in the cache together (default: the volume's size)
    FLASH_MODEL_CACHE_KIND       Pod, Node or Claim: the kind of volume, used in messages (default: Pod)
    FLASH_MODEL_CACHE_NAME       the node's path or the claim's name, used in messages

transfer:
    FLASH_FETCH_STREAMS          files to download at once (default: 8)
    FLASH_FETCH_STALL_SECONDS    give up if a file receives too little data for this long (default: 300)
    FLASH_FETCH_LEAST_BYTES_PER_SECOND
                                 average rate that a file needs over that time (default: 65536)

credentials:
    FLASH_HUB_TOKEN_FILE         file with the hub's token (default: none)
    FLASH_HUB_SECRET             name of the Secret behind that file, used in messages
    FLASH_REGISTRY_SECRETS       folder with docker configs NAME.json, for registries (default: none)
    FLASH_REGISTRY_SECRET        NAME of the one that must exist (default: none)
    FLASH_REGISTRY_PLAIN_HTTP    registries to contact without TLS: HOST:PORT,... (default: those on this machine)

exit codes:
    0    the model is complete
    1    it could not be downloaded; the last log line and delivery.json say why
    2    a setting is missing or invalid
    143  ended by SIGTERM; the next run resumes
"""

import os
import signal
import sys
import traceback
from types import FrameType

from flash_engine.log import Logger, set_up
from flash_engine.loopback import direct_to_loopback
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.settings import DownloadSettings

log = Logger("flash.fetch")

FAILED, BAD_SETTINGS, SIGNALLED = 1, 2, 128


def main() -> int:
    """Entry point. Returns the exit code."""
    if sys.argv[1:]:
        print(__doc__)  # noqa: T201 - for a person at a terminal
        return 0 if sys.argv[1] in ("-h", "--help") else BAD_SETTINGS
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_at_once)
    set_up()
    try:
        settings = DownloadSettings.from_environment(os.environ)
    except ValueError as error:
        log.error("bad setting", error=str(error), remedy="see flash-fetch --help")
        return BAD_SETTINGS
    return run(settings)


def run(settings: DownloadSettings) -> int:
    """Make one attempt. Returns the exit code."""
    # Disable the library's progress bars, which are for terminals, and its warnings, which are reported here. It reads
    # both variables when it is imported.
    os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_VERBOSITY": "error"}
    registry = f"//{settings.image.registry}" if settings.image else ""
    os.environ |= direct_to_loopback(os.environ, [os.environ.get("HF_ENDPOINT", ""), registry])

    from flash_engine.model_download.reporter import ProgressReporter  # noqa: PLC0415
    from flash_engine.model_download.workflow import DownloadWorkflow  # noqa: PLC0415 - after the setting above

    reporter = ProgressReporter(settings.run_dir, settings.source)
    wait_seconds = None
    try:
        DownloadWorkflow(settings, reporter).run()
    except DownloadError as error:
        failure = str(error)
        wait_seconds = error.wait_seconds
    except OSError as error:
        failure = f"{error}: check the volume behind {settings.place}"
    except Exception as error:  # noqa: BLE001 - status needs a message for unforeseen errors, too
        failure = f"{type(error).__name__}: {error}: this is a bug in flash-fetch; the traceback is in its log"
        log.error("unexpected", trace=traceback.format_exc())
    else:
        return 0
    reporter.publish_failure(failure, wait_seconds)
    log.error("model download failed", error=failure)
    return FAILED


def _exit_at_once(number: int, _frame: FrameType | None) -> None:
    """Exit without waiting for threads. Partial downloads stay on disk, and the next attempt resumes them."""
    log.info("received signal, exiting", signal=signal.Signals(number).name)
    os._exit(SIGNALLED + number)


if __name__ == "__main__":
    sys.exit(main())
