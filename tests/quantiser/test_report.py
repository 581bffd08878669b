"""The page and the data of a report, from figures of a made-up run."""

from pathlib import Path
from typing import Any

import pytest

from mtp_quantiser import report

NAMES = {"source": "hf://owner/name@main", "capture": None}
JUDGED = {"method": "gptq", "errorGptq": 1e-3, "errorRtn": 4e-3}
BETTER = {"method": "rtn", "errorGptq": 5e-3, "errorRtn": 4e-3, "why": "rounding to nearest is better"}
NOBODY = {"method": "rtn", "why": "no token came to this expert"}
UNJUDGED = {"method": "gptq", "why": "no held-out tokens to judge it by"}


def document(*experts: dict[str, Any]) -> dict[str, Any]:
    numbered = [{"expert": number, **expert} for number, expert in enumerate(experts)]
    manifest = {"madeFrom": {}, "method": {"gptq": 1, "rtn": 2}, "experts": numbered}
    return report.document_of(manifest, NAMES, "a CPU", 1.0)


def expert(tokens: int, **matrices: dict[str, Any]) -> dict[str, Any]:
    return {"tokens": tokens, **{name: matrices.get(name, JUDGED) for name in report.MATRICES}}


MIXED = document(
    expert(100_000, w2=BETTER),
    expert(0, w1=NOBODY, w2=NOBODY, w3=NOBODY),
    expert(3, w1=UNJUDGED),
    expert(50, w2=BETTER),
)


def test_what_is_rounded_or_not_judged_is_grouped_by_reason() -> None:
    assert report.grouped(MIXED) == [
        {"kept": "rounded to nearest", "why": NOBODY["why"], "count": 3, "experts": {"w1": [1], "w3": [1], "w2": [1]}},
        {"kept": "rounded to nearest", "why": BETTER["why"], "count": 2, "experts": {"w1": [], "w3": [], "w2": [0, 3]}},
        {"kept": "GPTQ, not judged", "why": UNJUDGED["why"], "count": 1, "experts": {"w1": [2], "w3": [], "w2": []}},
    ]


def test_the_page_names_source_capture_and_every_reason(tmp_path: Path) -> None:
    page = report.write(tmp_path, MIXED).read_text()
    assert "Source: hf://owner/name@main. Capture: none." in page
    for group in report.grouped(MIXED):
        assert page.count(group["why"]) == 1
    assert "down (w2): 0, 3" in page
    assert "1 experts without any" in page


@pytest.mark.parametrize("tokens", [0, 1, 100])
def test_a_page_of_experts_with_equal_counts_has_a_histogram(tokens: int, tmp_path: Path) -> None:
    assert report.write(tmp_path, document(expert(tokens), expert(tokens))).read_text().count("<svg") == 3
