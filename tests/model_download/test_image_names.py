"""Parsing of image names, docker configs and manifests."""

import base64
import platform
from typing import Any

import pytest

from flash_engine.model_download.docker_config import Credentials, find_credentials
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.image_content import LAYERS, choose_manifest, parse_manifest
from flash_engine.model_download.image_reference import ImageReference
from local_cluster.oci_archive import ARCHITECTURES

DIGEST = f"sha256:{'0123456789abcdef' * 4}"

NAMES: dict[str, tuple[str, str]] = {
    "a tag": ("registry.example/team/model:v4", "registry.example/team/model:v4"),
    "a port": ("registry.example:5000/model:v4", "registry.example:5000/model:v4"),
    "a port and no tag": ("registry.example:5000/model", "registry.example:5000/model:latest"),
    "this machine": ("localhost/model", "localhost/model:latest"),
    "a digest": (f"registry.example/model@{DIGEST}", f"registry.example/model@{DIGEST}"),
    "a tag and a digest, which takes precedence": (
        f"registry.example/model:v4@{DIGEST}",
        f"registry.example/model@{DIGEST}",
    ),
    "of Docker Hub": ("team/model:v4", "docker.io/team/model:v4"),
    "of Docker Hub itself": ("busybox", "docker.io/library/busybox:latest"),
    "of Docker Hub by another name": ("index.docker.io/busybox:1", "docker.io/library/busybox:1"),
}


@pytest.mark.parametrize(("text", "meant"), NAMES.values(), ids=NAMES.keys())
def test_image_names_are_parsed_as_container_runtimes_do(text: str, meant: str) -> None:
    assert str(ImageReference.parse(text)) == meant


def test_docker_hub_has_its_own_host() -> None:
    assert ImageReference.parse("team/model").host == "registry-1.docker.io"
    assert ImageReference.parse("registry.example:5000/model").host == "registry.example:5000"


@pytest.mark.parametrize("text", ["", "Registry.example/Model", "registry.example/model@sha256:abc", "a/b:", "a//b"])
def test_an_invalid_image_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        ImageReference.parse(text)


@pytest.mark.parametrize(
    ("registry", "local"),
    [("localhost", True), ("localhost:5000", True), ("127.0.0.1:5000", True), ("127.8.8.8", True),
     ("registry.example:5000", False), ("10.0.0.1:5000", False), ("localhost.example", False)],
)  # fmt: skip
def test_only_registries_on_this_machine_are_local(registry: str, *, local: bool) -> None:
    assert ImageReference.parse(f"{registry}/model").is_local is local


def auth(name: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{name}:pw".encode()).decode()}


ENTRIES: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "its registry": ("registry.example/team/model", {"registry.example": auth("a")}, "a"),
    "with a scheme, as Docker used to write": ("registry.example/m", {"https://registry.example/v1/": auth("a")}, "a"),
    "Docker Hub's old name": ("team/model", {"https://index.docker.io/v1/": auth("a")}, "a"),
    "another registry": ("registry.example/model", {"other.example": auth("a")}, None),
    "another port": ("registry.example:5000/model", {"registry.example": auth("a")}, None),
    "any host of a domain": ("a.registry.example/model", {"*.registry.example": auth("a")}, "a"),
    "not a longer host name": ("b.a.registry.example/model", {"*.registry.example": auth("a")}, None),
    "the longest path": (
        "r.example/team/model", {"r.example": auth("a"), "r.example/team": auth("b"), "r.example/te": auth("c")}, "b"),
    "user name and password": ("r.example/m", {"r.example": {"username": "a", "password": "pw"}}, "a"),
    "an entry without a password": ("r.example/m", {"r.example": {}}, None),
    "an entry that is not base64": ("r.example/m", {"r.example": {"auth": "?"}}, None),
}  # fmt: skip


@pytest.mark.parametrize(("image", "auths", "expected"), ENTRIES.values(), ids=ENTRIES.keys())
def test_credentials_are_matched_as_the_kubelet_does(image: str, auths: dict[str, Any], expected: str | None) -> None:
    found = find_credentials(ImageReference.parse(image), [{"auths": auths}, {}])
    assert found == (Credentials(expected, "pw") if expected else None)


def test_a_password_is_not_shown_in_repr() -> None:
    assert "pw" not in repr(Credentials("a", "pw"))


TAR = "application/vnd.oci.image.layer.v1.tar"


def layer(kind: str = TAR, number: int = 1, /, **annotations: str) -> dict[str, Any]:
    named = {key.replace("_", "."): value for key, value in annotations.items()}
    return {"mediaType": kind, "digest": f"sha256:{number:064}", "size": number, "annotations": named}


def file_of(number: int) -> str:
    return f"{LAYERS}/{number:064}"


