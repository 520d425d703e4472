"""Runs one test of a run again, in a process of its own.

    python -m tools.alone NODE_ID [ARG …]

ARG … are the arguments of that run. Paths among them do not count; NODE_ID begins with an absolute path.
The exit code is 0 only if the test ran and passed.
"""

from __future__ import annotations

import sys

import pytest


class Alone:
    """A pytest plugin that runs one test, whatever the command line asks for."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._passed = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        # Not on the command line: paths stand there already, and which of its words are paths only pytest knows.
        config.args = [self._node_id]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self._passed = report.passed and not hasattr(report, "wasxfail")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and not self._passed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED  # it was skipped, say


def main(node_id: str, arguments: list[str]) -> int:
    """Run the test; a report file that the whole run has written stays as it is."""
    return pytest.main([*arguments, "-n", "0", "--junit-xml="], plugins=[Alone(node_id)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
