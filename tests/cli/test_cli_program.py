"""The program as a whole: help, what it loads, how it fails."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.core.lora.archive.archives import packed, peft_files
from tmde_core.cli import app

HEAVY = ("rich", "litestar", "nicegui", "torch", "httpx", "stevedore", "uvicorn", "msgspec", "structlog")


def _fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = _fresh(
        "import sys\nfrom tmde_core.cli.app import run\n"
        f"try:\n    run({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert loaded.splitlines()[-1] == "LOADED []"


def test_help_names_every_command(process: Callable[..., Any]) -> None:
    shown = process("--help")
    assert shown.code == 0
    for name, entry in app.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.help)}$", shown.out, re.MULTILINE)


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_can_be_loaded_and_takes_the_data_directory(name: str) -> None:
    entry = app.COMMANDS[name]
    assert isinstance(importlib.import_module(entry.module).command, typer.Typer) or callable(
        importlib.import_module(entry.module).command
    )
    loaded = app._wrap(name, importlib.import_module(entry.module).command)
    for leaf in app._leaves(loaded):
        assert "--data-dir" in [option for parameter in leaf.params for option in parameter.opts], leaf.name


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["traces", "nonsense"],
        ["traces", "list", "--limit", "many"],
        ["serve", "--port", "70000"],
        ["debate"],
        ["debate", "why?", "--file", "questions.jsonl"],
        ["traces", "rate"],
    ],
)
def test_a_usage_error_exits_with_2_and_a_sentence(process: Callable[..., Any], arguments: list[str]) -> None:
    ran = process(*arguments)
    assert ran.code == 2
    assert "Error: " in ran.err
    assert "Traceback" not in ran.err


def test_an_error_of_ours_is_one_line_and_exit_code_1(process: Callable[..., Any]) -> None:
    ran = process("traces", "show", "not-an-id")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "Error: There is no trace with the id 'not-an-id'.\n"


def test_a_broken_settings_file_is_named_with_its_line(process: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tmde.toml").write_text("[debate]\nmax_rounds = 99\n")
    ran = process("traces", "list")
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
    assert "tmde.toml, line 2" in ran.err


def test_a_data_directory_that_cannot_be_made_is_one_sentence(process: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a directory")
    ran = process("lora", "list")
    assert ran.code == 1
    assert "--data-dir" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_an_error_that_nobody_foresaw_is_written_down_and_named(
    tmde: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tmde_core.traces.service import TraceService

    def broken(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(TraceService, "stats", broken)
    ran = tmde("traces", "stats")
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
    (report,) = (tmp_path / "data" / "logs").glob("crash-*.log")
    assert str(report) in ran.err
    assert "ZeroDivisionError: of all things" in report.read_text()


def test_the_data_directory_may_stand_before_or_after_the_command(process: Callable[..., Any], tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert process("traces", "stats", "--data-dir", other).code == 0
    assert (other / "tmde.db").exists()
    assert not (tmp_path / "data").exists()


def test_a_reader_that_goes_away_ends_the_program_quietly(process: Callable[..., Any], tmp_path: Path) -> None:
    lines = "".join(f'{{"query": "question {n}", "finalAnswer": "{"x" * 500}"}}\n' for n in range(2000))
    assert process("traces", "import", "-", stdin=lines).code == 0
    command = [sys.executable, "-m", "tmde_core.cli", "--data-dir", str(tmp_path / "data"), "traces", "export"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as export:
        assert export.stdout is not None
        assert export.stderr is not None
        export.stdout.readline()
        export.stdout.close()
        errors = export.stderr.read()
        assert export.wait(60) in (1, 141)
    assert b"Traceback" not in errors
    assert b"crash" not in errors


def _on_a_terminal(columns: int, data: Path, *arguments: str, **environ: str) -> str:
    """What `tmde …` shows on a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    command = [sys.executable, "-m", "tmde_core.cli", "--data-dir", str(data), *arguments]
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    shown = b""
    with subprocess.Popen(command, stdout=theirs, env={**env, "TERM": "xterm", **environ}) as program:
        os.close(theirs)
        with contextlib.suppress(OSError):  # Linux reports the end of a terminal as an error
            while block := os.read(ours, 65536):
                shown += block
        os.close(ours)
        assert program.wait(60) == 0
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [60, 140])
def test_on_a_terminal_ids_stay_whole_at_any_width(process: Callable[..., Any], tmp_path: Path, columns: int) -> None:
    process("traces", "import", "-", stdin='{"query": "a question", "finalAnswer": "a"}\n')
    (trace,) = process("traces", "list", "--json").json["items"]
    shown = _on_a_terminal(columns, tmp_path / "data", "traces", "list")
    assert trace["id"] in shown
    assert "a question" in shown


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_terminal_that_is_too_narrow_for_a_table_shows_its_last_column_all_the_same(
    process: Callable[..., Any], tmp_path: Path, term: str
) -> None:
    archive = tmp_path / "adapter.tar.gz"
    archive.write_bytes(packed(peft_files(base_model_name_or_path="nobody/nothing")))
    adapter = process("lora", "import", archive, "--json").json
    shown = _on_a_terminal(80, tmp_path / "data", "lora", "history", TERM=term)
    assert adapter["id"] in shown
    assert "from an archive" in shown
    assert "'nobody/nothing'" in shown


def test_colour_is_for_terminals_that_want_it(process: Callable[..., Any], tmp_path: Path) -> None:
    process("traces", "import", "-", stdin='{"query": "q", "finalAnswer": "a"}\n')
    (trace,) = process("traces", "list", "--json").json["items"]
    arguments = (tmp_path / "data", "traces", "show", trace["id"])
    assert "\x1b[1;32ma" in _on_a_terminal(100, *arguments)
    assert "32m" not in _on_a_terminal(100, *arguments, NO_COLOR="1")
    assert "\x1b" not in process(*arguments[1:]).out


async def interrupted(*_: object) -> None:
    """Ctrl-C, in the middle of what this stands for."""
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.Event().wait()


def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch, tmde: Callable[..., Any]) -> None:
    from tmde_core.traces.service import TraceService

    monkeypatch.setattr(TraceService, "stats", interrupted)
    assert tmde("traces", "stats").code == 130


def test_who_interrupts_a_loop_is_told_how_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmde: Callable[..., Any], tmp_path: Path
) -> None:
    from tmde_core.loop.service import Loop

    monkeypatch.setattr(Loop, "run", interrupted)
    lines = (
        json.dumps({"id": split, "split": split, "query": f"What is {split}?"}) for split in ("practice", "held-out")
    )
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    stopped = tmde("loop", tmp_path / "questions.jsonl")
    assert stopped.code == 130
    assert stopped.err.endswith("Stopped. What is done is kept; the same command goes on from here.\n")
