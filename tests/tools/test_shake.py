"""`./run shake`: processes of a running suite are paused at random, and none stays so."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.tools.conftest import SmallSuite
from tools.shake import Shaker, Suite, verdict

NEVER = sys.float_info.max

SLEEPER = """
import os, signal, subprocess, sys, time
from pathlib import Path
import psutil

def sleeper():
    return subprocess.Popen(["sleep", "1000"], start_new_session=True)

def stopped_and_continued(process):
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    os.waitid(os.P_PID, process.pid, os.WCONTINUED)

def orphan():
    # The shell ends at once; what it started belongs to no test any more.
    script = "sleep 1000 >/dev/null & echo $!"
    done = subprocess.run(["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE, text=True)
    return psutil.Process(int(done.stdout))
"""


def test_processes_in_sessions_of_their_own_are_paused_and_continued(suite: SmallSuite):
    suite.write(f"""{SLEEPER}
def test_child():
    process = sleeper()
    stopped_and_continued(process)
    process.kill()
    process.wait()

def test_orphan():
    process = orphan()
    while process.status() != psutil.STATUS_STOPPED:
        time.sleep(0.001)
    while process.status() == psutil.STATUS_STOPPED:
        time.sleep(0.001)
    process.kill()
""")
    code, words = suite.run("shake", "--seed", "7", "--longest", "0.2", "-n", "2")
    assert code == 0, words
    assert re.search(r"^\d+ pauses, \d+\.\d s in all, --seed 7\. Failed tests: 0\.$", words, re.MULTILINE)


def test_a_failed_test_is_named_with_what_was_paused_and_not_run_again(suite: SmallSuite):
    suite.write(f"""{SLEEPER}
def test_it():
    process = sleeper()
    stopped_and_continued(process)
    process.kill()
    process.wait()
    Path(__file__).with_name("pid").write_text(str(process.pid))
    raise ValueError("it was paused")
""")
    code, words = suite.run("shake", "--longest", "0.2", "-n", "1")
    assert code == 1
    assert words.count("E       ValueError: it was paused") == 1
    pid = (suite.directory / "pid").read_text()
    said = words.partition("Failed tests: 1.\n\n")[2].splitlines()
    assert said[:2] == ["test_it.py::test_it", "    ValueError: it was paused"]
    paused = rf"    paused [+]\d+\.\d\d s from its beginning, for \d+\.\d\d s: process {pid}, sleep 1000 "
    assert [line for line in said if re.fullmatch(paused + r"\(started in test_it\.py::test_it \(call\)\)", line)]


@pytest.mark.parametrize(
    ("source", "arguments", "expected"),
    [
        pytest.param("def test_it(): pass", ("-n", "0"), 0, id="passed"),
        pytest.param("def test_it(): raise ValueError", ("-n", "0"), 1, id="failed"),
        pytest.param("", ("-n", "0"), 5, id="no tests"),
        pytest.param("def test_it(): pass", ("--no-such-option",), 4, id="wrong usage"),
        pytest.param("import os\ndef test_it(): os.kill(os.getpid(), 9)", ("-n", "0"), 128 + 9, id="killed"),
        pytest.param("def test_it(): pass", ("--minutes", "0"), 2, id="no time"),
    ],
)
def test_the_exit_code_is_that_of_the_tests(source: str, arguments: tuple[str, ...], expected: int, suite: SmallSuite):
    suite.write(source)
    code, words = suite.run("shake", "--longest", "0.1", *arguments)
    assert code == expected, words


WAITING = f"""{SLEEPER}
import pytest

@pytest.fixture
def thing():
    left = orphan()
    Path(__file__).with_name("left").write_text(str(left.pid))
    yield
    Path(__file__).with_name("cleaned").touch()

def test_waiting(thing):
    with Path(__file__).with_name("waiting").open("w") as file:
        file.write("x")
    while True:
        signal.pause()
"""


def test_when_the_time_is_up_the_tests_are_ended(suite: SmallSuite):
    suite.write(WAITING)
    (suite.directory / "waiting").touch()
    code, words = suite.run("shake", "--longest", "0.1", "--minutes", "0.05", "-n", "0")
    assert code == 0, words
    assert "Ended by --minutes 0.05." in words
    assert "had to be killed" not in words
    left = suite.directory / "left"
    if left.exists():
        wait_until_gone(int(left.read_text()))


@pytest.mark.parametrize(
    ("code", "number", "faulty", "expected"),
    [
        (0, 0, False, 0),
        (1, 0, True, 1),
        (3, 0, False, 3),
        (None, 0, False, 0),
        (None, 0, True, 1),
        (None, 15, True, 143),
    ],
)
def test_a_fault_before_the_time_was_up_counts(code: int | None, number: int, faulty: bool, expected: int):
    assert verdict(code, number, faulty) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_a_pause_leaves_nothing_stopped(number: signal.Signals, suite: SmallSuite):
    suite.write(WAITING)
    os.mkfifo(suite.directory / "waiting")
    with suite.start("shake", "--longest", "100000", "--seed", "1", "-n", "0") as process:
        of_suite = psutil.Process(process.pid).children
        # The first pause may come before the tests have begun, and lasts longer than anyone waits.
        while not (found := of_suite(recursive=True)) or not any(stopped(one) for one in found):
            assert process.poll() is None
        process.send_signal(number)
        words, _ = process.communicate()
    assert process.returncode == 128 + number, words
    assert f"Ended by {number.name}." in words
    assert "had to be killed" not in words
    for one in found:
        wait_until_gone(one.pid)


def stopped(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.Error:  # it has just ended
        return False


def wait_until_gone(pid: int) -> None:
    """Killed it is; when it has ended, the system says. It may wait for its parent to notice."""
    while psutil.pid_exists(pid):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.001)


# --------------------------------------------------------------------------------------- which processes


@pytest.fixture
def running(suite: SmallSuite, tmp_path: Path) -> Iterator[tuple[Suite, int]]:
    """Tests in the middle of one test, and a process that they left."""
    suite.write(WAITING)
    os.mkfifo(suite.directory / "waiting")
    tests = Suite(["-n", "1", str(suite.directory)], tmp_path / "failures")
    try:
        with (suite.directory / "waiting").open() as waiting:
            assert waiting.read() == "x"
        yield tests, int((suite.directory / "left").read_text())
    finally:
        tests.end()


def test_all_that_belongs_to_the_tests_is_found_and_nothing_else(running: tuple[Suite, int]):
    tests, left = running
    said = {process.pid: tests.describe(process) for process in tests.processes()}
    assert {os.getpid(), os.getppid(), 1}.isdisjoint(said)
    assert said[left] == "sleep 1000 (started in test_it.py::test_waiting (setup))"
    assert {"pytest itself", "a worker of pytest"} <= set(said.values())


def test_a_process_that_a_test_has_stopped_stays_stopped(running: tuple[Suite, int]):
    tests, left = running
    process = psutil.Process(left)
    process.suspend()
    while not stopped(process):
        pass
    shaker = Shaker(random.Random(1), 0.01, NEVER)
    shaker.pause(tests, process, 0.0)
    assert stopped(process)
    assert shaker.pauses == []
    process.resume()
    while stopped(process):
        pass
    shaker.pause(tests, process, 0.0)
    assert [pause.pid for pause in shaker.pauses] == [left]


def test_tests_end_in_good_order_and_leave_no_process(running: tuple[Suite, int], suite: SmallSuite):
    tests, left = running
    Shaker(random.Random(1), 1.0, time.monotonic()).shake(tests)  # its time is up
    assert tests.exit_code() is None
    assert tests.end()
    assert (suite.directory / "cleaned").exists()
    wait_until_gone(left)


def test_tests_that_do_not_end_are_killed(tmp_path: Path, suite: SmallSuite, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tools.shake.GRACE_SECONDS", 0.1)
    suite.write("""
import signal
from pathlib import Path
def test_it():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Path(__file__).with_name("waiting").open("w") as file:
        file.write("x")
    while True:
        signal.pause()
""")
    os.mkfifo(suite.directory / "waiting")
    tests = Suite(["-n", "0", str(suite.directory)], tmp_path / "failures")
    with (suite.directory / "waiting").open() as waiting:
        assert waiting.read() == "x"
    assert not tests.end()
    assert tests.exit_code() == 128 + signal.SIGKILL
