"""`python -m vllm_walk`: make the environment of the loader walk, with its progress, before any test waits for it."""

import subprocess
import sys

from image_builder.debian import SetupError
from vllm_walk import older
from vllm_walk.environment import ensure


def main() -> None:
    try:
        print(f"vLLM walk: {ensure().folder}, {older.ensure()}")
    except (SetupError, subprocess.CalledProcessError) as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
