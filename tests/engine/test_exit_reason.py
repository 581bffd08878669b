"""Which line of the output shows why an engine exited. The lines are from vLLM 0.26 to 0.33."""

import pytest

from flash_contracts.engine_record import EngineExit
from flash_engine.engine_log.cause import CAUSE_LIMIT
from flash_engine.gate.exit_reason import cause_line, explain_exit, ran_out_of_memory

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
    "an error that a later, harmless line does not hide": (
        [
            "OSError: /models/v4 does not appear to have a file named config.json",
            "(APIServer pid=1) INFO 11-24 11:00:21 [launcher.py:1] Shutting down",
        ],
        "OSError: /models/v4 does not appear to have a file named config.json",
    ),
    "the cause of a worker's death, below two levels of reports of it": (
        [
            "(VllmWorker-1 pid=80) ERROR 11-24 11:00:20 [multiproc_executor.py:953] KeyError: 'model.layers.43.mtp'",
            "(EngineCore pid=70) ERROR 11-24 11:00:21 [core.py:1200] Exception: WorkerProc initialization failed",
            "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
        ],
        "KeyError: 'model.layers.43.mtp'",
    ),
    "only a report of a death below: better than nothing": (
        ["RuntimeError: Engine core initialization failed. See root cause above.", "bye"],
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ),
    "what a kernel says of memory that cannot be shared, which is no exception of Python's": (
        [
            "Failed: Cuda error /workspace/csrc/custom_all_reduce.cuh:455 'invalid argument'",
            "(EngineCore pid=70) ERROR 11-24 11:00:21 [core.py:1200] Exception: a worker ended without a word",
            "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
        ],
        "Failed: Cuda error /workspace/csrc/custom_all_reduce.cuh:455 'invalid argument'",
    ),
    "what pydantic says below the line that only counts": (
        [
            "(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for SpeculativeConfig",
            (
                "(APIServer pid=1)   Value error, ModelRejected: 1 tensor of the drafter is missing: "
                "mtp.0.e_proj.weight [type=value_error, input_value=ArgsKwargs((), {}), input_type=ArgsKwargs]"
            ),
            "(APIServer pid=1)     For further information visit https://errors.pydantic.dev/2.14/v/value_error",
        ],
        "SpeculativeConfig: ModelRejected: 1 tensor of the drafter is missing: mtp.0.e_proj.weight",
    ),
    "what pydantic says of a field": (
        [
            "pydantic_core._pydantic_core.ValidationError: 2 validation errors for CacheConfig",
            "block_size",
            "  Input should be 1, 8 or 16 [type=literal_error, input_value=7, input_type=int]",
        ],
        "CacheConfig: Input should be 1, 8 or 16",
    ),
    "pydantic counts, and the output ends there": (
        ["pydantic_core._pydantic_core.ValidationError: 1 validation error for SpeculativeConfig"],
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for SpeculativeConfig",
    ),
    "no error at all: the last line": (["INFO loading", "killed by somebody", ""], "killed by somebody"),
    "silence": ([], ""),
}


@pytest.mark.parametrize(("lines", "expected"), CASES.values(), ids=CASES.keys())
def test_the_cause_line(lines: list[str], expected: str) -> None:
    assert cause_line(lines) == expected


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "ValueError: Free memory on device cuda:0 (20.1/95.0 GiB) is less than desired GPU memory utilization (0.95)",
        "RuntimeError: Failed to CUDA calloc async 608 bytes",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_errors_that_mean_out_of_memory(line: str) -> None:
    assert ran_out_of_memory(["INFO loading", line, "exiting"])


@pytest.mark.parametrize(
    "line",
    [
        "INFO 11-24 11:00:01 [gpu_worker.py:1] If you run out of memory, lower `gpu_memory_utilization`",
        "ValueError: MTP speculative decoding layer 2 weights missing from checkpoint.",
    ],
)
def test_lines_that_only_mention_memory(line: str) -> None:
    assert not ran_out_of_memory([line])


