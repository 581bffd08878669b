"""Prints an inspection as text for a terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flash_contracts.profiles import PROFILES
from flash_engine.checkpoint.engine_flags import advised_budget, engine_flags
from flash_engine.checkpoint.inspection import Inspection
from flash_engine.checkpoint.memory import GIB, OTHER_BYTES, kv_cache_budget, weight_bytes

MARKS = {"refused": "[red]refused[/red]", "repaired": "[yellow]repaired[/yellow]", "note": "note"}


def show(inspection: Inspection, console: Console) -> None:
    """Print the inspection, with the verdict last, so that it is on screen when the command ends."""
    layout = inspection.layout
    console.print(f"[bold]{escape(inspection.place)}[/bold]")
    if layout:
        size = inspection.stored_bytes / GIB
        console.print(f"layout   {layout.name}; {len(inspection.tensors):,} tensors, {size:.1f} GiB")
    _show_memory(inspection, console)
    for finding in inspection.findings:
        console.print(f"\n{MARKS[finding.severity]} [bold]{finding.code}[/bold]: {escape(finding.message)}")
        console.print(f"  what to do    {escape(finding.remedy)}")
        if finding.without_plugin:
            console.print(f"  vLLM alone    {escape(finding.without_plugin)}")
    console.print(f"\nverdict  {_verdict(inspection)}")


def _verdict(inspection: Inspection) -> str:
    layout = inspection.layout
    refused, repaired = len(inspection.refusals), sum(one.severity == "repaired" for one in inspection.findings)
    if refused:
        return f"[red]refused[/red] for {refused} reasons" if refused > 1 else "[red]refused[/red]"
    if layout is None:
        return "[green]not refused[/green]; for other models, only the files are checked"
    return f"[green]can be served[/green]{f', with {repaired} repaired by the plugin' if repaired else ''}"


def _show_memory(inspection: Inspection, console: Console) -> None:
    config, layout = inspection.config, inspection.layout
    if config is None or layout is None or layout.family == "unknown":
        return
    weights = weight_bytes(config, layout)
    console.print(
        f"weights  {weights.total / GIB:.1f} GiB on each of two GPUs, {weights.drafter / GIB:.1f} of it for the drafter"
    )
    table = Table(title=f"KV cache, assuming {OTHER_BYTES / GIB:.0f} GiB for everything else", title_justify="left")
    for name in ("profile", "context", "batched", "KV GiB", "KV tokens", "full", "advised", "full"):
        table.add_column(name, justify="left" if name == "profile" else "right")
    for profile in PROFILES.values():
        budget = kv_cache_budget(config, layout, weights, profile)
        advised = advised_budget(config, layout, weights, profile)
        table.add_row(
            profile.name,
            f"{profile.context_tokens:,}",
            f"{profile.batched_tokens:,}",
            f"{budget.kv_bytes / GIB:.1f}",
            f"{budget.tokens:,}",
            f"{budget.requests:.2f}",
            f"{advised.profile.batched_tokens:,}",
            f"{advised.requests:.2f}",
        )
    console.print(table)
    console.print("         full: requests with the whole context that fit at once; advised: --max-num-batched-tokens")
    for flag in engine_flags(config, layout):
        console.print(f"flag     {escape(flag.value)}  ({flag.reason})")
