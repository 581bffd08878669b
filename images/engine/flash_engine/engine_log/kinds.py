"""The kinds of causes that a log line can show, and the remedy for each.

Each kind matches a structure, not a sentence: the same failure reads differently in CUDA's runtime and driver API, in
NCCL, in Triton and in vLLM, and in each version of them. The order matters: a line has the first kind that matches, so
special kinds come before general ones.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from flash_contracts.variable_aliases import ALLOCATOR


@dataclass(frozen=True)
class Kind:
    """One kind of cause."""

    name: str
    pattern: re.Pattern[str]
    remedy: str
    """In this product's fields; empty if the line itself has to do."""
    out_of_memory: bool = False
    remedy_for: Callable[[str], str] | None = None
    """A remedy with figures from the line, if it has any."""

    def advice(self, line: str) -> str:
        return (self.remedy_for(line) if self.remedy_for else "") or self.remedy


def _kind(
    name: str,
    *patterns: str,
    remedy: str,
    out_of_memory: bool = False,
    remedy_for: Callable[[str], str] | None = None,
) -> Kind:
    return Kind(name, re.compile("|".join(patterns)), remedy, out_of_memory, remedy_for)


MIN_CONTEXT_TOKENS = 16
MIN_MEMORY_PERCENT = 10

_FITS = re.compile(r"(?:estimated maximum model length is |tokens that can be stored in KV cache \()(\d+)")
_FREE = re.compile(r"\((\d+(?:\.\d+)?)/(\d+(?:\.\d+)?) ?[GM]iB\)")


def _smaller_cache(line: str) -> str:
    fits = _FITS.search(line)
    if fits is None or int(fits[1]) < MIN_CONTEXT_TOKENS:
        return ""
    return f"lower engine.contextTokens (to at most {fits[1]}) or engine.batchedTokens, or raise engine.memoryPercent"


def _smaller_share(line: str) -> str:
    free = _FREE.search(line)
    percent = int(100 * float(free[1]) / float(free[2])) if free and float(free[2]) else 0
    if percent < MIN_MEMORY_PERCENT:
        return ""
    return (
        "stop the other processes on the GPU (nvidia-smi on the node lists them), or lower engine.memoryPercent to "
        f"{percent}"
    )


LESS_GPU_MEMORY = "lower engine.memoryPercent, maxSequences, batchedTokens or contextTokens"
MORE_HOST_MEMORY = (
    "raise engine.resources.limits.memory or, if no limit is set, free memory on the node; the contents of /dev/shm "
    "count too"
)
FULL = "the shared memory in /dev/shm is full"
LARGER_SHM = (
    "keep the operator's volume shm (16Gi, mounted at /dev/shm) if podTemplate replaces it, or raise its "
    "emptyDir.sizeLimit there; its contents count against engine.resources.limits.memory"
)
OTHER_DRIVER = (
    "the node's NVIDIA driver is older than the image's CUDA needs, or does not match it: update the driver on the "
    "node, or set engine.image to an image for the driver's CUDA"
)
LOOK_AT_LINK = (
    "one GPU waits for the other and gets no answer: set interconnect.mode to Safe, and test the node's links"
)
LOOK_AT_GPU = (
    "look for Xid lines in the node's dmesg; set interconnect.mode to Safe to rule out the GPUs' link, or try another "
    "engine.image"
)

EXPANDABLE_SEGMENTS = _kind(
    "expandable segments",
    r"custom_all_reduce\.cuh:\d+ '?invalid argument",
    remedy=(
        "custom all-reduce cannot share memory of expandable_segments, so remove that setting from "
        f"{' or '.join(ALLOCATOR[:2])}, wherever it is set: engine.extraEnv, podTemplate or the image"
    ),
)
"""The error of vLLM's custom all-reduce for memory from PyTorch's expandable_segments (vllm-project/vllm#47751)."""

PYDANTIC = _kind(
    "configuration",
    r"\d+ validation errors? for \w+",
    remedy="correct what it names in engine.extraArgs, or the field of the spec that sets it",
)

BUS_ERROR = _kind(
    "bus error",
    r"\bBus error\b|SIGBUS",
    remedy=f"a bus error mostly means that the shared memory in /dev/shm is full or missing: {LARGER_SHM}",
)

