"""The images that are built here, read as they are: labels, and a bill of materials that lists what is in them."""

import hashlib
import json
import re
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from image_archive import ImageArchive
from image_builder.build import ensure_base_image, ensure_image, locked, ready
from image_builder.layout import IMAGES, ROOT, base_reference, cache_root

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]

DISTRIBUTIONS = r"opt/venv/lib/python3\.\d+/site-packages/[^/]+\.(dist|egg)-info/(METADATA|PKG-INFO)"


@pytest.fixture(scope="module", params=IMAGES, ids=lambda image: image.name)
def image(request: pytest.FixtureRequest) -> ImageArchive:
    return ImageArchive(ensure_image(request.param, cache_root()))


@pytest.fixture(scope="module")
def bill(image: ImageArchive) -> str:
    path = image.labels["dev.deepseekflash.sbom"].removeprefix("/")
    return image.files(re.escape(path))[path].decode()


def listed(bill: str, kind: str) -> set[tuple[str, str]]:
    """Our own packages come from no index and have no purl; they count as Python's."""
    libraries: list[dict[str, Any]] = [one for one in json.loads(bill)["components"] if one["type"] == "library"]
    return {
        (one["name"], one["version"]) for one in libraries if one.get("purl", "pkg:pypi/").startswith(f"pkg:{kind}/")
    }


def test_the_bill_lists_exactly_the_distributions_of_the_virtual_environment(image: ImageArchive, bill: str) -> None:
    headers = [BytesHeaderParser().parsebytes(content) for content in image.files(DISTRIBUTIONS).values()]
    installed = {(str(one["Name"]), str(one["Version"])) for one in headers}
    assert len(installed) > 10
    assert listed(bill, "pypi") == installed


def test_the_bill_lists_exactly_the_packages_of_debian(image: ImageArchive, bill: str) -> None:
    (status,) = image.files(r"var/lib/dpkg/status").values()
    entries = [BytesHeaderParser().parsebytes(block) for block in status.split(b"\n\n") if block.strip()]
    installed = {(str(one["Package"]), str(one["Version"])) for one in entries if one["Status"].endswith(" installed")}
    assert {"libc6", "python3"} <= {name for name, _ in installed}
    assert listed(bill, "deb") == installed


def test_the_bill_is_valid_and_of_this_image(image: ImageArchive, bill: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    described = json.loads(bill)["metadata"]["component"]
    assert described["name"] == image.labels["org.opencontainers.image.title"]
    assert described["version"] == image.labels["org.opencontainers.image.version"]


def test_no_tool_that_wrote_the_bill_is_left_in_the_image(image: ImageArchive) -> None:
    assert image.files(r"opt/sbom/.*|sbom/.*") == {}


def test_labels_and_manifest_name_the_base(image: ImageArchive) -> None:
    name, digest = (f"org.opencontainers.image.base.{key}" for key in ("name", "digest"))
    assert image.labels[name] == base_reference()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", image.labels[digest])
    assert {key: image.manifest["annotations"][key] for key in (name, digest)} == {
        key: image.labels[key] for key in (name, digest)
    }


def test_the_bases_digest_is_that_of_its_manifest(tmp_path: Path) -> None:
    """Images built before a change of the base name the older one, which is right, so this test builds no image."""
    with locked(cache_root()), ready(cache_root()) as buildah:
        ensure_base_image(buildah, ROOT)
        buildah.export(base_reference(), tmp_path)
        digest = buildah.digest(base_reference())
    assert digest == f"sha256:{hashlib.sha256((tmp_path / 'manifest.json').read_bytes()).hexdigest()}"
