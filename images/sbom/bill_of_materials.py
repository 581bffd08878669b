"""Writes the bill of materials (CycloneDX) of the image that it runs in: `bill_of_materials.py --help`.

Python's packages are found by CycloneDX's own tool, which knows nothing of Debian's; those are added here, from dpkg's
database. There is no time and no serial number in it: the same image has the same bill, byte for byte, so that an image
whose content did not change keeps its digest.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from platform import freedesktop_os_release
from typing import Any, Final

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

FIELDS: Final = ("Package", "Version", "Architecture", "source:Package", "source:Version", "db:Status-Status")


class BillError(RuntimeError):
    """The bill cannot be written; the message says why."""


@dataclass(frozen=True)
class DebianPackage:
    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    status: str

    def component(self, system: Component) -> Component:
        upstream = self.source if self.source_version == self.version else f"{self.source}@{self.source_version}"
        purl = PackageURL(
            type="deb",
            namespace=system.name,
            name=self.name,
            version=self.version,
            qualifiers={"arch": self.architecture, "distro": f"{system.name}-{system.version}", "upstream": upstream},
        )
        return Component(type=ComponentType.LIBRARY, bom_ref=str(purl), name=self.name, version=self.version, purl=purl)


def debian_packages() -> list[DebianPackage]:
    """What is installed; dpkg also remembers packages of which only settings are left."""
    form = "\\t".join(f"${{{field}}}" for field in FIELDS) + "\\n"
    lines = output_of("dpkg-query", "--show", f"--showformat={form}").splitlines()
    packages = (DebianPackage(*line.split("\t")) for line in lines)
    return [package for package in packages if package.status == "installed"]


def operating_system() -> Component:
    release = freedesktop_os_release()
    name, version = release["ID"], release["VERSION_ID"]
    return Component(
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref=f"os:{name}-{version}",
        name=name,
        version=version,
        description=release["PRETTY_NAME"],
    )


def python_packages(python: Path) -> Bom:
    """Not validated, which takes longer than all the rest: the whole is, once."""
    options = ("--output-reproducible", "--no-validate", "--spec-version=1.6")
    written = output_of(sys.executable, "-m", "cyclonedx_py", "environment", *options, str(python))
    bom = Bom.from_json(json.loads(written))  # type: ignore[attr-defined]  # the decorator of its class adds it
    if not isinstance(bom, Bom):
        raise BillError(f"cyclonedx-py found nothing in {python}")
    return bom


def unowned_interpreter(environment: Path) -> Iterator[Component]:
    """Where Python comes from no package, as in the images of Docker's `python`, only this tells which one it is."""
    python = (environment / "bin/python").resolve()
    if subprocess.run(["dpkg-query", "--search", python], capture_output=True, check=False).returncode == 0:
        return
    version = output_of(str(python), "-c", "import platform; print(platform.python_version())").strip()
    yield Component(
        type=ComponentType.PLATFORM,
        bom_ref=f"python:{version}",
        name="python",
        version=version,
        purl=PackageURL(type="generic", name="python", version=version),
        cpe=f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*",
        properties=[Property(name="dev.deepseekflash:path", value=str(python))],
    )
    yield from python_packages(python).components


def bill_of_materials(environment: Path, distribution: str, title: str) -> Bom:
    """The image depends on our own distribution, which names what it needs, and on a system with its packages."""
    bom = python_packages(environment / "bin/python")
    ours = [component for component in bom.components if component.name == distribution]
    if len(ours) != 1:
        raise BillError(
            f"{environment} should hold the distribution {distribution} once, and holds it {len(ours)} times"
        )
    known = {component.bom_ref.value for component in bom.components}
    base = [component for component in unowned_interpreter(environment) if component.bom_ref.value not in known]
    system = operating_system()
    packages = [package.component(system) for package in debian_packages()]
    image = Component(type=ComponentType.CONTAINER, bom_ref="image", name=title, version=ours[0].version)
    bom.metadata.component = image
    bom.components.update([system, *base, *packages])
    bom.register_dependency(system, packages)
    bom.register_dependency(image, [*ours, system, *base])
    return bom


def document(bom: Bom) -> str:
    content: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del content["serialNumber"], content["metadata"]["timestamp"]
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise BillError(f"what was written is no valid CycloneDX 1.6: {problem}")
    return text


def output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BillError(f"{' '.join(command[:4])} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the bill of materials (CycloneDX 1.6, JSON) of this image.")
    parser.add_argument("--environment", type=Path, required=True, help="the virtual environment that the image runs")
    parser.add_argument("--distribution", required=True, help="our own distribution in it, whose version the image has")
    parser.add_argument("--title", required=True, help="what the image is called")
    parser.add_argument("output", type=Path)
    given = parser.parse_args(argv)
    try:
        text = document(bill_of_materials(given.environment, given.distribution, given.title))
    except BillError as problem:
        sys.exit(f"no bill of materials: {problem}")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(text)


if __name__ == "__main__":
    main()
