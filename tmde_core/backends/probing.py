"""Runs the probe of a backend in the backend's environment. Whatever the interpreter does, the result is a report."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

from tmde_core.records.base import from_json
from tmde_core.sdk.environments import Environment, Lack, ProbeReport

__all__ = ["PROBE_SECONDS", "probe"]

PROBE_SECONDS = 300.0
"""The time limit of a probe. The first import of PyTorch from a slow disk takes a minute."""
MAX_BYTES = 16 * 2**20
"""A probe that prints more is ended. Warnings of libraries are some kilobytes."""
KEPT_BYTES = 2**16
"""How much of the output's end is kept. The report is the last line."""
DRAIN_SECONDS = 2.0
"""The time to read the last output of a probe that has ended. A process that it started may keep the pipe open."""
POLL_SECONDS = 0.05
"""The time between two looks whether the probe has ended."""
WORD_LENGTH = 300
"""The longest piece of an error message that is repeated."""

WORKER_PACKAGES = ("msgspec", "pluggy", "psutil", "structlog")
"""What the worker kit needs in every environment."""


async def probe(environment: Environment) -> ProbeReport:
    """Run the probe and return its report. A probe that fails is a report too."""
    try:
        process = await asyncio.create_subprocess_exec(
            *environment.argv(environment.spec.probe),
            env={**os.environ, **environment.variables},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # its child processes end with it
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return _failed(environment, f"{environment.interpreter} cannot be run ({why})")
    assert process.stdout is not None
    assert process.stderr is not None
    out, errors = bytearray(), bytearray()
    reading: asyncio.Future[tuple[bool, bool]] = asyncio.gather(
        _read_end(process.stdout, out, process.pid), _read_end(process.stderr, errors, process.pid)
    )
    ending: asyncio.Future[None] = asyncio.ensure_future(_wait_for_exit(process))
    both: set[asyncio.Future[Any]] = {reading, ending}
    try:
        done, _ = await asyncio.wait(both, timeout=PROBE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return _failed(
                environment,
                f"its probe gave no answer in {PROBE_SECONDS:.0f} s",
                "Look whether the driver hangs: `nvidia-smi`.",
            )
        _kill(process.pid)  # what it has started and left behind
        await asyncio.wait(both, timeout=DRAIN_SECONDS)
        if reading.done() and not all(reading.result()):
            return _failed(environment, f"its probe printed more than {MAX_BYTES // 2**20} MB, and no report")
    finally:
        _kill(process.pid)
        await asyncio.wait(both, timeout=DRAIN_SECONDS)
        reading.cancel()
        ending.cancel()
    return _read_report(environment, bytes(out), bytes(errors), process.returncode)


async def _wait_for_exit(process: asyncio.subprocess.Process) -> None:
    """Wait until a process has ended. `Process.wait` also waits for those that hold its output open."""
    while process.returncode is None:  # noqa: ASYNC110 (asyncio has no event for this)
        await asyncio.sleep(POLL_SECONDS)


async def _read_end(stream: asyncio.StreamReader, kept: bytearray, session: int) -> bool:
    """Read a stream, and keep its end. If there is too much of it, end the probe, and return False."""
    seen = 0
    while chunk := await stream.read(KEPT_BYTES):
        seen += len(chunk)
        kept += chunk
        del kept[:-KEPT_BYTES]
        if seen > MAX_BYTES:
            _kill(session)  # the rest in the pipe is read, so that the pipe is closed
    return seen <= MAX_BYTES


def _kill(session: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)


def _read_report(environment: Environment, out: bytes, errors: bytes, code: int | None) -> ProbeReport:
    lines = out.decode(errors="replace").strip().splitlines()
    with contextlib.suppress(Exception):
        return from_json(lines[-1].encode(), ProbeReport)
    said = errors.decode(errors="replace").strip().splitlines()
    last = _plain(said[-1]) if said else f"its probe printed no report (exit code {code})"
    if any(f"No module named '{name}'" in last for name in WORKER_PACKAGES):
        return _failed(environment, last, f"Install {', '.join(WORKER_PACKAGES)} into this environment.")
    return _failed(environment, last)


def _plain(text: str) -> str:
    """Return one line of another program without control characters, and not longer than people read."""
    plain = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return plain if len(plain) <= WORD_LENGTH else f"{plain[: WORD_LENGTH - 1]}…"


def _failed(environment: Environment, why: str, remedy: str = "") -> ProbeReport:
    if not remedy and environment.is_foreign:
        remedy = f"Name another interpreter in the setting backends.{environment.name}.python, or remove this setting."
    elif not remedy and environment.is_built_in:
        remedy = "Set TMDE up anew: `./run setup`."
    elif not remedy:
        remedy = f"Install it anew: `tmde backends remove {environment.name}`, then install."
    return ProbeReport(
        python="", lacks=(Lack(what=f"The environment does not work: {why.rstrip('.')}.", remedy=remedy),)
    )
