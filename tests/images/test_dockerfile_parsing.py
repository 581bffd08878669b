"""A Dockerfile is cut to what one image needs, with earlier images named by their keys."""

import pytest

from image_builder.dockerfile import Dockerfile, DockerfileError

TEXT = """
# a comment
ARG BASE
ARG TOOLS=tools

FROM ${BASE} AS tools
RUN apt-get update \\
    # a comment inside a continued line
    && true

FROM ${TOOLS} AS build
COPY app/lock app/src /src/

FROM ${BASE} AS other
RUN false

FROM ${BASE} AS final
COPY --from=build /opt /opt
USER 1:1
ENTRYPOINT ["run"]
"""


def parsed() -> Dockerfile:
    return Dockerfile.parse(TEXT).resolved({"BASE": "base:1"})


def test_a_target_keeps_the_stages_it_starts_from_or_copies_from_and_no_others() -> None:
    names = [stage.name for stage in parsed().cut_to("final", {}).stages]
    assert names == ["tools", "build", "final"]


def test_a_stage_that_was_built_before_is_named_and_its_own_needs_are_gone() -> None:
    cut = parsed().cut_to("final", {"build": "localhost/flash/build:abc"})
    assert cut.text() == (
        'FROM base:1 AS final\nCOPY --from=localhost/flash/build:abc /opt /opt\nUSER 1:1\nENTRYPOINT ["run"]\n'
    )


def test_a_parent_that_was_built_before_is_named() -> None:
    cut = parsed().cut_to("build", {"tools": "localhost/flash/tools:abc"})
    assert cut.text().startswith("FROM localhost/flash/tools:abc AS build\n")


def test_the_files_of_the_context_are_those_of_the_kept_stages() -> None:
    assert parsed().cut_to("final", {}).context_paths() == ["app/lock", "app/src"]
    assert parsed().cut_to("other", {}).context_paths() == []


def test_continued_lines_are_joined_and_comments_are_gone() -> None:
    assert parsed().stage("tools").instructions == ("RUN apt-get update && true",)


def test_the_last_setting_of_a_stage_wins() -> None:
    assert parsed().stage("final").setting("USER") == "1:1"
    assert parsed().stage("final").setting("EXPOSE") is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("FROM base\n", "every stage needs a name", id="a stage without a name"),
        pytest.param("RUN true\nFROM base AS a\n", "only ARG may precede", id="an instruction before the first stage"),
        pytest.param(
            "ARG BASE\nFROM ${BASE} AS a\n", "give a value for the argument BASE", id="an argument without a value"
        ),
    ],
)
def test_an_unknown_instruction_is_rejected_by_name(text: str, complaint: str) -> None:
    with pytest.raises(DockerfileError, match=complaint):
        Dockerfile.parse(text).resolved({})
