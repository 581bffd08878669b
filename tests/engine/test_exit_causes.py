"""What is reported of an exit, for whole logs: the reason, the line that shows why, and the remedy.

The logs are short and made up, in the shape of those of vLLM 0.8 to 0.33, torch 2.5 to 2.14, NCCL 2.21 to 2.29 and CUDA
12 and 13. For each kind there are several: other versions, processes, prefixes and interleavings.
"""

# ruff: noqa: E501 - log lines are as long as they are

import re
from dataclasses import dataclass

import pytest

from flash_contracts.engine_record import EngineExit
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.exit_reason import explain_exit
from flash_engine.launcher.log_tail import LogTail

DEATHS = """\
(APIServer pid=1) Traceback (most recent call last):
(APIServer pid=1)   File "/usr/local/bin/vllm", line 10, in <module>
(APIServer pid=1)     sys.exit(main())
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
"""How vLLM's API server reports that the start failed."""

FRAMES = "".join(
    f"frame #{n}: c10d::ProcessGroupNCCL::Watchdog::run() + 0x{n:x} (0x7f00{n:08x} in /usr/lib/libtorch_cuda.so)\n"
    for n in range(70)
)
INDENTED = re.compile(r"^ {8}", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    log: str
    says: tuple[str, ...]
    """What the message contains: of the line that says why, and of the remedy."""
    reason: str = "EngineExited"
    silent_about: tuple[str, ...] = ()
    code: int | None = 1
    signal: str | None = None
    oom_kills: int = 0


def explained(case: Case) -> tuple[Reason, str]:
    tail = LogTail()
    tail.feed(1, INDENTED.sub("", case.log).encode())
    ended = EngineExit(case.code, case.signal, "2026-11-28T00:00:00.000Z", tail.kept(), oom_kills=case.oom_kills)
    return explain_exit(ended, 1)


GPU_MEMORY = {
    "the KV cache of a context that is too long": Case(
        """\
        (EngineCore_DP0 pid=88) INFO 01-12 10:00:00 [gpu_worker.py:298] Available KV cache memory: 3.07 GiB
        (EngineCore_DP0 pid=88) ERROR 01-12 10:00:01 [core.py:708] EngineCore failed to start.
        (EngineCore_DP0 pid=88) ERROR 01-12 10:00:01 [core.py:708] ValueError: To serve at least one request with the models's max seq len (262144), (9.3 GiB KV cache is needed, which is larger than the available KV cache memory (3.07 GiB). Based on the available memory, the estimated maximum model length is 86016. Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine.
        """ + DEATHS,
        ("larger than the available KV cache memory (3.07 GiB)", "engine.contextTokens (to at most 86016)",
         "engine.memoryPercent"),
        "OutOfMemory", ("gpu_memory_utilization", "max_model_len", "Try "),
    ),
    "no KV cache at all, without prefixes": Case(
        """\
        ERROR 01-12 10:00:01 [core.py:390] EngineCore failed to start.
        ERROR 01-12 10:00:01 [core.py:390] ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.
        RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_0': 1}
        """,
        ("No available memory for the cache blocks", "engine.contextTokens", "raise engine.memoryPercent"),
        "OutOfMemory", ("gpu_memory_utilization",),
    ),
    "a context that is longer than the whole KV cache": Case(
        "(EngineCore pid=2) ValueError: The model's max seq len (524288) is larger than the maximum number of tokens that can be stored in KV cache (130560). Try increasing `gpu_memory_utilization`.\n" + DEATHS,
        ("stored in KV cache (130560)", "engine.contextTokens (to at most 130560)"), "OutOfMemory", ("Try ",),
    ),
    "a context for which no length is left": Case(
        "ValueError: To serve at least one request (9.3 GiB KV cache is needed, which is larger than the available KV "
        "cache memory (0.01 GiB). Based on the available memory, the estimated maximum model length is 0.\n",
        ("engine.contextTokens, maxSequences",), "OutOfMemory", ("at most 0",),
    ),
    "a card that somebody else uses": Case(
        """\
        \x1b[0;36m(EngineCore pid=88)\x1b[0;0m ERROR 01-12 10:00:01 [core.py:1100] EngineCore failed to start.
        \x1b[0;36m(EngineCore pid=88)\x1b[0;0m ERROR 01-12 10:00:01 [core.py:1100] ValueError: Free memory on device cuda:1 (61.2/94.97 GiB) on startup is less than desired GPU memory utilization (0.95, 90.22 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.
        """ + DEATHS,
        ("Free memory on device cuda:1", "engine.memoryPercent to 64", "nvidia-smi"), "OutOfMemory", ("Decrease",),
    ),
    "CUDA's driver API": Case(
        """\
        (Worker_TP0 pid=301) ERROR 01-12 10:00:01 [multiproc_executor.py:870] WorkerProc hit an exception.
        (Worker_TP0 pid=301) ERROR 01-12 10:00:01 [multiproc_executor.py:870] RuntimeError: CUDA driver error: out of memory
        (EngineCore pid=88) ERROR 01-12 10:00:02 [core.py:1120] RuntimeError: Worker failed with error 'CUDA driver error: out of memory', please check the stack trace above for the root cause
        """ + DEATHS,
        ("RuntimeError: CUDA driver error: out of memory", "engine.memoryPercent"), "OutOfMemory",
    ),
    "NCCL's buffers": Case(
        """\
        (Worker_TP1 pid=302) ERROR 01-12 10:00:01 [multiproc_executor.py:870] WorkerProc failed to start.
        (Worker_TP1 pid=302) ERROR 01-12 10:00:01 [multiproc_executor.py:870] torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.28.9
        (Worker_TP1 pid=302) ERROR 01-12 10:00:01 [multiproc_executor.py:870] ncclUnhandledCudaError: Call to CUDA function failed.
        (Worker_TP1 pid=302) ERROR 01-12 10:00:01 [multiproc_executor.py:870] Last error:
        (Worker_TP1 pid=302) ERROR 01-12 10:00:01 [multiproc_executor.py:870] Cuda failure 2 'out of memory'
        """ + DEATHS,
        ("Cuda failure 2 'out of memory'", "engine.memoryPercent"), "OutOfMemory",
    ),
    "cuBLAS": Case(
        "(Worker_TP0 pid=3) RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\n",
        ("CUBLAS_STATUS_ALLOC_FAILED", "engine.memoryPercent"), "OutOfMemory",
    ),
    "Triton": Case(
        "[rank0]: RuntimeError: Triton Error [CUDA]: out of memory\n" + DEATHS,
        ("Triton Error [CUDA]: out of memory", "engine.memoryPercent"), "OutOfMemory",
    ),
    "vLLM's own kernels": Case(
        "Failed: Cuda error /workspace/csrc/custom_all_reduce.cuh:455 'out of memory'\n" + DEATHS,
        ("custom_all_reduce.cuh:455 'out of memory'", "engine.memoryPercent"), "OutOfMemory",
    ),
    "PyTorch, whose advice would break custom all-reduce": Case(
        """\
        (Worker_TP0 pid=301) ERROR 01-12 10:00:01 [multiproc_executor.py:870] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 has a total capacity of 94.97 GiB of which 1.02 GiB is free. If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation. See documentation for Memory Management
        (Worker_TP1 pid=302) ERROR 01-12 10:00:01 [multiproc_executor.py:870] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB.
        """ + DEATHS,
        ("Tried to allocate 1.96 GiB", "engine.memoryPercent"), "OutOfMemory", ("expandable_segments", "See doc"),
    ),
    "a C++ exception": Case(
        "terminate called after throwing an instance of 'c10::OutOfMemoryError'\n  what():  CUDA out of memory. Tried to "
        f"allocate 2.00 GiB.\nException raised from malloc at ../c10/cuda/CUDACachingAllocator.cpp:1 (most recent call "
        f"first):\n{FRAMES}{DEATHS}",
        ("OutOfMemory", "engine.memoryPercent"), "OutOfMemory",
    ),
}  # fmt: skip

HOST_MEMORY = {
    "Python's own error": Case(
        "(Worker_TP0 pid=3) ERROR 01-12 10:00:01 [multiproc_executor.py:870] MemoryError\n" + DEATHS,
        ("MemoryError", "engine.resources.limits.memory"), "OutOfMemory",
    ),
    "PyTorch's allocator": Case(
        "RuntimeError: [enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 34359738368 bytes. Error code 12 (Cannot allocate memory)\n" + DEATHS,
        ("DefaultCPUAllocator", "engine.resources.limits.memory"), "OutOfMemory",
    ),
    "C++": Case(
        "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n" + DEATHS,
        ("std::bad_alloc", "engine.resources.limits.memory"), "OutOfMemory",
    ),
    "a compiler that the kernel killed": Case(
        """\
        (EngineCore pid=88) RuntimeError: Ninja build failed. Ninja output:
        (EngineCore pid=88) [3/9] /usr/local/cuda/bin/nvcc -gencode=arch=compute_120a,code=sm_120a -c mla.cu
        (EngineCore pid=88) FAILED: mla.cuda.o
        (EngineCore pid=88) c++: fatal error: Killed signal terminated program cc1plus
        (EngineCore pid=88) ninja: build stopped: subcommand failed.
        """ + DEATHS,
        ("Killed signal terminated program cc1plus", "engine.resources.limits.memory"), "OutOfMemory",
    ),
    "the kernel's count, and a worker that was gone": Case(
        "(EngineCore pid=2) ERROR 01-12 10:00:01 [multiproc_executor.py:231] Worker proc VllmWorker-0 died unexpectedly, "
        "shutting down executor.\n" + DEATHS,
        ("the kernel killed a process of its container for lack of memory", "engine.resources.limits.memory"),
        "OutOfMemory", oom_kills=1,
    ),
    "the kernel's count, and a SIGKILL": Case(
        "INFO loading\n", ("signal SIGKILL", "killed 2 processes"), "OutOfMemory", code=None, signal="SIGKILL",
        oom_kills=2,
    ),
}  # fmt: skip

SHARED_MEMORY = {
    "NCCL's segment": Case(
        """\
        (Worker_TP1 pid=302) ERROR 01-12 10:00:01 [multiproc_executor.py:870] RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)
        (Worker_TP1 pid=302) ERROR 01-12 10:00:01 [multiproc_executor.py:870] ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.
        (Worker_TP1 pid=302) ERROR 01-12 10:00:01 [multiproc_executor.py:870] Last error:
        (Worker_TP1 pid=302) ERROR 01-12 10:00:01 [multiproc_executor.py:870] Error while creating shared memory segment /dev/shm/nccl-a1B2c3 (size 33030528), error: No space left on device (28)
        """ + DEATHS,
        ("Error while creating shared memory segment /dev/shm/nccl-a1B2c3", "podTemplate"), "OutOfMemory",
        ("Worker_TP1", "NCCL_DEBUG"),
    ),
    "NCCL's warning, before an error that says nothing": Case(
        """\
        node-a:302:655 [1] misc/shmutils.cc:87 NCCL WARN Error: failed to extend /dev/shm/nccl-Xy12 to 33030532 bytes, error: No space left on device (28)
        (Worker_TP1 pid=302) ERROR 01-12 10:00:01 [multiproc_executor.py:870] RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)
        """ + DEATHS,
        ("failed to extend /dev/shm/nccl-Xy12", "podTemplate"), "OutOfMemory",
    ),
    "torch's tensors": Case(
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_77_12_0>: No space left on device (28)\n",
        ("unable to allocate shared memory(shm)", "/dev/shm"), "OutOfMemory",
    ),
    "a segment that is missing, and no word of space": Case(
        "(Worker_TP1 pid=302) torch.distributed.DistBackendError: NCCL error in: NCCLUtils.hpp:317, unhandled system error"
        ", NCCL version 2.21.5\n(Worker_TP1 pid=302) ncclSystemError: System call (e.g. socket, malloc) or external library "
        "call failed or device error.\n(Worker_TP1 pid=302) Last error:\n(Worker_TP1 pid=302) Error while creating shared "
        "memory segment /dev/shm/nccl-q (size 9637888)\n" + DEATHS,
        ("shared memory segment /dev/shm/nccl-q", "podTemplate"),
    ),
}  # fmt: skip

NATIVE = {
    "torch's handler: where it was": Case(
        """\
        (EngineCore_DP0 pid=90) INFO 10-31 07:39:10 [pynccl.py:111] vLLM is using nccl==2.28.3
        !!!!!!! Segfault encountered !!!!!!!
          File "<unknown>", line 0, in 0x000070e67704532f
          File "<unknown>", line 0, in cuMulticastCreate
          File "transport/nvls.cc", line 92, in ncclNvlsInit(ncclComm*)
          File "init.cc", line 1852, in ncclCommInitRankConfig
          File "<unknown>", line 0, in ffi_call
          File "<unknown>", line 0, in _PyEval_EvalFrameDefault
          File "<unknown>", line 0, in Py_BytesMain

        (APIServer pid=1) ERROR 10-31 07:39:12 [core_client.py:564] Engine core proc EngineCore_DP0 died unexpectedly, shutting down client.
        (APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_DP0': -11}
        """,
        ("Segfault encountered in cuMulticastCreate under ncclCommInitRankConfig",), silent_about=("See root cause",),
    ),
    "Python's faulthandler": Case(
        """\
        (Worker_TP0 pid=301) Fatal Python error: Segmentation fault
        (Worker_TP0 pid=301)
        (Worker_TP0 pid=301) Current thread 0x00007f1 (most recent call first):
        (Worker_TP0 pid=301)   File "/usr/lib/python3.12/site-packages/vllm/_custom_ops.py", line 2101 in moe_wna16_marlin_gemm
        (Worker_TP0 pid=301)   File "/usr/lib/python3.12/site-packages/vllm/model_executor/layers/fused_moe.py", line 12 in forward
        (Worker_TP0 pid=301)
        (Worker_TP0 pid=301) Extension modules: numpy._core._multiarray_umath (total: 1)
        (EngineCore pid=88) ERROR 10-31 07:39:12 [multiproc_executor.py:288] Worker proc VllmWorker-0 died unexpectedly, shutting down executor.
        (EngineCore pid=88) ERROR 10-31 07:39:13 [core.py:1165] RuntimeError: cancelled
        """ + DEATHS,
        ("Fatal Python error: Segmentation fault in moe_wna16_marlin_gemm (_custom_ops.py:2101)",),
    ),
    "a signal that only the parent tells": Case(
        """\
        (APIServer pid=1) ERROR 10-31 07:39:12 [core_client.py:564] Engine core proc EngineCore died unexpectedly, shutting down client.
        (APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -7}
        """,
        ("EngineCore was ended by SIGBUS", "/dev/shm"), silent_about=("killed from outside",),
    ),
    "an exception of C++": Case(
        "terminate called after throwing an instance of 'std::runtime_error'\n  what():  CUTLASS: Error Internal at 91\n"
        f"{FRAMES}{DEATHS}",
        ("CUTLASS: Error Internal at 91",),
    ),
    "a thread among many": Case(
        "(Worker_TP0 pid=3) Fatal Python error: Aborted\n\n" + "".join(
            f'(Worker_TP0 pid=3) Thread 0x{n:x} (most recent call first):\n(Worker_TP0 pid=3)   File "/usr/lib/threading.py", line {n} in wait\n\n'
            for n in range(40))
        + '(Worker_TP0 pid=3) Current thread 0x77 (most recent call first):\n(Worker_TP0 pid=3)   File "/x/distributed_c10d.py", line 9 in all_reduce\n'
        + DEATHS,
        ("Fatal Python error: Aborted in all_reduce (distributed_c10d.py:9)",),
    ),
    "gdb": Case(
        "Thread 1 received signal SIGSEGV, Segmentation fault.\n#0  0x00007fff in ncclTopoGetNvml () from libnccl.so.2\n"
        "#1  0x00007fff in ncclTopoGetSystem ()\n#2  0x00007fff in _PyEval_EvalFrameDefault ()\n" + DEATHS,
        ("Segmentation fault in ncclTopoGetNvml under ncclTopoGetSystem",),
    ),
    "glibc": Case("double free or corruption (!prev)\n" + DEATHS, ("double free or corruption", "engine.image")),
    "a crash long after an error of a request": Case(
        "ERROR 01-05 09:00:00 [serving_chat.py:230] ValueError: The prompt (length 300001) is longer than the maximum.\n"
        + "".join(f"INFO 01-12 09:00:{n:02} [loggers.py:257] Avg generation throughput: 80 tokens/s\n" for n in range(60))
        + "!!!!!!! Segfault encountered !!!!!!!\n",
        ("signal SIGSEGV", "Segfault encountered"), silent_about=("300001",), code=None, signal="SIGSEGV",
    ),
    "a crash without a word": Case(
        "INFO 01-12 09:00:00 [loggers.py:257] Avg generation throughput: 80 tokens/s\n",
        ("signal SIGSEGV", "it logged no error", "engine.image"), code=None, signal="SIGSEGV",
    ),
}  # fmt: skip

KERNELS_AND_LINKS = {
    "NCCL's watchdog, and a C++ stack longer than what is kept": Case(
        "[rank0]:[E802 22:07:03.844033572 ProcessGroupNCCL.cpp:2057] [PG ID 2 PG GUID 3 Rank 0] Process group watchdog "
        "thread terminated with exception: CUDA error: unspecified launch failure\n"
        f"Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n\n{FRAMES}"
        "terminate called after throwing an instance of 'c10::DistBackendError'\n  what():  [PG ID 2 PG GUID 3 Rank 0] "
        f"Process group watchdog thread terminated with exception: CUDA error: unspecified launch failure\n{FRAMES}"
        "(EngineCore pid=2) ERROR 08-02 22:07:05 [multiproc_executor.py:288] Worker proc VllmWorker-0 died unexpectedly, "
        "shutting down executor.\n" + 40 * (
            "(APIServer pid=1) ERROR 08-02 22:07:06 [serving.py:936] vllm.v1.engine.exceptions.EngineDeadError: "
            "EngineCore encountered an issue. See stack trace (above) for the root cause.\n"),
        ("CUDA error: unspecified launch failure", "Xid"), silent_about=("EngineDeadError",),
    ),
    "a collective that no other rank joins": Case(
        """\
        (EngineCore pid=208) INFO 02-07 01:19:47 [shm_broadcast.py:681] No available shared memory broadcast block found in 60 seconds.
        [rank0]:[E0207 01:29:36.730311765 ProcessGroupNCCL.cpp:688] [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9, OpType=_ALLGATHER_BASE, NumelIn=1, Timeout(ms)=600000) ran for 600021 milliseconds before timing out.
        [rank0]:[E0207 01:29:36.730890000 ProcessGroupNCCL.cpp:734] [Rank 0] To avoid data inconsistency, we are taking the entire process down.
        terminate called after throwing an instance of 'c10::DistBackendError'
        """ + DEATHS,
        ("Watchdog caught collective operation timeout", "_ALLGATHER_BASE", "interconnect.mode to Safe"),
    ),
    "a worker that answers no more, with one error for each request": Case(
        """\
        (EngineCore pid=208) ERROR 05-14 14:19:02 [core.py:1138] EngineCore encountered a fatal error.
        (EngineCore pid=208) ERROR 05-14 14:19:02 [core.py:1138] TimeoutError
        (EngineCore pid=208) ERROR 05-14 14:19:02 [core.py:1138] The above exception was the direct cause of the following exception:
        (EngineCore pid=208) ERROR 05-14 14:19:02 [core.py:1138] TimeoutError: RPC call to execute_model timed out.
        """ + 64 * (
            "(APIServer pid=1) ERROR 05-14 14:19:03 [serving.py:936] Error in chat completion stream generator.\n"
            "(APIServer pid=1) ERROR 05-14 14:19:03 [serving.py:936] vllm.v1.engine.exceptions.EngineDeadError: EngineCore "
            "encountered an issue. See stack trace (above) for the root cause.\n"),
        ("RPC call to execute_model timed out", "interconnect.mode to Safe"),
    ),
    "one rank out of memory, and the other waiting for it": Case(
        """\
        (Worker_TP1 pid=302) ERROR 01-12 10:00:01 [multiproc_executor.py:870] WorkerProc hit an exception.
        (Worker_TP0 pid=301) INFO 01-12 10:00:01 [gpu_model_runner.py:1] Capturing CUDA graphs
        (Worker_TP1 pid=302) ERROR 01-12 10:00:01 [multiproc_executor.py:870] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.
        (Worker_TP0 pid=301) INFO 01-12 10:00:09 [gpu_model_runner.py:1] Capturing CUDA graphs
        [rank0]:[E112 10:10:01.1 ProcessGroupNCCL.cpp:688] [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9, OpType=ALLREDUCE) ran for 600021 milliseconds before timing out.
        """ + DEATHS,
        ("Tried to allocate 20.00 MiB", "engine.memoryPercent"), "OutOfMemory", ("Watchdog",),
    ),
    "what NCCL says last": Case(
        """\
        (Worker_TP0 pid=3) torch.distributed.DistBackendError: NCCL error in: NCCLUtils.hpp:317, invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.27.3
        (Worker_TP0 pid=3) ncclInvalidUsage: This usually reflects invalid usage of NCCL library.
        (Worker_TP0 pid=3) Last error:
        (Worker_TP0 pid=3) Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 41000
        """ + DEATHS,
        ("Duplicate GPU detected: rank 0 and rank 1", "interconnect.env"), silent_about=("ncclInvalidUsage",),
    ),
    "peer-to-peer that the cards do not have": Case(
        "(Worker_TP0 pid=3) ncclUnhandledCudaError: Call to CUDA function failed. Last error: Cuda failure 217 'peer "
        "access is not supported between these two devices'\n" + DEATHS,
        ("peer access is not supported", "interconnect.mode to Safe"),
    ),
    "a card that failed": Case(
        "(Worker_TP1 pid=3) torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered\n" + DEATHS,
        ("uncorrectable ECC error", "dmesg"),
    ),
    "NCCL says no more": Case(
        "(Worker_TP1 pid=3) RuntimeError: NCCL error: internal error - please report this issue to the NCCL developers\n",
        ("NCCL error: internal error", "NCCL_DEBUG"),
    ),
    "memory that cannot be shared": Case(
        "Failed: Cuda error /workspace/csrc/custom_all_reduce.cuh:164 'invalid argument'\n" + DEATHS,
        ("'invalid argument'", "PYTORCH_CUDA_ALLOC_CONF"),
    ),
}  # fmt: skip

DRIVERS_AND_TOOLCHAINS = {
    "a driver of another version than its library": Case(
        """\
        /usr/lib/python3.12/site-packages/torch/cuda/__init__.py:182: UserWarning: CUDA initialization: Unexpected error from cudaGetDeviceCount(). Error 804: forward compatibility was attempted on non supported HW (Triggered internally at /pytorch/c10/cuda/CUDAFunctions.cpp:119.)
          return torch._C._cuda_getDeviceCount() > 0
        (APIServer pid=1) RuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help debug the issue.
        """,
        ("Error 804: forward compatibility", "update the driver"), silent_about=("VLLM_LOGGING_LEVEL", "Triggered"),
    ),
    "a driver that is too old": Case(
        "/usr/lib/torch/cuda/__init__.py:129: UserWarning: CUDA initialization: The NVIDIA driver on your system is too old "
        "(found version 12040). Please update your GPU driver.\nRuntimeError: No CUDA GPUs are available\n",
        ("NVIDIA driver on your system is too old (found version 12040)", "update the driver"),
    ),
    "PTX of a newer CUDA": Case(
        "(Worker_TP0 pid=3) torch.AcceleratorError: CUDA error: the provided PTX was compiled with an unsupported "
        "toolchain.\n(Worker_TP0 pid=3) Search for `cudaErrorUnsupportedPtxVersion' in https://docs.nvidia.com.\n" + DEATHS,
        ("unsupported toolchain", "older than the image's CUDA"),
    ),
    "a runtime that is newer than the driver": Case(
        "RuntimeError: CUDA driver version is insufficient for CUDA runtime version\n", ("update the driver",),
    ),
    "no GPU in the container": Case(
        "(APIServer pid=1) RuntimeError: Failed to infer device type, please set VLLM_LOGGING_LEVEL=DEBUG\n",
        ("Failed to infer device type", "runtimeClassName"), silent_about=("VLLM_LOGGING_LEVEL",),
    ),
    "an assembler that does not know the card": Case(
        """\
        (Worker_TP1 pid=73) torch._inductor.exc.InductorError: PTXASError: PTXAS error: Internal Triton PTX codegen error
        (Worker_TP1 pid=73) `ptxas` stderr:
        (Worker_TP1 pid=73) ptxas /tmp/tmpab.ptx, line 5; fatal   : Unsupported .version 8.8; current version is '8.6'
        (Worker_TP1 pid=73) ptxas fatal   : Ptx assembly aborted due to errors
        """ + DEATHS,
        ("Unsupported .version 8.8", "engine.image"),
    ),
    "a compiler that does not know it": Case(
        """\
        (EngineCore pid=88) RuntimeError: Ninja build failed. Ninja output:
        (EngineCore pid=88) ninja: Entering directory `/root/.cache/flashinfer'
        (EngineCore pid=88) [1/5] /usr/local/cuda/bin/nvcc -c sparse_mla.cu
        (EngineCore pid=88) FAILED: sparse_mla.cuda.o
        (EngineCore pid=88) nvcc fatal   : Unsupported gpu architecture 'compute_120f'
        (EngineCore pid=88) ninja: build stopped: subcommand failed.
        """ + DEATHS,
        ("nvcc fatal: Unsupported gpu architecture 'compute_120f'", "engine.image"), silent_about=("Ninja build",),
    ),
    "kernels for other cards": Case(
        "[rank1]: torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device\n" + DEATHS,
        ("no kernel image is available", "engine.image"),
    ),
    "a header that is missing": Case(
        """\
        RuntimeError: Error building extension 'page': [1/2] c++ -MMD -c page.cpp
        FAILED: page.o
        page.cpp:3:10: fatal error: cuda_runtime_api.h: No such file or directory
            3 | #include <cuda_runtime_api.h>
        compilation terminated.
        ninja: build stopped: subcommand failed.
        """,
        ("fatal error: cuda_runtime_api.h: No such file", "nvcc and headers"), silent_about=("building extension",),
    ),
    "a kernel that wants more shared memory than the card has": Case(
        "(Worker_TP0 pid=3) triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 147456, "
        "Hardware limit: 101376. Reducing block sizes or `num_stages` may help.\n" + DEATHS,
        ("out of resource: shared memory", "engine.image"), silent_about=("/dev/shm",),
    ),
}  # fmt: skip

DEATHS_FROM_OUTSIDE = {
    "a worker": Case(
        """\
        (Worker_TP0 pid=355) INFO 07-04 17:34:10 [default_loader.py:308] Loading weights: shard 31 of 46
        (EngineCore pid=208) INFO 07-04 17:35:10 [shm_broadcast.py:456] No available shared memory broadcast block found in 60 second.
        (EngineCore pid=208) ERROR 07-04 17:35:16 [multiproc_executor.py:140] Worker proc VllmWorker-0 died unexpectedly, shutting down executor.
        (EngineCore pid=208) ERROR 07-04 17:35:16 [core.py:1165] RuntimeError: cancelled
        """ + DEATHS,
        ("Worker proc VllmWorker-0 died unexpectedly", "killed from outside", "engine.resources.limits.memory", "dmesg"),
    ),
    "a worker, after warnings of what every engine warns of": Case(
        """\
        (Worker_TP0 pid=355) WARNING 07-04 17:34:00 [symm_mem.py:90] SymmMemCommunicator: Device capability 12.0 not supported, communicator is not available.
        (Worker_TP0 pid=355) WARNING 07-04 17:34:00 [config.py:90] Graph capture may cause the GPU to run out of memory.
        (EngineCore pid=208) ERROR 07-04 17:35:16 [multiproc_executor.py:140] Worker proc VllmWorker-0 died unexpectedly, shutting down executor.
        """ + DEATHS,
        ("Worker proc VllmWorker-0 died unexpectedly", "killed from outside"),
    ),
    "a shell's word of it": Case(
        "INFO 07-04 17:34:10 [default_loader.py:308] Loading\n/entrypoint.sh: line 5:    17 Killed     vllm serve\n",
        ("17 Killed", "killed from outside"),
    ),
    "the engine core": Case(
        """\
        (APIServer pid=1) ERROR 10-31 07:39:12 [core_client.py:564] Engine core proc EngineCore_DP0 died unexpectedly, shutting down client.
        (APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_DP0': -9}
        """,
        ("EngineCore_DP0 was ended by SIGKILL", "engine.resources.limits.memory"),
    ),
    "all of it": Case(
        "INFO 07-04 17:34:10 [default_loader.py:308] Loading weights: shard 31 of 46\n",
        ("signal SIGKILL", "the pod does not record what killed it", "OOMKilled"), code=None, signal="SIGKILL",
        silent_about=("Loading weights",),
    ),
}  # fmt: skip

PYTHON = {
    "a drafter of another method": Case(
        """\
        (Worker_TP0 pid=301) INFO 08-13 09:00:01 [model.py:700] Resolved architecture: DeepSeekV4MTPModel
        (Worker_TP0 pid=301) ERROR 08-13 09:03:11 [multiproc_executor.py:888] WorkerProc failed to start.
        (Worker_TP1 pid=302) ERROR 08-13 09:03:11 [multiproc_executor.py:888] KeyError: 'model.layers.43.mtp_block.main_norm.weight'
        """ + DEATHS,
        ("KeyError: 'model.layers.43.mtp_block.main_norm.weight'", "speculation.method"),
    ),
    "our plugin, which quotes vLLM's error": Case(
        """\
        (Worker_TP1 pid=302) ERROR 08-13 09:03:11 [multiproc_executor.py:888] KeyError: 'model.layers.43.mtp_block.main_norm.weight'
        (Worker_TP1 pid=302) ERROR 08-13 09:03:11 [multiproc_executor.py:888] The above exception was the direct cause of the following exception:
        (Worker_TP1 pid=302) ERROR 08-13 09:03:11 [multiproc_executor.py:888] flash_engine.plugin.weight_stream.BadTensorError: vLLM cannot load mtp.0.main_norm.weight: KeyError: 'model.layers.43.mtp_block.main_norm.weight'
        """ + DEATHS,
        ("vLLM cannot load mtp.0.main_norm.weight", "speculation.method"),
    ),
    "our plugin, whose message has the remedy": Case(
        """\
        (APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for SpeculativeConfig
        (APIServer pid=1)   Value error, ModelRejected: this checkpoint has no MTP head: set speculation.method to Dspark [type=value_error, input_value=ArgsKwargs((), {}), input_type=ArgsKwargs]
        """,
        ("ModelRejected: this checkpoint has no MTP head: set speculation.method to Dspark",), silent_about=("extraArgs",),
    ),
    "a file that is damaged": Case(
        "(Worker_TP0 pid=3) safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer\n"
        + DEATHS,
        ("MetadataIncompleteBuffer", "model.revision"),
    ),
    "the chain of exceptions: the last says most": Case(
        """\
        (Worker_TP0 pid=3) ERROR 01-12 10:00:01 [multiproc_executor.py:870] KeyError: 'head_dim'
        (Worker_TP0 pid=3) ERROR 01-12 10:00:01 [multiproc_executor.py:870] During handling of the above exception, another exception occurred:
        (Worker_TP0 pid=3) ERROR 01-12 10:00:01 [multiproc_executor.py:870] ValueError: config.json of the drafter has no head_dim
        """ + DEATHS,
        ("ValueError: config.json of the drafter has no head_dim",),
    ),
    "an error of cleaning up: the first": Case(
        """\
        (Worker_TP0 pid=3) ERROR 01-12 10:00:01 [multiproc_executor.py:870] KeyError: 'model.layers.43.eh_proj.weight'
        (Worker_TP0 pid=3) ERROR 01-12 10:00:01 [multiproc_executor.py:870] During handling of the above exception, another exception occurred:
        (Worker_TP0 pid=3) ERROR 01-12 10:00:01 [multiproc_executor.py:870] AttributeError: 'Worker' object has no attribute 'model_runner'
        Exception ignored in: <function ExactWeakKeyDictionary.__del__ at 0x7f>
        TypeError: 'NoneType' object is not callable
        """ + DEATHS,
        ("KeyError: 'model.layers.43.eh_proj.weight'",),
    ),
    "an assertion without a word: its place": Case(
        """\
        (Worker_TP0 pid=3) ERROR 01-12 10:00:01 [multiproc_executor.py:870] WorkerProc failed to start.
        (Worker_TP0 pid=3) ERROR 01-12 10:00:01 [multiproc_executor.py:870] Traceback (most recent call last):
        (Worker_TP0 pid=3) ERROR 01-12 10:00:01 [multiproc_executor.py:870]   File "/usr/lib/vllm/model_executor/layers/linear.py", line 371, in weight_loader
        (Worker_TP0 pid=3) ERROR 01-12 10:00:01 [multiproc_executor.py:870]     assert param_data.shape == loaded_weight.shape
        (Worker_TP0 pid=3) ERROR 01-12 10:00:01 [multiproc_executor.py:870] AssertionError
        """ + DEATHS,
        ("AssertionError in weight_loader (linear.py:371): assert param_data.shape == loaded_weight.shape",),
    ),
    "an error that its process survived": Case(
        """\
        (Worker_TP0 pid=3) ERROR 01-12 10:00:01 [fused_moe.py:70] ImportError: Failed to load tuned kernels: libtuned.so
        (Worker_TP0 pid=3) INFO 01-12 10:01:30 [default_loader.py:384] Loading weights took 87.84 seconds
        (Worker_TP0 pid=3) ERROR 01-12 10:01:31 [multiproc_executor.py:870] KeyError: 'model.layers.43.eh_proj.weight'
        """ + DEATHS,
        ("KeyError: 'model.layers.43.eh_proj.weight'",), silent_about=("ImportError",),
    ),
    "an error of the API server shortly before": Case(
        """\
        (APIServer pid=1) ERROR 01-12 10:00:01 [async_llm.py:500] ValueError: a parameter that does not fit
        (EngineCore pid=2) ERROR 01-12 10:00:02 [core.py:1138] EngineCore encountered a fatal error.
        (EngineCore pid=2) ERROR 01-12 10:00:02 [core.py:1138] IndexError: list index out of range
        (APIServer pid=1) ERROR 01-12 10:00:02 [async_llm.py:707] AsyncLLM output_handler failed.
        """,
        ("IndexError: list index out of range",),
        silent_about=("ValueError",),
    ),
    "an attempt of the tuner that failed": Case(
        """\
        [rank0]:E0312 08:11:20.123000 209 torch/_inductor/runtime/triton_heuristics.py:539] [0/0] triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 147456
        (Worker_TP0 pid=2) INFO 03-12 08:13:00 [gpu_model_runner.py:1] Graph capturing finished
        (EngineCore pid=2) ERROR 03-12 08:14:00 [core.py:700] KeyError: 'block_tables'
        """ + DEATHS,
        ("KeyError: 'block_tables'",), silent_about=("out of resource",),
    ),
    "pydantic, beside a warning": Case(
        """\
        WARNING 01-12 10:00:01 [arg_utils.py:1] Unknown vLLM environment variable
        (APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig
        (APIServer pid=1)   Value error, max_num_batched_tokens (16) must be at least max_num_seqs (32) [type=value_error, input_value=ArgsKwargs((), {'token': 'abcdef'}), input_type=ArgsKwargs]
        """,
        ("VllmConfig: max_num_batched_tokens (16) must be at least max_num_seqs (32)",), silent_about=("abcdef",),
    ),
    "an argument that vLLM does not know": Case(
        "usage: vllm serve\nvllm: error: unrecognized arguments: --speed=fast\n", ("--speed=fast", "engine.extraArgs"),
        code=2,
    ),
    "a port that is taken": Case(
        "(APIServer pid=1) OSError: [Errno 98] Address already in use\n", ("Address already in use", "hostNetwork"),
    ),
    "a disk that is full": Case(
        "(Worker_TP0 pid=3) OSError: [Errno 28] No space left on device: '/var/cache/flash/triton/x'\n" + DEATHS,
        ("No space left on device", "disk"),
    ),
}  # fmt: skip

ALL = {
    f"{kind}: {name}": case
    for kind, cases in {
        "GPU memory": GPU_MEMORY, "host memory": HOST_MEMORY, "/dev/shm": SHARED_MEMORY, "native": NATIVE,
        "kernels and links": KERNELS_AND_LINKS, "drivers and toolchains": DRIVERS_AND_TOOLCHAINS,
        "from outside": DEATHS_FROM_OUTSIDE, "Python": PYTHON,
    }.items()
    for name, case in cases.items()
}  # fmt: skip


@pytest.mark.parametrize("case", ALL.values(), ids=ALL.keys())
def test_an_exit_is_reported_by_its_cause(case: Case) -> None:
    reason, message = explained(case)

    assert reason == case.reason, message
    assert [said for said in case.says if said not in message] == [], message
    assert [said for said in case.silent_about if said in message] == [], message


DEAD_WORKER = """\
(EngineCore pid=208) INFO 05-14 14:15:02 [shm_broadcast.py:681] No available shared memory broadcast block found in 60 seconds.
(EngineCore pid=208) ERROR 05-14 14:19:02 [core.py:1138] EngineCore encountered a fatal error.
(EngineCore pid=208) ERROR 05-14 14:19:02 [core.py:1138] TimeoutError
(EngineCore pid=208) ERROR 05-14 14:19:02 [core.py:1138] {}
(EngineCore pid=208) ERROR 05-14 14:19:02 [core.py:1138] TimeoutError: RPC call to sample_tokens timed out.
"""
CHAINED = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
FAILED_REQUEST = """\
(APIServer pid=1) ERROR 05-14 14:19:03 [serving.py:936] Error in chat completion stream generator.
(APIServer pid=1) ERROR 05-14 14:19:03 [serving.py:936] Traceback (most recent call last):
(APIServer pid=1) ERROR 05-14 14:19:03 [serving.py:936]   File "/opt/vllm/v1/engine/core_client.py", line 9, in get_output_async
(APIServer pid=1) ERROR 05-14 14:19:03 [serving.py:936]     raise self._format_exception(outputs) from None
(APIServer pid=1) ERROR 05-14 14:19:03 [serving.py:936] vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.
"""
SHUT_DOWN = "(APIServer pid=1) INFO:     Shutting down\n"


@pytest.mark.parametrize("chained", CHAINED)
@pytest.mark.parametrize("requests", [0, 1, 32, 400])
def test_a_dead_worker_is_the_cause_whatever_number_of_requests_fails(requests: int, chained: str) -> None:
    reason, message = explained(Case(DEAD_WORKER.format(chained) + requests * FAILED_REQUEST + SHUT_DOWN, ()))
    assert reason == "EngineExited"
    assert "RPC call to sample_tokens timed out" in message
    assert "EngineDeadError" not in message
