"""An image, or an artifact, in a container registry.

oras answers a registry's challenge. Manifests are read here, for its own get_manifest hands over parsed JSON, of which
no digest can be taken, and tries for two minutes what was refused.
"""

import hashlib
import json
import logging
import os
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from huggingface_hub.errors import HfHubHTTPError
from oras.auth import get_auth_backend
from oras.logger import logger as oras_logger

from flash_engine.model_download.docker_config import Credentials
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.image_content import INDEXES, MANIFESTS, is_index, listing_of, manifest_of
from flash_engine.model_download.image_reference import ImageReference
from flash_engine.model_download.source import Listing, RemoteFile, Request

TIMEOUT_SECONDS = 10.0
REFUSALS = (401, 403)
ACCEPTED = ", ".join((*INDEXES, *MANIFESTS))

oras_logger.set_level(logging.CRITICAL)  # it writes plain lines; what it would say is said here in a sentence


class _Session(requests.Session):
    """One that does not wait for ever: oras sets no timeout."""

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", TIMEOUT_SECONDS)
        return super().request(*args, **kwargs)


class _Access:
    """What the registry is told of who we are, found out when it first asks."""

    def __init__(self, session: requests.Session, credentials: Credentials | None, *, plain: bool) -> None:
        self._session = session
        self._credentials = credentials
        self._plain = plain
        self._lock = threading.Lock()
        self._headers: dict[str, str] = {}

    @property
    def headers(self) -> dict[str, str]:
        with self._lock:
            return dict(self._headers)

    @property
    def told(self) -> str:
        return f"to {self._credentials.username}" if self._credentials else "to one without credentials"

    def answer(self, refused: Any) -> bool:
        """Answer the challenge of a response; False where it cannot be answered. A token lasts for minutes only."""
        challenge = str(refused.headers.get("WWW-Authenticate") or "")
        is_basic = challenge.lower().startswith("basic")
        if not challenge or (is_basic and self._credentials is None):
            return False
        backend = get_auth_backend(
            "basic" if is_basic else "token", self._session, insecure=self._plain, tls_verify=self._session.verify
        )
        if self._credentials:
            backend.set_basic_auth(self._credentials.username, self._credentials.password)
        headers, answered = backend.authenticate_request(refused, {}, refresh=True)
        with self._lock:
            self._headers = {"Authorization": headers["Authorization"]} if answered else {}
        return bool(answered)


@dataclass(frozen=True)
class _Manifest:
    document: dict[str, Any]
    digest: str


class RegistrySource:
    """A tag is resolved once, so that all files are of one image."""

    advice = "engine.extraEnv, for its variables of proxies"

    def __init__(self, reference: ImageReference, credentials: Credentials | None, *, plain: bool) -> None:
        """`plain` is HTTP without TLS."""
        self.server = f"the registry {reference.registry}"
        self._reference = reference
        self._api = f"{'http' if plain else 'https'}://{reference.host}/v2/{reference.path}"
        self._session = _Session()
        # As httpx2 does for the bytes.
        self._session.verify = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") or True
        self._access = _Access(self._session, credentials, plain=plain)

    @property
    def repository(self) -> str:
        return self._reference.repository

    def list(self) -> Listing:
        """Raises DownloadError."""
        image = str(self._reference)
        named = self._manifest(self._reference.digest or self._reference.tag)
        manifest = named
        if is_index(named.document):
            manifest = self._manifest(manifest_of(named.document, image))
        return listing_of(manifest.document, named.digest, image)

    def request(self, file: RemoteFile, listing: Listing) -> Request:
        del listing  # a blob is named by what it holds, whatever image it is of
        headers = {"Accept-Encoding": "identity", **self._access.headers}
        return Request(f"{self._api}/blobs/sha256:{file.sha256}", headers, expected_size=None)

    def refusal(self, error: HfHubHTTPError, file: RemoteFile) -> DownloadError | None:
        """A token that ran out is got anew; what a storage behind the registry refuses is asked of it again."""
        response = error.response
        if urlsplit(str(response.url)).netloc != urlsplit(self._api).netloc:
            return None
        if response.status_code == 401 and self._answer(response):  # noqa: PLR2004
            return None
        refused = self._refused(response.status_code, "")
        return DownloadError(f"{file.name}: {refused.message}", refused.remedy)

    def warning(self, listing: Listing) -> str | None:
        if self._reference.digest:
            return None
        pinned = f"oci://{self.repository}@{listing.revision}"
        return f"{self._reference.tag} is a tag, so replicas may come to serve different images: use {pinned}"

    def _manifest(self, wanted: str) -> _Manifest:
        """By tag or digest. Raises DownloadError."""
        response = self._get(f"{self._api}/manifests/{wanted}")
        if response.status_code in REFUSALS and self._answer(response):
            response = self._get(f"{self._api}/manifests/{wanted}")
        if response.status_code != requests.codes.ok:
            raise self._refused(response.status_code, wanted)
        digest = f"sha256:{hashlib.sha256(response.content).hexdigest()}"
        if ":" in wanted and digest != wanted:
            raise DownloadError(
                f"the manifest that {self.server} sends for {wanted} of {self.repository} is another one, {digest}",
                f"look at the proxy in between ({self.advice}), or push the image anew; nothing was served from it",
            )
        try:
            return _Manifest(json.loads(response.content), digest)
        except ValueError as error:
            told = f"what {self.server} sends for {self._reference} is no manifest ({error})"
            raise DownloadError(told, "check that a container registry is at that address") from error

    def _answer(self, refused: Any) -> bool:
        try:
            return self._access.answer(refused)
        except requests.RequestException as error:
            raise self._unreachable(error) from error

    def _get(self, url: str) -> requests.Response:
        try:
            return self._session.get(url, headers={"Accept": ACCEPTED, **self._access.headers})
        except requests.RequestException as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: requests.RequestException) -> DownloadError:
        if isinstance(error, requests.exceptions.SSLError):
            return DownloadError(
                f"{self.server} has no TLS that is believed here ({error})",
                "give its authority's certificate (SSL_CERT_FILE in engine.extraEnv), or, where it speaks plain HTTP, "
                "name it in FLASH_REGISTRY_PLAIN_HTTP of the container fetch (podTemplate)",
            )
        remedy = "check the name in model.source, DNS and egress; a model on a volume (pvc://) needs no registry"
        return DownloadError(f"{self.server} cannot be reached ({error})", remedy, passes=True)

    def _refused(self, status: int, wanted: str) -> DownloadError:
        if status in REFUSALS:
            return DownloadError(
                f"{self.server} refuses {self.repository} {self._access.told} ({status})",
                "name a Secret with credentials that may pull it in model.credentialsSecret or imagePullSecrets "
                "(podTemplate)",
            )
        if status == requests.codes.not_found:
            told = (
                f"{self.server} has no {self._reference.path} at {wanted}"
                if wanted
                else f"{self.server} has it no more"
            )
            return DownloadError(told, "check model.source; a registry may hide from strangers what it has")
        return DownloadError(f"{self.server} answered {status}", "try again later; its log may say more", passes=True)
