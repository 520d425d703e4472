"""Implement `tmde plugins check`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from tmde_core.cli.kit.invocation import settings_of
from tmde_core.cli.kit.logs import log_to_file
from tmde_core.cli.kit.output import JsonFlag, plain, print_json
from tmde_core.errors import PluginUnavailableError, WorkerFailedError

if TYPE_CHECKING:
    from tmde_core.testing.check.findings import Finding

PROCESS = "tmde_core.testing.check"


def command(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(help="A plugin, as `tmde plugins` lists it, or one thing of it, such as judge:length.")
    ],
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", metavar="PATH", help="A small base model; training backends train it."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Check whether an installed plugin keeps the rules of what it provides.

    The check runs the plugin's own code. Training backends really train if a base model is given. The exit status is 1
    if a rule is broken.
    """
    from tmde_core.testing.check.findings import Report

    settings = settings_of(ctx)
    log_to_file(settings)
    if importlib.util.find_spec("pytest") is None:
        raise PluginUnavailableError("Checking a plugin needs pytest. Install it with: pip install 'tmde[testing]'")
    found = []
    for finding in _checked(name, settings.data_path, base_model):
        found.append(finding)
        if not json:
            _print(finding)
    report = Report(plugin=name, ok=not any(one.broken for one in found), things=tuple(found))
    if json:
        print_json(report)
    if not report.ok:
        raise typer.Exit(1)


def _checked(name: str, data_dir: Path, base_model: str | None) -> Iterator[Finding]:
    """Run the checking process and yield its findings, one for each thing that the plugin provides.

    Raises:
        BadParameter: there is no plugin or thing of that name.
        WorkerFailedError: the process itself failed.
    """
    from tmde_core.testing.check.findings import WRONG_USAGE, Begun, Done, Found, Message

    if base_model is not None and Path(base_model).exists():
        base_model = str(Path(base_model).absolute())
    arguments = [sys.executable, "-m", PROCESS, name, str(data_dir), *([base_model] if base_model else [])]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        done = False
        for line in process.stdout:
            match msgspec.json.decode(line, type=Message):
                case Found(finding=finding):
                    yield finding
                case Begun(target=target) if sys.stderr.isatty():
                    typer.echo(f"Checking {target} …", err=True)
                case Done():
                    done = True
        status = process.wait()
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace").strip()
    if status == WRONG_USAGE:
        raise typer.BadParameter(said, param_hint="NAME")
    if status != 0 or not done:
        raise WorkerFailedError(f"The check ended before it was done (exit status {status}). {said[-2000:]}".strip())


def _print(finding: Finding) -> None:
    """Print one line for a thing, one for each broken rule, and one for each reason why rules were not tried."""
    told = [f"{finding.held} rule{'' if finding.held == 1 else 's'} hold{'s' if finding.held == 1 else ''}"]
    if finding.broken:
        told.append(f"{len(finding.broken)} broken")
    if finding.not_tried:
        told.append(f"{finding.not_tried} not tried")
    typer.echo(f"{finding.kind} {finding.name}: {', '.join(told)}")
    for sentence in finding.broken:
        typer.echo(f"  wrong: {plain(sentence)}")
    for sentence in finding.not_run:
        typer.echo(f"  not tried: {plain(sentence)}")