AT = "2026-11-28T00:00:00.000Z"
OLD = "torch.OutOfMemoryError: CUDA out of memory."

ENDS = {
    "a stop that was asked for": (
        EngineExit(0, None, AT, (OLD,), ended_by="Stop"), "EngineExited", "its container was told to terminate"),
    "our own kill, when the stop took too long": (
        EngineExit(None, "SIGKILL", AT, (OLD,), ended_by="StopTimeout"), "EngineExited", "launcher killed the engine"),
    "our own kill, at the second signal": (
        EngineExit(None, "SIGKILL", AT, (), ended_by="SecondSignal"), "EngineExited", "a second stop signal"),
    "a node that was restarted": (
        EngineExit(None, None, AT, (), ended_by="Reboot"), "EngineExited", "because its node restarted"),
    "a whole container at once, which may be anybody's doing": (
        EngineExit(None, "SIGKILL", AT, (), ended_by="Container"), "EngineExited", "OOMKilled"),
    "one that a newer launcher knows of": (
        EngineExit(None, "SIGKILL", AT, (), ended_by="Comet"), "EngineExited", "does not record what killed it"),
    "a SIGKILL of nobody knows whom": (
        EngineExit(None, "SIGKILL", AT, ("INFO loading",)), "EngineExited", "does not record what killed it"),
    "the same behind a shell": (
        EngineExit(137, None, AT, ("INFO loading",)), "EngineExited", "the pod does not record what killed it"),
    "a crash behind a shell": (
        EngineExit(139, None, AT, ("INFO loading",)), "EngineExited", "exit code 139 (SIGSEGV)"),
    "a SIGBUS behind a shell": (EngineExit(135, None, AT), "EngineExited", "/dev/shm"),
    "a SIGKILL that the kernel counts": (
        EngineExit(None, "SIGKILL", AT, (), oom_kills=1), "OutOfMemory", "engine.resources.limits.memory"),
    "a SIGKILL after a root cause": (
        EngineExit(None, "SIGKILL", AT, ("KeyError: 'mtp'",)), "EngineExited", "KeyError: 'mtp'"),
    "a kill of a compiler, and another cause": (
        EngineExit(1, None, AT, ("KeyError: 'mtp'",), oom_kills=1), "EngineExited", "KeyError: 'mtp'"),
    "an error of long ago": (
        EngineExit(0, None, AT, (OLD, "INFO:     Application shutdown complete."), stale_lines=1), "EngineExited",
        "it logged no error"),
    "a clock that was set in between: the launcher's own counts": (
        EngineExit(1, None, AT, ("ERROR 01-01 00:00:00 [core.py:1] KeyError: 'mtp'", "INFO 11-27 09:00:00 [a.py:1]"),
                   stale_lines=0), "EngineExited", "KeyError: 'mtp'"),
    "an engine that could not be started": (
        EngineExit(127, None, AT, ("no vllm",), detail="no vllm; set engine.image"), "EngineExited",
        "exit code 127 (2 starts so far): no vllm; set engine.image"),
    "silence": (EngineExit(1, None, AT), "EngineExited", "it logged nothing"),
}  # fmt: skip


@pytest.mark.parametrize(("ended", "reason", "said"), ENDS.values(), ids=ENDS.keys())
def test_only_evidence_says_out_of_memory(ended: EngineExit, reason: str, said: str) -> None:
    verdict, message = explain_exit(ended, 2)

    assert verdict == reason
    assert said in message
    if reason == "EngineExited":
        assert "out of memory" not in message.lower()


def test_vllms_own_advice_is_left_out() -> None:
    cause = "ValueError: The model's max seq len (4096) is larger than the maximum number of tokens (1024)."
    advice = "Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
    assert cause_line([f"{cause} {advice}"]) == cause


def test_a_long_line_is_cut() -> None:
    assert len(cause_line(["ValueError: " + "x" * 1900])) == CAUSE_LIMIT
