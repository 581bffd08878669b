"""The address at which a Service reaches this pod, as opposed to the engine's loopback address.

vLLM listens only on IPv4 unless `--host` is an IPv6 address (`create_server_socket`), so in an IPv6 cluster it would be
healthy but unreachable. Every pod knows the address of the API server's Service, which is of the same family as all of
the cluster's Services, and the kernel selects the pod's address for connections to it.
"""

import ipaddress
import socket
from collections.abc import Mapping

SERVICE = "KUBERNETES_SERVICE_HOST"

ANY_ADDRESS = "--host=::"
"""Serves IPv4 too: Linux maps it, unless net.ipv6.bindv6only is set."""

DISCARD_PORT = 9


def listen_arguments(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Arguments that make vLLM reachable by Services. Empty outside of clusters, and if Services use IPv4."""
    service = _service(environment)
    return (ANY_ADDRESS,) if service is not None and service.version == 6 else ()  # noqa: PLR2004 - IPv6


def own_address(environment: Mapping[str, str]) -> str | None:
    """The pod's address; None outside of clusters or without a route. It sends nothing, only looks up a route."""
    service = _service(environment)
    if service is None:
        return None
    family = socket.AF_INET6 if service.version == 6 else socket.AF_INET  # noqa: PLR2004
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as route:
            route.connect((str(service), DISCARD_PORT))
            address: str = route.getsockname()[0]
    except OSError:
        return None
    return address


def _service(environment: Mapping[str, str]) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(environment.get(SERVICE, "").strip("[]"))
    except ValueError:
        return None  # a name, or none
