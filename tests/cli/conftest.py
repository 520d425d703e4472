"""Ways to run the command line: as a person does, in a process; or in this one, with a scripted model."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from tmde_core.cli.app import run
from tmde_core.plugins import Plugins
from tmde_core.testing.scripted import ScriptedRuntime, scripted_plugins

ROLES = "".join(f'[roles.{role}]\nruntime = "scripted"\n' for role in ("proposer", "skeptic", "synthesizer", "judge"))


@dataclass(frozen=True)
class Ran:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def command_line(data_dir: Path, *arguments: str | Path) -> list[str]:
    """What a person would type."""
    return [sys.executable, "-m", "tmde_core.cli", "--data-dir", str(data_dir), *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """The environment of a subprocess, without what the person who runs the tests has set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TMDE_", "FINETUNE_"))}
    return {**kept, **more}


Process = Callable[..., Ran]


@pytest.fixture
def process(tmp_path: Path) -> Process:
    """Run `tmde …` in a process of its own, on an empty data directory."""

    def ran(*arguments: str | Path, stdin: str = "", timeout: float = 120) -> Ran:
        done = subprocess.run(
            command_line(tmp_path / "data", *arguments),
            input=stdin,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=timeout,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return ran


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedRuntime:
    """The runtime that plays every role of the command lines that `tmde` runs."""
    runtime = ScriptedRuntime()
    data = tmp_path / "data"
    data.mkdir()
    (data / "tmde.toml").write_text(ROLES)
    load = Plugins.load
    monkeypatch.setattr(Plugins, "load", lambda: scripted_plugins(runtime, load()))
    return runtime


@pytest.fixture
def tmde(tmp_path: Path, scripted: ScriptedRuntime, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ran]]:
    """Run `tmde …` in this process, with the scripted runtime in every role."""

    def ran(*arguments: str | Path) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(["--data-dir", str(tmp_path / "data"), *map(str, arguments)])
        captured = capfd.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    raises = logging.raiseExceptions
    yield ran
    logging.raiseExceptions = raises
    structlog.reset_defaults()
    for handler in logging.getLogger().handlers[:]:
        if isinstance(handler, logging.FileHandler):
            logging.getLogger().removeHandler(handler)
            handler.close()