NATIVE = _kind(
    "native crash",
    r"Segfault encountered|[Ss]egmentation fault|Fatal Python error|Aborted(?: \(core dumped\))?$"
    r"|core dumped|[Ii]llegal instruction \(|\*\*\* SIG[A-Z]+|received signal SIG[A-Z]+|LLVM ERROR|stack smashing"
    r"|double free|free\(\): |malloc\(\)|corrupted (?:size|double|unsorted)|pure virtual method"
    r"|Assertion [`'].*failed"
    r"|^terminate called",
    remedy=(
        "native code crashed: try another engine.image; in NCCL or all-reduce, set interconnect.mode to Safe; check "
        "the node's dmesg"
    ),
)

TOOLCHAIN = _kind(
    "toolchain",
    r"fatal error: \S+: No such file|(?:nvcc|ninja|gcc|g\+\+|cc)(?:'|\"|: )?:? (?:command )?not found",
    r"Failed to find C compiler|[Cc]ould not find nvcc|CUDA_HOME (?:environment variable )?is not set",
    r"No such file or directory: ['\"](?:\S*/)?(?:nvcc|ninja|gcc|g\+\+|ptxas|c\+\+)['\"]",
    r"cannot find -l\w|undefined symbol|undefined reference|GLIBC(?:XX)?_[\d.]+' not found|collect2: error",
    r"cannot open shared object file|\berror: (?:identifier|#error|no suitable|namespace|'.*' was not declared)",
    r"ninja: (?:error|fatal)",
    r"\.(?:cu|cuh|cpp|cc|c|h|hpp)[:(]\d+(?:[:,]\d+)?\)?: (?:fatal |catastrophic )?error\b",
    r"Ninja build failed|Error building extension|[Cc]ompilation (?:failed|error)|codegen error",
    remedy=(
        "the engine image lacks tools to compile kernels, or its parts do not fit together: set engine.image to an "
        "image with CUDA's nvcc and headers and a C++ compiler"
    ),
)

NCCL = _kind(
    "NCCL",
    r"NCCL (?:[Ee]rror|WARN|failure)|nccl\w*Error|DistBackendError|ncclInvalid\w+",
    remedy=(
        "set NCCL_DEBUG to INFO in interconnect.env for NCCL's own log, and interconnect.mode to Safe to rule out the "
        "GPUs' link"
    ),
)

REJECTED = _kind("model rejected", r"\bModelRejected\b", remedy="")
"""Rejected by our own plugin, whose message has the remedy."""

DRAFTER = _kind(
    "drafter",
    r"KeyError: .*(?:mtp|dspark|eh_proj|main_norm)",
    r"MTP .*weights? (?:are |is )?missing|weights were not initialized.*(?:mtp|eh_proj|dspark)",
    r"of the drafter (?:are not in the checkpoint|without weights)",
    remedy=(
        "the checkpoint's drafter is incomplete, or is not of speculation.method: set that to the checkpoint's method "
        "(Mtp or Dspark) or to Disabled; flash-checkpoint inspect names the tensors"
    ),
)

CHECKPOINT = _kind(
    "checkpoint",
    r"KeyError: ['\"](?:model\.|layers\.|lm_head|embed)[\w.]+['\"]|weights were not initialized from checkpoint",
    r"SafetensorError|HeaderTooLarge|HeaderTooSmall|MetadataIncompleteBuffer|InvalidHeader|size mismatch for ",
    r"does not appear to have a file named|no module or parameter named|of the model are not in",
    remedy=(
        "this engine cannot load the checkpoint, or it is damaged: flash-checkpoint inspect names the tensors; set "
        "model.source and model.revision to one that fits engine.image"
    ),
)

CRASHES = (BUS_ERROR, NATIVE)

