"""Record failed tests, and whether a rerun of these tests would be meaningful, with a pytest plugin.

    python -m tools.failures FILE [ARG …]

This command runs pytest with ARG … and immediately appends each failure to FILE as a line of JSON.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import pytest

LONGEST_SHORT = 200
"""The maximum length of a failure's short text, in characters."""

LONGEST_SECTION = 4000
"""How many characters of a failing test's output are kept, from the end."""


class Failure(msgspec.Struct, frozen=True):
    """The first failure of one test: in set-up, in the test itself or in tear-down."""

    node_id: str
    short: str
    """The failure in one line."""
    text: str
    """The traceback, and the output of the test."""
    begun: float
    """When the test started, in seconds since the epoch."""
    failed: float
    """When the failure was reported, in seconds since the epoch."""


class Failures:
    """Collects results in the main process of a run. The workers of pytest-xdist report to this process."""

    def __init__(self, file: Path | None = None) -> None:
        self.failures: dict[str, Failure] = {}
        """Maps a node id to its failure, in the order of failing."""
        self.outcomes: dict[str, str] = {}
        """Maps a node id to its word in pytest's summary. A test that failed in any phase has "failed"."""
        self.root = Path()
        """The directory that node ids are relative to."""
        self.obstacle = ""
        """A sentence that says why a rerun of the failed tests would be meaningless; empty if it would be meaningful.
        """
        self._begun: dict[str, float] = {}
        self._file = file

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Store the root directory."""
        self.root = session.config.rootpath

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Record when a test starts."""
        self._begun[nodeid] = time.time()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the result of one phase of a test."""
        node_id = report.nodeid
        if report.when == "setup":
            self._begun[node_id] = report.start  # the time that the worker reports; the report arrives later
        if report.failed:
            self.outcomes[node_id] = "failed"
            if node_id not in self.failures:
                self._add(report)
        elif report.when == "call" or report.skipped:
            expected = "x" * hasattr(report, "wasxfail")
            word = {"xskipped": "xfailed"}.get(expected + report.outcome, expected + report.outcome)
            self.outcomes.setdefault(node_id, word)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record an error of collecting as an obstacle."""
        if report.failed:
            self.obstacle = f"{report.nodeid} could not be collected."

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object, error: object | None) -> None:  # noqa: ARG002 - pytest-xdist's names
        """Record the crash of a worker process as an obstacle."""
        if error:
            self.obstacle = "A worker process crashed."

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Record an interrupted run as an obstacle."""
        if session.shouldfail or session.shouldstop:
            self.obstacle = "The run was stopped before its end."

    def _add(self, report: pytest.TestReport) -> None:
        now = time.time()
        failure = Failure(report.nodeid, short(report), text(report), self._begun.get(report.nodeid, now), now)
        self.failures[report.nodeid] = failure
        if self._file is not None:
            with self._file.open("ab") as file:
                file.write(msgspec.json.encode(failure) + b"\n")


def short(report: pytest.TestReport) -> str:
    """Return the failure in one line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash is not None else report.longreprtext).strip().splitlines()
    return (lines[0] if lines else "failed without a word")[:LONGEST_SHORT]


def text(report: pytest.TestReport) -> str:
    """Return the failure with its traceback and the end of the test's output."""
    sections = (f"---- {title} ----\n{content[-LONGEST_SECTION:]}" for title, content in report.sections)
    return "\n".join((report.longreprtext, *sections))


def read(file: Path) -> list[Failure]:
    """Return the failures that a run has added to `file` so far."""
    if not file.exists():
        return []
    return [msgspec.json.decode(line, type=Failure) for line in file.read_bytes().splitlines() if line]


if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[2:], plugins=[Failures(Path(sys.argv[1]))]))
