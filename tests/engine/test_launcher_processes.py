"""The launcher as the first process of a container: signals, exits, orphans, and its record of them."""

import os
import signal
from pathlib import Path

import pytest

from launcher_harness import TELL, Launcher, is_alive, wait_for_phase
from waiting import eventually


def test_an_exit_code_is_passed_on_and_written_down(launcher: Launcher) -> None:
    program = launcher.program("import sys\nprint('ValueError: no MTP weights')\nsys.exit(3)")
    process = launcher.start(program, "serve", patience=0)
    process.communicate()

    assert process.returncode == 3
    record = launcher.document("engine.json")
    assert (record["phase"], record["exit"]["code"], record["exit"]["signal"]) == ("Exited", 3, None)
    assert record["exit"]["lastLines"] == ["ValueError: no MTP weights"]


def test_the_cause_is_kept_however_much_is_logged_after_it(launcher: Launcher) -> None:
    program = launcher.program(
        "import sys\nprint('ValueError: the cause')\nfor n in range(500): print('noise', n)\nsys.exit(1)"
    )
    launcher.start(program, "serve", patience=0).communicate()

    lines = launcher.document("engine.json")["exit"]["lastLines"]
    assert lines[0] == "ValueError: the cause"
    assert lines[-1] == "noise 499"
    assert len(lines) < 60


def test_a_killed_engine_is_reported_by_its_signal(launcher: Launcher) -> None:
    process = launcher.start(
        launcher.program("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"), "serve", patience=0
    )
    process.communicate()

    assert process.returncode == 128 + signal.SIGKILL
    exit_record = launcher.document("engine.json")["exit"]
    assert (exit_record["signal"], exit_record.get("endedBy")) == ("SIGKILL", None), "it was nobody known"


def test_starts_are_counted_and_the_last_exit_stays_visible(launcher: Launcher) -> None:
    program = launcher.program("import sys, time\nprint('Error: first')\nsys.exit(1)")
    launcher.start(program, "serve", patience=0).communicate()
    process = launcher.start(launcher.program("import time\ntime.sleep(60)"), "serve", patience=0)
    wait_for_phase(launcher, "Starting")

    record = launcher.document("engine.json")
    assert (record["starts"], record["exit"]["code"]) == (2, 1)
    process.terminate()
    process.communicate()


POLITE = """
import signal, sys, time
def end(number, frame):
    print("ending", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(600)
"""


def test_sigterm_reaches_the_engine_which_ends_in_its_own_way(launcher: Launcher) -> None:
    process = launcher.start(launcher.program(POLITE), "serve", patience=0)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    out, _ = process.communicate(timeout=20)

    assert out == "ending\n"
    assert process.returncode == 0
    assert launcher.document("engine.json")["exit"]["endedBy"] == "Stop"


DRAINING = """
import signal, subprocess, sys, time
serve = "input(); print('the last request', flush=True)"
worker = subprocess.Popen([sys.executable, "-c", serve], stdin=subprocess.PIPE)
def drain(number, frame):
    worker.communicate(b"go\\n")
    sys.exit(worker.returncode)
signal.signal(signal.SIGTERM, drain)
print("up", flush=True)
time.sleep(600)
"""


def test_sigterm_leaves_the_workers_alone_while_the_engine_drains(launcher: Launcher) -> None:
    """vLLM's engine core exits at once on SIGTERM, and aborts the requests that its API server would have finished."""
    process = launcher.start(launcher.program(DRAINING), "serve", patience=0)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "the last request\n")


DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""


def test_a_second_signal_kills_an_engine_that_ignores_the_first(launcher: Launcher) -> None:
    process = launcher.start(launcher.program(DEAF), "serve", patience=0)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()

    # The kernel merges two pending signals, so the second is sent until it has been handled.
    def has_ended() -> bool:
        process.terminate()
        return process.poll() is not None

    eventually(has_ended, "the launcher's end")
    assert process.returncode == 128 + signal.SIGKILL
    exit_record = launcher.document("engine.json")["exit"]
    assert (exit_record["signal"], exit_record["endedBy"]) == ("SIGKILL", "SecondSignal")


def test_an_engine_that_ignores_sigterm_is_killed_after_its_time(launcher: Launcher) -> None:
    process = launcher.start(launcher.program(DEAF), "serve", patience=0, FLASH_STOP_SECONDS="0.2")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGKILL
    assert launcher.document("engine.json")["exit"]["endedBy"] == "StopTimeout"


DEAF_WORKER = """
import os, signal, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"])
open(os.environ["FLASH_RUN_DIR"] + "/worker.pid", "w").write(str(worker.pid))
time.sleep(1)
sys.exit(5)
"""


def test_a_worker_that_outlives_the_engine_is_ended_with_its_group(launcher: Launcher) -> None:
    """A remaining worker holds GPU memory, and the next engine runs out of it."""
    process = launcher.start(launcher.program(DEAF_WORKER), "serve", patience=0)
    process.communicate(timeout=40)

    worker = int((launcher.run_dir / "worker.pid").read_text())
    assert process.returncode == 5
    eventually(lambda: not is_alive(worker), "the worker has ended")


