"""Starts the detached worker process of a run, detects whether it is alive, and ends it with all its descendants.

The *leash* shows whether a worker lives. It is a file in the run's directory that is locked before the worker starts.
The worker inherits the lock (`storage.locks`), and the kernel releases it when the last process that holds it has
ended. This has three advantages. A crash of the server cannot be misread, because there is no gap between the start of
the worker and its first sign of life. The check needs no process id, which may have been reused. Waiting for the end
needs only one sleeping thread. A process that waits acquires the leash. If several processes watch a run, exactly one
of them handles the worker's death, and only this holder may start the next worker.

Every process of a run has a mark in its environment, `RUN` or `RUN/ATTEMPT`. All descendants inherit the mark, even in
another session. A caller that ends an attempt must name the attempt, because the next one may have begun meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil

from tmde_core.errors import InsufficientStorageError, WorkerFailedError
from tmde_core.records.training import WorkerCommand
from tmde_core.resources import lower_priority
from tmde_core.sdk.last_words import TRACEBACK, describe_status, drop_noise, find_reason
from tmde_core.storage.locks import FileLock, is_locked

LEASH_FILE = "leash"
LEASH_TRIES, LEASH_PAUSE_SECONDS = 25, 0.02
"""How often and at which interval a free leash is tried: `is_alive` of another process holds the leash for a moment."""
LOG_FILE = "worker.log"
RUN_VARIABLE = "TMDE_TRAINING_RUN"
"""Environment variable of the worker and all its descendants: the id of the run, a slash, the number of the attempt."""

GRACE_SECONDS = 5.0
"""The time between SIGTERM and SIGKILL, seconds."""
GIVE_UP_SECONDS = 30.0
"""The longest wait after SIGKILL, seconds. A process that survives longer hangs in the kernel, and waiting does not
help."""
LONGEST_LOOK_SECONDS = 1.0
"""A longer pause between two checks of ending processes counts as this time, seconds."""
POLL_SECONDS = 0.05
"""The time between two checks of ending processes, seconds. They are not children of this process, so nothing
reports their end."""

TAIL_BYTES = 256 * 1024
LOG_LINES = 200
"""The last lines of a log that are searched for a reason. A traceback may be long."""
WORDS_LINES = 3
WORDS_CHARACTERS = 400


class WorkerExit(NamedTuple):
    """The worker of a run is dead."""

    leash: FileLock
    """The leash, which the receiver must release."""
    status: int | None
    """The worker's exit status if it was a child of this process."""


def take_leash(run_dir: Path) -> FileLock:
    """Acquire the leash of a run in order to pass it to `launch`.

    This function waits while the worker lives or another process holds the leash.

    Raises:
        OSError: the leash cannot be created, or no descriptors are left.
        InsufficientStorageError: the file system has no locks.
    """
    return FileLock.acquire(_leash_of(run_dir))


def try_leash(run_dir: Path) -> FileLock | None:
    """Acquire the leash of a run whose worker is dead; return None if another process holds the leash.

    The holder is the worker, or a process that handles the worker's end. This function blocks briefly.
    """
    for _ in range(LEASH_TRIES):
        if (leash := FileLock.try_acquire(_leash_of(run_dir))) is not None:
            return leash
        time.sleep(LEASH_PAUSE_SECONDS)
    return None


def is_alive(run_dir: Path) -> bool:
    """Return whether the run is being prepared or its worker lives."""
    return is_locked(run_dir / LEASH_FILE)


def make_mark(run_id: object, attempt: int) -> str:
    """Return the mark of the processes of one attempt."""
    return f"{run_id}/{attempt}"


