"""Run the process that checks a plugin: `python -m tmde_core.testing.check NAME DATA_DIR [BASE_MODEL]`.

The process writes one `Message` per line to its standard output. Output of pytest and the plugin goes to a temporary
file.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import pytest

from tmde_core.errors import InvalidInputError, TmdeError
from tmde_core.plugins import Plugins
from tmde_core.settings import load_settings
from tmde_core.testing.check import installed
from tmde_core.testing.check.findings import WRONG_USAGE, Begun, Done, Finding, Found, Message, Target, Trying
from tmde_core.testing.check.installed import Work
from tmde_core.testing.check.targets import choose
from tmde_core.testing.contracts.rules import described

LOG_LINES = 20
"""How many lines of pytest's output are shown if pytest itself failed."""


class Listener:
    """Collects the test results from pytest and writes one finding for each thing."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output = output
        self._target: Target | None = None
        self._outcomes: dict[str, str] = {}
        self._sentences: dict[str, dict[str, None]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Say which rule is tried, before the plugin's code runs."""
        target: Target = getattr(item, "cls").tmde_target  # noqa: B009 a class is an attribute of functions only
        self.write(Trying(target=target, rule=item.name.removeprefix("test_").replace("_", " ")))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        """Record the outcome of each phase of a test. The worst outcome counts."""
        report: pytest.TestReport = yield
        target: Target = getattr(item, "cls").tmde_target  # noqa: B009 a class is an attribute of functions only
        if target != self._target:
            self.finish()
            self._target = target
            self.write(Begun(target))
        worst = self._outcomes.get(item.nodeid, "passed")
        if report.failed:
            self._outcomes[item.nodeid] = "failed"
            self._say("failed", _sentence(call))
        elif report.skipped and worst != "failed":
            self._outcomes[item.nodeid] = "skipped"
            self._say("skipped", _sentence(call))
        else:
            self._outcomes[item.nodeid] = worst
        return report

    def finish(self) -> None:
        """Write the finding on the last thing."""
        if self._target is None:
            return
        outcomes = list(self._outcomes.values())
        finding = Finding(
            kind=self._target.kind,
            name=self._target.name,
            held=outcomes.count("passed"),
            broken=tuple(self._sentences.get("failed", ())),
            not_run=tuple(self._sentences.get("skipped", ())),
            not_tried=outcomes.count("skipped"),
        )
        self.write(Found(finding))
        self._target, self._outcomes, self._sentences = None, {}, {}

    def _say(self, outcome: str, sentence: str) -> None:
        """Record a sentence once. Tests that need the same thing fail with the same sentence."""
        sentence = sentence.encode("utf-8", "replace").decode("utf-8")  # JSON cannot hold a lone surrogate
        self._sentences.setdefault(outcome, {})[sentence] = None

    def write(self, message: Message) -> None:
        """Write one message and flush it immediately."""
        self._output.write(msgspec.json.encode(message) + b"\n")
        self._output.flush()


def check(name: str, data_dir: str, base_model: str | None, output: IO[bytes], log: IO[bytes]) -> int:
    """Check an installed plugin and return the exit status: 0 if all checks ran, whatever they found.

    Raises:
        TmdeError: the settings are invalid.
    """
    settings = load_settings(Path(data_dir))
    with tempfile.TemporaryDirectory(prefix="tmde-check-", ignore_cleanup_errors=True) as scratch:
        own = Path(scratch) / "data"
        own.mkdir()
        if (models := settings.data_path / "models").is_dir():
            (own / "models").symlink_to(models, target_is_directory=True)
        os.environ["TMDE_DATA_DIR"] = str(own)  # a plugin that reads this variable must not find the user's files
        plugins = Plugins.load()
        try:
            chosen = choose(name, plugins)
        except InvalidInputError as error:
            sys.stderr.write(error.detail + "\n")
            return WRONG_USAGE
        work = Work(plugins, chosen.plugin, chosen.targets, msgspec.structs.replace(settings, data_dir=str(own)))
        listener = Listener(output)
        status = run_contracts(work, Path(scratch), listener, base_model)
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            log.seek(0)
            tail = log.read().decode("utf-8", "replace").splitlines()[-LOG_LINES:]
            sys.stderr.write("\n".join([f"pytest ended with {status}.", *tail]) + "\n")
            return 1
        listener.write(Done())
    return 0


def run_contracts(
    work: Work, scratch: Path, listener: Listener, base_model: str | None, extra: Sequence[str] = ()
) -> int:
    """Run pytest on the contracts, isolated from project settings and from other pytest plugins.

    Args:
        work: what to check.
        scratch: a directory for pytest's own files.
        listener: receives the results.
        base_model: the model that training backends train.
        extra: further arguments for pytest.

    Returns:
        The exit status of pytest.
    """
    installed.set_classes(work)
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    ini = scratch / "pytest.ini"
    ini.write_text("[pytest]\n", encoding="utf-8")
    arguments = ["-c", str(ini), "--rootdir", str(scratch), "--basetemp", str(scratch / "pytest"), "--noconftest"]
    arguments += ["--import-mode=importlib", "-p", "no:cacheprovider", "-p", "tmde_core.testing.plugin"]
    if base_model:
        arguments += ["--tmde-base-model", base_model]
    status = int(pytest.main([*arguments, *extra, str(installed.__file__)], plugins=[listener]))
    listener.finish()
    return status


def _sentence(call: pytest.CallInfo[None]) -> str:
    assert call.excinfo is not None
    error = call.excinfo.value
    if isinstance(error, pytest.fail.Exception | pytest.skip.Exception):
        return " ".join(str(error.msg).split())
    if isinstance(error, TmdeError):
        return error.detail
    return f"The check ended with {described(error)}."


def main(arguments: list[str]) -> int:
    """Run the process and return its exit status."""
    name, data_dir, *rest = arguments
    base_model = rest[0] if rest else None
    with os.fdopen(os.dup(1), "wb") as output, tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 1)
        try:
            return check(name, data_dir, base_model, output, log)
        except TmdeError as error:
            sys.stderr.write(error.detail + "\n")
            return 1


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # a thread that a plugin has blocked must not keep the process alive