ORPHAN = """
import os, subprocess, sys, time
# A child that leaves a grandchild behind, which ends at once: its exit is for the first process to take.
leaver = "import os, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'pass']); print(p.pid, flush=True)"
print(subprocess.run([sys.executable, "-c", leaver], capture_output=True, text=True).stdout.strip(), flush=True)
time.sleep(600)
"""


def test_orphans_are_not_left_as_zombies_while_the_engine_runs(launcher: Launcher) -> None:
    process = launcher.start(launcher.program(ORPHAN), "serve", patience=0)
    assert process.stdout is not None
    orphan = int(process.stdout.readline())

    eventually(lambda: not Path(f"/proc/{orphan}").exists(), "the orphan's exit was taken")

    assert process.poll() is None, "and the engine runs on"
    process.terminate()
    process.communicate()


def test_an_orphans_exit_is_never_taken_for_the_engines(launcher: Launcher) -> None:
    program = launcher.program(
        "import os, subprocess, sys\n"
        "for _ in range(20): subprocess.run([sys.executable, '-S', '-c', 'import os; os.fork() and os._exit(0)'])\n"
        "sys.exit(7)"
    )
    process = launcher.start(program, "serve", patience=0)
    process.communicate(timeout=60)
    assert process.returncode == 7


HOLDERS = """
import subprocess, sys, time
wait = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
leave = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', {wait!r}]); time.sleep(0.3)"
for source in (wait, leave):
    subprocess.Popen([sys.executable, "-S", "-c", source])
time.sleep(0.6)
sys.exit(4)
"""


def test_processes_in_other_sessions_end_with_the_engine(launcher: Launcher) -> None:
    """It would hold GPU memory and the launcher's pipes."""
    process = launcher.start(launcher.program(HOLDERS), "serve", patience=0)
    assert process.wait(timeout=30) == 4
    holders = launcher.document("engine.json")["exit"]["lastLines"]
    assert len(holders) == 2
    assert not any(is_alive(int(holder)) for holder in holders)


def test_the_engines_two_outputs_stay_two_and_unchanged(launcher: Launcher) -> None:
    program = launcher.program(
        "import sys\nsys.stdout.write('50 %\\r100 %\\nno end')\nsys.stdout.flush()\nsys.stderr.write('trouble\\n')"
    )
    process = launcher.start(program, "serve", patience=0)
    out, err = process.communicate()

    assert out == "50 %\n100 %\nno end", "this pipe is read as text, which turns a carriage return into a line's end"
    assert "trouble\n" in err
    assert set(launcher.document("engine.json")["exit"]["lastLines"]) == {"100 %", "no end", "trouble"}


@pytest.mark.parametrize(("asked_to_stop", "ended_by"), [(False, "Container"), (True, "Stop")])
def test_a_killed_launcher_is_recorded_by_the_next_one(
    launcher: Launcher, *, asked_to_stop: bool, ended_by: str
) -> None:
    """As the kernel kills when the container exceeds its memory, and the kubelet when a stop takes too long."""
    process = launcher.start(launcher.program(DEAF), "serve", patience=0)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    if asked_to_stop:
        process.terminate()
        eventually(lambda: launcher.document("engine.json").get("ending") == "Stop", "the stop is written down")
    engine = launcher.document("engine.json")["pid"]
    process.kill()
    os.killpg(engine, signal.SIGKILL)
    process.communicate()

    process = launcher.start(launcher.program(TELL), "serve", patience=600)
    wait_for_phase(launcher, "WaitingForFlags")

    record = launcher.document("engine.json")
    assert (record["starts"], record["exit"]["signal"], record["exit"]["endedBy"]) == (2, "SIGKILL", ended_by)
    assert "ending" not in record, "and that was the run before"


SHOWS_SECRETS = """
import os, sys
for word in ("args", *sys.argv[1:], os.environ["DB_PASSWORD"]):
    print("ValueError:", word, flush=True)
    print("ValueError:", word, file=sys.stderr, flush=True)
sys.exit(1)
"""


def test_a_secret_is_shown_nowhere(launcher: Launcher) -> None:
    secrets = ("plugh-one", "plugh-two", "plugh-three")
    program, arguments = launcher.program(SHOWS_SECRETS), ("serve", f"--hf-token={secrets[0]}", "--api-key", secrets[1])
    (termination_log := launcher.run_dir / "termination-log").touch()
    own = {"DB_PASSWORD": secrets[2], "FLASH_TERMINATION_LOG": str(termination_log)}
    process = launcher.start(program, *arguments, patience=0, **own)
    out, err = process.communicate(timeout=20)

    shown = "\n".join((out, err, *(file.read_text() for file in launcher.run_dir.iterdir())))
    assert [secret for secret in secrets if secret in shown] == []
    assert out.count("[redacted]") == 3
    assert termination_log.read_text() == "ValueError: args"


def test_an_engine_whose_record_can_no_longer_be_written_keeps_running(launcher: Launcher) -> None:
    program = launcher.program(
        "import os, shutil, sys\nshutil.rmtree(os.environ['FLASH_RUN_DIR'])\nprint('alive')\nsys.exit(6)"
    )
    process = launcher.start(program, "serve", patience=0)
    out, err = process.communicate()
    assert (process.returncode, out) == (6, "alive\n")
    assert "engine.json not written" in err
