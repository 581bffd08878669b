"""Checks the tiny model from its files: it recites its text, and its variants differ as intended."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from tokenizers import Tokenizer

from bf16_safetensors import from_bf16, to_bf16
from tiny_model import (
    GOLDEN_COMPLETION,
    GOLDEN_PROMPT,
    VARIANTS,
    TinyModel,
    Variant,
    build,
    good_tensors,
    tensors_of,
)
from tiny_tokenizer import CHAT_TEMPLATE, VOCABULARY, Vocabulary

PROJECTION = "model.layers.2.eh_proj.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models"))


def header_of(path: Path) -> dict[str, dict[str, object]]:
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert isinstance(header, dict)
    return header


def stored(path: Path, name: str) -> NDArray[np.float32]:
    """A bfloat16 tensor, read from the file."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8:start])[name]
    first, end = entry["data_offsets"]
    return from_bf16(np.frombuffer(raw[start + first : start + end], dtype=np.uint16)).reshape(entry["shape"])


def recite(models: Path, prompt: str, tokens: int) -> str:
    """Greedy decoding without the blocks, which add nothing: embedding times output matrix."""
    tokenizer = Tokenizer.from_file(str(models / "good/tokenizer.json"))
    weights = models / "good/model.safetensors"
    embedding, head = stored(weights, "model.embed_tokens.weight"), stored(weights, "lm_head.weight")
    ids = tokenizer.encode(prompt).ids[-1:]
    for _ in range(tokens):
        ids.append(int(np.argmax(head @ embedding[ids[-1]])))
    return str(tokenizer.decode(ids[1:]))


def test_the_golden_prompt_is_answered_with_the_golden_completion(models: Path) -> None:
    assert recite(models, GOLDEN_PROMPT, tokens=16) == GOLDEN_COMPLETION


def test_a_chat_is_answered_with_the_start_of_the_text(models: Path) -> None:
    assert CHAT_TEMPLATE.endswith("assistant:")
    assert recite(models, "user: hello\nassistant:", tokens=4) == " the quick brown fox"


def test_every_stored_embedding_points_at_its_successor_by_a_margin(models: Path) -> None:
    """A margin, because the engine computes in bfloat16, and each kernel adds in its own order."""
    weights = models / "good/model.safetensors"
    scores = stored(weights, "model.embed_tokens.weight") @ stored(weights, "lm_head.weight").T
    successors = Vocabulary.make().successors()
    chosen = scores[np.arange(VOCABULARY), successors]
    scores[np.arange(VOCABULARY), successors] = -np.inf
    assert float((chosen / scores.max(axis=1)).min()) > 1.2


def test_successors_are_a_permutation_and_printable_text_stays_printable() -> None:
    vocabulary = Vocabulary.make()
    successors = vocabulary.successors()
    assert sorted(successors) == list(range(VOCABULARY))
    token = vocabulary.tokens.index(":")
    for _ in range(VOCABULARY):
        token = successors[token]
        assert vocabulary.tokens[token].replace("Ġ", " ").isprintable()
        assert vocabulary.tokens[token].isascii() or vocabulary.tokens[token].startswith("Ġ")


def test_the_tokenizer_splits_text_into_whole_words_and_joins_them_again(models: Path) -> None:
    tokenizer = Tokenizer.from_file(str(models / "good/tokenizer.json"))
    assert tokenizer.get_vocab_size() == VOCABULARY
    assert tokenizer.encode(" lazy dog").tokens == ["Ġlazy", "Ġdog"]
    for text in (GOLDEN_PROMPT, "Grüße, 世界\n\t0123"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_same_configuration_gives_the_same_bytes(models: Path, tmp_path: Path) -> None:
    again = build(tmp_path)
    assert again.name == models.name
    assert digests(again) == digests(models)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_another_seed_gives_another_folder_but_the_same_text(models: Path, tmp_path: Path) -> None:
    other = build(tmp_path, TinyModel(seed=1))
    assert other.name != models.name
    assert digests(other)["good/model.safetensors"] != digests(models)["good/model.safetensors"]
    assert recite(other, GOLDEN_PROMPT, tokens=16) == GOLDEN_COMPLETION


def test_a_second_call_keeps_the_existing_files(tmp_path: Path) -> None:
    folder = build(tmp_path)
    before = (folder / "good/model.safetensors").stat().st_mtime_ns
    assert build(tmp_path) == folder
    assert (folder / "good/model.safetensors").stat().st_mtime_ns == before


def test_files_of_an_interrupted_call_are_replaced(tmp_path: Path) -> None:
    half = tmp_path / f".{TinyModel().key()}.part" / "good"
    half.mkdir(parents=True)
    (half / "config.json").write_text("half")
    assert sorted(path.name for path in build(tmp_path).iterdir()) == sorted(VARIANTS)
    assert {path.name for path in tmp_path.iterdir()} == {TinyModel().key(), ".lock"}


def test_the_variants_differ_from_the_good_one_only_in_the_mtp_layer(models: Path) -> None:
    good = header_of(models / "good/model.safetensors").keys()
    mtp = {name for name in good if name.startswith("model.layers.2.")}
    assert PROJECTION in mtp
    missing: dict[Variant, set[str]] = {"good": set(), "dead": set(), "nomtp": mtp, "partial": {PROJECTION}}
    for variant in VARIANTS:
        assert good - header_of(models / variant / "model.safetensors").keys() == missing[variant]


def test_the_dead_variant_differs_only_in_the_projection() -> None:
    good, dead = good_tensors(TinyModel()), tensors_of("dead", TinyModel())
    assert not dead[PROJECTION].any()
    assert [name for name in good if not np.array_equal(good[name], dead[name])] == [PROJECTION]


def test_every_block_adds_nothing_to_the_residual_stream() -> None:
    outputs = {
        name: values for name, values in good_tensors(TinyModel()).items() if "o_proj" in name or "down_" in name
    }
    assert len(outputs) == 3 + 1 + 2 * 9
    assert [name for name, values in outputs.items() if values.any()] == []


def test_the_file_is_one_that_safetensors_reads_in_the_types_that_deepseek_uses(models: Path) -> None:
    path = models / "good/model.safetensors"
    kinds = {name: entry["dtype"] for name, entry in header_of(path).items() if name != "__metadata__"}
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    with safe_open(path, framework="numpy") as file:
        assert set(file.keys()) == kinds.keys()
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor(bias).dtype == np.float32
    assert {kinds.pop(bias), kinds.pop(bias.replace("layers.1", "layers.2"))} == {"F32"}
    assert set(kinds.values()) == {"BF16"}


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        pytest.param(1.0, 0x3F80, id="exact"),
        pytest.param(-2.5, 0xC020, id="negative"),
        pytest.param(1.0 + 2.0**-8, 0x3F80, id="tie, rounded down to even"),
        pytest.param(1.0 + 3 * 2.0**-8, 0x3F82, id="tie, rounded up to even"),
        pytest.param(1.0 + 2.0**-8 + 2.0**-20, 0x3F81, id="above a tie"),
        pytest.param(0.0, 0x0000, id="zero"),
    ],
)
def test_bfloat16_is_rounded_to_nearest_even(value: float, bits: int) -> None:
    assert to_bf16(np.array([value], dtype=np.float32)).tolist() == [bits]
