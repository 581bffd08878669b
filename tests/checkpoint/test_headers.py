"""Safetensors headers: whatever the safetensors library rejects is rejected with its reason."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_checkpoint import FakeCheckpoint
from flash_engine.checkpoint import hub
from flash_engine.checkpoint.checkpoint_files import LocalFolder
from flash_engine.checkpoint.inspection import Inspection, inspect
from flash_engine.checkpoint.origin import VOLUME

LLAMA = json.dumps({"architectures": ["LlamaForCausalLM"]}).encode()
SHARD = "model.safetensors"


class MemoryFiles:
    """A checkpoint in memory."""

    place = "memory"
    origin = VOLUME

    def __init__(self, *, holes: int = 0, **files: bytes) -> None:
        """`holes`: bytes of data that each file has besides."""
        self.contents = {name.replace("_", "."): content for name, content in files.items()}
        self._holes = holes

    @property
    def sizes(self) -> Mapping[str, int]:
        return {name: len(content) + self._holes for name, content in self.contents.items()}

    def read(self, name: str, start: int, length: int) -> bytes:
        return self.contents[name][start : start + length]

    def read_json(self, name: str) -> Any:
        return json.loads(self.contents[name])


def of_shard(content: bytes, config: bytes = LLAMA, holes: int = 0) -> Inspection:
    files = MemoryFiles(config_json=config, model_safetensors=content, holes=holes)
    return inspect(lambda: files, speculation="mtp", any_model=True)


def entry(begin: Any = 0, end: Any = 8, shape: Any = (8,), dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def shard(header: bytes | Mapping[str, Any], data: int = 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def header_of(made: FakeCheckpoint) -> tuple[dict[str, Any], int]:
    """The header of all its tensors, and the bytes of their data."""
    header, end = {}, 0
    for name, tensor in made.tensors.items():
        header[name] = entry(end, end + tensor.size_bytes, tensor.shape, tensor.type)
        end += tensor.size_bytes
    return header, end


INFINITE = b'{"a":{"dtype":"U8","shape":[1e400],"data_offsets":[0,8]}}'
TWICE = b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(shard({"a": entry()}), id="one"),
        pytest.param(shard({"a": entry(), "__metadata__": {"format": "pt"}}), id="metadata"),
        pytest.param(shard({"a": entry(0, 4, (8,), "F4"), "b": entry(4, 8, (4,), "F8_E8M0")}), id="4 bits"),
        pytest.param(shard({"a": entry(0, 0, (0,)), "b": entry()}), id="without values"),
        pytest.param(shard({"a": entry(0, 1, (1,)), "b": entry(1, 8, (7,))}), id="not aligned"),
        pytest.param(shard({'"data_offsets"': entry()}), id="odd name"),
        pytest.param(shard(json.dumps({"a": entry()}).encode() + b"   "), id="padded"),
    ],
)
def test_what_the_library_accepts_is_accepted(content: bytes) -> None:
    found = of_shard(content)
    assert found.findings == ()
    assert found.stored_bytes == 8


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        pytest.param(shard({"a": entry(), "b": entry()}), "BadHeader", "invalid offset", id="overlap"),
        pytest.param(shard({"a": entry(-8, 0), "b": entry()}), "BadHeader", "-8", id="negative offset"),
        pytest.param(shard({"a": entry(8, 16)}, 16), "BadHeader", "invalid offset", id="hole"),
        pytest.param(shard({"a": entry()}, 13), "BadHeader", "5 more than its header describes", id="trailing bytes"),
        pytest.param(shard({"a": entry(shape=(-2, -4))}), "BadHeader", "-2", id="negative sizes"),
        pytest.param(shard({"a": entry(shape=(9,))}), "BadHeader", "", id="wrong size"),
        pytest.param(shard({"a": entry(shape="8")}), "BadHeader", "invalid type", id="shape a string"),
        pytest.param(shard({"a": entry(dtype=["U8"])}), "BadHeader", "", id="type a list"),
        pytest.param(shard({"a": entry(dtype="F5")}), "BadHeader", "F5", id="unknown type"),
        pytest.param(shard({"a": entry(0, 10**400, (10**400,))}), "BadHeader", "out of range", id="giant number"),
        pytest.param(shard({"a": entry(0, 1 << 60, (1 << 60,))}), "BadHeader", "not fully covered", id="exabyte"),
        pytest.param(shard({"a": entry(shape=(1 << 40, 1 << 40))}), "BadHeader", "overflow", id="overflow"),
        pytest.param(shard(INFINITE), "BadHeader", "out of range", id="infinite"),
        pytest.param(shard(b'{"\xff":1}'), "BadHeader", "UTF-8", id="not UTF-8"),
        pytest.param(shard(b"[" * 9000), "BadHeader", "", id="nested"),
        pytest.param(shard(b"[]"), "BadHeader", "", id="a list"),
        pytest.param(shard({"__metadata__": {"a": 1}, "b": entry()}), "BadHeader", "", id="metadata with a number"),
        pytest.param(shard(TWICE), "BadHeader", "two entries of a", id="twice"),
        pytest.param(shard({"a": entry()}, 3), "TruncatedShard", "truncated", id="truncated"),
        pytest.param(shard({"a": entry()})[:20], "TruncatedShard", "truncated", id="truncated in the header"),
        pytest.param(b"", "TruncatedShard", "empty", id="empty"),
        pytest.param(b"abc", "BadHeader", "", id="three bytes"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "BadHeader", "Git LFS", id="LFS"),
        pytest.param(b"<!DOCTYPE html><html>", "BadHeader", "HTML", id="HTML"),
        pytest.param(b'\n {"error": "Invalid credentials"}', "BadHeader", "JSON", id="an error in JSON"),
        pytest.param(b"PK\x03\x04" + bytes(40), "BadHeader", "zip", id="PyTorch's zip"),
        pytest.param(b"GGUF\x03\x00\x00\x00" + bytes(40), "BadHeader", "GGUF", id="GGUF"),
        pytest.param(bytes(4096), "BadHeader", "zeros", id="zeros"),
    ],
)  # fmt: skip
def test_what_it_refuses_is_refused_with_the_reason(content: bytes, code: str, said: str) -> None:
    (finding,) = of_shard(content).findings
    assert (finding.code, finding.severity) == (code, "refused")
    assert said in finding.message
    assert "Error" not in finding.message


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"[]",
        b"<html>",
        b'{"weight_map": []}',
        b'{"weight_map": {"a": ["b"]}}',
        b'{"weight_map": 1}',
        b"[" * 100_000,
    ],
    ids=range(7),
)
def test_an_invalid_index(index: bytes) -> None:
    files = MemoryFiles(config_json=LLAMA, model_safetensors=shard({"a": entry()}))
    files.contents["model.safetensors.index.json"] = index
    (finding,) = inspect(lambda: files, any_model=True).findings
    assert finding.code == "BadIndex"


def test_a_folder_and_a_hub_list_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ("config.json", SHARD, "original/consolidated.safetensors", ".cache/x.safetensors", "._model.safetensors",
             "a/b/c/config.json", "a/b/c/d/config.json", "onnx/model.onnx")  # fmt: skip
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    siblings = [SimpleNamespace(rfilename=path, size=1) for path in paths]
    api = SimpleNamespace(model_info=lambda *_, **__: SimpleNamespace(sha="0" * 40, siblings=siblings))
    monkeypatch.setattr(hub, "HfApi", lambda: api)

    listed = hub.HubRepository("owner/name", "0" * 40).sizes
    assert dict(LocalFolder(tmp_path).sizes) == dict(listed)
    assert sorted(listed) == ["a/b/c/config.json", "config.json", SHARD, "onnx/model.onnx", paths[2]]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["U8", "F4", [0, 8]]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=4,
)
SEED = FakeCheckpoint.make("seed")


SEED_HEADER, SEED_BYTES = header_of(SEED)


def nothing_but_findings(found: Inspection) -> None:
    assert all(finding.message and finding.remedy for finding in found.findings)


def fuzz_header(header: Any, data: int) -> None:
    nothing_but_findings(of_shard(shard(json.dumps(header).encode(), data)))


def fuzz_bytes(content: bytes) -> None:
    nothing_but_findings(of_shard(content))


def fuzz_config(key: str, value: Any) -> None:
    config = json.dumps({**SEED.config, key: value}).encode()
    nothing_but_findings(of_shard(shard(SEED_HEADER, 0), config, SEED_BYTES))


def fuzz_quantisation(key: str, value: Any) -> None:
    fuzz_config("quantization_config", {**SEED.config["quantization_config"], key: value})


HEADERS = st.dictionaries(
    st.text(max_size=8),
    st.fixed_dictionaries({}, optional={"dtype": VALUES, "shape": VALUES, "data_offsets": VALUES}) | VALUES,
    max_size=4,
)
GROUPS = st.dictionaries(
    st.text(max_size=3),
    st.fixed_dictionaries({}, optional={"targets": VALUES, "weights": VALUES, "input_activations": VALUES}) | VALUES,
    max_size=3,
)
KEYS = st.sampled_from(sorted({*SEED.config, "dspark_target_layer_ids", "n_mtp_layers", "compression_config"}))
FUZZED = (
    (fuzz_header, (HEADERS, st.integers(0, 32))),
    (fuzz_bytes, (st.binary(max_size=64),)),
    (fuzz_config, (KEYS, VALUES)),
    (fuzz_quantisation, (st.sampled_from(["quant_method", "config_groups", "ignore", "format"]), VALUES | GROUPS)),
)


def many_times(examples: int, check: Callable[..., None], strategies: tuple[Any, ...]) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(st.tuples(*strategies))
    def one(arguments: tuple[Any, ...]) -> None:
        check(*arguments)

    one()


@pytest.mark.parametrize(("check", "strategies"), FUZZED, ids=lambda one: getattr(one, "__name__", ""))
def test_any_bytes_give_findings(check: Callable[..., None], strategies: tuple[Any, ...]) -> None:
    many_times(50, check, strategies)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("check", "strategies"), FUZZED, ids=lambda one: getattr(one, "__name__", ""))
def test_any_of_ten_thousand_inputs_gives_findings(check: Callable[..., None], strategies: tuple[Any, ...]) -> None:
    many_times(10_000, check, strategies)
