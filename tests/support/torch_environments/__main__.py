"""`python -m torch_environments [NAME...]`: builds the environments and shows progress, before any test needs them."""

import argparse
import signal
import sys
from types import FrameType
from typing import Never

from image_builder.debian import SetupError
from torch_environments.recipes import RECIPES, ensure


def main() -> None:
    parser = argparse.ArgumentParser(prog="torch_environments", description="Make the environments with torch.")
    parser.add_argument("name", nargs="*", choices=[*RECIPES, []], help="which; all of them where none is named")
    names = parser.parse_args().name or [*RECIPES]
    signal.signal(signal.SIGTERM, end)
    try:
        for folder in ensure(*names):
            print(folder)
    except SetupError as problem:
        sys.exit(str(problem))
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command makes anew what was not finished")


def end(_number: int, _frame: FrameType | None) -> Never:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
