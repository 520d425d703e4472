"""Commands that plugins bring: listed without importing them, run as TMDE's own, and harmless when they are broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tmde_core.cli.app import COMMANDS
from tmde_core.entry_points import BUILT_IN

MODULE = """
import typer
from tmde_core.sdk.commands import data_dir_of
from tmde_core.sdk.errors import NotFoundError

def command(ctx: typer.Context, name: str = "world", fail: bool = False) -> None:
    '''Greet somebody.'''
    if fail:
        raise NotFoundError(f"There is nobody called {name}.")
    print(f"Hello {name} in {data_dir_of(ctx)}")
"""


ODD = """
import typer

empty = typer.Typer()
grouped = typer.Typer()

def untyped(value: int | str) -> None:
    value = 1

async def later() -> None:
    return

grouped.command("now")(lambda: None)
grouped.command("later")(later)
"""


def install(site: Path, package: str, **commands: str) -> None:
    """A distribution as pip leaves it, with these commands."""
    info = site / f"{package.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\nSummary: Greets people\n")
    lines = [f"{name.replace('_', '-')} = {target}" for name, target in commands.items()]
    (info / "entry_points.txt").write_text("[tmde.commands]\n" + "\n".join(lines) + "\n")


@pytest.fixture
def tmde(tmp_path: Path):
    site = tmp_path / "site"
    install(site, "tmde-greet", greet="greeting:command", broken="greeting_broken:command", serve="greeting:command")
    install(site, "tmde-rival", greet="rival:command", nothing="greeting:MISSING")
    (site / "greeting.py").write_text(MODULE)
    (site / "greeting_broken.py").write_text("import sys\nsys.exit('no')\n")
    odd = {name: f"odd:{name}" for name in ("empty", "untyped", "later", "grouped")}
    install(site, "tmde-odd", **odd)
    (site / "odd.py").write_text(ODD)
    install(site, "tmde-damaged", damaged="greeting:command")
    (site / "tmde_damaged-1.2.dist-info" / "METADATA").write_bytes(b"Name: tmde-damaged\nSummary: \xff\xfe\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-m", "tmde_core.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return run


def test_help_lists_them_with_their_package(tmde):
    shown = tmde("--help").stdout
    _, _, added = shown.partition("Commands of plugins:")
    assert "greet" in added
    assert "Greets people (tmde-greet)" in added
    assert "serve" not in added


def test_a_command_of_a_plugin_runs_as_one_of_ours(tmde, tmp_path: Path):
    ran = tmde("greet", "--name", "Ada", "--data-dir", str(tmp_path / "data"))
    assert (ran.returncode, ran.stdout) == (0, f"Hello Ada in {tmp_path / 'data'}\n")
    assert tmde("--data-dir", str(tmp_path / "other"), "greet").stdout.endswith(f"{tmp_path / 'other'}\n")
    failed = tmde("greet", "--fail")
    assert (failed.returncode, failed.stderr) == (1, "Error: There is nobody called world.\n")
    assert tmde("greet", "--nonsense").returncode == 2


@pytest.mark.parametrize(
    ("name", "told"), [("broken", "cannot be loaded: SystemExit: no."), ("nothing", "cannot be loaded: AttributeError")]
)
def test_a_broken_command_is_one_sentence(tmde, name: str, told: str):
    ran = tmde(name)
    assert ran.returncode == 1
    assert told in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("empty",), "cannot be used as a command: RuntimeError: Could not get a command for this Typer instance"),
        (("untyped",), "cannot be used as a command: AssertionError: "),
        (("later",), "is asynchronous; it must be a plain function"),
        (("grouped", "now"), "is asynchronous in `tmde grouped later`; it must be a plain function"),
    ],
)
def test_what_typer_cannot_take_is_one_sentence(tmde, arguments: tuple[str, ...], told: str):
    ran = tmde(*arguments)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"Error: The command {arguments[0]!r} of the package 'tmde-odd' {told}")
    assert ran.stderr.endswith("Update or uninstall that package.\n")


def test_a_package_with_broken_metadata_is_told_and_the_others_work(tmde):
    shown = tmde("--help")
    assert shown.returncode == 0
    assert "Greets people (tmde-greet)" in shown.stdout
    said = "The package 'tmde_damaged' is damaged: its METADATA cannot be read (UnicodeDecodeError). Reinstall it."
    assert said in tmde("plugins", "--json").stdout


def test_ones_that_collide_are_told_by_tmde_plugins(tmde):
    shown = tmde("plugins", "--json").stdout
    assert "`tmde serve` is a command of TMDE itself" in shown
    assert (
        "The command 'greet' is already provided by the package 'tmde-greet'; that of 'tmde-rival' is left out" in shown
    )


def test_no_plugin_can_take_a_word_of_ours():
    assert set(COMMANDS) == BUILT_IN
