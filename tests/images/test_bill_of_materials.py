"""The program that writes an image's bill of materials, run on environments and package databases made for it.

test_built_images.py holds the bills of the images that are built here against what is in them; that of the CUDA images,
which are not, is made here of their locks.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from bill_of_materials import BillError, document
from image_builder.layout import ROOT
from lock_file import pins

PROGRAM = ROOT / "images/sbom/bill_of_materials.py"
STATUS = """\
Package: libc6
Status: install ok installed
Maintainer: A <a@example.com>
Architecture: amd64
Multi-Arch: same
Source: glibc
Version: 2.36-9+deb12u14
Description: x

Package: bsdutils
Status: install ok installed
Maintainer: A <a@example.com>
Architecture: amd64
Source: util-linux (2.38.1-5)
Version: 1:2.38.1-5
Description: x

Package: gone
Status: deinstall ok config-files
Maintainer: A <a@example.com>
Architecture: all
Version: 1.0
Config-Version: 1.0
Description: x
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """dpkg's database, with one removed package whose settings remain, and one that owns Python."""
    folder = tmp_path / "dpkg"
    (folder / "info").mkdir(parents=True)
    (folder / "updates").mkdir()
    (folder / "status").write_text(STATUS)
    (folder / "info/bsdutils.list").write_text(f"/.\n{Path(sys.executable).resolve()}\n")
    return folder


def environment(folder: Path, *packages: tuple[str, str], copies: bool = False) -> Path:
    """A virtual environment in which these seem to be installed: a bill reads their metadata and nothing else."""
    venv.create(folder, with_pip=False, symlinks=not copies)
    (site,) = folder.glob("lib/python*/site-packages")
    for name, version in packages:
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def run(place: Path, database: Path, distribution: str = "ours", seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, PROGRAM, "--environment", place, "--distribution", distribution,
            "--title", "An image", place / "out/image.cdx.json",
        ],
        env={**os.environ, "DPKG_ADMINDIR": str(database), "PYTHONHASHSEED": seed},
        check=False, capture_output=True, text=True,
    )  # fmt: skip


def bill(place: Path, database: Path, **options: str) -> str:
    done = run(place, database, **options)
    assert done.returncode == 0, done.stderr
    return (place / "out/image.cdx.json").read_text()


def components(text: str, kind: str) -> dict[str, str]:
    found: list[dict[str, Any]] = json.loads(text)["components"]
    return {one["name"]: one["version"] for one in found if str(one.get("purl", "")).startswith(f"pkg:{kind}/")}


@pytest.mark.parametrize(
    ("lock", "ours"),
    [
        pytest.param("images/engine/requirements-cuda.lock", "flash-engine", id="engine"),
        pytest.param("images/quantiser/requirements-cuda.lock", "mtp-quantiser", id="quantiser"),
    ],
)
def test_the_bill_of_a_cuda_image_lists_exactly_its_lock_and_our_own_code(
    tmp_path: Path, database: Path, lock: str, ours: str
) -> None:
    locked = pins(lock)
    place = environment(tmp_path / "venv", *locked.items(), (ours, "0.1.0"))
    text = bill(place, database, distribution=ours)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert components(text, "pypi") == {**locked, ours: "0.1.0"}


def test_debian_packages_have_purls_with_their_source_and_none_is_listed_that_is_gone(
    tmp_path: Path, database: Path
) -> None:
    text = bill(environment(tmp_path / "venv", ("ours", "1.0")), database)
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    system, version = release["ID"].strip('"'), release["VERSION_ID"].strip('"')
    purls = [one["purl"] for one in json.loads(text)["components"] if one.get("purl", "").startswith("pkg:deb")]
    tail = f"?arch=amd64&distro={system}-{version}&upstream"
    assert purls == [
        f"pkg:deb/{system}/bsdutils@1:2.38.1-5{tail}=util-linux%402.38.1-5",
        f"pkg:deb/{system}/libc6@2.36-9%2Bdeb12u14{tail}=glibc",
    ]


def test_the_same_image_has_the_same_bill_byte_for_byte(tmp_path: Path, database: Path) -> None:
    place = environment(tmp_path / "venv", ("ours", "1.0"), *((f"p{number}", "1") for number in range(9)))
    first = bill(place, database, seed="1")
    assert bill(place, database, seed="2") == first
    assert {"serialNumber", "timestamp"} & {*json.loads(first), *json.loads(first)["metadata"]} == set()


def test_the_image_is_what_the_bill_is_of_and_it_has_the_version_of_our_own_code(
    tmp_path: Path, database: Path
) -> None:
    written = json.loads(bill(environment(tmp_path / "venv", ("ours", "1.2.3")), database))
    image = written["metadata"]["component"]
    assert (image["type"], image["name"], image["version"]) == ("container", "An image", "1.2.3")
    depends = {one["ref"]: one.get("dependsOn", []) for one in written["dependencies"]}
    assert "ours==1.2.3" in depends[image["bom-ref"]]


def test_a_python_that_no_package_owns_is_listed_itself(tmp_path: Path, database: Path) -> None:
    """As /usr/local/bin/python is in the images of Docker's `python`."""
    text = bill(environment(tmp_path / "venv", ("ours", "1.0"), copies=True), database)
    assert components(text, "generic") == {"python": ".".join(map(str, sys.version_info[:3]))}
    (python,) = [one for one in json.loads(text)["components"] if one["type"] == "platform"]
    assert python["properties"] == [{"name": "dev.deepseekflash:path", "value": str(tmp_path / "venv/bin/python")}]


def test_a_python_that_a_package_owns_is_listed_as_that_package_alone(tmp_path: Path, database: Path) -> None:
    text = bill(environment(tmp_path / "venv", ("ours", "1.0")), database)
    assert components(text, "generic") == {}
    assert components(text, "pypi") == {"ours": "1.0"}


def test_an_image_without_our_code_gets_no_bill(tmp_path: Path, database: Path) -> None:
    done = run(environment(tmp_path / "venv", ("another", "1.0")), database)
    assert done.returncode != 0
    assert "should hold the distribution ours once, and holds it 0 times" in done.stderr


def test_an_invalid_bill_is_not_written() -> None:
    with pytest.raises(BillError, match=r"no valid CycloneDX 1\.6"):
        document(Bom(components=[Component(name="x", mime_type="neither type nor subtype")]))
