"""`./run test`: failed tests are run once more, each alone; what passes then is unsteady."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.tools.conftest import SmallSuite

WORKERS = ("-n", "2", "--dist", "worksteal")

FAILING_ONCE = """
import os
from pathlib import Path
import pytest

def once(name):
    file = Path(__file__).with_name("seen-" + name)
    runs = file.read_text().splitlines() if file.exists() else []
    file.write_text("\\n".join([*runs, f"{os.getpid()} {os.environ.get('PYTEST_XDIST_WORKER')}"]))
    assert runs, f"{name} fails the first time"
"""

UNSTEADY = f"""{FAILING_ONCE}
@pytest.mark.parametrize("number", range(4), ids=["a [b] c::d//e/./", "ä☃\\n", "-x @file $HOME", "]["])
def test_odd(number):
    once(f"odd{{number}}")

@pytest.fixture
def before():
    once("before")

def test_set_up(before):
    pass

@pytest.fixture
def after():
    yield
    once("after")

class TestClass:
    def test_tear_down(self, after):
        print("said before it failed")

def test_steady():
    once("steady") if Path(__file__).with_name("seen-steady").exists() else None

@pytest.mark.skip
def test_skipped():
    pass

@pytest.mark.xfail
def test_expected():
    raise ValueError

def test_not_chosen():
    once("not-chosen")
"""

IDS = [
    "test_it.py::test_odd[a [b] c::d//e/./]",
    "test_it.py::test_odd[\\xe4\\u2603\\n]",
    "test_it.py::test_odd[-x @file $HOME]",
    "test_it.py::test_odd[][]",
    "test_it.py::test_set_up",
    "test_it.py::TestClass::test_tear_down",
]


def test_what_fails_and_then_passes_alone_is_unsteady_and_the_run_passes(suite: SmallSuite, tmp_path: Path):
    suite.write(UNSTEADY)
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\necho v7-dirty\n")
    git.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    code, words = suite.run("test", *WORKERS, "-k", "not not_chosen", f"--junit-xml={tmp_path}/all.xml", PATH=path)
    assert code == 0, words
    lines = words.splitlines()
    assert re.fullmatch(r"=+ 7 passed, 6 of them unsteady, 1 skipped, 1 xfailed in \d+\.\d\ds =+", lines[-1])
    named = lines[lines.index(" unsteady ".center(100, "=")) :]
    assert {line for line in named if line.startswith("test_it.py::")} == set(IDS)
    assert named[named.index(IDS[4]) + 1] == "    AssertionError: before fails the first time"

    log = (suite.directory / ".ci" / "unsteady.log").read_text()
    heads = re.findall(r"^== \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, commit v7-dirty: (.*)$", log, re.MULTILINE)
    assert sorted(heads) == sorted(IDS)
    assert "AssertionError: before fails the first time" in log
    assert "said before it failed" in log
    assert len(ET.parse(tmp_path / "all.xml").findall(".//testcase")) >= 9  # not that of one test alone


def test_each_is_run_again_in_a_process_of_its_own_without_workers(suite: SmallSuite):
    suite.write(f"{FAILING_ONCE}\ndef test_a():\n    once('a')\n\ndef test_b():\n    once('b')\n")
    assert suite.run("test", "-n", "1")[0] == 0
    first, again = zip(*((suite.directory / f"seen-{name}").read_text().splitlines() for name in "ab"), strict=True)
    assert [line.split()[1] for line in first] == ["gw0", "gw0"]
    assert [line.split()[1] for line in again] == ["None", "None"]
    assert len({line.split()[0] for line in first + again}) == 3


def test_what_fails_twice_fails_the_run_and_both_failures_are_shown(suite: SmallSuite):
    suite.write(f"""{FAILING_ONCE}
def test_once():
    once("once")

def test_always():
    file = Path(__file__).with_name("count")
    runs = len(file.read_text()) if file.exists() else 0
    file.write_text("x" * (runs + 1))
    raise ValueError(f"failure number {{runs + 1}}")
""")
    code, words = suite.run("test", *WORKERS)
    assert code == 1
    assert "E       ValueError: failure number 1" in words
    assert "E       ValueError: failure number 2" in words
    assert "failure number 3" not in words
    assert re.search(r"=+ 1 failed, 1 passed, 1 of them unsteady in .*\n\Z", words)
    log = (suite.directory / ".ci" / "unsteady.log").read_text()
    assert "test_once" in log
    assert "test_always" not in log


def test_what_is_skipped_the_second_time_has_not_passed(suite: SmallSuite):
    suite.write(f"""{FAILING_ONCE}
def test_it():
    once("it")
    pytest.skip("not this time")
