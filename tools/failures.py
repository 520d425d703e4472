"""A pytest plugin that keeps what failed, and what else decides whether running a test again says anything.

    python -m tools.failures FILE [ARG …]

runs pytest with ARG … and adds each failure to FILE at once, a line of JSON each.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import pytest

LONGEST_SHORT = 200
"""Characters of a failure's short text."""

LONGEST_SECTION = 4000
"""Characters that are kept of what a failing test printed; the last ones."""


class Failure(msgspec.Struct, frozen=True):
    """The first failure of one test: in set-up, in the test itself or in tear-down."""

    node_id: str
    short: str
    """One line."""
    text: str
    """The traceback, and what the test printed."""
    begun: float
    """When the test began, seconds since the epoch."""
    failed: float
    """When this became known, seconds since the epoch."""


class Failures:
    """Collects in the process that leads a run; the workers of pytest-xdist report to it."""

    def __init__(self, file: Path | None = None) -> None:
        self.failures: dict[str, Failure] = {}
        """Node id → failure, in the order of failing."""
        self.outcomes: dict[str, str] = {}
        """Node id → what the summary calls it; a test that failed at any time has "failed"."""
        self.root = Path()
        """What node ids are relative to."""
        self.obstacle = ""
        """Why running the failed tests again would say nothing, as a sentence; empty if it would say something."""
        self._begun: dict[str, float] = {}
        self._file = file

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.root = session.config.rootpath

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._begun[nodeid] = time.time()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        node_id = report.nodeid
        if report.when == "setup":
            self._begun[node_id] = report.start  # a worker's word; when we heard of it is later
        if report.failed:
            self.outcomes[node_id] = "failed"
            if node_id not in self.failures:
                self._add(report)
        elif report.when == "call" or report.skipped:
            expected = "x" * hasattr(report, "wasxfail")
            word = {"xskipped": "xfailed"}.get(expected + report.outcome, expected + report.outcome)
            self.outcomes.setdefault(node_id, word)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.obstacle = f"{report.nodeid} could not be collected."

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object, error: object | None) -> None:  # noqa: ARG002 - pytest-xdist's names
        if error:
            self.obstacle = "A worker process crashed."

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
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
    """The failure in one line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash is not None else report.longreprtext).strip().splitlines()
    return (lines[0] if lines else "failed without a word")[:LONGEST_SHORT]


def text(report: pytest.TestReport) -> str:
    """The failure with its traceback and with the end of what the test printed."""
    sections = (f"---- {title} ----\n{content[-LONGEST_SECTION:]}" for title, content in report.sections)
    return "\n".join((report.longreprtext, *sections))


def read(file: Path) -> list[Failure]:
    """The failures that a run has added to `file` so far."""
    if not file.exists():
        return []
    return [msgspec.json.decode(line, type=Failure) for line in file.read_bytes().splitlines() if line]


if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[2:], plugins=[Failures(Path(sys.argv[1]))]))
