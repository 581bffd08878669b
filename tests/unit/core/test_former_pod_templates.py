"""An upgrade of the operator restarts no engine: the same spec still gives the same pod template.

`former_pod_templates.json` holds specs and the pod templates that the operator at commit aa04336 made of them. The
Deployment controller replaces pods only when the template changes.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from builders import SETTINGS, a_flash
from flash_operator.core.resources.deployment import pod_template

FORMER: dict[str, Any] = json.loads(Path(__file__).with_name("former_pod_templates.json").read_text())


@pytest.mark.parametrize("name", FORMER)
def test_the_template_of_the_former_operator_is_unchanged(name: str) -> None:
    assert pod_template(a_flash(**FORMER[name]["spec"]), SETTINGS) == FORMER[name]["template"]