def launch(command: WorkerCommand, mark: str, run_dir: Path, leash: FileLock, niceness: int) -> subprocess.Popen[bytes]:
    """Start the worker in its own session; only the directory connects it to this process.

    Raises:
        WorkerFailedError: the program cannot be started.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **command.env, RUN_VARIABLE: mark}
    with (run_dir / LOG_FILE).open("ab") as log:
        try:
            process = subprocess.Popen(
                list(command.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                close_fds=True,
                pass_fds=(leash.fileno(),),
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise WorkerFailedError(
                f"The training process {command.argv[0] if command.argv else ''!r} cannot be started: {reason}."
            ) from error
    lower_priority(process.pid, niceness)
    # Always wait for the process, even if nothing watches it, so that it does not become a zombie.
    threading.Thread(target=process.wait, name=f"reaper-{mark[:8]}", daemon=True).start()
    return process


def wait_for_exit(
    mark: str, run_dir: Path, process: subprocess.Popen[bytes] | None = None
) -> asyncio.Future[WorkerExit]:
    """Return a future that completes when the run's worker is dead and this process holds the leash.

    The future fails with the error of `take_leash` if the leash cannot be acquired. The waiting begins now, in a daemon
    thread, which does not keep the process from exiting. Cancelling the future only stops listening.
    """
    loop = asyncio.get_running_loop()
    over: asyncio.Future[WorkerExit] = loop.create_future()

    def tell(death: WorkerExit) -> None:
        if over.done():
            death.leash.release()
        else:
            over.set_result(death)

    def fail(error: OSError | InsufficientStorageError) -> None:
        if not over.done():
            over.set_exception(error)

    def wait() -> None:
        status = None
        if process is not None:
            status = process.wait()
            with contextlib.suppress(WorkerFailedError):
                end_family(mark, grace_seconds=0)  # a descendant may hold the leash
        try:
            death = WorkerExit(take_leash(run_dir), status)
        except (OSError, InsufficientStorageError) as error:  # such as no descriptors left; the caller tries again
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(fail, error)
            return
        try:
            loop.call_soon_threadsafe(tell, death)
        except RuntimeError:  # the loop was closed meanwhile, so nothing waits for the result
            death.leash.release()

    threading.Thread(target=wait, name=f"run-{run_dir.name[:8]}", daemon=True).start()
    return over


def end(run_id: str, run_dir: Path, grace_seconds: float = GRACE_SECONDS) -> None:
    """End every process of a run with SIGTERM, and after `grace_seconds` with SIGKILL.

    This function blocks until all processes have ended and the leash is free.

    Raises:
        WorkerFailedError: a process survives SIGKILL, or runs where this process cannot reach it.
    """
    _end(run_id, lambda: not is_alive(run_dir), grace_seconds)


def end_family(mark: str, grace_seconds: float = GRACE_SECONDS) -> None:
    """End every process of a run or an attempt like `end`, but ignore the leash, which the caller may hold."""
    _end(mark, lambda: True, grace_seconds)


def _end(mark: str, free: Callable[[], bool], grace_seconds: float) -> None:
    elapsed, looked = 0.0, time.monotonic()
    known: dict[int, psutil.Process] = {}
    asked: set[int] = set()
    while True:
        for member in find_processes(mark):
            known[member.pid] = member
        living = [process for process in known.values() if _lives(process)]
        if not living and free():
            return
        # This process may have been paused meanwhile, without checking. So a long pause counts as a short one.
        now = time.monotonic()
        elapsed, looked = elapsed + min(now - looked, LONGEST_LOOK_SECONDS), now
        if elapsed > grace_seconds + GIVE_UP_SECONDS:
            raise WorkerFailedError(
                f"The training run {mark} cannot be ended: a process of it survives even SIGKILL. Restart the machine."
                if known
                else f"The training run {mark} cannot be ended from here: its process runs in another container, and does "
                "not see that it should end. Stop that container."
            )
        for process in living:
            with contextlib.suppress(psutil.Error):
                if elapsed >= grace_seconds:
                    process.kill()
                elif process.pid not in asked:
                    process.send_signal(signal.SIGTERM)
                    asked.add(process.pid)
        time.sleep(POLL_SECONDS)


def find_processes(mark: str) -> list[psutil.Process]:
    """Return every living process of a run or an attempt.

    These are the processes with its mark, their descendants, and the processes in the same sessions.
    """
    processes = {process.pid: process for process in psutil.process_iter()}
    marked = [process for process in processes.values() if _carries(process, mark)]
    found = {process.pid: process for process in marked}
    for process in marked:
        with contextlib.suppress(psutil.Error):
            found |= {child.pid: child for child in process.children(recursive=True)}
    sessions = {_session(pid) for pid in found} - {_session(os.getpid()), None}
    found |= {pid: process for pid, process in processes.items() if _session(pid) in sessions}
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _lives(process)]


def log_tail(run_dir: Path, lines: int) -> list[str]:
    """Return the last lines of the worker's log; empty if the log is empty or missing."""
    try:
        with (run_dir / LOG_FILE).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return []
    # A progress bar rewrites its line with carriage returns. Only the text after the last one was visible.
    return [line.rstrip().split("\r")[-1] for line in text.split("\n")][: -1 if text.endswith("\n") else None][-lines:]


def read_last_words(run_dir: Path) -> str:
    """Return the end of the worker's log on one line; empty if the log says nothing.

    Blank lines, warnings and progress bars are left out. After a traceback, only the line of the exception is returned.
    """
    lines = drop_noise(log_tail(run_dir, LOG_LINES))
    if any(TRACEBACK.match(line) for line in lines):
        return find_reason(lines)[-WORDS_CHARACTERS:]
    return " / ".join([line.strip() for line in lines][-WORDS_LINES:])[-WORDS_CHARACTERS:]


def describe_exit(run_dir: Path, status: int | None, *, of_memory: bool = False) -> str:
    """Return a sentence on how a worker ended that wrote no last event, with the end of its log."""
    if status is None and not of_memory and not (run_dir / LOG_FILE).exists():
        return "TMDE ended before the training process was started."
    how = describe_status(status)
    if of_memory:
        how = "was killed because memory ran out"
    elif status == -signal.SIGKILL:
        how = f"{how}: usually the system ran out of memory, or somebody ended the process"
    elif status is None or status > 0:
        how = how if status is None else f"{how} before it was done"
    words = read_last_words(run_dir)
    said = f" Its log ends: {words}" if words else " It left no message."
    return f"The training process {how}.{said}"


def _leash_of(run_dir: Path) -> Path:
    run_dir.mkdir(parents=True, exist_ok=True)  # a person may have removed it; this must not cause an error
    return run_dir / LEASH_FILE


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        carried = process.environ().get(RUN_VARIABLE, "")
        return carried == mark or carried.startswith(f"{mark}/")
    except (psutil.Error, OSError):
        return False  # the process belongs to another user, or has ended


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _lives(process: psutil.Process) -> bool:
    """Return whether a process lives. psutil also compares the creation time, so a reused process id does not count."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
