"""Serve a checkpoint with a real vLLM and its drafts, and print what became of them: run by path, one process each.

python acceptance.py MODEL [CAPTURE]    with CAPTURE, what enters the layer's experts is recorded there
"""

import json
import os
import sys

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
PROMPTS, TOKENS, VOCABULARY = 6, 300, 512
"""Few and long: a draft that is under way when a request ends is counted or not, as it happens."""


def main(model: str, capture: str | None = None) -> None:
    os.environ.update(SETTINGS)
    if capture:
        os.environ |= {"FLASH_CAPTURE_DIR": capture, "FLASH_CAPTURE_TOKENS": "100000", "FLASH_CAPTURE_MODULE": "mlp"}
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - it reads the environment when it is imported

    engine = LLM(
        model=model,
        enforce_eager=True,
        max_model_len=512,
        speculative_config={"method": "mtp", "num_speculative_tokens": 1},
        disable_log_stats=False,
        **({"worker_extension_cls": "mtp_quantiser.capture_hook.FlushingWorker"} if capture else {}),
    )
    prompts = [{"prompt_token_ids": [2 + number * (VOCABULARY - 2) // PROMPTS]} for number in range(PROMPTS)]
    answers = engine.generate(prompts, SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True))
    if capture:
        engine.collective_rpc("flush_capture")
    counted = {metric.name.removeprefix("vllm:spec_decode_num_"): metric for metric in engine.get_metrics()}
    figures = {
        "drafted": counted["draft_tokens"].value,
        "accepted": counted["accepted_tokens"].value,
        "said": [list(answer.outputs[0].token_ids) for answer in answers],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
