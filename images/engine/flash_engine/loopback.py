"""Keeps requests to this pod and machine away from the environment's proxy.

A proxy for the internet cannot reach 127.0.0.1 here: it would ask its own machine. HTTP clients that need HTTPS_PROXY
for other hosts bypass it for those in NO_PROXY. Clients that only ever ask this pod should ignore the variables.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

NAMES = ("localhost", "127.0.0.1", "::1")
NO_PROXY = ("NO_PROXY", "no_proxy")


def is_loopback(host: str) -> bool:
    """Whether it names this machine: `localhost`, a name below it, or a loopback address."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def direct_to_loopback(environment: Mapping[str, str], addresses: Iterable[str] = ()) -> dict[str, str]:
    """The variables to set so that requests to loopback addresses bypass the proxy.

    `addresses` are the URLs that will be used: clients match entries of NO_PROXY literally, so 127.0.0.2 needs its own.
    """
    asked = [_host(address) for address in addresses]
    # Some clients prefer one spelling, some the other, so both get all entries.
    entries = [entry.strip() for name in NO_PROXY for entry in environment.get(name, "").split(",")]
    wanted = (*entries, *NAMES, *(host for host in asked if is_loopback(host)))
    joined = ",".join(dict.fromkeys(filter(None, wanted)))
    return dict.fromkeys(NO_PROXY, joined)


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:  # an invalid address is reported by its client
        return ""
