"""Record calibration data for the MTP quantiser, in the engine's image.

Runs prompts through vLLM with the checkpoint's MTP layer, and writes the inputs of the layer's experts. A stripped
checkpoint has no such layer: restore it without a capture first, record with that one, then restore with the capture.

example:
    flash-capture --model /models/v4-with-mtp --prompts prompts.jsonl --out /models/mtp-capture \\
        --tensor-parallel-size 2 --engine-args '{"kv_cache_dtype": "fp8"}'

exit codes:
    0   recorded
    1   nothing or not everything was recorded; the message says what to do
    2   wrong usage
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flash_engine.capture.prompts import prompts_of
from flash_engine.capture.recording import Captured, CaptureRequest, engine_arguments, metadata_of, record
from flash_engine.errors import EngineError

RECORDED, FAILED = 0, 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="flash-capture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", type=Path, required=True, help="folder of a checkpoint with an MTP layer")
    made.add_argument("--prompts", type=Path, required=True, help="JSON lines, each with a text under `prompt`")
    made.add_argument("--out", type=Path, required=True, help="folder for the capture; must not contain one")
    made.add_argument(
        "--tokens", type=_positive, default=500_000, help="stop after this many tokens (default: %(default)s)"
    )
    made.add_argument(
        "--max-tokens", type=_positive, default=256, help="tokens to generate for each prompt (default: %(default)s)"
    )
    made.add_argument("--max-model-len", type=_positive, default=4096, help="(default: %(default)s)")
    made.add_argument("--tensor-parallel-size", type=_positive, default=1, help="(default: %(default)s)")
    made.add_argument(
        "--module", default="ffn", help="name of the experts' module in the draft model (default: %(default)s)"
    )
    made.add_argument(
        "--engine-args", type=_json_object, default={}, metavar="JSON", help="other arguments of vLLM's LLM class"
    )
    return made


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError('not a JSON object such as {"kv_cache_dtype": "fp8"}')
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parser().parse_args(argv)
    try:
        done = _capture(arguments)
    except EngineError as error:
        print(f"flash-capture: {error}", file=sys.stderr)  # noqa: T201 - the command's output
        return FAILED
    print(f"{done.tokens:,} tokens of {done.requests} requests in {arguments.out}")  # noqa: T201 - likewise
    return RECORDED


def _capture(arguments: argparse.Namespace) -> Captured:
    """Check everything possible before the engine starts, which takes minutes."""
    prompts = prompts_of(arguments.prompts)
    if not arguments.model.is_dir():
        raise EngineError(f"{arguments.model} is not a folder", "give a checkpoint's folder")
    if next(arguments.out.glob("*.safetensors"), None) is not None:
        raise EngineError(f"{arguments.out} already contains a capture", "give another folder, or remove that one")
    try:
        from vllm import LLM  # noqa: PLC0415 - hundreds of modules, and only the engine's image has them
    except ImportError as error:
        raise EngineError(f"vLLM is not installed here ({error})", "run flash-capture in the engine's image") from error
    metadata = metadata_of(arguments.model)
    chosen = {"max_model_len": arguments.max_model_len, "tensor_parallel_size": arguments.tensor_parallel_size}
    engine = LLM(**engine_arguments(arguments.model, {**chosen, **arguments.engine_args}))
    wanted = CaptureRequest(arguments.out, arguments.tokens, arguments.max_tokens, arguments.module)
    return record(engine, prompts, wanted, metadata)


if __name__ == "__main__":
    sys.exit(main())
