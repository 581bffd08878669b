"""Model source: an image or artifact in a container registry.

oras answers the registry's authentication challenges. Manifests are fetched here instead, because oras's get_manifest
returns parsed JSON, whose digest cannot be verified, and retries for two minutes when access is denied.
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
from flash_engine.model_download.image_content import INDEXES, MANIFESTS, choose_manifest, is_index, parse_manifest
from flash_engine.model_download.image_reference import ImageReference
from flash_engine.model_download.source import FileRequest, Listing, RemoteFile

TIMEOUT_SECONDS = 10.0
DENIED = (401, 403)
ACCEPTED = ", ".join((*INDEXES, *MANIFESTS))

oras_logger.set_level(logging.CRITICAL)  # its lines are not JSON, and errors are reported here


class _Session(requests.Session):
    """A session with a default timeout; oras sets none."""

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", TIMEOUT_SECONDS)
        return super().request(*args, **kwargs)


class _Authenticator:
    """Keeps the Authorization header. It is obtained when the registry first asks for it."""

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
    def user(self) -> str:
        return self._credentials.username if self._credentials else "anonymous clients"

    def answer_challenge(self, denied: Any) -> bool:
        """Answers a response's challenge with the credentials. False if that is impossible.

        Called again whenever a token has expired, which takes only minutes.
        """
        challenge = str(denied.headers.get("WWW-Authenticate") or "")
        is_basic = challenge.lower().startswith("basic")
        if not challenge or (is_basic and self._credentials is None):
            return False
        backend = get_auth_backend(
            "basic" if is_basic else "token", self._session, insecure=self._plain, tls_verify=self._session.verify
        )
        if self._credentials:
            backend.set_basic_auth(self._credentials.username, self._credentials.password)
        headers, answered = backend.authenticate_request(denied, {}, refresh=True)
        with self._lock:
            self._headers = {"Authorization": headers["Authorization"]} if answered else {}
        return bool(answered)


@dataclass(frozen=True)
class _Manifest:
    document: dict[str, Any]
    digest: str


class RegistrySource:
    """A tag is resolved once, so that all files are of the same image."""

    where_to_look = "proxy variables in engine.extraEnv"

    def __init__(self, reference: ImageReference, credentials: Credentials | None, *, plain: bool) -> None:
        """`plain`: HTTP without TLS."""
        self.server = f"the registry {reference.registry}"
        self._reference = reference
        self._api = f"{'http' if plain else 'https'}://{reference.host}/v2/{reference.path}"
        self._session = _Session()
        # The same variables as httpx2, which downloads the files.
        self._session.verify = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") or True
        self._authenticator = _Authenticator(self._session, credentials, plain=plain)

    @property
    def repository(self) -> str:
        return self._reference.repository

    def list(self) -> Listing:
        image = str(self._reference)
        named = self._manifest(self._reference.digest or self._reference.tag)
        manifest = named
        if is_index(named.document):
            manifest = self._manifest(choose_manifest(named.document, image))
        return parse_manifest(manifest.document, named.digest, image)

    def request(self, file: RemoteFile, listing: Listing) -> FileRequest:
        del listing  # a blob's address depends only on its digest
        headers = {"Accept-Encoding": "identity", **self._authenticator.headers}
        return FileRequest(f"{self._api}/blobs/sha256:{file.sha256}", headers, expected_size=None)

    def describe_error(self, error: HfHubHTTPError, file: RemoteFile) -> DownloadError | None:
        """None, to retry, if an expired token was renewed, or if the storage that the registry redirects to failed."""
        response = error.response
        if urlsplit(str(response.url)).netloc != urlsplit(self._api).netloc:
            return None
        if response.status_code == 401 and self._authenticate(response):  # noqa: PLR2004
            return None
        described = self._http_error(response.status_code, "")
        return DownloadError(f"{file.name}: {described.message}", described.remedy)

    def unpinned_warning(self, listing: Listing) -> str | None:
        if self._reference.digest:
            return None
        pinned = f"oci://{self.repository}@{listing.revision}"
        return f"{self._reference.tag} is a tag, so replicas may serve different images: set model.source to {pinned}"

    def _manifest(self, wanted: str) -> _Manifest:
        """The manifest with a tag or digest. Raises DownloadError."""
        response = self._get(f"{self._api}/manifests/{wanted}")
        if response.status_code in DENIED and self._authenticate(response):
            response = self._get(f"{self._api}/manifests/{wanted}")
        if response.status_code != requests.codes.ok:
            raise self._http_error(response.status_code, wanted)
        digest = f"sha256:{hashlib.sha256(response.content).hexdigest()}"
        if ":" in wanted and digest != wanted:
            raise DownloadError(
                f"{self.server} sent the wrong manifest of {self.repository}: expected {wanted}, found {digest}",
                f"check proxies in between ({self.where_to_look}), or push the image again; nothing of it was served",
            )
        try:
            return _Manifest(json.loads(response.content), digest)
        except ValueError as error:
            message = f"{self.server} sent something other than a manifest for {self._reference} ({error})"
            raise DownloadError(message, "check that there is a container registry at that address") from error

    def _authenticate(self, denied: Any) -> bool:
        try:
            return self._authenticator.answer_challenge(denied)
        except requests.RequestException as error:
            raise self._unreachable(error) from error

    def _get(self, url: str) -> requests.Response:
        try:
            return self._session.get(url, headers={"Accept": ACCEPTED, **self._authenticator.headers})
        except requests.RequestException as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: requests.RequestException) -> DownloadError:
        if isinstance(error, requests.exceptions.SSLError):
            return DownloadError(
                f"the TLS certificate of {self.server} cannot be verified ({error})",
                "set SSL_CERT_FILE in engine.extraEnv to its CA certificate; if the registry has no TLS, name it in "
                "FLASH_REGISTRY_PLAIN_HTTP of the container fetch (podTemplate)",
            )
        remedy = "check model.source, DNS and egress; a model on a volume (pvc://) needs no registry"
        return DownloadError(f"{self.server} cannot be reached ({error})", remedy, retryable=True)

    def _http_error(self, status: int, wanted: str) -> DownloadError:
        if status in DENIED:
            return DownloadError(
                f"{self.server} denies {self._authenticator.user} access to {self.repository} ({status})",
                "set model.credentialsSecret, or imagePullSecrets in podTemplate, to a Secret that may pull it",
            )
        if status == requests.codes.not_found:
            message = f"{self.server} has no {self._reference.path}{f' at {wanted}' if wanted else ' any more'}"
            return DownloadError(message, "check model.source; a registry may hide what the credentials may not see")
        remedy = "try again later, and check the registry's log"
        return DownloadError(f"{self.server} answered {status}", remedy, retryable=True)
