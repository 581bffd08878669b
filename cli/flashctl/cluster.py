"""Requests to the API server with the user's own rights. Objects are raw; every failure is a CommandError."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
from kubernetes.client.exceptions import ApiException

from flash_contracts.names import GROUP, KIND, VERSION
from flash_operator.core.observed.snapshot import RawObject
from flashctl.errors import CommandError, NotFoundError
from flashctl.failures import (
    SUCCESSES,
    NoSuchKindError,
    Place,
    Request,
    failure,
    no_answer,
    not_kubernetes,
    tls_failed,
)
from flashctl.kinds import RESOURCES
from flashctl.kubeconfig import Login
from flashctl.nearest import suggestion

FIELD_MANAGER = "kubectl-dsf"
CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 30.0
PAGE = 500
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class Cluster:
    """One API server, and the namespace that is meant where a command names none."""

    def __init__(self, login: Login, *, namespace: str | None = None, seconds: float = REQUEST_SECONDS) -> None:
        """`seconds` bounds the wait for each answer."""
        self._login = login
        self.namespace = namespace or login.namespace
        self.context = login.context
        self.place = Place(login.context, login.server)
        self.seconds = seconds
        self._server_clock: timedelta = timedelta()
        """How far the server's clock is ahead of this machine's, by its last answer."""

    def now(self) -> datetime:
        """The API server's time, which the ages of its objects are measured against."""
        return datetime.now(UTC) + self._server_clock

    def get(self, kind: str, name: str, namespace: str | None = None) -> RawObject:
        """The object; NotFoundError, which for our kind has the nearest names."""
        request = self._request("get", kind, namespace, name)
        try:
            return self._object(request, "GET")
        except NoSuchKindError as error:
            raise self.explained(kind, error) from error
        except NotFoundError as error:
            if kind != KIND:
                raise
            raise self._with_neighbours(error, request) from error

    def find(self, kind: str, name: str, namespace: str | None = None) -> RawObject | None:
        """The object; None if it, or its kind, does not exist."""
        try:
            return self._object(self._request("get", kind, namespace, name), "GET")
        except NotFoundError:
            return None

    def listed(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        everywhere: bool = False,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[RawObject]:
        """All objects of a kind, read in pages. `labels` and `fields` select by equality."""
        request = self._request("list", kind, namespace)
        if everywhere:
            request = Request("list", request.resource)
        query = {"limit": str(PAGE), "labelSelector": _selector(labels), "fieldSelector": _selector(fields)}
        items: list[RawObject] = []
        while True:
            try:
                page = self._object(request, "GET", query)
            except NoSuchKindError as error:
                raise self.explained(kind, error) from error
            items += page.get("items") or []
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            if not query["continue"]:
                return items

    def create(self, kind: str, body: RawObject, namespace: str | None = None) -> RawObject:
        request = self._request("create", kind, namespace)
        return self._object(request, "POST", {"fieldManager": FIELD_MANAGER}, body)

    def patch(self, kind: str, name: str, body: RawObject, namespace: str | None = None) -> RawObject:
        """A JSON merge patch. With `metadata.resourceVersion` in it, RefusedError 409 if the object changed."""
        request = self._request("patch", kind, namespace, name)
        return self._object(request, "PATCH", {"fieldManager": FIELD_MANAGER}, body, MERGE_PATCH)

    def dry_apply(self, body: RawObject, namespace: str | None = None) -> RawObject:
        """What the server-side apply of kubectl would store. Changes nothing."""
        name = body["metadata"]["name"]
        request = self._request("patch", body["kind"], body["metadata"].get("namespace") or namespace, name)
        query = {"fieldManager": "kubectl", "dryRun": "All", "force": "true", "fieldValidation": "Strict"}
        return self._object(request, "PATCH", query, body, APPLY_PATCH)

    def delete(self, kind: str, name: str, namespace: str | None = None) -> RawObject:
        return self._object(self._request("delete", kind, namespace, name), "DELETE")

    def proxy(
        self,
        pod: str,
        port: int,
        path: str,
        namespace: str | None = None,
        *,
        method: str = "GET",
        body: RawObject | None = None,
        seconds: float | None = None,
    ) -> bytes:
        """An answer of a pod's port, through the API server. The pod's own error is a RefusedError with its status."""
        verb = {"GET": "get", "POST": "create"}[method]
        request = self._request(verb, "Pod", namespace, f"{pod}:{port}", "proxy")
        where = f"{self._path(request)}/{path.lstrip('/')}"
        return self._answer(request, method, where, {}, body, JSON, seconds=seconds).data

    def log_lines(self, pod: str, query: Mapping[str, str], namespace: str | None = None) -> Iterator[str]:
        """The lines of one container's log; with `follow` in the query, until the container ends."""
        request = self._request("get", "Pod", namespace, pod, "log")
        seconds = None if query.get("follow") == "true" else self.seconds
        answer = self._answer(request, "GET", self._path(request), query, seconds=seconds, streams=True)
        with self._translated():
            yield from _lines(answer)

    def may(self, verb: str, kind: str, namespace: str | None = None, *, subresource: str = "") -> bool:
        """Whether the user has this right, as the API server decides it. A namespace of "" means all of them."""
        resource = RESOURCES[kind]
        attributes = {
            "verb": verb,
            "group": resource.group,
            "resource": resource.plural,
            "subresource": subresource,
            "namespace": (self.namespace if namespace is None else namespace) if resource.namespaced else "",
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool((self.document(path, method="POST", body=review).get("status") or {}).get("allowed"))

    def document(self, path: str, *, method: str = "GET", body: RawObject | None = None) -> RawObject:
        """What the server says at a path that belongs to no kind, such as /version and /apis."""
        request = Request(method.lower(), RESOURCES[KIND])
        return self._parsed(self._answer(request, method, path, {}, body))

    def served_versions(self) -> list[str]:
        """The versions of our API group that the cluster serves; none without the CRD."""
        try:
            group = self.document(f"/apis/{GROUP}")
        except NotFoundError:
            return []
        return [str(version.get("version")) for version in group.get("versions") or []]

    def explained(self, kind: str, error: CommandError) -> CommandError:
        """The error for a kind that is not served. Of ours, all of it may be absent, or only this version."""
        if kind != KIND:
            return error
        served = self.served_versions()
        if not served:
            return NoSuchKindError(
                f"the cluster of context {self.context} has no {KIND}: its CRD is not installed; install the "
                "operator's chart, or choose another --context"
            )
        return NoSuchKindError(
            f"the cluster of context {self.context} serves {KIND} as {', '.join(served)}, and this plugin knows "
            f"{VERSION}: install the plugin of the operator's version"
        )

    def _with_neighbours(self, error: NotFoundError, request: Request) -> NotFoundError:
        try:
            here = [item["metadata"]["name"] for item in self.listed(KIND, request.namespace)]
        except CommandError:
            return error
        return NotFoundError(f"{error}{suggestion(str(request.name), here)}")

    def _request(
        self, verb: str, kind: str, namespace: str | None, name: str | None = None, subresource: str | None = None
    ) -> Request:
        resource = RESOURCES[kind]
        return Request(
            verb, resource, (namespace or self.namespace) if resource.namespaced else None, name, subresource
        )

    @staticmethod
    def _path(request: Request) -> str:
        name = quote(request.name, safe=":") if request.name else None
        return request.resource.path(request.namespace, name, request.subresource)

    def _object(
        self,
        request: Request,
        method: str,
        query: Mapping[str, str] | None = None,
        body: RawObject | None = None,
        content_type: str = JSON,
    ) -> RawObject:
        return self._parsed(self._answer(request, method, self._path(request), query or {}, body, content_type))

    def _answer(
        self,
        request: Request,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: RawObject | None = None,
        content_type: str = JSON,
        *,
        seconds: float | None = None,
        streams: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """An answer with a status of success. Its body is read, unless it `streams`."""
        given = {key: value for key, value in query.items() if value}
        url = f"{self._login.server}{path}{f'?{urlencode(given)}' if given else ''}"
        limit = None if streams else seconds or self.seconds
        with self._translated(limit):
            sent: Any = body if body is None or content_type != APPLY_PATCH else json.dumps(body)
            answer: urllib3.BaseHTTPResponse = self._login.api.rest_client.request(  # type: ignore[no-untyped-call]
                method, url, self._headers(content_type), sent, _request_timeout=(CONNECT_SECONDS, limit)
            ).response
            self._read_clock(answer)
            if answer.status not in SUCCESSES:
                raise failure(self.place, request, answer.status, answer.read(decode_content=True))
            if not streams:
                answer.read(decode_content=True, cache_content=True)
        return answer

    def _read_clock(self, answer: urllib3.BaseHTTPResponse) -> None:
        try:
            told = parsedate_to_datetime(answer.headers.get("Date", ""))
        except ValueError:
            return
        ahead = told - datetime.now(UTC)
        self._server_clock = ahead if abs(ahead) > timedelta(seconds=2) else timedelta()

    def _headers(self, content_type: str) -> dict[str, str]:
        token = self._login.api.configuration.get_api_key_with_prefix("BearerToken")
        headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": FIELD_MANAGER, **self._login.headers}
        return {**headers, "Authorization": token} if token else headers

    @contextmanager
    def _translated(self, seconds: float | None = None) -> Iterator[None]:
        try:
            yield
        except ApiException as error:  # status 0: the client's way to report TLS
            raise tls_failed(self.place, str(error.reason)) from error
        except urllib3.exceptions.SSLError as error:
            raise tls_failed(self.place, str(error)) from error
        except urllib3.exceptions.ConnectTimeoutError as error:
            raise no_answer(self.place, error, CONNECT_SECONDS) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise no_answer(self.place, error, seconds or self.seconds) from error

    def _parsed(self, answer: urllib3.BaseHTTPResponse) -> RawObject:
        try:
            document = json.loads(answer.data)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise not_kubernetes(self.place, answer.status, answer.data)
        return document


def _selector(wanted: Mapping[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in (wanted or {}).items())


def _lines(answer: urllib3.BaseHTTPResponse) -> Iterator[str]:
    """Lines as they come. A last one without an end counts."""
    rest = b""
    for chunk in answer.stream(1 << 16, decode_content=True):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
    if rest:
        yield rest.decode(errors="replace")
