"""Writes the dashboards into the chart.

python -m dashboards
"""

import sys

from dashboards.boards import DASHBOARDS
from dashboards.grafana import document
from rendered_chart import CHART

FOLDER = CHART / "files/dashboards"


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for board in DASHBOARDS:
        (FOLDER / f"{board.file}.json").write_text(document(board))
    return 0


if __name__ == "__main__":
    sys.exit(main())
