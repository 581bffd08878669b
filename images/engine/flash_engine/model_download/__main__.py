"""flash-fetch: bring a model from a hub or a container registry into a folder of this pod, before its engine starts.

It fetches what is missing, goes on where an earlier attempt stopped, compares every file with its checksum, and
ends with 0 when the model is whole. Several that want the same model in the same folder fetch it once. What it does is
in FLASH_RUN_DIR/delivery.json, once a second. Settings come from the environment:

    FLASH_MODEL_SOURCE           hf://OWNER/NAME, or oci://REGISTRY/NAME:TAG or oci://REGISTRY/NAME@DIGEST
    FLASH_MODEL_REVISION         of hf://: commit, branch or tag (the hub's default branch)
    FLASH_MODEL_CACHE            folder to keep models in
    FLASH_MODEL_CACHE_KIND       Pod, Node or Claim: what is behind it, for advice (Pod)
    FLASH_MODEL_CACHE_NAME       its path on the node, or the claim's name, for messages
    FLASH_MODEL_CACHE_GIBIBYTES  most that all models in it may take (the volume's size)
    FLASH_RUN_DIR                folder for delivery.json and the link `model`, shared with gate and launcher
    FLASH_HUB_TOKEN_FILE         file with the hub's token (none)
    FLASH_HUB_SECRET             name of the Secret that it comes from, for messages
    FLASH_FETCH_STALL_SECONDS    a file of which no byte comes for so long ends the attempt (300)
    FLASH_FETCH_STREAMS          files at once (8)
    HF_ENDPOINT                  the hub
    FLASH_REGISTRY_SECRETS       folder of docker configs NAME.json with credentials of registries (none)
    FLASH_REGISTRY_SECRET        NAME of the one that must be there (none)
    FLASH_REGISTRY_PLAIN_HTTP    registries that speak HTTP without TLS: HOST:PORT,... (those on this machine)
"""

import os
import signal
import sys
import traceback
from types import FrameType

from flash_engine.log import Logger, set_up
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.settings import Settings

log = Logger("flash.fetch")

FAILED, BAD_SETTINGS, SIGNALLED = 1, 2, 128


def main() -> int:
    """Entry point. 0: the model is there. 1: it is not, and why. 2: wrong settings."""
    if sys.argv[1:]:
        print(__doc__)  # noqa: T201 - the answer to a person at a terminal
        return 0 if sys.argv[1] in ("-h", "--help") else BAD_SETTINGS
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    set_up()
    try:
        settings = Settings.from_environment(os.environ)
    except KeyError as error:
        log.error(
            "missing setting", name=str(error.args[0]), remedy="set it in the environment; see flash-fetch --help"
        )
        return BAD_SETTINGS
    except ValueError as error:
        log.error("bad setting", error=str(error), remedy="see flash-fetch --help")
        return BAD_SETTINGS
    return run(settings)


def run(settings: Settings) -> int:
    """One attempt."""
    # Bars are for terminals, and what the library warns of is told here in our own words. It reads both when imported.
    os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_VERBOSITY": "error"}

    from flash_engine.model_download.reporter import Reporter  # noqa: PLC0415
    from flash_engine.model_download.workflow import deliver  # noqa: PLC0415 - after the setting above

    reporter = Reporter(settings.run_dir, settings.source)
    try:
        deliver(settings, reporter)
    except DownloadError as error:
        failure = str(error)
    except OSError as error:
        failure = f"{error}: look at the volume behind {settings.place}"
    except Exception as error:  # noqa: BLE001 - status must have a sentence for what nobody thought of, too
        failure = f"{type(error).__name__}: {error}: a fault of flash-fetch; its log has more"
        log.error("unexpected", trace=traceback.format_exc())
    else:
        return 0
    reporter.publish("Failed", failure=failure, message=failure, bytes_per_second=None)
    log.error("model not delivered", error=failure)
    return FAILED


def _end(number: int, _frame: FrameType | None) -> None:
    """At once: what is stored stays, and the next attempt goes on from it. Threads would be waited for."""
    log.info("asked to end", signal=signal.Signals(number).name)
    os._exit(SIGNALLED + number)


if __name__ == "__main__":
    sys.exit(main())
