"""vLLM's own check of every argument that the operator gives an engine.

It uses the parser, the registries of tool and reasoning parsers, and the whole configuration of the image's vLLM, which
checks the arguments against each other and against the checkpoint.
"""

from pathlib import Path
from typing import Any

import pytest

from builders import a_flash, a_node
from fake_checkpoint import FakeCheckpoint
from flash_contracts.flags import derive
from flash_contracts.flags.flag_set import FlagSet
from flash_contracts.node_facts import NodeFacts
from flash_contracts.vllm_options import OPTIONS
from flash_engine.launcher.server_arguments import server_arguments
from flash_operator.core.resources.engine_args import vllm_arguments
from vllm_walk.walk import Walker

SPECS: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "LongContext": {"engine": {"profile": "LongContext"}},
    "Throughput": {"engine": {"profile": "Throughput"}},
    "a profile with fields of its own": {
        "engine": {"contextTokens": 1048576, "maxSequences": 1, "memoryPercent": 97, "batchedTokens": 512}
    },
    "as many streams as there may be": {"engine": {"maxSequences": 256}},
    "two drafted tokens": {"speculation": {"tokens": 2}},
    "keys of clients": {"engine": {"apiKeysSecret": "clients"}},
    "no speculation": {"speculation": {"method": "Disabled"}},
    "several names": {"model": {"source": "pvc://claim", "servedNames": ["a", "deepseek-ai/DeepSeek-V4-Flash"]}},
    "a custom engine": {"engine": {"profile": "Custom", "contextTokens": 4096, "maxSequences": 4}},
    "bound to no NUMA node": {"interconnect": {"numaBinding": "Disabled"}},
    "extra arguments": {"engine": {"extraArgs": ["--seed=7", "--enable-expert-parallel", "--numa-bind"]}},
}
DSPARK: dict[str, dict[str, Any]] = {
    "DSpark": {"speculation": {"method": "Dspark"}},
    "DSpark with fewer tokens": {"speculation": {"method": "Dspark", "tokens": 3}},
}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an argument that vLLM does not have": ({"engine": {"extraArgs": ["--no-such-flag=1"]}}, "--no-such-flag"),
    "a value that it does not take": ({"engine": {"extraArgs": ["--kv-cache-dtype=fp9"]}}, "fp9"),
    "a tool parser that nobody wrote": ({"engine": {"extraArgs": ["--tool-call-parser=deepseek_v9"]}}, "deepseek_v9"),
    "a longer context than the model has": ({"engine": {"contextTokens": 1048576}}, "1048576"),
}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="session")
def answers(walker: Walker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """vLLM's error for each; None if it accepts it."""
    models = tmp_path_factory.mktemp("models")
    long = FakeCheckpoint.make("seed", max_position_embeddings=1048576).save_to_serve(models / "seed")
    short = FakeCheckpoint.make("seed", max_position_embeddings=524288).save_to_serve(models / "short")
    dspark = FakeCheckpoint.make("DSpark", max_position_embeddings=1048576).save_to_serve(models / "dspark")
    asked = {
        **{name: command(spec, long) for name, spec in SPECS.items()},
        **{name: command(spec, dspark) for name, spec in DSPARK.items()},
        **{name: command(spec, short) for name, (spec, _) in WRONG.items()},
    }
    return dict(zip(asked, walker.judge(list(asked.values())), strict=True))


def command(spec: dict[str, Any], model: Path) -> list[str]:
    """The command line of the launcher on a node with unknown links, with the model's path on this machine."""
    flash = a_flash(**spec)
    arguments = vllm_arguments(flash.spec)
    arguments[1] = str(model)
    derived = derive(NodeFacts.from_node(a_node(gpu_numa_nodes="0-1")), flash.spec.interconnect, {})
    ours = server_arguments(arguments, {"KUBERNETES_SERVICE_HOST": "fd00:10:96::1"}, 25.0)
    return [*arguments, *ours, *FlagSet.parse_text(derived.to_text()).argv]


@pytest.mark.parametrize("name", [*SPECS, *DSPARK])
def test_vllm_accepts_the_operators_arguments(answers: dict[str, str | None], name: str) -> None:
    assert answers[name] is None


@pytest.mark.parametrize(("name", "names"), [(name, names) for name, (_, names) in WRONG.items()])
def test_arguments_that_vllm_rejects_are_rejected_here_too(
    answers: dict[str, str | None], name: str, names: str
) -> None:
    message = answers[name]
    assert message is not None
    assert names in message


def test_the_rules_know_every_option_of_vllm_and_no_other(walker: Walker) -> None:
    assert walker.options() == sorted(OPTIONS)
