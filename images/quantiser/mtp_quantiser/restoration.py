"""Restores a stripped checkpoint with one idempotent command, safe to run from several pods.

    found                                              | action
    -------------------------------------------------- | ------------------------------------------------------
    OUT from the same base, source and capture         | none: AlreadyRestored (or NotNeeded, as before)
    OUT from anything else                             | refuse, naming what differs
    no OUT, and the base has mtp.* tensors             | link the base's files into OUT: NotNeeded
    no OUT, another process is restoring it            | wait for it, then check again
    no OUT                                             | quantise, splice, verify, then rename to OUT: Restored

Unfinished work is kept in a hidden folder beside OUT, so that a killed run can resume.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from flash_contracts.restore_result import RestoreFigures, RestoreResult
from mtp_quantiser.checkpoint import CONFIG, INDEX, Checkpoint, read_json
from mtp_quantiser.console import step
from mtp_quantiser.disk_space import bytes_to_write, require_disk_space, size_of
from mtp_quantiser.errors import OtherInputsError, QuantiserError
from mtp_quantiser.expert_store import write_json
from mtp_quantiser.folder_lock import exclusive
from mtp_quantiser.layout import MtpShape
from mtp_quantiser.official import OfficialMtp
from mtp_quantiser.quantisation import WORK, Quantisation, device_context
from mtp_quantiser.report import HTML, JSON
from mtp_quantiser.sources import folder_of
from mtp_quantiser.splice import OTHER_NAMES, link_or_copy_base, splice
from mtp_quantiser.verify import problems

RECORD: Final = "mtp-restoration.json"
FORMAT: Final = "mtp-restoration-1"


@dataclass(frozen=True)
class Restoration:
    """One restoration: inputs and output. `source` may be hf://owner/name@revision."""

    base: Path
    source: str
    capture: Path | None
    out: Path
    print_line: Callable[[str], None]
    device: str = "auto"
    batch: int | None = None

    @property
    def work(self) -> Path:
        return self.out.with_name(f".{self.out.name}.work")

    @property
    def whole(self) -> Path:
        """A folder at the depth of `out`, so that its relative links still resolve after it is renamed to `out`."""
        return self.out.with_name(f".{self.out.name}.whole")

    def run(self) -> RestoreResult:
        """See the module. Raises QuantiserError, and then leaves OUT absent or unchanged."""
        inputs = self._inputs()
        found = self._found(inputs)
        if found:
            return found
        with exclusive(self.out, self._waiting, self.print_line):
            return self._found(inputs) or self._made(inputs)

    def _inputs(self) -> dict[str, str]:
        return {
            "base": fingerprint(self.base),
            "source": self.source,
            "capture": str(self.capture) if self.capture else "none",
        }

    def _waiting(self) -> str:
        done = len(list((self.work / WORK).glob("expert-*.safetensors")))
        return f"another process is restoring {self.out}, with {done} experts done; waiting for it"

    def _found(self, inputs: dict[str, str]) -> RestoreResult | None:
        """The result of an earlier run, if any. Its files are read again only if they have changed since."""
        if not self.out.exists():
            return None
        record = record_of(self.out)
        changed = sorted(name for name in inputs if record["inputs"].get(name) != inputs[name])
        if changed:
            message = "; ".join(
                f"{name} was {record['inputs'].get(name)}, now it is {inputs[name]}" for name in changed
            )
            raise OtherInputsError(
                f"{self.out} was made from other inputs: {message}; remove it, or give another --out"
            )
        with step("checking the existing output"):
            require_undamaged(self.out, record)
        if record["state"] == "NotNeeded":
            return RestoreResult("NotNeeded", record["message"], str(self.out))
        figures = RestoreFigures.parse(record["figures"])
        return RestoreResult("AlreadyRestored", f"restored before: {figures}", str(self.out), figures)

    def _made(self, inputs: dict[str, str]) -> RestoreResult:
        base = Checkpoint.open(self.base)
        there = base.names("mtp.")
        try:
            self.work.mkdir(exist_ok=True)
            self._sweep()
            result = self._linked(len(there)) if there else self._restored(base)
            write_json(self.whole / RECORD, document_of(result, inputs, self.whole))
            self.whole.rename(self.out)
            shutil.rmtree(self.work)
        except OSError as error:
            raise QuantiserError(
                f"{self.out} cannot be written ({error}); free space there, then run the same command again"
            ) from error
        return result

    def _sweep(self) -> None:
        """Remove what a killed run left behind, except for the steps that can resume."""
        for stale in (self.whole, *self.out.parent.glob(f".{self.whole.name}.*")):
            shutil.rmtree(stale, ignore_errors=True)

    def _linked(self, tensors: int) -> RestoreResult:
        self.whole.mkdir()
        link_or_copy_base(self.base, self.whole, self.print_line, written=())
        message = f"not needed: {self.base} already has an MTP head ({tensors} mtp.* tensors)"
        return RestoreResult("NotNeeded", message, str(self.out))

    def _restored(self, base: Checkpoint) -> RestoreResult:
        began = time.monotonic()
        needed = bytes_needed(base)
        require_disk_space(self.work, needed)
        with step(f"getting {self.source}"):
            source = folder_of(
                self.source, self.work / "hub", lambda download: require_disk_space(self.work, needed + download)
            )
        wanted = Quantisation(source, self.capture, self.work, self.device, self.batch, self.source)
        try:
            report = wanted.run()
        except OtherInputsError as changed:
            self.print_line(f"starting over: {changed}")
            report = wanted.run(restart=True)
        with step("combining base and MTP layer"):
            splice(self.base, self.work, self.whole, self.print_line)
            for name in (HTML, JSON):
                (self.work / name).rename(self.whole / name)
        with step("verifying"):
            for problem in problems(self.whole, OfficialMtp.open(source), device_context(self.device).device):
                raise QuantiserError(f"verification failed: {problem}; check the disk, then run the same command again")
        figures = figures_of(report, time.monotonic() - began)
        return RestoreResult("Restored", f"restored: {figures}", str(self.out), figures)


