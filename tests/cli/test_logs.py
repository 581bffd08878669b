"""`kubectl dsf logs`: one stream of many containers, in the order of time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import a_pod
from flash_contracts.names import API_VERSION
from flashctl.errors import CommandError, RefusedError, UsageError
from flashctl.exits import Exit
from flashctl.log_merge import Follower, LogLine, Source, merged, parsed, seconds_of, sources
from flashctl_runs import ScriptedServer, flashctl, kubeconfig

ENGINE, GATE = Source("a", "engine"), Source("a", "gate")


def a_pod_with_containers(name: str = "flash-a") -> dict[str, Any]:
    pod = a_pod(name)
    pod["spec"] |= {"initContainers": [{"name": "fetch"}, {"name": "gate"}], "containers": [{"name": "engine"}]}
    pod["spec"]["containers"].append({"name": "someone-elses"})
    return pod


def test_the_time_of_another_zone_is_the_same_time() -> None:
    here = parsed(ENGINE, "2026-11-24T13:00:00.5+01:00 late")
    there = parsed(GATE, "2026-11-24T12:00:00.400000001Z early")
    assert [line.text for line in merged([[here], [there]])] == ["early", "late"]
    assert (here.at, there.at) == ("2026-11-24T12:00:00.500000000Z", "2026-11-24T12:00:00.400000001Z")


def test_a_time_without_a_fraction_sorts_before_one_with() -> None:
    plain, later = parsed(ENGINE, "2026-11-24T12:00:00Z a"), parsed(ENGINE, "2026-11-24T12:00:00.1Z b")
    assert plain.at < later.at


def test_a_line_without_a_time_stays_behind_its_predecessor() -> None:
    engine = [parsed(ENGINE, "2026-11-24T12:00:02Z Traceback"), parsed(ENGINE, "  File x"), parsed(ENGINE, "")]
    gate = [parsed(GATE, "2026-11-24T12:00:03Z looked")]
    assert [line.text for line in merged([gate, engine])] == ["Traceback", "  File x", "", "looked"]


@given(st.lists(st.lists(st.integers(0, 59)), max_size=4))
def test_merging_loses_nothing_and_keeps_each_container_in_order(times: list[list[int]]) -> None:
    logs = [
        [
            LogLine(f"2026-11-24T12:00:{second:02}", Source(str(at), "engine"), str(index))
            for index, second in enumerate(log)
        ]
        for at, log in enumerate(times)
    ]
    found = list(merged(logs))
    assert len(found) == sum(map(len, times))
    for at, log in enumerate(times):
        assert [line.text for line in found if line.source.pod == str(at)] == [str(index) for index in range(len(log))]


def test_sources_are_the_containers_of_the_project_in_the_order_of_their_start() -> None:
    assert [source.container for source in sources([a_pod_with_containers()])] == ["fetch", "gate", "engine"]
    assert sources([a_pod_with_containers()], "someone-elses") == [Source("flash-a", "someone-elses")]
    assert sources([{"metadata": {"name": "bare"}}]) == []


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("2h", 7200), ("1h30m", 5400)])
def test_ages(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "0s", "-5m", "5d", "1m1h", "yesterday"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(UsageError, match="is no age: write 90s, 5m, 2h or 1h30m"):
        seconds_of(text)


def test_a_follower_reads_all_at_once_and_takes_up_again_what_ended() -> None:
    runs: list[Source] = []

    def read(source: Source) -> Iterator[LogLine]:
        runs.append(source)
        yield LogLine("t", source, "hello")
        if source == GATE:
            raise RefusedError("not started", 400)

    follower = Follower(read)
    follower.follow([ENGINE, GATE])
    first = list(follower.lines(0.2))
    assert sorted(str(line.source.container) for line in first if isinstance(line, LogLine)) == ["engine", "gate"]
    assert [str(line) for line in first if isinstance(line, CommandError)] == ["not started"]
    follower.follow([ENGINE])
    assert len(list(follower.lines(0.2))) == 1
    assert sorted(source.container for source in runs) == ["engine", "engine", "gate"]


PODS = "/api/v1/namespaces/team/pods"
LOGS = {
    PODS: (200, {"items": [a_pod_with_containers()]}),
    f"{PODS}/flash-a/log": (200, "2026-11-24T12:00:00Z \x1b]0;owned\x07[red]hi[/red]\n2026-11-24T12:00:01Z bye"),
}


def test_the_text_is_shown_as_it_is_but_for_control_characters(tmp_path: Path) -> None:
    with ScriptedServer(LOGS) as server:
        done = flashctl("logs", "flash", "--kubeconfig", kubeconfig(tmp_path, server.url), "-c", "engine")
    assert done.exit_code == Exit.DONE
    assert done.stdout.splitlines() == ["flash-a engine ]0;owned[red]hi[/red]", "flash-a engine bye"]


def test_options_reach_the_server(tmp_path: Path) -> None:
    options = ("--tail", "7", "--since", "2m", "--previous")
    with ScriptedServer(LOGS) as server:
        flashctl("logs", "flash", "--kubeconfig", kubeconfig(tmp_path, server.url), "-c", "engine", *options)
    asked = server.requests[-1][1]
    for part in ("tailLines=7", "sinceSeconds=120", "previous=true", "container=engine", "timestamps=true"):
        assert part in asked


def test_json_is_one_document_a_line(tmp_path: Path) -> None:
    with ScriptedServer(LOGS) as server:
        done = flashctl("logs", "flash", "--kubeconfig", kubeconfig(tmp_path, server.url), "-c", "engine", "-o", "json")
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["container"], one["line"]) for one in documents][1] == ("engine", "bye")


def test_an_unknown_name_gets_the_nearest(tmp_path: Path) -> None:
    one = f"/apis/{API_VERSION}/namespaces/team/deepseekflashdeployments"
    missing = {"kind": "Status", "message": "not found", "details": {"name": "flsh"}}
    answers = {
        PODS: (200, {"items": []}),
        one: (200, {"items": [{"metadata": {"name": "flash"}}]}),
        f"{one}/flsh": (404, missing),
    }
    with ScriptedServer(answers) as server:
        done = flashctl("logs", "flsh", "--kubeconfig", kubeconfig(tmp_path, server.url))
    assert done.exit_code == Exit.NOT_FOUND
    assert "did you mean flash?" in done.stderr
