"""`make images PUSH=`: with the real buildah and a real registry, and with stubs of docker and podman."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from image_builder.buildah import Buildah, mounts_below
from image_builder.container_tool import Tool, ToolError, chosen
from image_builder.layout import IMAGES, archive_of, steps_of
from image_builder.publish import main, push_archive
from image_registry import MANIFEST, ImageRegistry
from local_cluster.oci_archive import write_archive
from rendered_chart import CHART, helm

PASSWORDS = "pusher:$2b$04$S0/TreduGeKtthneX9ThkO47mJafilMTrAR4jd6tJvSAmCek/RDmC\n"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[ImageRegistry]:
    with ImageRegistry(tmp_path / "registry").running() as running:
        yield running


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The image of one small file, as an OCI archive."""
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF" + bytes(1000))
    target = tmp_path / "image.tar"
    write_archive(target, "localhost/flash/operator:dev", program)
    return target


@pytest.fixture
def buildah(tmp_path: Path) -> Iterator[Tool]:
    own = Buildah.below(tmp_path / "cache")
    with own.session():
        yield Tool("buildah", tuple(own.command()))


def test_what_the_builder_made_is_pushed_and_the_chart_installs_what_the_registry_has(
    registry: ImageRegistry, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for image in IMAGES:
        built = archive_of(image.name, steps_of(image)[-1].key, tmp_path / "cache")
        built.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(archive, built)
    with monkeypatch.context() as patched:
        patched.setenv("FLASH_CACHE", str(tmp_path / "cache"))
        main([f"{registry.host}/team", "--builder=image_builder", f"--values={tmp_path / 'values.yaml'}"])

    values = yaml.safe_load((tmp_path / "values.yaml").read_text())
    operator, node = (reference_of(values["image"]), reference_of(values["labeller"]["image"]))
    for reference in (operator, node, values["engineImage"], values["quantiserImage"]):
        assert reference.startswith(f"{registry.host}/team/flash-")
        path, tag, digest = re.fullmatch(rf"{registry.host}/([^:]+):([^@]+)@(.+)", reference).groups()  # type: ignore[union-attr]
        for name in (tag, digest):
            address = f"http://{registry.host}/v2/{path}/manifests/{name}"
            found = httpx.get(address, headers={"Accept": MANIFEST}, trust_env=False)
            assert (found.status_code, found.headers["Docker-Content-Digest"]) == (200, digest)
    assert mounts_below(tmp_path) == []
    done = helm("template", "flash", str(CHART), "--values", str(tmp_path / "values.yaml"))
    assert done.returncode == 0, done.stderr
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    used = {
        container["image"]
        for document in documents
        if document["kind"] in ("Deployment", "DaemonSet")
        for container in document["spec"]["template"]["spec"]["containers"]
    }
    assert used == {operator, node}
    assert f"--engine-image={values['engineImage']}" in done.stdout
    assert f"--quantiser-image={values['quantiserImage']}" in done.stdout


def reference_of(image: dict[str, str]) -> str:
    return f"{image['repository']}:{image['tag']}@{image['digest']}"


def test_nothing_that_was_loaded_stays(registry: ImageRegistry, buildah: Tool, archive: Path) -> None:
    push_archive(buildah, archive, f"{registry.host}/flash-node:1", plain=True)
    left = subprocess.run([*buildah.command, "images", "--noheading"], capture_output=True, text=True, check=True)
    assert left.stdout.split() == []


def test_a_registry_that_wants_a_login_is_said(buildah: Tool, archive: Path, tmp_path: Path) -> None:
    passwords = tmp_path / "htpasswd"
    passwords.write_text(PASSWORDS)
    auth = {"htpasswd": {"realm": "tests", "path": str(passwords)}}
    with (
        ImageRegistry(tmp_path / "closed", {"auth": auth}).running() as closed,
        pytest.raises(ToolError, match=rf"log in with `buildah login {closed.host}`"),
    ):
        push_archive(buildah, archive, f"{closed.host}/flash-node:1", plain=True)


def test_a_registry_with_plain_http_elsewhere_and_one_that_is_not_there_are_said(
    registry: ImageRegistry, buildah: Tool, archive: Path
) -> None:
    with pytest.raises(ToolError, match=r"speaks plain HTTP, which is used for localhost only"):
        push_archive(buildah, archive, f"{registry.host}/flash-node:1", plain=False)
    with pytest.raises(ToolError, match=r"no registry answers at 127\.0\.0\.1:1: check the name in PUSH"):
        push_archive(buildah, archive, "127.0.0.1:1/flash-node:1", plain=True)


STUB = """#!{python}
# Stands in for {name}: it records what it is asked, and pushes nothing.
import pathlib, sys
words = sys.argv[1:]
with open({record!r}, "a") as record:
    print("{name}", *words, file=record)
if words[0] == "version" and not {works}:
    sys.exit("Cannot connect to the Docker daemon")
if words[:2] == ["image", "inspect"]:
    print("other.example.org/flash-node@sha256:" + 64 * "b", words[-1].rpartition(":")[0] + "@sha256:" + 64 * "a")
for word in words:
    if word.startswith("--digestfile="):
        pathlib.Path(word.partition("=")[2]).write_text("sha256:" + 64 * "c")
print("doing", words[0])
if words[0] in {failing}:
    sys.exit("unauthorized: authentication required")
"""


class Stubs:
    """A PATH with stubs of tools, and what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.record = folder, folder / "record"

    def add(self, name: str, *, works: bool = True, failing: tuple[str, ...] = ()) -> None:
        program = self.folder / name
        text = STUB.format(python=sys.executable, name=name, record=str(self.record), works=works, failing=failing)
        program.write_text(text)
        program.chmod(0o755)

    def asked(self, command: str) -> list[str]:
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [line for line in lines if line.split()[1] == command]


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stubs:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return Stubs(folder)


def test_the_first_tool_that_works_is_taken(stubs: Stubs) -> None:
    stubs.add("docker", works=False)
    stubs.add("podman")
    stubs.add("buildah")
    assert chosen().name == "podman"
    assert chosen("buildah").name == "buildah"


def test_without_a_tool_it_is_said_what_to_install(stubs: Stubs) -> None:
    with pytest.raises(ToolError, match=r"none of docker, podman and buildah works on this machine: install one"):
        chosen()
    stubs.add("docker", works=False)
    with pytest.raises(ToolError, match=r"docker does not work on this machine: .* start Docker's daemon"):
        chosen("docker")


@pytest.mark.parametrize(("name", "digit"), [("docker", "a"), ("podman", "c"), ("buildah", "c")])
def test_a_tool_builds_and_pushes_each_image_smallest_first(
    stubs: Stubs, name: str, digit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stubs.add(name)
    main(["registry.example.org/team", "--tag=2", f"--values={tmp_path / 'values.yaml'}"])
    references = [f"registry.example.org/team/flash-{one}:2" for one in ("operator", "node", "quantiser", "engine")]
    assert [line.split()[-2].removeprefix("--tag=") for line in stubs.asked("build")] == references
    assert [line.split()[-1].removeprefix("docker://") for line in stubs.asked("push")] == references
    assert not [line for line in stubs.asked("push") if "tls-verify" in line]
    values = yaml.safe_load((tmp_path / "values.yaml").read_text())
    assert values["engineImage"] == f"{references[-1]}@sha256:{digit * 64}"
    told = capsys.readouterr()
    assert f"{references[0]}@sha256:{digit * 64}" in told.out
    assert "doing push" in told.err, "a tool's own progress is shown"


def test_a_bad_name_is_refused_before_any_tool_is_asked(stubs: Stubs, tmp_path: Path) -> None:
    stubs.add("docker")
    with pytest.raises(SystemExit, match=r"^error: PUSH=Team: this names no registry"):
        main(["Team", f"--values={tmp_path / 'values.yaml'}"])
    assert not stubs.record.exists()


def test_a_refused_push_ends_before_the_next_image_is_built_and_writes_no_values(stubs: Stubs, tmp_path: Path) -> None:
    stubs.add("podman", failing=("push",))
    with pytest.raises(SystemExit, match=r"^error: .*/flash-operator:2 was not pushed\. .*log in with `podman login"):
        main(["registry.example.org/team", "--tag=2", f"--values={tmp_path / 'values.yaml'}"])
    assert len(stubs.asked("build")) == 1
    assert not (tmp_path / "values.yaml").exists()


def test_make_hands_over_what_was_typed() -> None:
    """Through the environment: a shell that read the name would run a part of it."""
    settings = {"PUSH": "Team;false", "BUILDER": "podman", "TAG": "2"}
    root = Path(__file__).resolve().parents[2]
    typed = [f"{name}={value}" for name, value in settings.items()]
    # Within `make test`, make would inherit options, and print more lines.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", "--no-print-directory", "images", *typed]
    done = subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True, text=True)
    line = done.stdout.splitlines()[-1]
    assert line.endswith('-m image_builder.publish "$PUSH" --builder "$BUILDER" --tag "$TAG"')
