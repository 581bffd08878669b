"""The official layout is read bit for bit, and no other layout is mistaken for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tiny_checkpoints as tiny
from mtp_quantiser.errors import QuantiserError
from mtp_quantiser.formats.fp4 import decode_fp4
from mtp_quantiser.formats.fp8 import decode_e8m0, decode_fp8
from mtp_quantiser.layout import MtpShape
from mtp_quantiser.official import OfficialMtp

CPU = torch.device("cpu")
FLASH = {
    **tiny.CONFIG,
    "hidden_size": 4096, "moe_intermediate_size": 2048, "num_hidden_layers": 43, "num_attention_heads": 64,
    "head_dim": 512, "q_lora_rank": 1024, "o_lora_rank": 1024, "o_groups": 8, "n_routed_experts": 256,
    "num_experts_per_tok": 6,
}  # fmt: skip


def test_flash_has_1575_tensors_in_the_layer() -> None:
    official = MtpShape.of(FLASH).official()
    assert len(official) == 1575
    assert official["mtp.0.ffn.experts.255.w2.weight"].shape == (4096, 1024)
    assert official["mtp.0.ffn.experts.0.w1.scale"].shape == (2048, 128)
    assert len(MtpShape.of(FLASH).product()) == 768 * 3 + 5 * 2 + 5 + 19


def test_a_known_byte_is_two_known_values_the_even_column_low() -> None:
    packed = torch.zeros(1, 16, dtype=torch.uint8)
    packed[0, 0] = 0x2F
    values = decode_fp4(packed, torch.tensor([[128]], dtype=torch.uint8))
    assert values[0, :3].tolist() == [-12.0, 2.0, 0.0]


def test_every_fp4_value_times_every_power_is_exact_in_bf16() -> None:
    packed = torch.arange(256, dtype=torch.uint8).view(16, 16)
    for byte in (1, 60, 127, 250):
        values = decode_fp4(packed, torch.full((16, 1), byte, dtype=torch.uint8)).double()
        wanted = decode_fp4(packed, torch.full((16, 1), 127, dtype=torch.uint8)).double() * 2.0 ** (byte - 127)
        assert torch.equal(values, wanted)


def test_fp8_blocks_are_scaled_each_by_its_own() -> None:
    weight = torch.ones(130, 256).to(torch.float8_e4m3fn)
    scale = decode_e8m0(torch.tensor([[127, 128], [126, 120]], dtype=torch.uint8))
    values = decode_fp8(weight, scale)
    assert values.shape == (130, 256)
    assert [values[r, c].item() for r, c in ((0, 0), (127, 128), (128, 127), (129, 255))] == [1.0, 2.0, 0.5, 2.0**-7]


def test_experts_and_the_rest_are_what_the_shards_hold(official: Path) -> None:
    read, tensors = OfficialMtp.open(official), tiny.official_tensors()
    experts = read.experts(slice(1, 3), CPU)
    for matrix, found in (("w1", experts.gate), ("w3", experts.up), ("w2", experts.down)):
        assert torch.equal(found.packed[1], tensors[f"{tiny.expert(2, matrix)}.weight"].view(torch.uint8))
        assert torch.equal(found.exponents[0], tensors[f"{tiny.expert(1, matrix)}.scale"].view(torch.uint8))
    rest = dict(read.rest())
    assert torch.equal(
        rest["mtp.0.attn.wq_a.weight"].view(torch.uint8), tensors["mtp.0.attn.wq_a.weight"].view(torch.uint8)
    )
    scale = tensors["mtp.0.e_proj.scale"].view(torch.uint8).double()
    wanted = tensors["mtp.0.e_proj.weight"].double() * torch.exp2(scale - 127).repeat_interleave(
        128, 0
    ).repeat_interleave(128, 1)
    assert torch.equal(rest["mtp.0.e_proj.weight"].double(), wanted)
    assert torch.equal(rest["mtp.0.attn.attn_sink"], tensors["mtp.0.attn.attn_sink"])
    assert set(rest) == {name for name in tiny.SHAPE.product() if ".experts." not in name}


def dspark(tensors: dict[str, torch.Tensor]) -> None:
    tensors["mtp.1.norm.weight"] = torch.ones(256)


def stripped(tensors: dict[str, torch.Tensor]) -> None:
    tensors.clear()
    tensors["embed.weight"] = torch.ones(2, 2)


def base_fp8(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if ".experts." in name and name.endswith(".weight")]:
        tensors[name] = torch.ones(128, 256).to(torch.float8_e4m3fn)


def bf16(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if ".experts." in name and name.endswith(".weight")]:
        tensors[name] = torch.ones(128, 256).bfloat16()


def int4(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{tiny.expert(0, 'w1')}.weight_packed"] = torch.ones(128, 32, dtype=torch.int32)


def missing(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[f"{tiny.expert(3, 'w2')}.scale"]


def misshapen(tensors: dict[str, torch.Tensor]) -> None:
    tensors["mtp.0.enorm.weight"] = torch.ones(255).bfloat16()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dspark, "DSpark"),
        (stripped, "without an MTP head"),
        (base_fp8, "FP8 experts"),
        (bf16, "BF16"),
        (int4, "already INT4"),
        (missing, "mtp.0.ffn.experts.3.w2.scale"),
        (misshapen, "mtp.0.enorm.weight is BF16 \\[255\\], not BF16 \\[256\\]"),
    ],
)
def test_another_layout_is_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], said: str
) -> None:
    folder = tiny.write_official(tmp_path / "other", change)
    with pytest.raises(QuantiserError, match=said):
        OfficialMtp.open(folder)


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    folder = tiny.write_official(tmp_path / "cut")
    shard = folder / "model-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(QuantiserError, match=r"model-00002.safetensors is truncated or damaged"):
        OfficialMtp.open(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = tiny.write_official(tmp_path / "gone")
    (folder / "model-00001.safetensors").unlink()
    with pytest.raises(QuantiserError, match=r"model-00001.safetensors is missing"):
        OfficialMtp.open(folder)


def test_a_scale_that_is_nan_is_refused(tmp_path: Path) -> None:
    def corrupt(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{tiny.expert(1, 'w3')}.scale"].view(torch.uint8)[0, 0] = 255

    with pytest.raises(QuantiserError, match=r"experts.1.w3.scale contains NaN"):
        OfficialMtp.open(tiny.write_official(tmp_path / "nan", corrupt)).experts(slice(0, 2), CPU)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    config = {key: value for key, value in tiny.CONFIG.items() if key != "hc_mult"}
    with pytest.raises(QuantiserError, match=r"no 'hc_mult', so this is not a DeepSeek-V4"):
        OfficialMtp.open(tiny.write_official(tmp_path / "v3", config=config))
