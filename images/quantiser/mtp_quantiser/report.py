"""Writes the quality report: a JSON document, and a self-contained HTML page with plots."""

import io
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from math import log10
from pathlib import Path
from statistics import median
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from mtp_quantiser.expert_store import write_atomically, write_json

JSON: Final = "mtp-report.json"
HTML: Final = "mtp-report.html"
MATRICES: Final = {"w1": "gate (w1)", "w3": "up (w3)", "w2": "down (w2)"}
WORST: Final = 10
BINS: Final = 40
INK: Final = {"w1": "#1f5fa8", "w3": "#2e8b57", "w2": "#b8501e"}


def document_of(
    manifest: Mapping[str, Any], names: Mapping[str, str | None], device: str, seconds: float
) -> dict[str, Any]:
    """The report as data. Errors are relative errors of the output on held-out tokens: |x (W - Q)|^2 / |x W|^2.

    `names` has source and capture as the user gave them.
    """
    experts = manifest["experts"]
    judged = {name: [expert[name] for expert in experts if "errorGptq" in expert[name]] for name in MATRICES}
    return {
        "format": "mtp-report-1",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "seconds": round(seconds, 2),
        "names": dict(names),
        "madeFrom": manifest["madeFrom"],
        "method": manifest["method"],
        "tokens": tokens_of(experts),
        "matrices": {name: summary(found) for name, found in judged.items() if found},
        "fallbacks": list(fallbacks(experts)),
        "worst": worst(experts),
        "experts": experts,
    }


def tokens_of(experts: list[dict[str, Any]]) -> dict[str, float]:
    counts = sorted(expert["tokens"] for expert in experts)
    return {"least": counts[0], "median": median(counts), "most": counts[-1], "mean": sum(counts) / len(counts)}


def summary(found: list[dict[str, Any]]) -> dict[str, float]:
    gptq, nearest = ([matrix[key] for matrix in found] for key in ("errorGptq", "errorRtn"))
    kept = [matrix["errorGptq" if matrix["method"] == "gptq" else "errorRtn"] for matrix in found]
    return {
        "medianGptq": median(gptq),
        "medianRtn": median(nearest),
        "medianKept": median(kept),
        "worstKept": max(kept),
        "gptqBetter": sum(a <= b for a, b in zip(gptq, nearest, strict=True)),
        "of": len(found),
    }


def fallbacks(experts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for expert in experts:
        for name in MATRICES:
            if expert[name]["method"] == "rtn":
                yield {"expert": expert["expert"], "matrix": name, "why": expert[name]["why"]}


def grouped(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The matrices that were rounded or not judged, grouped by result and reason; the largest group first."""
    groups: dict[tuple[str, str], dict[str, list[int]]] = {}
    for expert in document["experts"]:
        for name in MATRICES:
            matrix = expert[name]
            if "why" in matrix:
                kept = "rounded to nearest" if matrix["method"] == "rtn" else "GPTQ, not judged"
                group = groups.setdefault((kept, matrix["why"]), {name: [] for name in MATRICES})
                group[name].append(expert["expert"])
    found = [
        {"kept": kept, "why": why, "count": sum(map(len, experts.values())), "experts": experts}
        for (kept, why), experts in groups.items()
    ]
    return sorted(found, key=lambda group: -group["count"])


def worst(experts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [
        {"expert": expert["expert"], "matrix": name, "tokens": expert["tokens"], **expert[name]}
        for expert in experts
        for name in MATRICES
        if "errorGptq" in expert[name]
    ]
    return sorted(rows, key=lambda row: -min(row["errorGptq"], row["errorRtn"]))[:WORST]


def write(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write both forms into `folder`, and return the page's path."""
    write_json(folder / JSON, document)
    environment = Environment(
        loader=PackageLoader("mtp_quantiser"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        report=document, matrices=MATRICES, groups=grouped(document), pictures=[*pictures(document["experts"])]
    )
    write_atomically(folder / HTML, lambda path: path.write_text(page))
    return folder / HTML


def pictures(experts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Title and SVG of each plot. A `broad` one scrolls on a narrow screen."""
    if any("errorGptq" in expert[name] for expert in experts for name in MATRICES):
        yield {"title": "Held-out error of each expert, as kept", "svg": svg(error_per_expert(experts)), "broad": True}
        yield {"title": "GPTQ against rounding to nearest", "svg": svg(gptq_against_rtn(experts)), "broad": False}
    yield {"title": "Calibration tokens of each expert", "svg": svg(token_histogram(experts)), "broad": False}


def error_per_expert(experts: list[dict[str, Any]]) -> Figure:
    figure, axes = _figure(9, 3.2)
    for name, label in MATRICES.items():
        found = [e for e in experts if "errorGptq" in e[name]]
        kept = [min(e[name]["errorGptq"], e[name]["errorRtn"]) for e in found]
        axes.plot([e["expert"] for e in found], kept, ".", markersize=4, color=INK[name], label=label)
    axes.set(xlabel="expert", ylabel="relative error", yscale="log")
    figure.legend(frameon=False, ncols=3, loc="outside upper right")
    return figure


def gptq_against_rtn(experts: list[dict[str, Any]]) -> Figure:
    figure, axes = _figure(4.6, 4.2)
    for name, label in MATRICES.items():
        found = [e[name] for e in experts if "errorGptq" in e[name]]
        axes.plot(
            [m["errorRtn"] for m in found],
            [m["errorGptq"] for m in found],
            ".",
            markersize=4,
            color=INK[name],
            label=label,
        )
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], "-", color="#999999", linewidth=0.8)
    axes.set(xlabel="error of rounding to nearest", ylabel="error of GPTQ", xscale="log", yscale="log")
    axes.xaxis.set_minor_formatter(NullFormatter())  # their labels overlap
    figure.legend(frameon=False, ncols=3, loc="outside upper right")
    return figure


def token_histogram(experts: list[dict[str, Any]]) -> Figure:
    """A histogram on a logarithmic axis, because the busiest expert has hundreds of times the tokens of the idlest."""
    figure, axes = _figure(4.6, 3.2)
    counts = [expert["tokens"] for expert in experts if expert["tokens"]]
    if counts:
        low, high = log10(min(counts)), log10(max(counts) + 1)
        edges = [10 ** (low + (high - low) * edge / BINS) for edge in range(BINS + 1)]
        axes.hist(counts, bins=edges, color="#1f5fa8")
    none = len(experts) - len(counts)
    xlabel = f"tokens ({none} experts without any are not shown)" if none else "tokens"
    axes.set(xlabel=xlabel, ylabel="experts", xscale="log")
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def svg(figure: Figure) -> str:
    out = io.StringIO()
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