def fingerprint(base: Path) -> str:
    """Hash of the base's configuration, index, and shard names and sizes; hashing its values would take minutes."""
    checkpoint = Checkpoint.open(base)
    digest = sha256()
    for name in (CONFIG, INDEX):
        if (base / name).is_file():
            digest.update((base / name).read_bytes())
    for shard in sorted(set(checkpoint.shard_of.values())):
        if not (base / shard).is_file():
            raise QuantiserError(
                f"{base / shard} is missing, although the index names it; download the checkpoint again"
            )
        digest.update(f"{shard} {(base / shard).stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def record_of(out: Path) -> dict[str, Any]:
    if not (out / RECORD).is_file():
        raise OtherInputsError(f"{out} exists without {RECORD}, so this tool did not create it; give another --out")
    record = read_json(out / RECORD)
    if record.get("format") != FORMAT:
        raise QuantiserError(f"{out / RECORD} is of format {record.get('format')!r}; this tool reads {FORMAT}")
    return record


def figures_of(report: Mapping[str, Any], seconds: float) -> RestoreFigures:
    worst = [matrix["worstKept"] for matrix in report["matrices"].values()]
    method = report["method"]
    return RestoreFigures(method["gptq"], method["rtn"], round(seconds, 1), max(worst, default=None), report["device"])


def document_of(result: RestoreResult, inputs: dict[str, str], whole: Path) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "state": result.state,
        "message": result.message,
        "inputs": inputs,
        "figures": result.figures.to_json() if result.figures else None,
        "files": stamps(whole),
    }


def stamps(folder: Path) -> dict[str, list[int]]:
    """Size and mtime of every file."""
    files = {path: path.stat() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != RECORD}
    return {str(path.relative_to(folder)): [stat.st_size, stat.st_mtime_ns] for path, stat in files.items()}


def require_undamaged(out: Path, record: dict[str, Any]) -> None:
    """Raises QuantiserError for a missing or resized file. If only mtimes differ, every bit is verified again."""
    then, now = record["files"], stamps(out)
    odd = sorted(name for name in then if name not in now or now[name][0] != then[name][0])
    found = f"{odd[0]} is {'missing' if odd[0] not in now else 'of a different size'}" if odd else None
    if found is None and record["state"] == "Restored" and any(now[name] != then[name] for name in then):
        found = next(problems(out), None)
    if found:
        raise QuantiserError(
            f"{out} has been damaged since it was restored: {found}; remove the folder, then run the same command again"
        )


def bytes_needed(base: Checkpoint) -> int:
    """The size of the finished experts, the shard, and the copies of head and embedding."""
    names = [name for pair in OTHER_NAMES.items() for name in pair if name in base.shard_of]
    copies = sum(size_of(expected) for expected in base.header(names).values())
    return bytes_to_write(MtpShape.of(base.config)) + copies