KINDS: tuple[Kind, ...] = (
    EXPANDABLE_SEGMENTS,
    PYDANTIC,
    REJECTED,
    DRAFTER,
    CHECKPOINT,
    _kind(
        "KV cache",
        r"larger than the available KV cache memory",
        r"No available memory for the cache blocks",
        r"KV cache is needed|tokens that can be stored in KV cache",
        remedy="lower engine.contextTokens, maxSequences or batchedTokens, or raise engine.memoryPercent",
        out_of_memory=True,
        remedy_for=_smaller_cache,
    ),
    _kind(
        "memory in use",
        r"less than desired GPU memory utilization",
        remedy="stop the other processes on the GPU (nvidia-smi on the node lists them), or lower engine.memoryPercent",
        out_of_memory=True,
        remedy_for=_smaller_share,
    ),
    _kind(
        "memory in use",
        r"Error in memory profiling",
        remedy="another process used the GPU meanwhile: stop it (nvidia-smi on the node lists it)",
    ),
    _kind(
        "kernel resources",
        r"out of resources?: ",
        r"OutOfResources",
        r"too much shared data",
        r"exceeds? (?:the )?(?:available|maximum) shared memory",
        r"too many resources requested for launch",
        remedy="a kernel needs more on-chip memory than this GPU has: set engine.image to an image for these GPUs",
    ),
    _kind(
        "shared memory",
        r"insufficient shared memory",
        r"out of shared memory",
        r"(?:/dev/shm|shared memory|shm|</?torch_).*(?:No space|[Cc]annot allocate|ENOSPC|ENOMEM|Errno (?:28|12)\b)",
        r"(?:No space left|[Cc]annot allocate memory|Errno (?:28|12)\b).*(?:/dev/shm|shared memory|</?torch_|/psm_)",
        r"unable to allocate shared memory",
        remedy=f"{FULL}: {LARGER_SHM}",
        out_of_memory=True,
    ),
    _kind(
        "shared memory",
        r"shared memory segment",
        r"shm_open|shmget|/dev/shm/",
        r"(?:[Ff]ailed|[Uu]nable|[Ee]rror).{1,40}shared memory(?! broadcast)",
        remedy=f"{FULL}, too small or missing: {LARGER_SHM}",
    ),
    _kind(
        "GPU memory",
        r"(?:^|[.:' ])OutOfMemoryError\b",
        r"(?:CUDA|Cuda|cuda|GPU|NVML|nccl|NCCL|Triton|cublas|cudnn|device|HIP).{0,200}\bout of memory\b",
        r"\bout of memory\b.{0,80}(?:CUDA|Cuda|cuda|GPU|device)",
        r"'out of memory'",
        r"cudaErrorMemoryAllocation",
        r"CUDA_ERROR_OUT_OF_MEMORY",
        r"CU(?:BLAS|DNN|SPARSE|SOLVER|FFT|TENSOR|RAND)_(?:STATUS_)?(?:ALLOC(?:ATION)?_FAILED|ALLOCATION_FAILED)",
        r"Failed to (?:CUDA|Cuda|cuda) ?(?:[cm]alloc|host alloc)",
        r"INTERNAL ASSERT FAILED.*out of memory",
        remedy=LESS_GPU_MEMORY,
        out_of_memory=True,
        remedy_for=lambda line: "lower engine.maxSequences or memoryPercent" if "warming up sampler" in line else "",
    ),
    _kind(
        "host memory",
        r"MemoryError\b",
        r"\bbad_alloc\b",
        r"[Cc]an(?:no|'|no')t allocate memory",
        r"\bENOMEM\b|Errno 12\b",
        r"oom-kill|[Oo]ut of memory: Killed|Killed process \d+",
        r"[Kk]illed signal terminated program|: Killed$|ptxas fatal\s*: Memory allocation failure",
        r"^(?:RuntimeError|OSError|[\w.]*Error): .*\b[Oo]ut of (?:host )?memory\b",
        r"unable to mmap|cudaHostAlloc|cudaHostRegister|cudaErrorHostMemory",
        remedy=MORE_HOST_MEMORY,
        out_of_memory=True,
    ),
    _kind(
        "disk",
        r"No space left on device|\bENOSPC\b|Errno 28\b|[Dd]isk quota exceeded",
        remedy="free space on the node's disk: compiled kernels are written to /var/cache/flash and /tmp of the pod",
    ),
    _kind(
        "limits",
        r"can't start new thread|pthread_create failed|Resource temporarily unavailable|Too many open files",
        remedy="the pod's processes or open files are limited: raise the kubelet's podPidsLimit or the node's limits",
    ),
    _kind(
        "port",
        r"[Aa]ddress already in use|EADDRINUSE|Errno 98\b",
        remedy="another process uses this port: remove hostNetwork from podTemplate, or stop that process",
    ),
    _kind(
        "driver",
        r"Error 80[34]\b|unsupported display driver|driver version is insufficient"
        r"|forward compatibility was attempted",
        r"unsupported toolchain|NVIDIA driver on your system is too old|[Dd]river/library version mismatch",
        r"cudaError(?:UnsupportedPtxVersion|InsufficientDriver|SystemDriverMismatch|CompatNotSupportedOnDevice)",
        r"CUDA_ERROR_(?:UNSUPPORTED_PTX_VERSION|SYSTEM_DRIVER_MISMATCH|COMPAT_NOT_SUPPORTED_ON_DEVICE)",
        r"CUDA driver is a stub library|requirement error: unsatisfied condition",
        remedy=OTHER_DRIVER,
    ),
    _kind(
        "GPU failure",
        r"uncorrectable ECC|ECCUncorrectable|fallen off the bus|GPU is lost|devices are busy or unavailable",
        r"cudaErrorDevicesUnavailable|NVRM: Xid|\bXid\b|hardware stack error"
        r"|[Uu]nable to determine the device handle",
        r"cudaErrorContained|NVLink error|NVML_ERROR_GPU_IS_LOST",
        remedy="the GPU failed or another process holds it: look for Xid lines in the node's dmesg, and reset the GPU",
    ),
    _kind(
        "GPU setup",
        r"CUDA initialization: |No CUDA GPUs are available|no CUDA-capable device|Found no NVIDIA driver",
        r"libcuda\.so|libnvidia-ml|NVML Shared Library Not Found|NVMLError|cudaErrorNoDevice|Error 802\b",
        r"Failed to infer device type|system not yet initialized",
        remedy=(
            "the container does not see its GPUs: check the node's driver (nvidia-smi), the device plugin and the "
            "NVIDIA runtime (runtimeClassName in podTemplate)"
        ),
    ),
    _kind(
        "cards",
        r"no kernel image is available|kernel image is invalid",
        r"cudaErrorNoKernelImageForDevice|CUDA_ERROR_NO_BINARY_FOR_GPU",
        r"is not defined for option|[Uu]nsupported gpu architecture|invalid value for --gpu-(?:architecture|name)",
        r"[Uu]nsupported \.(?:version|target)|not a recognized processor|PTX version .* not supported",
        r"not compatible with the current PyTorch installation|(?:ptxas|nvcc|nvlink|cicc|nvrtc) (?:fatal|error)",
        r"requires \.target sm_|Unsupported (?:SM|compute capability)|not supported on (?:this )?(?:GPU|device|sm_)",
        remedy=(
            "the image's compilers or kernels do not support these GPUs: set engine.image to an image whose CUDA does"
        ),
    ),
    TOOLCHAIN,
    _kind(
        "GPU count",
        r"invalid device ordinal|cudaErrorInvalidDevice\b|CUDA_ERROR_INVALID_DEVICE",
        r"[Ww]orld size .* (?:larger|greater) than the number of (?:available )?(?:GPUs|devices)",
        remedy="a pod has two GPUs: remove arguments that ask for more from engine.extraArgs",
    ),
    _kind(
        "link",
        r"collective (?:operation )?timeout|watchdog hang|Timeout at NCCL work|NCCL .*tim(?:ed out|eout)",
        r"peer access|PeerAccess|peer mapping|p2p.*(?:failed|not supported)|RPC call to \w+ timed out",
        r"[Tt]imed out (?:waiting|after).*(?:rank|worker|barrier|collective|engine core|engine proc)|monitoredBarrier",
        remedy=LOOK_AT_LINK,
    ),
    _kind(
        "kernel failure",
        r"block: \[\d+,\d+,\d+\], thread: ",
        r"illegal memory access|unspecified launch failure|misaligned address|device-side assert|illegal instruction",
        r"cudaError(?:IllegalAddress|LaunchFailure|Assert|Unknown)|CUDA_ERROR_\w+|CUDA (?:driver )?error\b"
        r"|(?<!unhandled )[Cc]uda (?:error|failure)\b",
        r"CU(?:BLAS|DNN|SPARSE|SOLVER)_STATUS_\w+|Triton Error|cudaError\w+",
        remedy=LOOK_AT_GPU,
    ),
    BUS_ERROR,
    NATIVE,
    NCCL,
    _kind(
        "arguments",
        r"error: (?:unrecognized arguments|argument |ambiguous option|invalid choice|the following arguments)",
        remedy="correct engine.extraArgs",
    ),
)

UNKNOWN = Kind("unknown", re.compile(""), "")
KILLED_FROM_OUTSIDE = (
    "its log does not say why, so it was probably killed from outside: check the memory limit of the container "
    "(engine.resources.limits.memory; kubectl describe pod shows OOMKilled) and the node's dmesg (OOM killer, Xid)"
)


def kind_of(text: str) -> Kind | None:
    """None if the line is of no known kind."""
    return next((kind for kind in KINDS if kind.pattern.search(text)), None)