TITLE, UNPACK = "org_opencontainers_image_title", "io_deis_oras_content_unpack"
LAYER_KINDS: dict[str, tuple[list[dict[str, Any]], list[str], list[tuple[str, str]]]] = {
    "an image": ([layer(), layer(f"{TAR}+gzip", 2)], [], [(file_of(1), "none"), (file_of(2), "gzip")]),
    "an image of Docker": (
        [layer("application/vnd.docker.image.rootfs.diff.tar.gzip")], [], [(file_of(1), "gzip")]),
    "files by ORAS, with the media type of a tar": (
        [layer(**{TITLE: "config.json"}), layer("x/y", 2, **{TITLE: "d/a.safetensors"})],
        ["config.json", "d/a.safetensors"], []),
    "a folder by ORAS' client for Python": ([layer(f"{TAR}+gzip", **{TITLE: "d"})], [], [(file_of(1), "gzip")]),
    "a folder by ORAS": ([layer(f"{TAR}+gzip", **{TITLE: "d", UNPACK: "true"})], [], [(file_of(1), "gzip")]),
    "ModelPack's files": (
        [layer("application/vnd.cncf.model.weight.v1.raw", org_cncf_model_filepath="a.safetensors")],
        ["a.safetensors"], []),
    "ModelPack's tars": (
        [layer("application/vnd.cncf.model.weight.v1.tar", org_cncf_model_filepath="a.safetensors")],
        [], [(file_of(1), "none")]),
    "the last position of a repeated layer counts": (
        [layer(), layer(TAR, 2), layer()], [], [(file_of(2), "none"), (file_of(1), "none")]),
    "an empty layer beside a file": (
        [layer("application/vnd.oci.empty.v1+json"), layer(TAR, 2, **{TITLE: "a"})], ["a"], []),
}  # fmt: skip


@pytest.mark.parametrize(("layers", "files", "tars"), LAYER_KINDS.values(), ids=LAYER_KINDS.keys())
def test_layers_are_sorted_into_files_and_archives(
    layers: list[dict[str, Any]], files: list[str], tars: list[tuple[str, str]]
) -> None:
    listing = parse_manifest({"layers": layers}, DIGEST, "r.example/m:1")
    assert [file.name for file in listing.files] == files
    assert [(tar.file.name, tar.compression) for tar in listing.layers] == tars


def test_disk_space_for_all_layers_and_once_more_for_the_largest_is_needed() -> None:
    listing = parse_manifest({"layers": [layer(TAR, 3), layer(TAR, 5), layer(TAR, 4)]}, DIGEST, "r.example/m:1")
    assert (listing.total_bytes, listing.peak_bytes) == (12, 17)
    files = parse_manifest({"layers": [layer(TAR, 3, **{TITLE: "a"})]}, DIGEST, "r.example/m:1")
    assert (files.total_bytes, files.peak_bytes) == (3, 3)


REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "zstd": (
        [layer(f"{TAR}+zstd")],
        "has media type application/vnd.oci.image.layer.v1.tar+zstd, which is neither tar",
    ),
    "no layer": ([], "has no layers"),
    "a file outside the folder": (
        [layer(**{TITLE: "../a"})],
        "'../a', which would be written outside the model's folder",
    ),
    "a file in our own folder": (
        [layer(**{TITLE: f"{LAYERS}/a"})],
        "which would be written outside the model's folder",
    ),
    "a file twice": ([layer(**{TITLE: "a"}), layer(TAR, 2, **{TITLE: "a"})], "contains the file 'a' twice"),
    "another checksum": ([{**layer(), "digest": "sha512:0"}], "which is not SHA-256"),
}


@pytest.mark.parametrize(("layers", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_an_unsupported_layer_is_refused_with_its_reason(layers: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DownloadError) as refused:
        parse_manifest({"layers": layers}, DIGEST, "r.example/m:1")
    assert message in str(refused.value)


def entry(architecture: str, digest: str, system: str = "linux") -> dict[str, Any]:
    return {"digest": digest, "platform": {"architecture": architecture, "os": system}}


OURS = ARCHITECTURES[platform.machine()]
INDEXES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "this machine's": ([entry("s390x", "a"), entry(OURS, "b"), entry("unknown", "c", "unknown")], "b"),
    "the only one besides attestations": ([entry("s390x", "a"), entry("unknown", "c", "unknown")], "a"),
    "one without a platform": ([{"digest": "a"}], "a"),
}


@pytest.mark.parametrize(("manifests", "expected"), INDEXES.values(), ids=INDEXES.keys())
def test_one_image_of_an_index_is_chosen(manifests: list[dict[str, Any]], expected: str) -> None:
    assert choose_manifest({"manifests": manifests}, "r.example/m:1") == expected


def test_an_index_without_this_machines_platform_is_refused() -> None:
    with pytest.raises(DownloadError, match=f"has no image for linux/{OURS}, only ppc64le, s390x"):
        choose_manifest({"manifests": [entry("s390x", "a"), entry("ppc64le", "b")]}, "r.example/m:1")
