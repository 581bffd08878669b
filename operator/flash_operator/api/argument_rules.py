"""CEL rules for `engine.extraArgs`: which of vLLM's arguments belong elsewhere, and which the pinned vLLM lacks.

vLLM's parser reads `_` as `-`, cuts `--json-arg.key` at the dot, and like any argparse takes an unambiguous prefix
(vllm/utils/argparse_utils.py, FlexibleArgumentParser). The rules take an argument as the parser does.
"""

from flash_contracts.profiles import PROFILES
from flash_contracts.vllm_options import OPTIONS, VERSION
from flash_operator.api.refused_options import NAME, refused_options
from flash_operator.api.rule import Rule, quoted

_PORT = "the Service needs port 8000"
_TLS = "the gate uses plain HTTP inside the pod; terminate TLS in front of the Service"
_SHAPE = "the operator sets it, because a replica is one engine on the two GPUs of one pod; raise replicas to use more"
_ONE_ENGINE = "a replica is one engine, without data parallelism; raise replicas to serve more requests"
_ONE_POD = "a replica runs in one pod; raise replicas to use more nodes"
_GRAPHS = "the operator captures a graph for each number of streams; use engine.maxSequences, or profile Custom"
_TEXT = "the gate asks for text and reads the answers; leave it out"

OWNED_ARGUMENTS = {
    "--host": "the operator sets the address",
    "--port": _PORT,
    "--uds": _PORT,
    "--grpc": "the gate and the Service use HTTP; leave it out",
    "--ssl-keyfile": _TLS,
    "--ssl-certfile": _TLS,
    "--api-key": "anyone who may read pods could read it; put keys into a Secret, and name it in engine.apiKeysSecret",
    "--hf-token": "anyone who may read pods could read it, and the engine never contacts a hub; for an hf:// source "
    "put it into a Secret, and name that in model.credentialsSecret; for others leave it out",
    "--watermark-config": "anyone who may read pods could read its key, and vLLM takes it in no other way; leave it "
    "out",
    "--config": "write the file's lines as arguments, or use the fields of the spec",
    "--model": "use model.source",
    "--revision": "use model.revision",
    "--served-model-name": "use model.servedNames",
    "--max-model-len": "use engine.contextTokens",
    "--max-num-seqs": "use engine.maxSequences",
    "--max-num-active-seqs": "use engine.maxSequences",
    "--max-num-batched-tokens": "use engine.batchedTokens",
    "--gpu-memory-utilization": "use engine.memoryPercent",
    "--device-memory-utilization": "use engine.memoryPercent",
    "--speculative-config": "use speculation",
    "-sc": "use speculation",
    "--spec-method": "use speculation.method",
    "--spec-model": "use speculation.method",
    "--spec-tokens": "use speculation.tokens",
    "--disable-custom-all-reduce": "use interconnect.customAllReduce",
    "--no-disable-custom-all-reduce": "use interconnect.customAllReduce",
    "--enable-custom-all-reduce": "use interconnect.customAllReduce",
    "--disable-log-stats": "the gate reads drafts and tokens from the engine's metrics; leave it out",
    "--device-ids": "the pod has two GPUs, and the engine uses both; leave it out",
    "--headless": "the gate and the Service need the engine's HTTP server; leave it out",
    "--tokens-only": _TEXT,
    "--skip-tokenizer-init": _TEXT,
    "--data-parallel-rank": _ONE_ENGINE,
    "-dpn": _ONE_ENGINE,
    "--data-parallel-start-rank": _ONE_ENGINE,
    "-dpr": _ONE_ENGINE,
    "--data-parallel-size-local": _ONE_ENGINE,
    "-dpl": _ONE_ENGINE,
    "--data-parallel-address": _ONE_ENGINE,
    "-dpa": _ONE_ENGINE,
    "--data-parallel-rpc-port": _ONE_ENGINE,
    "-dpp": _ONE_ENGINE,
    "--data-parallel-backend": _ONE_ENGINE,
    "-dpb": _ONE_ENGINE,
    "--data-parallel-hybrid-lb": _ONE_ENGINE,
    "-dph": _ONE_ENGINE,
    "--data-parallel-external-lb": _ONE_ENGINE,
    "-dpe": _ONE_ENGINE,
    "--data-parallel-multi-port-external-lb": _ONE_ENGINE,
    "-dpm": _ONE_ENGINE,
    "--data-parallel-supervisor-port": _ONE_ENGINE,
    "--enable-elastic-ep": _ONE_ENGINE,
    "--nnodes": _ONE_POD,
    "-n": _ONE_POD,
    "--node-rank": _ONE_POD,
    "-r": _ONE_POD,
    "--master-addr": _ONE_POD,
    "--master-port": _ONE_POD,
    "--help": "vLLM would print its help and exit; see docs.vllm.ai",
    "-h": "vLLM would print its help and exit; see docs.vllm.ai",
}
"""vLLM arguments that have a field in the spec or that the gate depends on, each with what to use instead.

If one were also accepted in `extraArgs`, the gate would judge another engine than the spec describes.
"""

NO_REPLICA = {
    option: instead for option, instead in OWNED_ARGUMENTS.items() if instead in (_ONE_ENGINE, _ONE_POD, _TEXT)
}
"""Arguments that contradict what a replica is, wherever they are written."""

SIZES = {
    "--tensor-parallel-size": _SHAPE,
    "-tp": _SHAPE,
    "--pipeline-parallel-size": _SHAPE,
    "-pp": _SHAPE,
    "--prefill-context-parallel-size": _SHAPE,
    "-pcp": _SHAPE,
    "--data-parallel-size": _ONE_ENGINE,
    "-dp": _ONE_ENGINE,
    "--api-server-count": "the gate reads the metrics of one server, as the operator sets it",
    "-asc": "the gate reads the metrics of one server, as the operator sets it",
}
"""Arguments that profile Custom may set to 1, as an engine on CPUs needs."""

