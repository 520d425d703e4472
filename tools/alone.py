"""Run one test of a run again in a separate process.

    python -m tools.alone NODE_ID [ARG …]

ARG … are the arguments of the run. Paths among them are ignored; NODE_ID begins with an absolute path. The exit code is
0 only if the test ran and passed.
"""

from __future__ import annotations

import sys

import pytest


class Alone:
    """A pytest plugin that runs one test and ignores the paths on the command line."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._passed = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Replace the paths of the command line with the test's node id."""
        # Set here and not on the command line, because the command line contains paths, and only pytest knows which
        # arguments are paths.
        config.args = [self._node_id]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record whether the test passed."""
        if report.when == "call":
            self._passed = report.passed and not hasattr(report, "wasxfail")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Fail the session if the test did not run and pass."""
        if exitstatus == pytest.ExitCode.OK and not self._passed:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED  # for example because it was skipped


def main(node_id: str, arguments: list[str]) -> int:
    """Run the test. The report file of the whole run is not overwritten."""
    return pytest.main([*arguments, "-n", "0", "--junit-xml="], plugins=[Alone(node_id)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
