"""Models in the packagings used with registries: each is served, or rejected by name."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_engine.launcher.model_lock import stored_model
from flash_engine.model_cache import ModelSnapshot
from flash_engine.model_download.failure import DownloadError
from flash_engine.model_download.image_content import INDEXES, LAYERS, choose_manifest, parse_manifest
from flash_engine.model_download.model_folder import model_folder

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
IMAGE = "registry.example/team/model:1"
OCI, DOCKER = "application/vnd.oci.image.layer.v1", "application/vnd.docker.image.rootfs"
TITLE = "org.opencontainers.image.title"
CNCF, CNAI = "org.cncf.model.filepath", "org.cnai.model.filepath"
OLOT = "olot.layer.content.inlayerpath"
UNPACK = "io.deis.oras.content.unpack"


def layer(kind: str, annotations: dict[str, Any] | None = None, /, **changes: Any) -> dict[str, Any]:
    return {"mediaType": kind, "size": 5, "annotations": annotations or {}, **changes}


def manifest(*layers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """With a digest of its own for each layer, counted from 1."""
    numbered = [{"digest": digest(number), **one} for number, one in enumerate(layers, 1)]
    return {"schemaVersion": 2, "layers": numbered, **changes}


def digest(number: int) -> str:
    return f"sha256:{number:064}"


def listed(document: dict[str, Any]) -> tuple[list[str], list[tuple[int, str]]]:
    """The names of the files, and the numbers of the layers to unpack with their compression."""
    listing = parse_manifest(document, DIGEST, IMAGE)
    assert all(file.file.name.startswith(f"{LAYERS}/") for file in listing.layers)
    return (
        [file.name for file in listing.files],
        [(int(one.file.sha256 or "0"), one.compression) for one in listing.layers],
    )


KINDS: dict[str, tuple[dict[str, Any], list[str], list[tuple[int, str]]]] = {
    "a modelcar of KServe, on a base image": (
        manifest(layer(f"{DOCKER}.diff.tar.gzip"), layer(f"{OCI}.tar+gzip"), layer(f"{OCI}.tar")),
        [], [(1, "gzip"), (2, "gzip"), (3, "none")]),
    "a modelcar of OLOT, whose tars are named after their content": (
        manifest(layer(f"{OCI}.tar", {TITLE: "config.json", OLOT: "/models/config.json"}),
                 layer(f"{OCI}.tar+gzip", {TITLE: "a.safetensors", OLOT: "/models/a.safetensors"})),
        [], [(1, "none"), (2, "gzip")]),
    "ModelPack, raw": (
        manifest(layer("application/vnd.cncf.model.weight.config.v1.raw", {CNCF: "config.json"}),
                 layer("application/vnd.cncf.model.weight.v1.raw", {CNCF: "sub/a.safetensors"})),
        ["config.json", "sub/a.safetensors"], []),
    "ModelPack of before 2025, tars and raw": (
        manifest(layer("application/vnd.cnai.model.doc.v1.tar", {CNAI: "README.md"}),
                 layer("application/vnd.cnai.model.weight.v1.tar", {CNAI: "a.safetensors"}),
                 layer("application/vnd.cnai.model.weight.v1.raw", {CNAI: "b.safetensors"})),
        ["b.safetensors"], [(1, "none"), (2, "none")]),
    "ModelPack with a data set and documents": (
        manifest(layer("application/vnd.cncf.model.weight.v1.tar+gzip", {CNCF: "a.safetensors"}),
                 layer("application/vnd.cncf.model.dataset.v1.tar", {CNCF: "data"}),
                 layer("application/vnd.cncf.model.doc.v1.raw")),
        [], [(1, "gzip")]),
    "KitOps": (
        manifest(*(layer(f"application/vnd.kitops.modelkit.{part}.v1.tar{packed}")
                   for part, packed in (("model", "+gzip"), ("modelpart", ""), ("code", "+gzip"), ("docs", ""),
                                        ("dataset", "")))),
        [], [(1, "gzip"), (2, "none"), (3, "gzip"), (4, "none")]),
    "KitOps with titles": (
        manifest(layer("application/vnd.kitops.modelkit.model.v1.tar", {TITLE: "weights"})), [], [(1, "none")]),
    "Docker's model runner, in the order of its shards": (
        manifest(layer("application/vnd.docker.ai.safetensors"), layer("application/vnd.docker.ai.safetensors"),
                 layer("application/vnd.docker.ai.vllm.config.tar"), layer("application/vnd.docker.ai.license"),
                 layer("application/vnd.docker.ai.chat.template.jinja")),
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "chat_template.jinja"],
        [(3, "none")]),
    "Docker's model runner, one file": (
        manifest(layer("application/vnd.docker.ai.safetensors"),
                 layer("application/vnd.docker.ai.dir.tar", {CNCF: "d"})),
        ["model.safetensors"], [(2, "none")]),
    "Docker's model runner, with names": (
        manifest(layer("application/vnd.docker.ai.safetensors", {CNCF: "model-00002-of-00002.safetensors"}),
                 layer("application/vnd.docker.ai.model.file", {CNCF: "config.json"})),
        ["model-00002-of-00002.safetensors", "config.json"], []),
    "ORAS: plain files, one in a folder, and a packed folder": (
        manifest(layer(f"{OCI}.tar", {TITLE: "./config.json"}),
                 layer("application/octet-stream", {TITLE: "d/a.safetensors"}),
                 layer(f"{OCI}.tar+gzip", {TITLE: "tokenizer", UNPACK: "true"})),
        ["config.json", "d/a.safetensors"], [(3, "gzip")]),
    "an artifact of an early draft": (
        {"blobs": manifest(layer("a/b", {TITLE: "config.json"}))["layers"]}, ["config.json"], []),
    "an empty config and layer": (
        manifest(layer("application/vnd.oci.empty.v1+json"), layer("a/b", {TITLE: "a"}),
                 config={"mediaType": "application/vnd.oci.empty.v1+json"}), ["a"], []),
    "the same file twice": (
        manifest(*[layer("a/b", {TITLE: "a"}, digest=digest(7))] * 2), ["a"], []),
    "a layer that may also be elsewhere": (
        manifest(layer(f"{OCI}.tar", urls=["https://mirror.example/blob"]), layer(f"{DOCKER}.foreign.diff.tar.gzip")),
        [], [(1, "none"), (2, "gzip")]),
}  # fmt: skip


@pytest.mark.parametrize(("document", "files", "tars"), KINDS.values(), ids=KINDS.keys())
def test_a_model_of_this_kind_is_downloaded(
    document: dict[str, Any], files: list[str], tars: list[tuple[int, str]]
) -> None:
    assert listed(document) == (files, tars)


SAFETENSORS_WANTED = "config.json and safetensors files"
REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "GGUF of Docker": (
        manifest(layer("application/vnd.docker.ai.gguf.v3"), layer("application/vnd.docker.ai.license")),
        ["layer 1", "application/vnd.docker.ai.gguf.v3", "GGUF", "vLLM loads safetensors", SAFETENSORS_WANTED]),
    "GGUF of Docker, with a name": (
        manifest(layer("application/vnd.docker.ai.gguf.v3", {CNCF: "model.gguf"})), ["GGUF", SAFETENSORS_WANTED]),
    "GGUF of an earlier Docker": (manifest(layer("application/vnd.docker.ai.model.file.v1+gguf")), ["GGUF"]),
    "GGUF of Ollama": (
        manifest(layer("application/vnd.ollama.image.model"), layer("application/vnd.ollama.image.template"),
                 layer("application/vnd.ollama.image.params")), ["GGUF", "Ollama", SAFETENSORS_WANTED]),
    "tensors of Ollama": (
        manifest(layer("application/vnd.ollama.image.tensor"), layer("application/vnd.ollama.image.tokenizer")),
        ["another format", "Ollama", SAFETENSORS_WANTED]),
    "GGUF of ModelPack": (
        manifest(layer("application/vnd.cncf.model.weight.v1.raw", {CNCF: "q4.gguf"})), ["GGUF (q4.gguf)"]),
    "GGUF of ORAS": (manifest(layer("application/octet-stream", {TITLE: "q4.GGUF"})), ["GGUF"]),
    "zstd": (manifest(layer(f"{OCI}.tar+zstd")), ["layer 1", "tar+zstd", "--compression-format gzip"]),
    "zstd of KitOps": (
        manifest(layer("application/vnd.kitops.modelkit.model.v1.tar+zstd")), ["zstd cannot be unpacked"]),
    "encrypted": (manifest(layer(f"{OCI}.tar+gzip+encrypted")), ["is encrypted"]),
    "a file that is compressed": (
        manifest(layer("application/vnd.cncf.model.weight.v1.raw+zstd", {CNCF: "a.safetensors"})), ["as it is"]),
    "outside the registry": (
        manifest(layer(f"{OCI}.nondistributable.tar+gzip", urls=["https://elsewhere.example/layer"])),
        ["kept outside the registry", "with all of its layers"]),
    "outside the registry, of Docker": (
        manifest(layer(f"{DOCKER}.foreign.diff.tar.gzip", urls=["https://elsewhere.example/layer"])),
        ["kept outside the registry"]),
    "only an empty layer": (manifest(layer("application/vnd.oci.empty.v1+json")), ["has no layers"]),
    "a Helm chart": (manifest(layer("application/vnd.cncf.helm.chart.provenance.v1.prov")), ["neither tar, tar+gzip"]),
    "a file that is a folder, too": (
        manifest(layer("a/b", {TITLE: "a"}), layer("a/b", {TITLE: "a/b"})), ["one is a file and a folder"]),
    "schema 1": ({"schemaVersion": 1, "fsLayers": []}, ["obsolete schema 1"]),
    "layers that are no list": ({"layers": {"a": 1}}, ["are not a list of objects"]),
    "a layer that is no object": ({"layers": ["a"]}, ["are not a list of objects"]),
    "a size below zero": (manifest(layer("a/b", {TITLE: "a"}, size=-1)), ["has the size -1"]),
    "a size that is a text": (manifest(layer("a/b", {TITLE: "a"}, size="5")), ["has the size '5'"]),
    "annotations that are no object": (manifest({**layer("a/b"), "annotations": [1]}), ["not an object"]),
}  # fmt: skip


@pytest.mark.parametrize(("document", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_an_unsupported_packaging_is_rejected_by_its_name(document: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DownloadError) as refused:
        parse_manifest(document, DIGEST, IMAGE)
    assert [word for word in words if word not in str(refused.value)] == []


def entry(number: int, **changes: Any) -> dict[str, Any]:
    return {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(number), **changes}


ATTESTATION = {"vnd.docker.reference.type": "attestation-manifest"}
CHOSEN: dict[str, list[dict[str, Any]]] = {
    "beside attestations without a platform": [entry(1, annotations=ATTESTATION), entry(2)],
    "beside a signature": [entry(1, artifactType="application/vnd.dev.cosign.artifact.sig.v1+json"), entry(2)],
    "beside a bill of materials": [entry(1, artifactType="application/vnd.cyclonedx+json"), entry(2)],
    "with an empty platform": [entry(2, platform={"architecture": "", "os": ""})],
    "with a platform that is none": [entry(2, platform="linux")],
    "an index within an index": [{**entry(2), "mediaType": INDEXES[0]}],
}


@pytest.mark.parametrize("manifests", CHOSEN.values(), ids=CHOSEN.keys())
def test_the_only_model_of_an_index_is_chosen(manifests: list[dict[str, Any]]) -> None:
    assert choose_manifest({"manifests": manifests}, IMAGE) == digest(2)


def test_an_index_of_several_models_asks_for_one() -> None:
    with pytest.raises(DownloadError, match=f"has 2 models.*by its digest: {digest(1)}, {digest(2)}"):
        choose_manifest({"manifests": [entry(1), entry(2)]}, IMAGE)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["layers", "manifests", "blobs", "mediaType", "digest", "size", "annotations", TITLE]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["layers", "manifests", "blobs"]), ANYTHING))
@settings(max_examples=50)
def test_no_manifest_leads_to_anything_but_a_listing_or_a_reason(document: dict[str, Any]) -> None:
    outcomes = []
    for parse in (lambda: choose_manifest(document, IMAGE), lambda: parse_manifest(document, DIGEST, IMAGE)):
        try:
            outcomes.append(str(parse()))
        except DownloadError as refused:
            outcomes.append(refused.remedy)
    assert all(outcomes)


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    return root


FOLDERS: dict[str, tuple[tuple[str, ...], str]] = {
    "at the root": (("config.json", "a.safetensors", "models/config.json", "models/a.safetensors"), "."),
    "a modelcar": (("etc/passwd", "usr/lib/x", "models/config.json", "models/a.safetensors"), "models"),
    "a modelcar with the model in a folder of its own": (
        ("models/v4/config.json", "models/v4/a.safetensors"), "models/v4"),
    "a folder of ORAS": (("DeepSeek-V4/config.json", "DeepSeek-V4/a.safetensors"), "DeepSeek-V4"),
    "a modelcar with another model beside it": (
        ("models/config.json", "models/a.safetensors", "draft/config.json", "draft/a.safetensors"), "models"),
    "a drafter within the model": (
        ("v4/config.json", "v4/a.safetensors", "v4/draft/config.json", "v4/draft/a.safetensors"), "v4"),
    "two models": (("a/config.json", "a/a.safetensors", "b/config.json", "b/a.safetensors"), "."),
    "a configuration without weights": (("etc/config.json", "etc/passwd"), "."),
    "too deep": (("a/b/c/d/e/config.json", "a/b/c/d/e/a.safetensors"), "."),
    "nothing": ((), "."),
}  # fmt: skip


@pytest.mark.parametrize(("names", "expected"), FOLDERS.values(), ids=FOLDERS.keys())
def test_the_model_of_an_image_is_found_in_its_folder(tmp_path: Path, names: tuple[str, ...], expected: str) -> None:
    assert model_folder(files(tmp_path, *names)) == tmp_path / expected


@pytest.mark.parametrize("below", ["", "models", "models/v4"])
def test_a_model_in_a_folder_of_its_image_is_locked_as_a_whole(tmp_path: Path, below: str) -> None:
    model = ModelSnapshot(tmp_path / "cache", "registry.example/model", DIGEST)
    (tmp_path / "model").symlink_to(model.folder / below)
    assert stored_model(tmp_path / "model", tmp_path / "cache") == model


def test_a_link_out_of_the_cache_is_not_a_cached_model(tmp_path: Path) -> None:
    for number, target in enumerate((tmp_path / "other", tmp_path / "cache" / "hub" / "owner--model")):
        (tmp_path / str(number)).symlink_to(target)
        assert stored_model(tmp_path / str(number), tmp_path / "cache") is None
