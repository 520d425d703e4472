"""The worker process of a run: started detached, known to be alive or dead without doubt, ended completely.

Life and death are read from the *leash*, a file in the run's directory that is locked before the worker
is started and whose lock the worker inherits (`storage.locks`). The kernel lets go of it when the last process that holds it is
gone, so there is no moment between "started" and "says it is alive" at which a crash of the server could be
misread, no process id that might have been reused, and waiting for the end costs one sleeping thread. Whoever waits is
given the leash: of several processes that watch a run exactly one settles what a death means, and only the holder
may start the next worker.

Whoever belongs to a run carries a mark in the environment, `RUN` or `RUN/ATTEMPT`, which every descendant inherits, one in
a session of its own too. Who ends an attempt must name it: the next one may have begun while the last one is being ended.
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
from tmde_core.storage.locks import FileLock, is_locked

LEASH_FILE = "leash"
LEASH_TRIES, LEASH_PAUSE_SECONDS = 25, 0.02
"""How long a free leash is tried for: `is_alive` of another process holds it for a moment."""
LOG_FILE = "worker.log"
RUN_VARIABLE = "TMDE_TRAINING_RUN"
"""Environment variable of the worker and all its descendants: the id of the run, a slash, the number of the attempt."""

GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL."""
GIVE_UP_SECONDS = 30.0
"""A process that survives SIGKILL for so long hangs in the kernel; waiting longer does not help."""
LONGEST_LOOK_SECONDS = 1.0
"""What a pause between two looks at processes that are being ended counts as at the most."""
POLL_SECONDS = 0.05
"""While ending processes that are not our children: nothing tells us of their end."""

TAIL_BYTES = 256 * 1024
WORDS_LINES = 3
WORDS_CHARACTERS = 400


class Death(NamedTuple):
    """The worker of a run is dead."""

    leash: FileLock
    """Held by the receiver, who must release it."""
    status: int | None
    """Its exit status, where it was our child."""


def take_leash(run_dir: Path) -> FileLock:
    """Take the leash of a run, to hand it to `launch`. Waits while the worker lives, or another process has the leash.

    Raises:
        OSError: the leash cannot be created, or no descriptors are left.
        InsufficientStorageError: the file system has no locks.
    """
    return FileLock.acquire(_leash_of(run_dir))


def try_leash(run_dir: Path) -> FileLock | None:
    """Take the leash of a run whose worker is dead; None when the worker, or someone who settles its end, has it. Blocks briefly."""
    for _ in range(LEASH_TRIES):
        if (leash := FileLock.try_acquire(_leash_of(run_dir))) is not None:
            return leash
        time.sleep(LEASH_PAUSE_SECONDS)
    return None


def is_alive(run_dir: Path) -> bool:
    """Whether the run is being prepared or its worker lives."""
    return is_locked(run_dir / LEASH_FILE)


def mark_of(run_id: object, attempt: int) -> str:
    """What the processes of one attempt carry."""
    return f"{run_id}/{attempt}"


def launch(command: WorkerCommand, mark: str, run_dir: Path, leash: FileLock, niceness: int) -> subprocess.Popen[bytes]:
    """Start the worker in a session of its own; nothing ties it to this process but the directory.

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
    give_way(process.pid, niceness)
    # Reaped in any case, also when nobody watches it.
    threading.Thread(target=process.wait, name=f"reaper-{mark[:8]}", daemon=True).start()
    return process


def give_way(pid: int, niceness: int) -> None:
    """Let all other processes go before one that was just started in a session of its own, and before its later threads."""
    with contextlib.suppress(psutil.Error, OSError):  # it may be over already
        psutil.Process(pid).nice(niceness)
    # Linux shares the processor among sessions first (sched(7), autogroup): niceness counts within a session only.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness))


def death(mark: str, run_dir: Path, process: subprocess.Popen[bytes] | None = None) -> asyncio.Future[Death]:
    """Done when the run's worker is dead and the leash is ours; the error of `take_leash` where it cannot be had.

    The waiting begins now, in a daemon thread, which keeps nobody from exiting. Cancelling the future only stops listening.
    """
    loop = asyncio.get_running_loop()
    over: asyncio.Future[Death] = loop.create_future()

    def tell(death: Death) -> None:
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
            death = Death(take_leash(run_dir), status)
        except (OSError, InsufficientStorageError) as error:  # no descriptors left, say: who waits looks again later
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(fail, error)
            return
        try:
            loop.call_soon_threadsafe(tell, death)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
            death.leash.release()

    threading.Thread(target=wait, name=f"run-{run_dir.name[:8]}", daemon=True).start()
    return over


def end(run_id: str, run_dir: Path, grace_seconds: float = GRACE_SECONDS) -> None:
    """End every process of a run: SIGTERM, and SIGKILL for those that live `grace_seconds` later. Blocks.

    Returns once all are gone and the leash is free.

    Raises:
        WorkerFailedError: something survives SIGKILL, or runs where this process cannot reach it.
    """
    _end(run_id, lambda: not is_alive(run_dir), grace_seconds)


def end_family(mark: str, grace_seconds: float = GRACE_SECONDS) -> None:
    """The same for a run or an attempt, without regard to the leash, which the caller may hold."""
    _end(mark, lambda: True, grace_seconds)


def _end(mark: str, free: Callable[[], bool], grace_seconds: float) -> None:
    elapsed, looked = 0.0, time.monotonic()
    known: dict[int, psutil.Process] = {}
    asked: set[int] = set()
    while True:
        for member in family(mark):
            known[member.pid] = member
        living = [process for process in known.values() if _lives(process)]
        if not living and free():
            return
        # A process that was stopped meanwhile has given nobody a chance: a long pause counts as a short one.
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


def family(mark: str) -> list[psutil.Process]:
    """Every living process of a run or an attempt: those that carry its mark, their descendants, and who shares a session with them."""
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
    """The last lines of the worker's log; empty when it said nothing."""
    try:
        with (run_dir / LOG_FILE).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return []
    # A progress bar rewrites its line; what stands at the end of it is what was seen.
    return [line.rstrip().split("\r")[-1] for line in text.split("\n")][: -1 if text.endswith("\n") else None][-lines:]


def last_words(run_dir: Path) -> str:
    """The end of the worker's log on one line, without blank lines; empty when it said nothing."""
    lines = [line.strip() for line in log_tail(run_dir, 10 * WORDS_LINES)]
    return " / ".join([line for line in lines if line][-WORDS_LINES:])[-WORDS_CHARACTERS:]


def obituary(run_dir: Path, status: int | None, *, of_memory: bool = False) -> str:
    """How a worker ended that died without a word of its own: a sentence, and the end of its log."""
    if of_memory:
        how = "was killed because memory ran out"
    elif status == -signal.SIGKILL:
        how = "was killed (SIGKILL)"
    elif status is not None and status < 0:
        how = f"was ended by signal {-status} ({_signal_name(-status)})"
    elif status:
        how = f"ended with exit status {status} before it was done"
    elif (run_dir / LOG_FILE).exists():
        how = "ended before it was done"
    else:
        return "TMDE ended before the training process was started."
    words = last_words(run_dir)
    said = f" Its log ends: {words}" if words else " It left no message."
    return f"The training process {how}.{said}"


def _leash_of(run_dir: Path) -> Path:
    run_dir.mkdir(parents=True, exist_ok=True)  # a person may have removed it; that must not stop anything
    return run_dir / LEASH_FILE


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        carried = process.environ().get(RUN_VARIABLE, "")
        return carried == mark or carried.startswith(f"{mark}/")
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
