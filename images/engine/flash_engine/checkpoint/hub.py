"""A repository of a model hub: its list of files, and ranges of them, without downloading any."""

import json
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

from flash_engine.checkpoint.finding import CheckpointError, Finding

FETCH_LIMIT = 128 << 20
"""Bytes of one request."""

COMMIT_LENGTH = 40
TIMEOUT_SECONDS = 10.0


class HubRepository:
    """One commit of a repository: a branch is resolved once, so that all files are of one state.

    The token is huggingface_hub's own affair (HF_TOKEN); it is in no argument and no message.
    """

    def __init__(self, repository: str, revision: str | None) -> None:
        self._repository = repository
        self._asked = revision
        self._heads: dict[str, bytes] = {}
        with explained(repository, revision):
            info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
        self.commit = str(info.sha)
        self._sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}

    @property
    def place(self) -> str:
        return f"hf://{self._repository} at {self.commit[:12]}"

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    @property
    def findings(self) -> list[Finding]:
        """A branch may move between two replicas, which then serve two models."""
        asked = self._asked
        if asked == self.commit:
            return []
        told = f"the revision is {f'the branch {asked}' if asked else 'not given'}, now at {self.commit}"
        return [Finding("NotPinned", "note", told, f"set model.revision to {self.commit}", without_plugin="follows it")]

    def read(self, name: str, start: int, length: int) -> bytes:
        """Of a file's beginning more is fetched than is asked for: a header's length is followed by the header."""
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
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{start + length - 1}"}
        with explained(self._repository, self.commit):
            response = get_session().get(url, headers=headers, follow_redirects=True, timeout=TIMEOUT_SECONDS)
            hf_raise_for_status(response)
        return bytes(response.content[:length])

    def read_json(self, name: str) -> Any:
        size = self._sizes[name]
        return json.loads(self.read(name, 0, size) if size else b"")


READ_AHEAD = 1 << 20
"""The header of a shard of 3.5 GB, with two thousand tensors, is 300 kB."""


@contextmanager
def explained(repository: str, revision: str | None) -> Iterator[None]:
    """The hub's errors as a sentence each. GatedRepoError is a RepositoryNotFoundError, so it comes first."""
    at = f" at {revision}" if revision else ""
    try:
        yield
    except GatedRepoError as error:
        told = f"the hub keeps {repository} behind terms that this token's owner has not accepted"
        remedy = (
            "accept them on its page, and give a token of that account: in HF_TOKEN, or for a pod in "
            "model.credentialsSecret"
        )
        raise CheckpointError("AccessDenied", told, remedy) from error
    except RevisionNotFoundError as error:
        told = f"{repository} has no revision {revision}"
        remedy = "it was removed or never there: set model.revision to a commit that the repository's history shows"
        raise CheckpointError("NoSuchRepository", told, remedy) from error
    except RepositoryNotFoundError as error:
        told = f"the hub knows no {repository}{at}, or hides it from this token"
        remedy = "check its name; for a private one give a token: in HF_TOKEN, or for a pod in model.credentialsSecret"
        raise CheckpointError("NoSuchRepository", told, remedy) from error
    except HFValidationError as error:
        told = f"{repository} is no name of a repository"
        raise CheckpointError("NoSuchRepository", told, "write hf://OWNER/NAME") from error
    except HfHubHTTPError as error:
        raise _by_status(error, repository) from error
    except OfflineModeIsEnabled as error:
        told = f"{repository} was not asked for: HF_HUB_OFFLINE is set"
        raise CheckpointError("Unreachable", told, "take the variable away, or name a folder") from error
    except httpx2.HTTPError as error:
        told = f"the hub cannot be reached ({error or type(error).__name__})"
        remedy = "check DNS and egress, or HF_ENDPOINT (model.hubEndpoint); a model on a volume (pvc://) needs no hub"
        raise CheckpointError("Unreachable", told, remedy) from error


def _by_status(error: HfHubHTTPError, repository: str) -> CheckpointError:
    status = error.response.status_code
    if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
        remedy = "give a token that may read it: in HF_TOKEN, or for a pod in model.credentialsSecret"
        return CheckpointError("AccessDenied", f"the hub refuses {repository} to this token ({status})", remedy)
    told = f"the hub answered {status} for {repository}"
    return CheckpointError("Unreachable", told, "try again later; its status page may say more")
