"""Turns what went wrong with a request into one sentence and an exit code. Pure."""

import json
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import urllib3.exceptions

from flashctl.errors import CommandError, NoRightError, NotFoundError, RefusedError, UnreachableError
from flashctl.kinds import Resource
from flashctl.output import plain

SUCCESSES = range(200, 300)
NO_RIGHT = re.compile(r"cannot [a-z]+ resource")
"""Of RBAC's refusals; admission policies answer 403 in other words."""
UNKNOWN_FIELD = "failed to create typed patch object"
"""Of a server-side apply with a field that the schema lacks, which the API server answers with 500."""
ANONYMOUS = "system:anonymous"
IMPERSONATION = re.compile(r"cannot impersonate\S* resource")
"""From Kubernetes 1.35 on, the verb names what is to be done as another user."""
USER = re.compile(r'[Uu]ser "([^"]+)"')


@dataclass(frozen=True)
class Request:
    """What was asked for, in the words of RBAC."""

    verb: str
    resource: Resource
    namespace: str | None = None
    name: str | None = None
    subresource: str | None = None

    @property
    def right(self) -> str:
        what = f"{self.resource.plural}/{self.subresource}" if self.subresource else self.resource.plural
        if not self.resource.namespaced:
            return f"{self.verb} {what}"
        return f"{self.verb} {what} in {f'namespace {self.namespace}' if self.namespace else 'all namespaces'}"

    @property
    def question(self) -> str:
        """The kubectl command that asks for this right."""
        command = f"kubectl auth can-i {self.verb} {self.resource.full_name}"
        if self.subresource:
            command += f" --subresource={self.subresource}"
        if not self.resource.namespaced:
            return command
        return f"{command} -n {self.namespace}" if self.namespace else f"{command} -A"


@dataclass(frozen=True)
class Place:
    """How messages name the cluster."""

    context: str
    server: str

    def __str__(self) -> str:
        return f"the API server of context {self.context} ({self.server})"


def no_answer(place: Place, error: Exception, seconds: float) -> UnreachableError:
    """The connection failed before an answer came."""
    text = _cause(error)
    match error:
        case urllib3.exceptions.ProxyError():
            said = f"{place} cannot be reached through your proxy: {text}; check HTTPS_PROXY, NO_PROXY and proxy-url"
        case urllib3.exceptions.NameResolutionError():
            said = f"the host of {place} has no address: check the server in your kubeconfig, DNS and your VPN"
        case urllib3.exceptions.NewConnectionError():
            said = f"{place} takes no connection: {text}; is it running, and its port right?"
        case urllib3.exceptions.ConnectTimeoutError() | urllib3.exceptions.ReadTimeoutError():
            said = f"{place} did not answer within {seconds:g} s: check VPN, firewall and proxy, or --request-timeout"
        case urllib3.exceptions.ProtocolError():
            said = f"{place} ended the connection: {text}; try again, and check the proxies in between"
        case _:
            said = f"{place} cannot be reached: {text}"
    return UnreachableError(said)


def tls_failed(place: Place, reason: str) -> UnreachableError:
    text = _one_line(reason)
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate verify failed" in text:
        why = text.partition("certificate verify failed")[2].lstrip(": ").partition("(_ssl")[0].strip()
        return UnreachableError(
            f"the certificate of {place} is not trusted{f' ({why})' if why else ''}: fetch the kubeconfig again, "
            "because the cluster's authority or address may have changed"
        )
    return UnreachableError(f"no TLS connection with {place}: {text}")


def failure(place: Place, request: Request, status: int, body: bytes) -> CommandError:
    """The error for an answer that is not a success."""
    document = status_document(body)
    said = _one_line(document.get("message", "")) if document else ""
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return UnreachableError(
                f"{place} does not accept your credentials (401): they have expired or are of another cluster; log in "
                "again, or choose another --context"
            )
        case HTTPStatus.FORBIDDEN if ANONYMOUS in said:
            return UnreachableError(
                f"{place} does not know who you are ({ANONYMOUS}): your kubeconfig has no credentials that it takes; "
                "log in again"
            )
        case HTTPStatus.FORBIDDEN if IMPERSONATION.search(said):
            return NoRightError(f"you may not act as another user (--as): {said}")
        case HTTPStatus.FORBIDDEN if NO_RIGHT.search(said):
            return no_right(request, said)
        case HTTPStatus.NOT_FOUND:
            return _not_found(request, document)
        case _:
            return _refusal(place, request, status, said) if document else not_kubernetes(place, status, body)


def _refusal(place: Place, request: Request, status: int, said: str) -> CommandError:
    is_busy = status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if is_busy and UNKNOWN_FIELD not in said:
        return UnreachableError(f"{place} cannot answer now ({status}): {said}; try again in a minute")
    return RefusedError(f"{request.right}: the API server refused it ({status}): {said}", status)


def no_right(request: Request, said: str = "") -> NoRightError:
    who = USER.search(said)
    return NoRightError(
        f"you{f' ({who[1]})' if who else ''} may not {request.right}: ask an administrator for this right, and check "
        f"with: {request.question}"
    )


def not_kubernetes(place: Place, status: int, body: bytes) -> UnreachableError:
    start = _one_line(body[:200].decode(errors="replace"))[:80]
    return UnreachableError(
        f"{place} answered {status} with something that is not Kubernetes' ({start!r}): a proxy or a login page is in "
        "between, or the server in your kubeconfig is another one"
    )


def _not_found(request: Request, document: dict[str, Any]) -> NotFoundError:
    """Of a kind that the server does not have there is no object to speak of: its answer names none."""
    if request.name and (document.get("details") or {}).get("name"):
        where = f" in namespace {request.namespace}" if request.resource.namespaced else ""
        return NotFoundError(f"there is no {request.resource.plural} {request.name}{where}")
    return NoSuchKindError(f"the cluster has no {request.resource.full_name} {request.resource.version}")


class NoSuchKindError(NotFoundError):
    """The cluster does not have the kind, or not in this version."""


def status_document(body: bytes) -> dict[str, Any]:
    """The server's `Status` object; empty if it answered something else."""
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) and document.get("kind") == "Status" else {}


def _cause(error: Exception) -> str:
    """The end of urllib3's chain, which alone says something."""
    reason: object = getattr(error, "original_error", None) or error
    return re.sub(r"^<?[\w.]+(?:\(.*?\))?[^:]*: ", "", _one_line(reason))


def _one_line(text: object) -> str:
    return plain(re.sub(r"\s+", " ", str(text))).strip()[:400]
