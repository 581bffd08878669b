"""One process of `mtp-quantise` for disk_to_disk.py, on machines that lack what only its messages and pictures need.

With MTP_BENCHMARK_STAGES set it waits for the device after each stage, and says on stderr how long each took.
"""

import atexit
import importlib.util
import os
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "images" / "quantiser"), str(ROOT / "contracts")]

REPORT_NEEDS: Final = ("jinja2", "matplotlib")


def missing() -> list[str]:
    return [name for name in ("rich", "huggingface_hub", *REPORT_NEEDS) if importlib.util.find_spec(name) is None]


def substitute(gaps: list[str]) -> None:
    """Plain modules for those that are missing; neither touches a tensor."""
    if "rich" in gaps:
        module("rich", __path__=[])
        module("rich.console", Console=PlainConsole)
        names = ("BarColumn", "MofNCompleteColumn", "Progress", "TextColumn", "TimeRemainingColumn")
        module("rich.progress", **dict.fromkeys(names, object))
    if "huggingface_hub" in gaps:
        errors = {"HfHubHTTPError": OSError, "LocalEntryNotFoundError": FileNotFoundError}
        module("huggingface_hub", __path__=[], HfApi=object, snapshot_download=None)
        module("huggingface_hub.errors", **errors)
        module("huggingface_hub.hf_api", RepoFile=object)
    if any(name in gaps for name in REPORT_NEEDS):
        module("jinja2", Environment=object, PackageLoader=object, StrictUndefined=object)
        module("matplotlib", __path__=[])
        module("matplotlib.backends", __path__=[])
        module("matplotlib.backends.backend_svg", FigureCanvasSVG=object)
        module("matplotlib.figure", Figure=object)
        module("matplotlib.ticker", NullFormatter=object)
        without_page()


def module(name: str, **content: Any) -> None:
    made = types.ModuleType(name)
    vars(made).update(content)
    sys.modules[name] = made


class PlainConsole:
    is_terminal = False

    def __init__(self, **_: Any) -> None:
        pass

    def print(self, line: str, **_: Any) -> None:
        print(line, file=sys.stderr, flush=True)


def without_page() -> None:
    from mtp_quantiser import report  # noqa: PLC0415 - its imports had to be substituted first
    from mtp_quantiser.expert_store import write_json  # noqa: PLC0415

    def write(folder: Path, document: Mapping[str, Any]) -> Path:
        write_json(folder / report.JSON, document)
        (folder / report.HTML).write_text("no page: jinja2 or matplotlib is missing\n")
        return folder / report.HTML

    report.write = write


class TimedStages:
    """The stages, with a wait for the device before and after each."""

    def __init__(self, stages: Any) -> None:
        import torch  # noqa: PLC0415 - loaded by the command already

        self.stages = stages
        self.wait: Callable[[], None] = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
        self.spent: dict[str, float] = {}
        atexit.register(self.say)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        stage = getattr(self.stages, name)

        def timed(*arguments: Any) -> Any:
            with self.timing(name):
                return stage(*arguments)

        return timed

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        self.wait()
        began = time.perf_counter()
        yield
        self.wait()
        self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - began

    def say(self) -> None:
        for name, seconds in self.spent.items():
            print(f"stage {name}: {seconds:.3f} s", file=sys.stderr)


def with_timed_stages() -> None:
    """Besides the stages: the products of gate and up, reading weights, and judging and saving experts."""
    from dataclasses import replace  # noqa: PLC0415

    from mtp_quantiser import job, quantisation  # noqa: PLC0415
    from mtp_quantiser.expert_store import ExpertStore  # noqa: PLC0415
    from mtp_quantiser.official import OfficialMtp  # noqa: PLC0415

    whole = quantisation.device_context
    timed: list[TimedStages] = []

    def device_context(device: str) -> job.DeviceContext:
        context = whole(device)
        timed.append(TimedStages(context.stages))
        return replace(context, stages=timed[-1])

    def watched(of: Any, name: str, label: str) -> None:
        function = getattr(of, name)

        def around(*arguments: Any, **named: Any) -> Any:
            if not timed:
                return function(*arguments, **named)
            with timed[0].timing(label):
                return function(*arguments, **named)

        setattr(of, name, around)

    quantisation.device_context = device_context
    watched(OfficialMtp, "experts", "read weights")
    watched(ExpertStore, "save", "write experts")
    watched(job, "relative_error", "judge")
    watched(job, "inner_activations", "forward of held-out tokens")


def main() -> int:
    substitute(missing())
    if os.environ.get("MTP_BENCHMARK_STAGES"):
        with_timed_stages()
    from mtp_quantiser.__main__ import main as command  # noqa: PLC0415

    return command()


if __name__ == "__main__":
    sys.exit(main())