GRAPH_SIZES = {"--cudagraph-capture-sizes": _GRAPHS, "--max-cudagraph-capture-size": _GRAPHS}
"""Arguments that the operator sets except in profile Custom. vLLM ends if two of them disagree."""


def _abbreviated(option: str) -> str:
    """A regular expression for an option and its prefixes, with `_` or `-`."""
    dashes, name = ("--", option[2:]) if option.startswith("--") else ("-", option[1:])
    first, *rest = ["[_-]" if letter == "-" else letter for letter in name]
    return dashes + first + "".join(f"(?:{letter}" for letter in rest) + ")?" * len(rest)


def _lines(arguments: str) -> str:
    """CEL: all items in one text, each after a line's end."""
    return f"('\\n' + {arguments}.join('\\n') + '\\n')"


_ANY_SIZE = "|".join(map(_abbreviated, SIZES))
_NOT_ONE = quoted(rf"\n(?:{_ANY_SIZE})[=\n ](?:[^1\n]|1[^\n])")

_CUSTOM_SIZES = Rule(
    f"self.profile != 'Custom' || !{_lines('self.extraArgs')}.matches({_NOT_ONE})",
    "an engine has one server and at most the two GPUs of its pod: profile Custom may set "
    f"{', '.join(option for option in SIZES if option.startswith('--'))} to 1 and to nothing else",
    ".extraArgs",
)

_GRAPHS_IN_JSON = Rule(
    "self.profile == 'Custom' || !self.extraArgs.exists(a, a.matches('cudagraph[_-]capture[_-]size'))",
    f"sizes of CUDA graphs are not allowed here: {_GRAPHS}",
    ".extraArgs",
)

_OTHER_EXECUTORS = quoted(rf"\n{_abbreviated('--distributed-executor-backend')}[=\n ](?:ray|external_launcher)\n")

_EXECUTOR = Rule(
    f"!{_lines('self')}.matches({_OTHER_EXECUTORS})",
    f"--distributed-executor-backend must not be ray or external_launcher: {_ONE_POD}",
)

_FIRST = Rule(
    "size(self) == 0 || self[0].startsWith('-')",
    "the first item must begin with '-': the operator passes the model, and vLLM takes no other positional argument",
)

_BLANK = Rule(
    "!self.exists(a, a.matches('^\\\\s*-[^={\\\\s]*\\\\s|^\\\\s+-'))",
    "an item has a blank around the argument's name, which vLLM takes for a part of the name: write NAME=VALUE, or the "
    "value as the next item",
)

_DASH = Rule(
    "!self.exists(a, a.matches('^[\u2010-\u2015\u2212]'))",
    "an item begins with a typographic dash: replace it by '-'",
)

_KNOWN = f"' {' '.join(sorted(OPTIONS))} '"
_REPLACED = "self.extraEnv.exists(v, v.name == 'PATH')"
"""PATH is set, so `vllm` may be another program."""

_NAMES = f"self.extraArgs.filter(a, a.matches('^-[A-Za-z-]') && !a.matches('^-[Oqnr]')).map(a, {NAME})"

_PINNED = Rule(
    f"has(self.image) || {_REPLACED} || [{_KNOWN}].all(k, {_NAMES}"
    ".all(n, k.contains(' ' + n + ' ') || size(k.split(' ' + n)) == 2))",
    f"vLLM {VERSION} in the default image has no such argument, or several that begin with it: correct it, or set "
    "engine.image to an image that has it",
    ".extraArgs",
    f"'vLLM {VERSION} in the default image has no argument ' + {_NAMES}.filter(n, !{_KNOWN}.contains(' ' + n))[0] + "
    "': correct it, or set engine.image to an image that has it'",
)
"""A known option is in the list, or begins only one of it. The message falls back to the fixed one for an ambiguity."""

_STREAMS = "".join(f"self.profile == '{name}' ? {profile.max_sequences} : " for name, profile in PROFILES.items())
_LIMIT = "('=' + self.extraArgs.join('=').replace('_', '-') + '=').find('=--max-num-queued-r[a-z]*=[0-9]+=')"

_QUEUE_HOLDS_STREAMS = Rule(
    f"{_LIMIT} == '' || int({_LIMIT}.split('=')[2]) >= (has(self.maxSequences) ? self.maxSequences : {_STREAMS}1)",
    "--max-num-queued-reqs counts running requests too, so below engine.maxSequences some streams could never be used, "
    "and the gate's own requests could be rejected: raise it, or lower maxSequences",
    ".extraArgs",
)

_QUEUE_TAKES_TOKENS = Rule(
    "!('=' + self.join('=').replace('_', '-') + '=').matches('=--max-num-queued-t[a-z]*=0+=')",
    "--max-num-queued-tokens of 0 rejects every request: raise it, or leave it out",
)

ARGUMENT_RULES = (
    _FIRST,
    _BLANK,
    _DASH,
    _EXECUTOR,
    _QUEUE_TAKES_TOKENS,
    *refused_options("self", OWNED_ARGUMENTS),
)
"""Rules at `engine.extraArgs`."""

ENGINE_ARGUMENT_RULES = (
    *refused_options(
        "self.extraArgs", SIZES | GRAPH_SIZES, unless="self.profile == 'Custom' || ", field_path=".extraArgs"
    ),
    _CUSTOM_SIZES,
    _GRAPHS_IN_JSON,
    _PINNED,
    _QUEUE_HOLDS_STREAMS,
)
"""Rules at `engine`, which depend on the profile or the image too."""
