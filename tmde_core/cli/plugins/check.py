"""Implement `tmde plugins check`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import psutil
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
    timeout: Annotated[
        int, typer.Option("--timeout", metavar="SECONDS", min=1, help="End the check after this time.")
    ] = 600,
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
    for finding in _checked(name, settings.data_path, base_model, timeout):
        found.append(finding)
        if not json:
            _print(finding)
    report = Report(plugin=name, ok=not any(one.broken for one in found), things=tuple(found))
    if json:
        print_json(report)
    if not report.ok:
        raise typer.Exit(1)


def _checked(name: str, data_dir: Path, base_model: str | None, timeout: int) -> Iterator[Finding]:
    """Run the checking process and yield its findings, one for each thing that the plugin provides.

    Raises:
        BadParameter: there is no plugin or thing of that name.
        WorkerFailedError: the process itself failed, or took longer than `timeout` seconds.
    """
    from tmde_core.testing.check.findings import WRONG_USAGE, Begun, Done, Found, Message, Trying

    if base_model is not None and Path(base_model).exists():
        base_model = str(Path(base_model).absolute())
    arguments = [sys.executable, "-m", PROCESS, name, str(data_dir), *([base_model] if base_model else [])]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process,
        _ended_after(process, timeout) as late,
    ):
        assert process.stdout is not None
        done, at = False, "before it tried a rule"
        for line in process.stdout:
            match msgspec.json.decode(line, type=Message):
                case Found(finding=finding):
                    yield finding
                case Begun(target=target) if sys.stderr.isatty():
                    typer.echo(f"Checking {target} …", err=True)
                case Trying(target=target, rule=rule):
                    at = f"while it tried the rule {rule!r} on the {target}"
                case Done():
                    done = True
        status = process.wait()
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace").strip()
    if late.is_set() and not done:
        raise WorkerFailedError(
            f"The check took longer than {timeout} s and was ended {at}. Give it more time with --timeout SECONDS."
        )
    if status == WRONG_USAGE:
        raise typer.BadParameter(said, param_hint="NAME")
    if status != 0 or not done:
        raise WorkerFailedError(f"The check ended before it was done (exit status {status}). {said[-2000:]}".strip())


@contextmanager
def _ended_after(process: subprocess.Popen[bytes], seconds: int) -> Iterator[threading.Event]:
    """End a process and its descendants if the block takes longer; the event then is set."""
    late = threading.Event()

    def end() -> None:
        late.set()
        with suppress(psutil.Error):
            family = psutil.Process(process.pid)
            for member in (*family.children(recursive=True), family):
                with suppress(psutil.Error):
                    member.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


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
