"""The report always fits into a termination message, and output of ranks is validated before use."""

import json
from pathlib import Path

import pytest

from flash_contracts.p2p_report import P2pReport
from flash_engine.p2p_test.host import parse_driver
from flash_engine.p2p_test.outcome import P2pVerdict, VariantResult
from flash_engine.p2p_test.rank_process import RankProgress
from flash_engine.p2p_test.report import LIMIT, FullReport, overwrite, schema
from flash_engine.p2p_test.variants import VARIANTS, rank_environment, variant_named


@pytest.mark.parametrize("letter", ["x", '"', "\\", "é", "\0", "\ud800", "🙂"])
@pytest.mark.parametrize("length", [0, 100, 500, 100_000])
def test_a_report_is_small_and_valid_whatever_the_details(letter: str, length: int) -> None:
    detail = letter * length
    variants = [
        VariantResult(
            variant.name, "hang", detail, "triton", dict.fromkeys((8192, 16384, 65536, 262144, 1048576), 12345.67)
        )
        for variant in VARIANTS
    ]
    text = FullReport(P2pVerdict("hang", detail), "595.71.05", variants).text
    assert len(text.encode()) <= LIMIT
    assert json.loads(text)["verdict"] == P2pReport.of_text(text).verdict == "hang"


def test_details_are_shortened_before_times_are() -> None:
    variants = [VariantResult(variant.name, "healthy", "é" * 400, "", {8192: 1.5}) for variant in VARIANTS]
    report = json.loads(FullReport(P2pVerdict("healthy", "all is well"), None, variants).text)
    assert [variant["micros"] for variant in report["arms"]] == [{"8192": 1.5}] * 4
    assert report["driver"] is None


def test_times_of_another_kernel_than_vllms_are_ignored() -> None:
    micros = {8192: 1.0, 16384: 2.0, 65536: 3.0, 262144: 4.0}
    for kernel, expected in (("vllm", 10.0), ("triton", None)):
        text = FullReport(
            P2pVerdict("healthy", "well"), "1.2", [VariantResult("peer", "healthy", "", kernel, micros)]
        ).text
        assert P2pReport.of_text(text).variant_times.peer == expected


def test_a_shorter_report_replaces_a_longer_one_in_place(tmp_path: Path) -> None:
    file = tmp_path / "log"
    for text in ("a" * 5000, '{"version":1}'):
        overwrite(file, text)
        assert file.read_text() == text
    overwrite(Path("/dev/null"), "a device cannot be truncated")


def test_a_changed_test_has_another_schema(tmp_path: Path) -> None:
    source = tmp_path / "kernel.py"
    source.write_text("BLOCK = 1024")
    before = schema(tmp_path)
    source.write_text("BLOCK = 2048")
    assert before != schema(tmp_path)
    assert len(schema()) == len("v1-3fa9c2")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "NCCL version 2.30.4+cuda13.0",
        "{",
        "[1]",
        "null",
        "7",
        '{"step": "unheard of"}',
        '{"step": ["done"]}',
        '{"step": "timed", "bytes": "8192", "micros": 9}',
        '{"step": "timed", "bytes": [8192], "micros": 9}',
        '{"step": "timed", "bytes": 8191, "micros": 9}',
        '{"step": "timed", "bytes": 8192, "micros": NaN}',
        '{"step": "timed", "bytes": 8192, "micros": -1}',
        f'{{"step": "timed", "bytes": 8192, "micros": 1{"0" * 400}}}',
        '{"step": "timed", "bytes": 8192, "micros": null}',
        "[" * 100_000,
    ],
)
def test_a_line_that_is_not_a_step_is_not_progress(line: str) -> None:
    assert RankProgress().after(line) is None


def test_progress_keeps_everything_that_was_reported() -> None:
    progress = RankProgress()
    for step in (
        {"step": "device", "uuid": "GPU-a", "nccl": "2.30.4"},
        {"step": "ready", "kernel": "vllm"},
        {"step": "begun", "what": "timing"},
        {"step": "note", "detail": "two\nlines"},
        {"step": "timed", "bytes": 8192, "micros": 9.5},
        {"step": "done"},
    ):
        after = progress.after(json.dumps(step))
        assert after
        progress = after
    assert progress == RankProgress("GPU-a", "2.30.4", True, "vllm", "timing", ("two lines",), {8192: 9.5}, "done")  # noqa: FBT003


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  595.71.05  Release Build  (root@x)  Mon",
            "595.71.05",
        ),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023", "535.129.03"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  595.84  Thu Oct 19\nGCC version: 12.3.0", "595.84"),
        ("GCC version: gcc 12.3.0", None),
        ("", None),
    ],
)
def test_the_driver_version_is_parsed(text: str, expected: str | None) -> None:
    assert parse_driver(text) == expected


def test_nccl_settings_of_the_pod_do_not_reach_the_ranks() -> None:
    ambient = {
        "NCCL_P2P_DISABLE": "1",
        "NCCL_NVLS_ENABLE": "1",
        "TORCH_NCCL_BLOCKING_WAIT": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "PATH": "/usr/bin",
    }
    as_is = rank_environment(variant_named("nccl"), ambient, Path("/cache"))
    assert {name: value for name, value in as_is.items() if name.startswith("NCCL_")} == {
        "NCCL_IB_DISABLE": "1",
        "NCCL_NVLS_ENABLE": "0",
    }
    assert as_is["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "0"
    assert (as_is["PATH"], as_is["TRITON_CACHE_DIR"]) == ("/usr/bin", "/cache")
    assert "PYTORCH_CUDA_ALLOC_CONF" not in as_is
    assert rank_environment(variant_named("ncclP2pOff"), {}, Path("/cache"))["NCCL_P2P_DISABLE"] == "1"
    assert rank_environment(variant_named("ncclP2p"), {}, Path("/cache"))["NCCL_P2P_LEVEL"] == "SYS"
