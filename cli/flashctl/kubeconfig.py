"""The user's kubeconfig: context, credentials, TLS and proxy, read as kubectl reads them."""

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.kube_config import ENV_KUBECONFIG_PATH_SEPARATOR, KubeConfigLoader, KubeConfigMerger

from flashctl.errors import UnreachableError
from flashctl.nearest import suggestion

DEFAULT_FILE = "~/.kube/config"
IN_CLUSTER = "in-cluster"
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Login:
    """Where to send requests, as whom, and what to call the place in messages."""

    api: client.ApiClient
    context: str
    namespace: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def server(self) -> str:
        return str(self.api.configuration.host)


def login(kubeconfig: str | None = None, context: str | None = None, user: str | None = None) -> Login:
    """Connects nothing yet. `user` is impersonated. Raises UnreachableError in one sentence."""
    paths = kubeconfig or os.environ.get("KUBECONFIG") or DEFAULT_FILE
    found = [path for path in paths.split(ENV_KUBECONFIG_PATH_SEPARATOR) if path and Path(path).expanduser().exists()]
    headers = {"Impersonate-User": user} if user else {}
    if not found and not kubeconfig and not context and "KUBERNETES_SERVICE_HOST" in os.environ:
        return _in_cluster(headers)
    if not found:
        raise UnreachableError(
            f"no kubeconfig at {paths}: name one with --kubeconfig or KUBECONFIG, or log in to your cluster so that "
            f"{DEFAULT_FILE} exists"
        )
    return _from_files(paths, context, headers)


def _from_files(paths: str, context: str | None, headers: dict[str, str]) -> Login:
    try:
        merged = KubeConfigMerger(paths).config  # type: ignore[no-untyped-call]
        chosen = _chosen_context(merged, context, paths)
        configuration = _configuration()
        with _PluginErrors() as errors:
            loader = KubeConfigLoader(merged, active_context=chosen["name"])  # type: ignore[no-untyped-call]
            loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise UnreachableError(f"kubeconfig {paths}: {error}; correct it, or fetch a new one") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, AttributeError, KeyError, ValueError) as error:
        raise UnreachableError(f"kubeconfig {paths} cannot be read: {_one_line(error)}; fetch a new one") from error
    if errors.messages:
        raise UnreachableError(_plugin_failed(chosen["name"], errors.messages[0]))
    namespace = (chosen["context"] or {}).get("namespace") or "default"
    return Login(client.ApiClient(configuration), chosen["name"], namespace, headers)


def _chosen_context(merged: Any, context: str | None, paths: str) -> dict[str, Any]:
    if merged is None:
        raise UnreachableError(f"kubeconfig {paths} is empty: fetch a new one")
    document = merged.value
    contexts = {str(node.value["name"]): node.value for node in document.get("contexts") or []}
    wanted = context or document.get("current-context")
    if not wanted:
        raise UnreachableError(
            f"kubeconfig {paths} has no current context: choose one with --context or kubectl config use-context; "
            f"it has {', '.join(sorted(contexts)) or 'none'}"
        )
    if wanted not in contexts:
        raise UnreachableError(f"kubeconfig {paths} has no context {wanted}{suggestion(wanted, contexts)}")
    return dict(contexts[wanted])


def _in_cluster(headers: dict[str, str]) -> Login:
    configuration = _configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise UnreachableError(
            f"neither a kubeconfig nor a service account in this pod: {error}; mount one, or use --kubeconfig"
        ) from error
    namespace = NAMESPACE_FILE.read_text().strip() if NAMESPACE_FILE.exists() else "default"
    return Login(client.ApiClient(configuration), IN_CLUSTER, namespace or "default", headers)


def _configuration() -> client.Configuration:
    configuration = client.Configuration()
    configuration.retries = False  # a server that is away is reported after one timeout, not after four
    return configuration


class _PluginErrors(logging.Handler):
    """Takes what the client logs about a credentials plugin that failed: it goes on without credentials then."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)


def _plugin_failed(context: str, message: str) -> str:
    # With a terminal, the plugin writes to it, and the client stumbles over what it did not capture.
    said = "its own words are above" if "NoneType" in message else _one_line(message)
    return f"the credentials plugin of context {context} failed: {said}; log in again"


def _one_line(text: object) -> str:
    return re.sub(r"\s+", " ", str(text)).strip()[:300]
