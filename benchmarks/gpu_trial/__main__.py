"""What CI cannot run: launcher, plugin and gate around a real vLLM on real GPUs.

    PYTHONPATH=contracts:operator:images/engine:images/build:hack:benchmarks:tests/support python3 -m gpu_trial FOLDER

Needs a vLLM that the plugin supports, with its kernels, and what flash-gate needs. Makes a DeepSeek-V4 of real layers
(17 GiB in memory, /dev/shm) that recites a text, and serves it as the operator would. It shows that the gate
distinguishes a head whose drafts are all accepted from one whose drafts are not, that a broken checkpoint is rejected,
and on two GPUs how fast it decodes with each way to all-reduce. The parts speed-0, speed-1 and speed-2 (tokens drafted
per step) compare the gate's figures with those of `vllm bench serve` and the engine, after prompts of growing length.
All output goes into FOLDER, and the results into FOLDER/summary.jsonl. With --engine=cpu, a tiny DeepSeek-V3 on the CPU
build of vLLM tests this program itself.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tiny_model
from flash_contracts.flags import FlagSet
from flash_operator.api.v1alpha1 import FlashDeployment
from gpu_trial import reciting_model
from gpu_trial.cases import ON_CPU, ON_GPU, PROVED, VARIANTS, Case, Scale, fault, flags_of, model_of, on_cpu, on_gpu
from gpu_trial.engine import Engine, cpu_engine, cuda_engine
from gpu_trial.pod import Pod
from gpu_trial.process_log import phases
from gpu_trial.speed import CONTEXT, DEPTHS, SPEED_RUNS, SpeedRun, measure_speed

SHARED_MEMORY = Path("/dev/shm")
"""The fastest place for 17 GiB."""


def main() -> int:
    options = parsed()
    options.folder.mkdir(parents=True, exist_ok=True)
    with model_folder(options) as models:
        trial = GpuTrial(options, models, engine_of(options))
        for name in options.only.split(","):
            trial.part(name)
    return 1 if trial.faults else 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--engine", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--only",
        default="good,dead,lacking,lacking-unseen,poisoned",
        help="cases, with commas between; or all-reduce, speed-0, speed-1, speed-2",
    )
    parser.add_argument("--gpus", type=int, default=1, help="tensor parallel size (1)")
    parser.add_argument("--models", type=Path, help="a folder to keep the checkpoints in, used again if it is there")
    parser.add_argument("--cache", type=Path, help="a folder to keep compiled code in (FOLDER/cache)")
    parser.add_argument("--experts", type=int, default=256, help="routed experts of a layer (256)")
    parser.add_argument("--seconds", type=float, default=400, help="longest wait for a verdict (400)")
    parser.add_argument("--hang-seconds", type=int, default=90, help="spec.interconnect.hangSeconds (90)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each way to all-reduce is run, in turn (1)")
    parser.add_argument("--depths", type=int, nargs="*", default=DEPTHS, help="tokens of the prompts of speed-N")
    parser.add_argument("--extra", action="append", default=[], help="one more argument for vLLM; may be repeated")
    return parser.parse_args()


@contextmanager
def model_folder(options: argparse.Namespace) -> Iterator[Path]:
    """The folder of the checkpoints, which are created if they were not kept."""
    parent = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    root = options.models or parent / f"flash-trial-{options.experts}"
    began = time.monotonic()
    try:
        if options.engine == "cpu":
            yield tiny_model.build(root)
            return
        if not (root / reciting_model.VARIANTS[-1] / "config.json").exists():
            shutil.rmtree(root, ignore_errors=True)
            reciting_model.build(root, {**reciting_model.SHALLOW, "n_routed_experts": options.experts})
        print(f"=== checkpoints in {root}: {time.monotonic() - began:.1f} s", flush=True)
        yield root
    finally:
        if options.models is None:
            shutil.rmtree(root, ignore_errors=True)


def engine_of(options: argparse.Namespace) -> Engine:
    if options.engine == "cpu":
        return cpu_engine(options.folder)
    return cuda_engine(options.folder, options.cache or options.folder / "cache")


@dataclass
class GpuTrial:
    """The parts of one run and their results."""

    options: argparse.Namespace
    models: Path
    engine: Engine
    faults: list[str] = field(default_factory=list)

    def part(self, name: str) -> None:
        if name == "all-reduce":
            self._all_reduce_variants()
            return
        if name in SPEED_RUNS:
            self._speed(SPEED_RUNS[name])
            return
        case = next((one for one in self._cases if one.name == name), None)
        if case is None:
            sys.exit(
                f"no case is named {name!r}: there are {', '.join(one.name for one in self._cases)}, all-reduce, "
                f"{', '.join(SPEED_RUNS)}"
            )
        flash = self._flash()
        self._show(case, self._run(case, name, flash, flags_of(flash, None)))

    @property
    def _cases(self) -> Sequence[Case]:
        return ON_CPU if self.options.engine == "cpu" else ON_GPU

    def _flash(self, *, more: Mapping[str, Any] | None = None, **interconnect: Any) -> FlashDeployment:
        """`more` are fields of the scale."""
        given = self.options
        scale = Scale(gpus=given.gpus, extra=given.extra, hang_seconds=given.hang_seconds, **more or {})
        make: Callable[..., FlashDeployment] = on_cpu if given.engine == "cpu" else on_gpu
        return make(scale, **interconnect)

    def _speed(self, run: SpeedRun) -> None:
        flash = self._flash(more={"context": CONTEXT, "drafts": run.drafts, "features": "Skip"})
        measure = partial(self._measure, run)
        self._show(run.case, self._run(run.case, run.case.name, flash, flags_of(flash, None), measure))

    def _measure(self, run: SpeedRun, pod: Pod) -> list[str]:
        depths = [depth for depth in self.options.depths if depth < CONTEXT]
        return measure_speed(run, pod.engine_address, self.engine.command(pod.folder), pod.folder, depths)

    def _all_reduce_variants(self) -> None:
        """Each way to all-reduce once a round, with the flags that the operator derives for it."""
        case = next(one for one in self._cases if one.name == "good")
        rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
        for number in range(self.options.rounds):
            for name, interconnect in VARIANTS.items():
                flash = self._flash(**interconnect)
                message = self._run(case, f"all-reduce {name} {number + 1}", flash, flags_of(flash, PROVED))
                self._show(case, message)
                rates[name] += [message["decodeTokensPerSecond"]] if message["fault"] is None else []
        chosen = flags_of(self._flash(), PROVED)
        same = [name for name, one in VARIANTS.items() if flags_of(self._flash(**one), PROVED).same_effect(chosen)]
        ranked = sorted((name for name in rates if rates[name]), key=lambda name: -max(rates[name]))
        message = {"rates": rates, "chosen": same, "fastest": ranked[:1]}
        print(json.dumps(message, indent=1), flush=True)
        self._write({"name": "all-reduce", **message})

    def _run(
        self,
        case: Case,
        name: str,
        flash: FlashDeployment,
        flags: FlagSet,
        measure: Callable[[Pod], list[str]] | None = None,
    ) -> dict[str, Any]:
        """`measure` is asked once the engine has passed."""
        print(f"=== {name}", flush=True)
        folder = self.options.folder / name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        more = {} if case.looks_first else {"FLASH_MODEL_CHECK": "off"}
        began = time.monotonic()
        with Pod(folder, flash, flags, model_of(self.models, case), self.engine, more) as pod:
            result = pod.verdict(self.options.seconds)
            took, record = time.monotonic() - began, pod.record()
            speed = measure(pod) if measure and result.get("reason") == case.reason else None
        lines = pod.logs["engine"].lines
        (folder / "result.json").write_text(json.dumps(result, indent=1))
        measured = result.get("measurement") or {}
        return {
            "name": name,
            "fault": fault(case, result, "\n".join(line for _, line in lines)),
            "reason": result.get("reason"),
            "message": result.get("message"),
            "verdictSeconds": round(took, 1),
            "decodeTokensPerSecond": measured.get("decodeTokensPerSecond"),
            "acceptancePercent": measured.get("acceptancePercent"),
            "firstTokenMillis": measured.get("firstTokenMillis"),
            "measurement": measured,
            "trial": result.get("trial"),
            "plugin": record.get("plugin"),
            "incident": record.get("incident"),
            "command": record.get("command"),
            "flags": list(flags.explained()),
            "speed": speed,
            "phases": phases(lines),
            "lastLines": [line for _, line in lines[-12:]] if result.get("reason") != "Passed" else [],
        }

    def _show(self, case: Case, message: dict[str, Any]) -> None:
        shown = (
            "reason",
            "message",
            "decodeTokensPerSecond",
            "acceptancePercent",
            "verdictSeconds",
            "plugin",
            "phases",
            "speed",
        )
        for key in shown:
            print(f"    {key}: {message[key]}")
        print(f"    {'as expected' if message['fault'] is None else 'FAULT: ' + message['fault']}", flush=True)
        if message["fault"]:
            self.faults.append(f"{case.name}: {message['fault']}")
            print("\n".join(f"    | {line[:300]}" for line in message["lastLines"]), flush=True)
        self._write(message)

    def _write(self, message: dict[str, Any]) -> None:
        """Writes one line per part immediately, so that an interrupted run loses only its last part."""
        with (self.options.folder / "summary.jsonl").open("a") as summary:
            summary.write(f"{json.dumps(message)}\n")


if __name__ == "__main__":
    sys.exit(main())
