"""Decisions of a push: names of registries, why a push failed, and the values that follow. Nothing is started."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from image_builder.destination import BadDestinationError, Destination
from image_builder.layout import IMAGES, ROOT
from image_builder.product import PRODUCTS
from image_builder.publish import CHART, summary, tag_of
from image_builder.push_failure import why_not_built, why_not_pushed
from image_builder.values_file import PushedImage, write_values

DIGEST = f"sha256:{'0a' * 32}"
IMAGE = "registry.example.org/team/flash-engine:0.1.0"

GOOD = {
    "registry.example.org": "registry.example.org/flash-node",
    "registry.example.org/team": "registry.example.org/team/flash-node",
    "registry.example.org:5000/a/b_c/": "registry.example.org:5000/a/b_c/flash-node",
    " localhost:5000 ": "localhost:5000/flash-node",
    "localhost/team": "localhost/team/flash-node",
    "docker.io/somebody": "docker.io/somebody/flash-node",
}

BAD = {
    "https://registry.example.org/team": "write it without https://",
    "registry.example.org/team:1.0": "without a tag",
    f"registry.example.org/team@{DIGEST}": "without a tag or digest",
    "team": "or for Docker Hub docker.io/team",
    "team/flash": "docker.io/team/flash",
    "": "docker.io/NAME",
    "docker.io": "write docker.io/NAME",
    "registry.example.org/Team": "write registry.example.org/team",
    "registry.example.org/a b": "no registry can have this name",
    "registry.example.org//team": "no registry can have this name",
    "registry.example.org:port/team": "no registry can have this name",
    "-x.example.org/team": "no registry can have this name",
    "registry.example.org/team;reboot": "no registry can have this name",
    f"registry.example.org/{'t' * 240}": "may have 255 characters",
}


@pytest.mark.parametrize(("given", "repository"), GOOD.items(), ids=GOOD)
def test_a_registry_is_taken(given: str, repository: str) -> None:
    assert Destination.parse(given).repository("flash-node") == repository


@pytest.mark.parametrize(("given", "told_to"), BAD.items(), ids=BAD)
def test_a_name_that_no_registry_has_is_one_sentence_with_the_remedy(given: str, told_to: str) -> None:
    with pytest.raises(BadDestinationError) as refused:
        Destination.parse(given)
    assert str(refused.value).startswith(f"PUSH={given}: ")
    assert told_to in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "plain"),
    [("localhost:5000", True), ("127.0.0.1:5000/a", True), ("localhost.example.org", False), ("example.org", False)],
)
def test_only_registries_of_this_machine_are_asked_without_tls(name: str, *, plain: bool) -> None:
    assert Destination.parse(name).is_on_this_machine is plain


def test_the_tag_is_the_version_of_the_chart_or_one_that_a_registry_takes() -> None:
    assert tag_of(None) == yaml.safe_load((ROOT / CHART / "Chart.yaml").read_text())["appVersion"]
    assert tag_of("v1.2_x") == "v1.2_x"
    with pytest.raises(BadDestinationError, match=r"^TAG=a/b: "):
        tag_of("a/b")


FAILURES = {
    "unauthorized: authentication required": "log in with `podman login registry.example.org`",
    "denied: requested access to the resource is denied": "`podman login registry.example.org`",
    "error pushing: received unexpected HTTP status: 413 Request Entity Too Large": "raise the limit or quota",
    "quota has been exceeded for project team": "raise the limit or quota",
    "Get https://registry.example.org/v2/: http: server gave HTTP response to HTTPS client": "speaks plain HTTP",
    "tls: failed to verify certificate: x509: certificate signed by unknown authority": "is not trusted here",
    "dial tcp: lookup registry.example.org: no such host": "no registry answers at registry.example.org",
    "dial tcp 192.0.2.1:443: connect: connection refused": "no registry answers",
    "name unknown: The repository with name 'team/flash-engine' does not exist": "create it, as some",
    "write /var/tmp/x: no space left on device": "no space is left on the disk",
    "a reason that nobody foresaw": "a reason that nobody foresaw",
}


@pytest.mark.parametrize(("words", "told_to"), FAILURES.items(), ids=FAILURES)
def test_a_failed_push_says_what_to_do_and_quotes_the_tool(words: str, told_to: str) -> None:
    sentence = why_not_pushed(IMAGE, "podman", f"Copying blob 1\n{words}\n")
    assert sentence.startswith(f"{IMAGE} was not pushed")
    assert told_to in sentence
    assert words in sentence
    assert "Copying" not in sentence or "nobody foresaw" in sentence


def test_a_name_of_an_image_explains_no_failure() -> None:
    """The tool repeats the name in most lines of its output."""
    image = "registry.example.org/denied/flash-engine:0.1.0"
    assert "log in" not in why_not_pushed(image, "docker", f"Error: pushing {image}: manifest invalid")


def test_a_failed_build_names_a_full_disk() -> None:
    assert "Free space where docker keeps its images" in why_not_built(IMAGE, "docker", "no space left on device")
    assert why_not_built(IMAGE, "docker", "exit code: 1") == f"{IMAGE} was not built: exit code: 1"


def pushed() -> dict[str, PushedImage]:
    return {
        product.name: PushedImage(f"registry.example.org/team/{product.repository}", "0.1.0", DIGEST)
        for product in PRODUCTS
    }


def test_the_values_name_every_image_by_digest_and_fit_the_schema_of_the_chart(tmp_path: Path) -> None:
    file = tmp_path / "new" / "values.yaml"
    write_values(pushed(), file)
    values = yaml.safe_load(file.read_text())
    jsonschema.validate(values, json.loads((ROOT / CHART / "values.schema.json").read_text()))
    assert values["engineImage"] == f"registry.example.org/team/flash-engine:0.1.0@{DIGEST}"
    assert values["quantiserImage"] == f"registry.example.org/team/flash-quantiser:0.1.0@{DIGEST}"
    named = {"tag": "0.1.0", "digest": DIGEST}
    assert values["image"] == {"repository": "registry.example.org/team/flash-operator", **named}
    assert values["labeller"]["image"] == {"repository": "registry.example.org/team/flash-node", **named}


def test_a_push_ends_with_the_references_and_the_command_that_installs_them() -> None:
    *references, values, command = summary(pushed(), ROOT / "build/images/values.yaml").splitlines()
    assert references == [image.reference for image in pushed().values()]
    assert values == "values: build/images/values.yaml"
    assert command.endswith("--create-namespace --values build/images/values.yaml")
    assert command in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.name)
def test_an_image_is_built_of_the_stages_that_it_needs_on_a_base_by_digest(product: object) -> None:
    (one,) = [found for found in PRODUCTS if found is product]
    text, arguments = one.dockerfile()
    stages = [line.split()[-1] for line in text.splitlines() if line.startswith("FROM")]
    assert stages[-1] == one.target
    assert not [stage for stage in stages if "cpu" in stage]
    assert f"FROM {arguments['BASE_NAME']}@{arguments['BASE_DIGEST']} AS base" in text
    assert "${" not in "".join(line for line in text.splitlines() if line.startswith("FROM"))


def test_every_image_has_one_for_cpus_in_its_place() -> None:
    assert {product.for_cpus for product in PRODUCTS} == {image.name for image in IMAGES}
