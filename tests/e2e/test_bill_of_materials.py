"""Reads a bill of materials from a running pod, as docs/images.md describes."""

import json
import re
import shlex

import pytest

from cluster_fixtures import LocalCluster
from e2e_env import RELEASE
from image_builder.layout import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_the_documented_command_reads_the_operators_bill(e2e_env: LocalCluster) -> None:
    page = (ROOT / "docs/images.md").read_text()
    (typed,) = re.findall(r"^kubectl (exec .+) > image\.cdx\.json$", page, re.MULTILINE)
    here = typed.replace("deployment/flash ", f"deployment/{RELEASE} ")
    bill = json.loads(e2e_env.kubectl(*shlex.split(here)).stdout)
    assert bill["metadata"]["component"]["name"] == "DeepSeek-Flash Operator"
    assert {"deepseek-flash-operator", "kopf", "libc6"} <= {component["name"] for component in bill["components"]}
