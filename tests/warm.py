"""Processes that have torch, transformers, peft and the server's libraries loaded when they begin.

Importing them takes a core seven seconds, training a model of a few thousand parameters takes one. So one process imports them, and
forks whoever needs them: each is a process of its own, with its own end. That the command lines start by themselves is shown by the
tests that leave this aside.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory
from unittest.mock import patch

LIBRARIES = [
    *("tmde_cpu.training.trainer", "tmde_cpu.training.preview_worker"),
    *("tmde_core.cli.app", "tmde_core.cli.serve", "tmde_core.api.app", "tmde_core.testing.scripted"),
    *("tmde_cpu.plugin", "tmde_bench_default.plugin", "tmde_runtime_http.plugin"),
    *("pytest", "pydantic", "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto", "uvicorn.lifespan.on"),
]
LONGEST_SECONDS = 300


def start(
    argv: Sequence[str], output: Path, errors: Path, environment: Mapping[str, str] | None = None
) -> ForkServerProcess:
    """Begin what `python -m MODULE …`, `python -c CODE …` or `python FILE …` would; both files are appended to.

    Environment variables that a library reads when it is imported have no effect any more.
    """
    forkserver.set_forkserver_preload(LIBRARIES)
    with patch.dict(os.environ, OMP_WAIT_POLICY="passive"):  # libgomp reads it once
        forkserver.ensure_running()
    process = ForkServerContext().Process(
        target=_become, args=(list(argv[1:]), output, errors, dict(environment or os.environ)), daemon=True
    )
    process.start()
    return process


def run(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> CompletedProcess[str]:
    """The same, to its end."""
    with TemporaryDirectory() as directory:
        output, errors = Path(directory) / "output", Path(directory) / "errors"
        process = start(argv, output, errors, environment)
        process.join(LONGEST_SECONDS)
        if process.exitcode is None:
            process.kill()
        assert process.exitcode is not None, f"{argv} took longer than {LONGEST_SECONDS} s"
        return CompletedProcess(argv, process.exitcode, output.read_text(), errors.read_text())


def _become(arguments: list[str], output: Path, errors: Path, environment: dict[str, str]) -> None:
    for descriptor, file in ((1, output), (2, errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    how, *rest = arguments
    if how == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif how == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(how, run_name="__main__")
