"""Reads a repository of a model hub with range requests, without downloading whole files."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from flash_contracts.checkpoint_record import CheckpointFinding
from flash_contracts.download_record import format_duration
from flash_engine.checkpoint.checkpoint_files import is_listed
from flash_engine.checkpoint.finding import CheckpointError
from flash_engine.checkpoint.origin import HUB, Origin
from flash_engine.throttling import is_throttled, requested_wait

FETCH_LIMIT = 128 << 20
"""The most bytes that one request asks for."""

READ_AHEAD = 1 << 20
"""Bytes fetched with a file's first bytes, so that the header arrives with its length. The header of a shard of 3.5 GB
with two thousand tensors has 300 kB."""

TIMEOUT_SECONDS = 10.0


class HubRepository:
    """One commit of a repository. A branch is resolved once, so that all files are of the same commit.

    huggingface_hub reads the token itself (HF_TOKEN), so it never appears in an argument or a message.
    """

    def __init__(self, repository: str, revision: str | None) -> None:
        self._repository = repository
        self._requested = revision
        self._heads: dict[str, bytes] = {}
        with translated_errors(repository, revision):
            info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
        self.commit = str(info.sha)
        self._sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or () if is_listed(file.rfilename)}

    @property
    def origin(self) -> Origin:
        return HUB

    @property
    def place(self) -> str:
        return f"hf://{self._repository} at {self.commit[:12]}"

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    @property
    def findings(self) -> list[CheckpointFinding]:
        """A note if the revision is not pinned: a branch may move between two replicas, which then serve two models."""
        if self._requested == self.commit:
            return []
        message = (
            "no revision is set; the default branch" if not self._requested else f"{self._requested} is a branch and"
        )
        message += f" is now at {self.commit}"
        remedy, effect = f"set model.revision to {self.commit}", "loads whatever the branch points at"
        return [CheckpointFinding("NotPinned", "note", message, remedy, without_plugin=effect)]

    def read(self, name: str, start: int, length: int) -> bytes:
        head = self._heads.get(name, b"")
        if start + length > len(head):
            least = max(length, READ_AHEAD) if start == 0 else length
            fetched = self._fetch(name, start, min(least, FETCH_LIMIT))
            if start:
                return fetched
            head = self._heads[name] = fetched
        return head[start : start + length]

    def _fetch(self, name: str, start: int, length: int) -> bytes:
        url = hf_hub_url(self._repository, name, revision=self.commit)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={start}-{start + length - 1}"}
        with (
            translated_errors(self._repository, self.commit),
            get_session().stream(
                "GET", url, headers=headers, follow_redirects=True, timeout=TIMEOUT_SECONDS
            ) as response,
        ):
            hf_raise_for_status(response)
            return part_of(response, name, start, length)

    def read_json(self, name: str) -> Any:
        size = self._sizes[name]
        return json.loads(self.read(name, 0, size) if size else b"")


def part_of(response: httpx2.Response, name: str, start: int, length: int) -> bytes:
    """`length` bytes of the file from `start`. If a proxy sends the whole file, reading stops there.

    Raises CheckpointError if other bytes were sent.
    """
    is_part = response.status_code == httpx2.codes.PARTIAL_CONTENT
    sent = response.headers.get("Content-Range", "")
    if is_part and sent and not re.match(rf"bytes\s+{start}-", sent):
        message = f"the hub sent {sent[:60]!r} of {name} when asked for the bytes from {start}"
        raise CheckpointError(
            "Unreachable", message, "check the proxies and mirrors in front of it (model.hubEndpoint)"
        )
    if is_part and response.headers.get("Content-Length") == str(length):
        return response.read()  # to its end, so that the connection can be used again
    skipped, read = 0 if is_part else start, bytearray()
    for chunk in response.iter_bytes():
        read += chunk[skipped : skipped + length - len(read)]
        skipped = max(skipped - len(chunk), 0)
        if len(read) >= length:
            break
    return bytes(read)


WHERE_TOKENS_GO = "in model.credentialsSecret, or in HF_TOKEN on the command line"


@contextmanager
def translated_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Turns huggingface_hub's errors into CheckpointError.

    GatedRepoError is a RepositoryNotFoundError, so it must be caught first.
    """
    at = f" at {revision}" if revision else ""
    try:
        yield
    except GatedRepoError as error:
        message = f"{repository} is gated, and this token's owner has not accepted its terms"
        remedy = f"accept the terms on the hub's page, and set a token of that account {WHERE_TOKENS_GO}"
        raise CheckpointError("AccessDenied", message, remedy) from error
    except RevisionNotFoundError as error:
        message = f"{repository} has no revision {revision}"
        remedy = "set model.revision to a commit in the repository's history; the old one may have been removed"
        raise CheckpointError("NoSuchRepository", message, remedy) from error
    except RepositoryNotFoundError as error:
        message = f"the hub has no repository {repository}{at}, or this token may not see it"
        remedy = f"check the name; for a private repository set a token {WHERE_TOKENS_GO}"
        raise CheckpointError("NoSuchRepository", message, remedy) from error
    except HFValidationError as error:
        message = f"{repository} is not a valid repository name"
        raise CheckpointError("NoSuchRepository", message, "write hf://OWNER/NAME") from error
    except HfHubHTTPError as error:
        raise _http_error(error, repository) from error
    except OfflineModeIsEnabled as error:
        message = f"{repository} cannot be fetched because HF_HUB_OFFLINE is set"
        raise CheckpointError("Unreachable", message, "unset the variable, or give a folder") from error
    except httpx2.TooManyRedirects as error:
        message = f"the hub redirects in a loop for {repository}"
        raise CheckpointError("Unreachable", message, "check HF_ENDPOINT (model.hubEndpoint)") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        message = f"the hub cannot be reached ({error or type(error).__name__})"
        remedy = "check DNS, egress and HF_ENDPOINT (model.hubEndpoint); a model on a volume (pvc://) needs no hub"
        raise CheckpointError("Unreachable", message, remedy) from error


def _http_error(error: HfHubHTTPError, repository: str) -> CheckpointError:
    status = error.response.status_code
    if is_throttled(status, error.response.headers):
        wait = requested_wait(error.response.headers)
        when = "later" if wait is None else f"in {format_duration(wait)}"
        message = f"the hub throttles this address or account ({status})"
        remedy = (
            f"set a token, whose limit is higher than that of anonymous clients, {WHERE_TOKENS_GO}; try again {when}"
        )
        return CheckpointError("Unreachable", message, remedy)
    if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
        message = f"the hub denies this token access to {repository} ({status})"
        return CheckpointError("AccessDenied", message, f"set a token with read access {WHERE_TOKENS_GO}")
    message = f"the hub answered {status} for {repository}"
    return CheckpointError("Unreachable", message, "try again later, and check the hub's status page")