""")
    code, words = suite.run("test", "-n", "0")
    assert code == 1
    assert " unsteady " not in words
    assert re.search(r"=+ 1 failed in .*\n\Z", words)


def test_a_log_that_cannot_be_written_is_no_failure(suite: SmallSuite):
    suite.write(f"{FAILING_ONCE}\ndef test_it():\n    once('it')\n")
    (suite.directory / ".ci").rmdir()
    code, words = suite.run("test", "-n", "0")
    assert code == 0
    assert "could not be kept: [Errno 2]" in words


def test_after_a_crash_nothing_is_run_again(suite: SmallSuite):
    suite.write(f"""{FAILING_ONCE}
def test_crash():
    os._exit(9)

def test_once():
    once("once")
""")
    code, words = suite.run("test", *WORKERS)
    assert code == 1
    assert words.endswith("A worker process crashed. No test is run again.\n")
    assert len((suite.directory / "seen-once").read_text().splitlines()) == 1


def test_when_many_tests_fail_none_is_run_again(suite: SmallSuite):
    suite.write(f"""{FAILING_ONCE}
@pytest.mark.parametrize("number", range(21))
def test_it(number):
    once(str(number))
""")
    code, words = suite.run("test", "-n", "0")
    assert code == 1
    assert words.endswith("21 tests failed, more than 20. No test is run again.\n")
    assert len((suite.directory / "seen-0").read_text().splitlines()) == 1


STOPPED_EARLY = f"{FAILING_ONCE}\ndef test_a():\n    once('a')\n\ndef test_b():\n    pass\n"


@pytest.mark.parametrize(
    ("source", "arguments", "expected"),
    [
        pytest.param("", (), 5, id="no tests"),
        pytest.param("def test_it(): pass", ("--no-such-option",), 4, id="wrong usage"),
        pytest.param(STOPPED_EARLY, ("-n", "1", "-x"), 2, id="stopped at the first failure"),
        pytest.param(STOPPED_EARLY, ("-n", "0", "-x"), 1, id="stopped at the first failure, without workers"),
        pytest.param("import nowhere", ("-n", "1"), 1, id="error of collecting"),
        pytest.param("import nowhere", ("-n", "0"), 2, id="error of collecting, without workers"),
        pytest.param("def test_it(): raise KeyboardInterrupt", ("-n", "0"), 2, id="interrupted"),
        pytest.param("import pytest\ndef test_it(): pytest.exit('no', 77)", ("-n", "0"), 77, id="own exit code"),
        pytest.param("def test_it(): assert False", ("--collect-only",), 0, id="collected only"),
    ],
)
def test_every_other_exit_code_is_pytests_own(
    source: str, arguments: tuple[str, ...], expected: int, suite: SmallSuite
):
    suite.write(source)
    code, words = suite.run("test", *arguments)
    assert code == expected, words
    assert "run again, alone" not in words


def test_an_internal_error_is_not_run_away_from(suite: SmallSuite):
    suite.write("def test_it(): pass")
    (suite.directory / "conftest.py").write_text("def pytest_runtest_protocol(): raise ValueError('inside')")
    code, words = suite.run("test", "-n", "0")
    assert code == 3
    assert "run again, alone" not in words


# ----------------------------------------------------------------------------------------- interrupts

WAITING = f"""{FAILING_ONCE}
import signal

def test_before():
    once("before")

@pytest.fixture
def thing():
    yield
    if len(Path(__file__).with_name("seen-it").read_text().splitlines()) == 2:
        Path(__file__).with_name("cleaned").touch()

def test_it(thing):
    once("it")
    with Path(__file__).with_name("waiting").open("w") as file:  # a pipe: open until this process ends
        file.write("x")
        file.flush()
        signal.pause()
"""


@pytest.mark.parametrize(
    ("number", "to_group", "expected"), [(signal.SIGINT, True, 2), (signal.SIGTERM, False, 128 + signal.SIGTERM)]
)
def test_a_signal_while_a_test_is_run_again_ends_both(
    number: signal.Signals, to_group: bool, expected: int, suite: SmallSuite
):
    suite.write(WAITING)
    os.mkfifo(suite.directory / "waiting")
    with suite.start("test", "-n", "0") as process:
        with (suite.directory / "waiting").open() as waiting:
            assert waiting.read(1) == "x"
            if to_group:  # as Ctrl-C does
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            assert waiting.read() == ""
        words, _ = process.communicate()
    assert process.returncode == expected, words
    assert (suite.directory / "cleaned").exists() == to_group
    if to_group:  # what was found until then is not lost
        assert "test_before" in (suite.directory / ".ci" / "unsteady.log").read_text()
        assert re.search(r"=+ 1 failed, 1 passed, 1 of them unsteady in .*\n\Z", words)
