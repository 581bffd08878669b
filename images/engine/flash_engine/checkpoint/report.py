"""An inspection as a page for people."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flash_engine.checkpoint.engine_flags import batched_tokens, flags
from flash_engine.checkpoint.inspection import Inspection
from flash_engine.checkpoint.memory import GIB, OTHER_BYTES, PROFILES, budget, weights

MARKS = {"refused": "[red]refused[/red]", "repaired": "[yellow]repaired[/yellow]", "note": "note"}


def show(found: Inspection, console: Console) -> None:
    """What a person reads first comes last: the verdict."""
    layout = found.layout
    console.print(f"[bold]{escape(found.place)}[/bold]")
    if layout:
        console.print(f"layout   {layout.name}; {len(found.tensors):,} tensors, {found.stored_bytes / GIB:.1f} GiB")
    _show_costs(found, console)
    for finding in found.findings:
        console.print(f"\n{MARKS[finding.severity]} [bold]{finding.code}[/bold]: {escape(finding.message)}")
        console.print(f"  what to do    {escape(finding.remedy)}")
        if finding.without_plugin:
            console.print(f"  vLLM alone    {escape(finding.without_plugin)}")
    refused, repaired = len(found.refusals), sum(one.severity == "repaired" for one in found.findings)
    mended = f", with {repaired} repaired by the plugin" if repaired else ""
    told = f"[red]refused[/red] for {refused} reasons" if refused > 1 else "[red]refused[/red]"
    console.print(f"\nverdict  {told if refused else f'[green]can be served[/green]{mended}'}")


def _show_costs(found: Inspection, console: Console) -> None:
    config, layout = found.config, found.layout
    if config is None or layout is None or layout.family == "unknown":
        return
    taken = weights(config, layout)
    console.print(
        f"weights  {taken.total / GIB:.1f} GiB on each of two GPUs, {taken.drafter / GIB:.1f} of them the drafter's"
    )
    table = Table(title=f"KV cache, with {OTHER_BYTES / GIB:.0f} GiB assumed for all else", title_justify="left")
    for name in ("profile", "context", "batched", "KV GiB", "KV tokens", "full", "advised", "full"):
        table.add_column(name, justify="left" if name == "profile" else "right")
    for profile in PROFILES:
        one = budget(config, layout, taken, profile)
        advised = batched_tokens(config, layout, taken, profile)
        table.add_row(
            profile.name,
            f"{profile.context_tokens:,}",
            f"{profile.batched_tokens:,}",
            f"{one.kv_bytes / GIB:.1f}",
            f"{one.tokens:,}",
            f"{one.requests:.2f}",
            f"{advised.profile.batched_tokens:,}",
            f"{advised.requests:.2f}",
        )
    console.print(table)
    console.print("         full: requests of the whole context that fit at once; advised: --max-num-batched-tokens")
    for flag in flags(config, layout):
        console.print(f"flag     {escape(flag.value)}  ({flag.reason})")
