"""Which line tells why an engine died. The lines are those of real vLLM 0.32 and 0.33."""

import pytest

from flash_engine.gate.last_words import OUT_OF_MEMORY, telling_line

CASES = {
    "the cause, and not the consequences that vLLM reports after it": (
        [
            "INFO 11-24 11:00:01 [model.py:1] Resolved architecture: DeepSeekMTPModel",
            (
                "(EngineCore pid=70) ERROR 11-24 11:00:20 [core.py:1200] ValueError: MTP speculative decoding layer 2 "
                "weights missing from checkpoint. Expected model.layers.2."
            ),
            "(EngineCore pid=70) ERROR 11-24 11:00:20 [core.py:1200] EngineCore failed to start.",
            "Traceback (most recent call last):",
            "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
        ],
        "ValueError: MTP speculative decoding layer 2 weights missing from checkpoint. Expected model.layers.2.",
    ),
    "a wrong argument": (
        ["usage: vllm serve", "vllm serve: error: unrecognized arguments: --nonsense"],
        "vllm serve: error: unrecognized arguments: --nonsense",
    ),
    "no error at all: the last line": (["INFO loading", "killed by somebody", ""], "killed by somebody"),
    "silence": ([], ""),
}


@pytest.mark.parametrize(("lines", "expected"), CASES.values(), ids=CASES.keys())
def test_the_telling_line(lines: list[str], expected: str) -> None:
    assert telling_line(lines) == expected


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "ValueError: Free memory on device cuda:0 (20.1/95.0 GiB) is less than desired GPU memory utilization (0.95)",
        "RuntimeError: Failed to CUDA calloc async 608 bytes",
    ],
)
def test_the_ways_of_running_out_of_memory(line: str) -> None:
    assert OUT_OF_MEMORY.search(line)
