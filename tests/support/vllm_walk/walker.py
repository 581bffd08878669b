"""Walk checkpoints through vLLM's real loader classes. Run as a module in the walk's environment; see `walk`.

Each line of JSON on standard input is a task, and each line on standard output its result. A task runs in a fork of a
process that has imported everything, because importing vLLM takes ten seconds, and a fork leaves no state behind.
"""

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

RESULTS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
# vLLM and its libraries print, some while they are imported; standard output is for results.

import torch  # noqa: E402 - as what follows

from vllm_walk import fake_cuda  # noqa: E402

fake_cuda.install()

from vllm.config import replace, set_current_vllm_config  # noqa: E402 - after the platform
from vllm.distributed import init_distributed_environment, initialize_model_parallel  # noqa: E402
from vllm.engine.arg_utils import EngineArgs  # noqa: E402
from vllm.model_executor.layers import quantization  # noqa: E402
from vllm.model_executor.model_loader import get_model_loader  # noqa: E402
from vllm.model_executor.model_loader.utils import initialize_model  # noqa: E402
from vllm.models.deepseek_v4.nvidia import dspark, model, mtp  # noqa: E402, F401 - imported before the forks

SHOWN = 6

for method in quantization.QUANTIZATION_METHODS:
    # vLLM imports each lazily, so every fork would import them again.
    quantization.get_quantization_config(method)


def walk(asked: dict[str, Any]) -> dict[str, Any]:
    """What is asked for is in `walk.Walker.walk`."""
    if not asked["plugin"]:
        os.environ["VLLM_PLUGINS"] = ""
    if (asked["speculation"] or {}).get("method") == "dspark":
        # It would be chosen where Triton is; nothing is run with it here.
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"
    answer: dict[str, Any] = {}
    config = attempt(answer, "config", lambda: configure(asked))
    if config is None:
        return answer
    with set_current_vllm_config(config), tempfile.NamedTemporaryFile() as rendezvous:
        init_distributed_environment(1, 0, f"file://{rendezvous.name}.store", 0, backend="gloo")
        initialize_model_parallel(1, 1)
        torch.set_default_dtype(torch.bfloat16)
        fake_cuda.answer_for_missing_kernels()
        attempt(answer, "main", lambda: load(config, config.model_config, asked))
        if config.speculative_config is not None:
            # As vllm/v1/spec_decode/llm_base_proposer.py, _create_draft_vllm_config.
            drafting = replace(config, attention_config=replace(config.attention_config, backend=None))
            with set_current_vllm_config(drafting):
                draft = config.speculative_config.draft_model_config
                attempt(answer, "draft", lambda: load(drafting, draft, asked))
    return answer


def configure(asked: dict[str, Any]) -> Any:
    arguments: dict[str, Any] = {
        "model": asked["checkpoint"], "tokenizer": asked["checkpoint"], "skip_tokenizer_init": True,
        "dtype": "bfloat16", "max_model_len": 1024, "enforce_eager": True, "tokenizer_mode": "deepseek_v4",
        "kv_cache_dtype": "fp8", "block_size": 256, "hf_overrides": asked["overrides"],
        "speculative_config": asked["speculation"], **asked["arguments"],
    }  # fmt: skip
    return EngineArgs(**arguments).create_engine_config()


def load(config: Any, model_config: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Build one model and fill it, as BaseModelLoader.load_model does. Returns what it was not filled with.

    Tensors named in `lose` are in the files, and get lost between them and the model.
    """
    built = initialize_model(vllm_config=config, model_config=model_config)
    loaded: set[str] = set()
    own = built.load_weights

    def noting(weights: Any) -> set[str]:
        loaded.update(own((name, tensor) for name, tensor in weights if name not in asked["lose"]))
        return loaded

    built.load_weights = noting
    get_model_loader(config.load_config).load_weights(built, model_config)
    parameters = dict(built.named_parameters())
    return {
        "class": type(built).__name__,
        "parameters": len(parameters),
        "unfilled": sorted(set(parameters) - loaded),
        "values": {name: parameters[name].flatten()[:SHOWN].tolist() for name in asked["show"] if name in parameters},
    }


def attempt(answer: dict[str, Any], part: str, make: Callable[[], Any]) -> Any:
    try:
        made = make()
    except Exception as error:  # noqa: BLE001 - whatever vLLM raises is the result
        where = traceback.extract_tb(error.__traceback__)[-1]
        answer[part] = {"error": type(error).__name__, "message": str(error), "at": f"{where.filename}:{where.lineno}"}
        return None
    answer[part] = made if isinstance(made, dict) else {}
    return made


def judge(asked: dict[str, Any]) -> Any:
    from vllm_walk.parser import judge_all  # noqa: PLC0415 - the older vLLM of the CPU image has other modules

    return judge_all(asked)


def options(asked: dict[str, Any]) -> Any:
    from vllm_walk import parser  # noqa: PLC0415 - likewise

    return parser.options(asked)


def plan(asked: dict[str, Any]) -> Any:
    from vllm_walk.kv_plan import plan_all  # noqa: PLC0415 - likewise

    return plan_all(asked)


TASKS: dict[str, Callable[[dict[str, Any]], Any]] = {"walk": walk, "judge": judge, "options": options, "plan": plan}


def in_fork(asked: dict[str, Any]) -> str:
    """The walk's result as a line of JSON."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as out:
            out.write(json.dumps(TASKS[asked["task"]](asked)))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as results:
        line = results.read()
    _, status = os.waitpid(child, 0)
    return line or json.dumps({"died": os.waitstatus_to_exitcode(status)})


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        RESULTS.write(f"{in_fork(json.loads(line))}\n")
        RESULTS.flush()


if __name__ == "__main__":
    main()
