"""Small suites of tests in folders of their own, for what runs and shakes tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

ONLY_XDIST = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}
"""Loading the other plugins takes longer than these suites."""


class SmallSuite:
    """A folder with one file of tests, and the means to run it as `./run` would."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / ".ci").mkdir(parents=True)
        (directory / "pytest.ini").write_text("[pytest]\n")

    def write(self, source: str) -> None:
        (self.directory / "test_it.py").write_text(source)

    def start(self, tool: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Begin `./run TOOL ARGUMENT …` on this folder, as the leader of a group of processes."""
        # What the pytest that runs this tells its own tests is not for the pytest that runs there.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        return subprocess.Popen(
            [sys.executable, "-m", f"tools.{tool}", *arguments, self.directory],
            cwd=REPOSITORY,
            env={**kept, **ONLY_XDIST, "COLUMNS": "100", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )

    def run(self, tool: str, *arguments: str, **environment: str) -> tuple[int, str]:
        """The exit code, and all that was printed."""
        with self.start(tool, *arguments, **environment) as process:
            words, _ = process.communicate()
        return process.returncode, words


@pytest.fixture
def suite(tmp_path: Path) -> SmallSuite:
    return SmallSuite(tmp_path / "small suite")
