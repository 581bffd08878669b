"""Model source: an image or artifact in a container registry.

oras answers the registry's authentication challenges. Manifests are fetched without it: oras's get_manifest returns
parsed JSON, whose digest cannot be verified, and retries for two minutes when access is denied.
"""

import hashlib
import json
import logging
import os
import re
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from huggingface_hub.errors import HfHubHTTPError
from oras.auth import get_auth_backend
from oras.logger import logger as oras_logger

from flash_engine.model_download.docker_config import Credentials
from flash_engine.model_download.failure import DownloadError, ThrottledError
from flash_engine.model_download.image_content import (
    INDEXES,
    MANIFESTS,
    PUSH_AGAIN,
    choose_manifest,
    is_index,
    parse_manifest,
)
from flash_engine.model_download.image_reference import DIGEST, ImageReference
from flash_engine.model_download.source import FileListing, FileRequest, RemoteFile
from flash_engine.throttling import is_throttled

TIMEOUT_SECONDS = 10.0
DENIED = (401, 403)
SERVER_ERROR = 500
MOST_INDEXES = 3
"""How deep indexes within indexes are followed."""
ACCEPTED = ", ".join((*INDEXES, *MANIFESTS))
REALM = re.compile(r'realm="?([^",\s]+)', re.IGNORECASE)

oras_logger.set_level(logging.CRITICAL)  # its lines are not JSON, and errors are reported here


class _UnavailableError(requests.RequestException):
    """A server throttles or fails. Raised here because oras reports every answer other than 200 as a denial."""


class _InsecureError(requests.RequestException):
    """A request that TLS should protect would be sent without it."""


class RegistrySession(requests.Session):
    """Requests to the registry and its token server, with a timeout. Raises _UnavailableError and _InsecureError."""

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", TIMEOUT_SECONDS)
        response = super().request(*args, **kwargs)
        status = response.status_code
        if status >= SERVER_ERROR or is_throttled(status, response.headers):
            raise _UnavailableError(str(status), response=response)
        return response

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Refuse to leave TLS: a tag's manifest has no checksum to verify, and a token is secret."""
        target = super().get_redirect_target(resp)
        if target and _is_downgrade(str(resp.url), urljoin(str(resp.url), target)):
            raise _InsecureError(f"it redirects to {urlsplit(target).netloc} without TLS")
        return target


def _is_downgrade(url: str, to: str) -> bool:
    return urlsplit(url).scheme == "https" and urlsplit(to).scheme == "http"


class _Authenticator:
    """Keeps the Authorization header, which it obtains when the registry first asks for it."""

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
    def has_credentials(self) -> bool:
        return self._credentials is not None

    @property
    def user(self) -> str:
        return self._credentials.username if self._credentials else "anonymous clients"

    def answer_challenge(self, denied: Any) -> bool:
        """Answer a response's challenge with the credentials. Returns False if that is impossible.

        Called again whenever a token expires, which takes only minutes.
        """
        challenge = str(denied.headers.get("WWW-Authenticate") or "")
        is_basic = challenge.lower().startswith("basic")
        if not challenge or (is_basic and self._credentials is None):
            return False
        realm = REALM.search(challenge)
        if realm and self._credentials and _is_downgrade(str(denied.url), realm[1]):
            raise _InsecureError(f"it asks to send the password to {urlsplit(realm[1]).netloc} without TLS")
        backend = get_auth_backend(
            "basic" if is_basic else "token", self._session, insecure=self._plain, tls_verify=self._session.verify
        )
        if self._credentials:
            backend.set_basic_auth(self._credentials.username, self._credentials.password)
        try:
            headers, answered = backend.authenticate_request(denied, {}, refresh=True)
        except (AttributeError, TypeError, KeyError) as error:  # oras does not check what it reads
            raise requests.exceptions.InvalidJSONError(f"its challenge or token cannot be read: {error}") from error
        with self._lock:
            self._headers = {"Authorization": headers["Authorization"]} if answered else {}
        return bool(answered)


@dataclass(frozen=True)
class _Manifest:
    document: dict[str, Any]
    digest: str


