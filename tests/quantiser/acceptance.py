"""Serves checkpoints with a real vLLM and reports how many drafts were accepted. Run by path, one process for all.

A line of JSON on standard input names a `model`, and optionally a folder `capture` in which the inputs of the layer's
experts are recorded; each result is one line on standard output. Each model is served in a fork of a process that has
imported vLLM, which takes many seconds, so that no state is left for the next. The engine runs in the fork itself;
`test_vllm_captures` tests vLLM's own processes.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
PROMPTS, TOKENS, VOCABULARY = 6, 300, 512
"""Few and long, because a draft in progress when a request ends may or may not be counted."""

RESULTS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
# vLLM prints, too; standard output is for results.

os.environ.update(SETTINGS)

from vllm import LLM, SamplingParams  # noqa: E402 - it reads the environment when it is imported

from flash_engine.capture.recording import CaptureRequest, engine_arguments, record  # noqa: E402 - likewise


def serve(model: str, capture: str | None = None) -> dict[str, Any]:
    engine = LLM(**engine_arguments(Path(model), {"max_model_len": 512, "disable_log_stats": False}))
    prompts = [{"prompt_token_ids": [2 + number * (VOCABULARY - 2) // PROMPTS]} for number in range(PROMPTS)]
    answers = engine.generate(prompts, SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True))
    counted = {metric.name.removeprefix("vllm:spec_decode_num_"): metric for metric in engine.get_metrics()}
    if capture:
        record(engine, prompts, CaptureRequest(Path(capture), 100_000, TOKENS, "mlp"), {})
    return {
        "drafted": counted["draft_tokens"].value,
        "accepted": counted["accepted_tokens"].value,
        "said": [list(answer.outputs[0].token_ids) for answer in answers],
    }


def in_a_fork(asked: dict[str, Any]) -> None:
    child = os.fork()
    if not child:
        code = 1
        try:
            print(json.dumps(serve(**asked)), file=RESULTS, flush=True)
            code = 0
        except BaseException:  # noqa: BLE001 - of a fork, no exception may come back to its parent's loop
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        print(json.dumps({"died": os.waitstatus_to_exitcode(status)}), file=RESULTS, flush=True)


if __name__ == "__main__":
    for line in sys.stdin:
        in_a_fork(json.loads(line))
