"""Checks that a remedy can be carried out: in fields that the API has, with arguments that it accepts."""

import re
from collections.abc import Iterable
from functools import cache

from flash_contracts.checkpoint_record import CheckpointFinding
from flash_operator.api.argument_rules import OWNED_ARGUMENTS
from flash_operator.api.schema import crd

FIELD = re.compile(r"\b(model|engine|speculation|interconnect|readiness)\.([a-z][a-zA-Z]+)")
FILES = re.compile(r"\S+\.(?:safetensors|json)\S*")


@cache
def fields() -> frozenset[tuple[str, str]]:
    """Those of a spec: section and name."""
    (version,) = crd()["spec"]["versions"]
    sections = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return frozenset((section, name) for section, one in sections.items() for name in one.get("properties", ()))


def assert_can_be_carried_out(findings: Iterable[CheckpointFinding]) -> None:
    for finding in findings:
        said = FILES.sub("", finding.remedy)
        assert set(FIELD.findall(said)) <= fields(), said
        for argument in re.findall(r"--[a-z][a-z-]+", said):
            assert not any(owned.startswith(argument) for owned in OWNED_ARGUMENTS), said
        assert "point model.source" not in said, "it is immutable"
