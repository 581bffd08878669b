"""What API servers with and without image volumes make of the Deployment of an oci:// model."""

import json
from typing import Any

import pytest

from builders import a_flash, an_observed
from cluster_fixtures import ControlPlane
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.plan import desired_children
from flash_operator.core.resources.drift import needs_apply
from flash_operator.core.resources.image_volume import is_dropped

pytestmark = pytest.mark.apiserver


def applied(server: ControlPlane) -> tuple[RawObject, RawObject]:
    """The desired Deployment, and the live one."""
    flash = a_flash(model={"source": "oci://images.example/v4:1", "ociDelivery": "ImageVolume"})
    wanted = next(child for child in desired_children(an_observed(flash)) if child["kind"] == "Deployment")
    metadata: dict[str, Any] = {**wanted["metadata"], "namespace": "default"}
    del metadata["ownerReferences"]
    wanted = {**wanted, "metadata": metadata}
    server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(wanted))
    live: RawObject = json.loads(server.kubectl("get", "deployment", "flash", "-o", "json").stdout)
    server.kubectl("delete", "deployment", "flash")
    return wanted, live


def test_an_api_server_with_image_volumes_keeps_the_volume(api_server: ControlPlane) -> None:
    wanted, live = applied(api_server)
    assert not needs_apply(wanted, live)
    assert not is_dropped(wanted, live)


def test_an_older_api_server_drops_the_volume_silently_and_the_operator_detects_it(
    older_api_server: ControlPlane,
) -> None:
    wanted, live = applied(older_api_server)
    assert needs_apply(wanted, live), "without more it would be written for ever"
    assert is_dropped(wanted, live)