class RegistrySource:
    """An image or artifact. A tag is resolved once, so that all files come from the same image."""

    where_to_look = "proxy variables in engine.extraEnv"

    def __init__(
        self,
        reference: ImageReference,
        credentials: Credentials | None,
        *,
        plain: bool,
        session: RegistrySession | None = None,
    ) -> None:
        """`plain`: HTTP without TLS."""
        self.server = f"the registry {reference.registry}"
        self._reference = reference
        self._api = f"{'http' if plain else 'https'}://{reference.host}/v2/{reference.path}"
        self._session = session or RegistrySession()
        # The same variables as httpx2, which downloads the files.
        self._session.verify = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") or True
        self._authenticator = _Authenticator(self._session, credentials, plain=plain)

    @property
    def repository(self) -> str:
        return self._reference.repository

    @property
    def has_credentials(self) -> bool:
        return self._authenticator.has_credentials

    def list(self) -> FileListing:
        image = str(self._reference)
        named = self._manifest(self._reference.digest or self._reference.tag)
        manifest = named
        for _ in range(MOST_INDEXES):
            if is_index(manifest.document):
                chosen = choose_manifest(manifest.document, image)
                if not DIGEST.fullmatch(chosen):
                    raise DownloadError(
                        f"the index of {image} names a manifest {chosen!r}, which is not a digest", PUSH_AGAIN
                    )
                manifest = self._manifest(chosen)
        return parse_manifest(manifest.document, named.digest, image)

    def request(self, file: RemoteFile, listing: FileListing) -> FileRequest:
        del listing  # a blob's address depends only on its digest
        headers = {"Accept-Encoding": "identity", **self._authenticator.headers}
        return FileRequest(f"{self._api}/blobs/sha256:{file.sha256}", headers, expected_size=None)

    def describe_error(self, error: HfHubHTTPError, file: RemoteFile) -> DownloadError | None:
        """None, so that it is retried, if an expired token was renewed or the registry's storage failed."""
        response = error.response
        if urlsplit(str(response.url)).netloc != urlsplit(self._api).netloc:
            return None
        if response.status_code == 401 and self._authenticate(response):  # noqa: PLR2004
            return None
        described = self._http_error(response.status_code, "")
        return DownloadError(f"{file.name}: {described.message}", described.remedy)

    def unpinned_warning(self, listing: FileListing) -> str | None:
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
                f"check the proxies in between ({self.where_to_look}), or push the image again; it was not served",
            )
        document = _json_object(response.content)
        if document is None:
            message = f"{self.server} sent something other than a manifest for {self._reference}"
            raise DownloadError(message, "check that there is a container registry at that address")
        return _Manifest(document, digest)

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
        if isinstance(error, _UnavailableError) and error.response is not None:
            return self._unavailable(error.response)
        if isinstance(error, _InsecureError):
            return DownloadError(f"{self.server} is not used: {error}", "give the registry's other servers TLS too")
        if isinstance(error, requests.TooManyRedirects):
            return DownloadError(f"{self.server} redirects in a loop", "check model.source and the registry's address")
        if isinstance(error, requests.exceptions.SSLError):
            return DownloadError(
                f"the TLS certificate of {self.server} cannot be verified ({error})",
                "set SSL_CERT_FILE in engine.extraEnv to its CA certificate; if the registry has no TLS, name it in "
                "FLASH_REGISTRY_PLAIN_HTTP of the container fetch (podTemplate)",
            )
        remedy = "check model.source, DNS and egress; a model on a volume (pvc://) needs no registry"
        return DownloadError(f"{self.server} cannot be reached ({error})", remedy, retryable=True)

    def _unavailable(self, response: requests.Response) -> DownloadError:
        host, status = urlsplit(str(response.url)).netloc, response.status_code
        server = (
            self.server if host == urlsplit(self._api).netloc else f"{host}, to which {self.server} sends its clients,"
        )
        if is_throttled(status, response.headers):
            return ThrottledError.of_response(server, status, response.headers)
        return DownloadError(f"{server} answered {status}", "try again later, and check its log", retryable=True)

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


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
