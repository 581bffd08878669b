"""The address at which Services reach an engine, and what makes it listen there."""

import pytest

from flash_engine.pod_address import listen_arguments, own_address


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("fd00:10:96::1", ("--host=::",)),
        ("[fd00:10:96::1]", ("--host=::",)),
        ("10.96.0.1", ()),
        ("kubernetes.default", ()),
        ("", ()),
        (None, ()),
    ],
)
def test_the_engine_listens_on_ipv6_where_services_have_ipv6_addresses(
    service: str | None, expected: tuple[str, ...]
) -> None:
    assert listen_arguments({} if service is None else {"KUBERNETES_SERVICE_HOST": service}) == expected


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("127.0.0.1", {"127.0.0.1"}),
        ("::1", {"::1", None}),
        ("kubernetes", {None}),
        ("", {None}),
        ("10.0.0.999", {None}),
    ],
)
def test_the_pods_own_address_is_the_one_towards_the_clusters_services(service: str, expected: set[str | None]) -> None:
    """Without IPv6 on this machine there is no address of that family."""
    assert own_address({"KUBERNETES_SERVICE_HOST": service}) in expected
