"""The worker process of a run: started detached, known to be alive or dead without doubt, ended completely.

Life and death are read from the *leash*, a file in the run's directory that is locked with `flock` before the worker
is started and whose descriptor the worker inherits. The kernel lets go of it when the last process that holds it is
gone, so there is no moment between "started" and "says it is alive" at which a crash of the server could be
misread, no process id that might have been reused, and waiting for the end costs one sleeping thread.

Whoever belongs to a run carries its id in the environment, which every descendant inherits, one in a session of its
own too.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil

from tmde_core.errors import WorkerFailedError
from tmde_core.ports import WorkerCommand

LEASH_FILE = "leash"
LOG_FILE = "worker.log"
RUN_VARIABLE = "TMDE_TRAINING_RUN"
"""Environment variable of the worker and all its descendants: the id of the run."""

NICENESS = 10
"""Debates go first."""
GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL."""
GIVE_UP_SECONDS = 30.0
"""A process that survives SIGKILL for so long hangs in the kernel; waiting longer does not help."""
POLL_SECONDS = 0.05
"""While ending processes that are not our children: nothing tells us of their end."""

TAIL_BYTES = 4096
TAIL_LINES = 3
TAIL_CHARACTERS = 400


def take_leash(run_dir: Path) -> int:
    """Create and lock the leash of a run that is being prepared; returns the descriptor to hand to `launch`."""
    descriptor = os.open(run_dir / LEASH_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def is_alive(run_dir: Path) -> bool:
    """Whether the run is being prepared or its worker lives."""
    try:
        descriptor = os.open(run_dir / LEASH_FILE, os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared, so that two who ask at the same time do not take each other for the worker.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def launch(command: WorkerCommand, run_id: str, run_dir: Path, leash: int) -> subprocess.Popen[bytes]:
    """Start the worker in a session of its own; nothing ties it to this process but the directory.

    Raises:
        WorkerFailedError: the program cannot be started.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **command.env, RUN_VARIABLE: run_id}
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
                pass_fds=(leash,),
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise WorkerFailedError(
                f"The training process {command.argv[0] if command.argv else ''!r} cannot be started: {reason}."
            ) from error
    with contextlib.suppress(psutil.Error, OSError):  # it may be over already
        psutil.Process(process.pid).nice(NICENESS)
    return process


def ended(run_dir: Path, process: subprocess.Popen[bytes] | None = None) -> asyncio.Future[int | None]:
    """Done when the run's worker is dead; the result is its exit status where it was our child.

    The waiting begins now, in a daemon thread, which keeps nobody from exiting and reaps the child in any case.
    Cancelling the future only stops listening.
    """
    loop = asyncio.get_running_loop()
    over: asyncio.Future[int | None] = loop.create_future()

    def tell(status: int | None) -> None:
        if not over.done():
            over.set_result(status)

    def wait() -> None:
        if process is not None:
            status: int | None = process.wait()
        else:
            status = None
            _wait_for_leash(run_dir)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(tell, status)

    threading.Thread(target=wait, name=f"run-{run_dir.name[:8]}", daemon=True).start()
    return over


def end(run_id: str, run_dir: Path, grace_seconds: float = GRACE_SECONDS) -> None:
    """End every process of a run: SIGTERM, and SIGKILL for those that live `grace_seconds` later. Blocks.

    Returns once all are gone and the leash is free.

    Raises:
        WorkerFailedError: something survives SIGKILL.
    """
    begin = time.monotonic()
    known: dict[int, psutil.Process] = {}
    asked: set[int] = set()
    while True:
        for member in family(run_id):
            known[member.pid] = member
        living = [process for process in known.values() if _lives(process)]
        if not living and not is_alive(run_dir):
            return
        elapsed = time.monotonic() - begin
        if elapsed > grace_seconds + GIVE_UP_SECONDS:
            raise WorkerFailedError(
                f"The training run {run_id} cannot be ended: a process of it survives even SIGKILL. Restart the machine."
            )
        for process in living:
            with contextlib.suppress(psutil.Error):
                if elapsed >= grace_seconds:
                    process.kill()
                elif process.pid not in asked:
                    process.send_signal(signal.SIGTERM)
                    asked.add(process.pid)
        time.sleep(POLL_SECONDS)


def family(run_id: str) -> list[psutil.Process]:
    """Every living process of a run: those that carry its id, their descendants, and who shares a session with them."""
    processes = {process.pid: process for process in psutil.process_iter()}
    marked = [process for process in processes.values() if _carries(process, run_id)]
    found = {process.pid: process for process in marked}
    for process in marked:
        with contextlib.suppress(psutil.Error):
            found |= {child.pid: child for child in process.children(recursive=True)}
    sessions = {_session(pid) for pid in found} - {_session(os.getpid()), None}
    found |= {pid: process for pid, process in processes.items() if _session(pid) in sessions}
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _lives(process)]


def last_words(run_dir: Path) -> str:
    """The end of the worker's log on one line, without blank lines; empty when it said nothing."""
    try:
        with (run_dir / LOG_FILE).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    # A progress bar rewrites its line; what stands at the end of it is what was seen.
    lines = [line.split("\r")[-1].strip() for line in text.splitlines()]
    return " / ".join([line for line in lines if line][-TAIL_LINES:])[-TAIL_CHARACTERS:]


def obituary(run_dir: Path, status: int | None) -> str:
    """Why a run failed whose worker died without a word of its own: a sentence, and the end of its log."""
    if status == -signal.SIGKILL:
        how = "was killed (SIGKILL), as the system does when memory runs out"
    elif status is not None and status < 0:
        how = f"was ended by signal {-status} ({_signal_name(-status)})"
    elif status:
        how = f"ended with exit status {status} before it was done"
    elif (run_dir / LOG_FILE).exists():
        how = "ended before it was done"
    else:
        return "TMDE ended before the training process was started. Start the run again."
    words = last_words(run_dir)
    said = f" Its log ends: {words}" if words else " It left no message."
    return f"The training process {how}.{said}"


def _wait_for_leash(run_dir: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(run_dir / LEASH_FILE, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)


def _carries(process: psutil.Process, run_id: str) -> bool:
    try:
        return process.environ().get(RUN_VARIABLE) == run_id
    except (psutil.Error, OSError):
        return False  # another user's, or gone


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _lives(process: psutil.Process) -> bool:
    """A process id that was reused is not taken for the old process: psutil compares the creation time too."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
