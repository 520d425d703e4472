"""Run the tests, and run failed tests once more: alone, one at a time, each in a fresh process.

    ./run test [ARG …]

ARG … are passed to pytest. A test that fails twice fails the run. A test that fails and then passes is *unsteady*: it
is listed at the end, its first failure is added to `.ci/unsteady.log`, and the run passes. Nothing is run again after a
crash, an interrupt or an error of collecting, or if many tests failed, because these causes are not unsteadiness.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools.failures import Failure, Failures

MOST = 20
"""The largest number of failed tests that are run again. If more fail, the cause is a change, not chance."""

GRACE_SECONDS = 10.0
"""How long an interrupted test may clean up: as long as pytest-xdist gives its workers."""

LOG = Path(".ci") / "unsteady.log"


def main(arguments: list[str]) -> int:
    """Run the tests. Return pytest's exit code, or 0 if each failed test passed alone."""
    begun = time.monotonic()
    first = Failures()
    code = pytest.main(arguments, plugins=[first])
    if code != pytest.ExitCode.TESTS_FAILED or not first.failures:
        return code
    if len(first.failures) > MOST:
        first.obstacle = first.obstacle or f"{len(first.failures)} tests failed, more than {MOST}."
    if first.obstacle:
        say(f"{first.obstacle} No test is run again.")
        return code
    unsteady = []
    for failure in first.failures.values():
        heading("run again, alone")
        say(failure.node_id)
        with interrupts_noted() as interrupts:
            passed = run_alone(f"{first.root}{os.sep}{failure.node_id}", arguments, interrupts)
        if interrupts:
            code = pytest.ExitCode.INTERRUPTED
            break
        if passed:
            unsteady.append(failure)
    if unsteady:
        report(unsteady, first.root)
    say_total(first, unsteady, time.monotonic() - begun)
    return code if len(unsteady) < len(first.failures) else pytest.ExitCode.OK


def run_alone(node_id: str, arguments: list[str], interrupts: list[int]) -> bool:
    """Return whether the test passes in a separate process.

    Ctrl-C also reaches the separate process, which ends in an orderly way. An interrupt that reached only this process
    is passed on.
    """
    with subprocess.Popen([sys.executable, "-m", "tools.alone", node_id, *arguments]) as process:
        try:
            while True:
                try:
                    return process.wait(GRACE_SECONDS) == pytest.ExitCode.OK
                except subprocess.TimeoutExpired:
                    if interrupts:
                        process.send_signal(signal.SIGINT)
        except SystemExit:
            process.terminate()
            raise


@contextmanager
def interrupts_noted() -> Iterator[list[int]]:
    """Record interrupts without reacting, because the test's process reacts to them. SIGTERM ends both processes."""
    noted: list[int] = []

    def terminated(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda number, _: noted.append(number)),
        signal.SIGTERM: signal.signal(signal.SIGTERM, terminated),
    }
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------------- words


def report(unsteady: Sequence[Failure], root: Path) -> None:
    """Print the unsteady tests and store their first failures."""
    heading("unsteady")
    for failure in unsteady:
        say(f"{failure.node_id}\n    {failure.short}")
    say("These tests failed, and passed when run alone. Each is a fault to be cured, in the test or in what it tests.")
    try:
        keep(unsteady, root)
    except OSError as error:
        say(f"Their failures could not be kept: {error}")
    else:
        say(f"{LOG} keeps their failures.")


def keep(unsteady: Sequence[Failure], root: Path) -> None:
    """Add the failures to the log.

    Raises:
        OSError: the log cannot be written.
    """
    commit = commit_of(root)
    with (root / LOG).open("a", encoding="utf-8") as file:
        for failure in unsteady:
            when = dt.datetime.fromtimestamp(failure.failed, dt.UTC)
            text = textwrap.indent(failure.text.strip(), "    ")
            file.write(f"== {when:%Y-%m-%d %H:%M:%S} UTC, commit {commit}: {failure.node_id}\n{text}\n\n")


def commit_of(root: Path) -> str:
    """Return the tested commit, as git names it. The suffix "-dirty" means that files were changed since."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def say_total(first: Failures, unsteady: Sequence[Failure], seconds: float) -> None:
    """Print the last line: pytest's summary of the whole run, in which an unsteady test counts as passed."""
    outcomes = Counter((first.outcomes | {failure.node_id: "passed" for failure in unsteady}).values())
    parts = []
    for word in ("failed", "passed", "skipped", "xfailed", "xpassed"):
        if outcomes[word]:
            parts.append(f"{outcomes[word]} {word}")
        if word == "passed" and unsteady:
            parts.append(f"{len(unsteady)} of them unsteady")
    heading(f"{', '.join(parts)} in {seconds:.2f}s")


def heading(text: str) -> None:
    """Print a line as wide as the terminal, in pytest's style."""
    say(f" {text} ".center(shutil.get_terminal_size().columns, "="))


def say(text: str) -> None:
    """Print and flush, because the processes that run tests write to the same terminal."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
