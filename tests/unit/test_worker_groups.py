"""With several workers, tests that share an expensive fixture run on the same worker."""

import pytest

from levels import ROOT
from worker_groups import PLACES, SHARED, group_of


def test_tests_that_share_a_fixture_are_in_its_group(request: pytest.FixtureRequest) -> None:
    asking = [(item.nodeid, name) for item in request.session.items for name in getattr(item, "fixturenames", ())]
    assert [(nodeid, name) for nodeid, name in asking if name in SHARED and group_of(nodeid) != SHARED[name]] == []


@pytest.mark.parametrize("place", PLACES)
def test_the_table_names_existing_tests(place: str) -> None:
    assert (ROOT / place).exists()


def test_other_tests_go_to_any_worker() -> None:
    assert group_of("tests/model_download/test_cache.py::test_what_has_to_go[it fits]") is None
    assert group_of("tests/apiserver/test_crd.py::test_a") == group_of("tests/runtime/test_lease.py::test_b")
