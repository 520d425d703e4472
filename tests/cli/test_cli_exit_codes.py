"""The exit codes of every command: 2 when the command line is wrong, 1 when it is right and cannot be done."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tmde_core.cli import app

WRONG: dict[str, list[str]] = {
    "serve": ["--port", "many"],
    "debate": ["why?", "--rounds", "99"],
    "loop": ["no-such-file.jsonl"],
    "worker": ["--twice"],
    "notifications": ["--limit", "-1"],
    "models": ["--nonsense"],
    "models list": ["--nonsense"],
    "models show": [],
    "models add": ["/no/such/file.gguf"],
    "models remove": [],
    "models use": ["a", "--role", "king"],
    "models test": ["a", "b"],
    "models suggest": ["--nonsense"],
    "models pull": ["no-owner"],
    "backends list": ["--nonsense"],
    "backends install": ["unsloth", "--builds", "cpu"],
    "backends cancel": [],
    "backends doctor": [],
    "backends remove": [],
    "doctor": ["--nonsense"],
    "traces list": ["--limit", "9999"],
    "traces show": [],
    "traces rate": ["x", "many"],
    "traces correct": ["x"],
    "traces withdraw": [],
    "traces delete": [],
    "traces import": ["no-such-file.jsonl"],
    "traces export": ["--nonsense"],
    "traces stats": ["--nonsense"],
    "traces lineage": [],
    "finetune start": ["--set", "bogus=1"],
    "finetune watch": ["a", "b"],
    "finetune list": ["--status", "zz"],
    "finetune show": ["a", "b"],
    "finetune name": ["x"],
    "finetune cancel": ["a", "b"],
    "finetune resume": ["a", "b"],
    "finetune log": ["--lines", "-1"],
    "finetune config": ["bogus=1"],
    "finetune preview": ["--set", "epochs=many"],
    "finetune schedule": ["--set", "61 * * * *"],
    "lora list": ["--nonsense"],
    "lora show": [],
    "lora active": ["--nonsense"],
    "lora activate": [],
    "lora rollback": ["a", "b"],
    "lora deactivate": ["--nonsense"],
    "lora history": ["--at", "yesterday"],
    "lora name": ["x"],
    "lora tag": [],
    "lora delete": [],
    "lora prune": ["--keep", "-1"],
    "lora verify": [],
    "lora compare": ["a"],
    "lora storage": ["--nonsense"],
    "lora export": ["x", "--format", "zip"],
    "lora import": ["no-such-file.tar.gz"],
    "lora ask": ["Who?", "--temperature", "9"],
    "bench run": ["huge"],
    "bench resume": ["a", "b"],
    "bench list": ["--from", "tomorrow"],
    "bench show": ["a", "b"],
    "bench compare": ["a"],
    "bench export": ["--format", "xml"],
    "bench report": ["a", "b"],
    "bench gate": ["a", "b"],
    "bench delete": [],
    "bench calibrate": ["no-such-file.jsonl"],
    "bench schedule": ["--timezone", "Mars/Olympus"],
    "bench questions list": ["--domain", "cooking"],
    "bench questions add": ["Why?", "--domain", "science", "--regex", "("],
    "bench questions import": ["no-such-file.jsonl"],
    "bench questions remove": [],
    "templates list": ["--nonsense"],
    "templates show": [],
    "templates search": ["x", "--limit", "many"],
    "plugins": ["--nonsense"],
    "plugins check": [],
    "plugins settings": ["--nonsense"],
}
"""A wrong command line for each command."""


def _commands() -> set[str]:
    def walk(command: Any, path: str) -> set[str]:
        children = getattr(command, "commands", None) or {}
        own = set() if children and not command.invoke_without_command else {path}
        return own.union(*(walk(child, f"{path} {name}") for name, child in children.items()))

    loaded = (app._wrap(name, importlib.import_module(entry.module).command) for name, entry in app.COMMANDS.items())
    return set[str]().union(*(walk(command, command.name) for command in loaded))


def test_every_command_has_a_wrong_command_line_here() -> None:
    assert set(WRONG) == _commands()


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_command_line_exits_with_2_and_says_why(tmde: Callable[..., Any], command: str) -> None:
    ran = tmde(*command.split(), *WRONG[command])
    assert (ran.code, ran.out) == (2, "")
    assert "Error: " in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["traces", "show", "00000000-0000-4000-8000-000000000000"],
        ["finetune", "start"],
        ["finetune", "cancel"],
        ["lora", "rollback"],
        ["bench", "show"],
        ["templates", "show", "nothing"],
    ],
)
def test_what_the_state_of_things_does_not_allow_exits_with_1(tmde: Callable[..., Any], arguments: list[str]) -> None:
    ran = tmde(*arguments)
    assert ran.code == 1
    assert ran.err.startswith("Error: ")


def test_a_broken_settings_file_is_not_wrong_usage(tmde: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "data" / "tmde.toml").write_text("port = 'x'\n")
    assert tmde("traces", "list").code == 1
    (tmp_path / "data" / "tmde.toml").write_text("port = \n")
    assert tmde("traces", "list").code == 1


def test_a_damaged_database_is_not_wrong_usage(tmde: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "data" / "tmde.db").write_bytes(b"this is no database" * 100)
    assert tmde("traces", "list").code == 1
