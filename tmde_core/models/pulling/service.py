"""Pulls base models: plans, starts, follows and cancels pulls, and finds those of other processes.

The state of a pull is in its folder (see `staging`), so every process sees the same: the server sees what
`tmde models pull` fetches in a terminal, and finds pulls again after it was restarted. A pull whose process is gone
without a last word counts as interrupted. Starting it again continues from the bytes that are here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec
import structlog

from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError, WorkerFailedError
from tmde_core.models.pulling import hub
from tmde_core.models.pulling.asking import ask_hub, command, environment
from tmde_core.models.pulling.limits import PullLimits
from tmde_core.models.pulling.names import Reference, check_revision, parse_reference
from tmde_core.models.pulling.planning import free_bytes, make_plan, require_room
from tmde_core.models.pulling.staging import PullJob, Staging, find_stagings
from tmde_core.records.base import to_json, utc_now
from tmde_core.records.pulls import PULL_ENDED, PartialPull, Pull, PullPlan, PullRequest, PullState
from tmde_core.settings import Settings
from tmde_core.storage.durable import storage_errors
from tmde_core.storage.events import TERMINAL, Event, FileLog
from tmde_core.storage.locks import FileLock

log = structlog.get_logger(__name__)

MODELS_DIR = "models"
POLL_SECONDS = 0.25
"""The time between two looks at a pull that is followed."""
GRACE_SECONDS = 10.0
"""How long a cancelled pull may take to end by itself."""
KEPT_FOR = timedelta(days=1)
"""How long a finished pull stays in the list."""
FULL_BYTES = 10_000_000
"""A disk with less free space counts as full when the reason of an interruption is sought."""
_STATES: Mapping[str, PullState] = {"complete": "done", "error": "failed", "cancelled": "cancelled"}


class PullService:
    """The pulls of one data directory."""

    def __init__(
        self, settings: Settings, *, environ: Mapping[str, str] | None = None, limits: PullLimits | None = None
    ) -> None:
        """Create the service. It starts nothing.

        Args:
            settings: name the data directory.
            environ: environment variables for the processes that talk to the hub, over those of this process.
            limits: how long a pull waits, and how often it tries.
        """
        self.models = settings.data_path / MODELS_DIR
        self._environ = dict(environ or {})
        self._limits = limits or PullLimits()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def endpoint(self) -> str:
        """The address of the hub: HF_ENDPOINT, or https://huggingface.co.

        Raises:
            InvalidInputError: HF_ENDPOINT is no address.
        """
        return hub.check_endpoint(self._variable("HF_ENDPOINT").rstrip("/") or "https://huggingface.co")

    async def plan(self, request: PullRequest) -> PullPlan:
        """Return what a request would fetch. The hub is asked, and nothing is fetched.

        Raises:
            InvalidInputError: the request names no repository, or contradicts itself.
            NotFoundError: the hub has no such repository, revision or file.
            ConflictError: another base model has the name.
            UnprocessableError: nothing of the repository can be used, or the publisher asks for an agreement.
            UnauthorizedError: the token is wrong.
            RateLimitedError: the hub has had too many requests.
            HubUnreachableError: the hub does not answer.
        """
        reference = self._parse(request)
        revision = check_revision(request.revision) or reference.revision
        listing = await ask_hub(reference.repository, revision, self._limits, self._environ)
        return await asyncio.to_thread(make_plan, request, reference, listing, self.models)

    def require_room(self, plan: PullPlan) -> None:
        """Check that the disk has room for a plan, as `start` does.

        Raises:
            InsufficientStorageError: it has not.
        """
        require_room(plan, self.models)

    async def start(self, wanted: PullPlan | PullRequest) -> Pull:
        """Start to fetch, or continue what was interrupted. The pull ends with this process.

        Raises:
            ConflictError: this base model is being pulled already.
            InsufficientStorageError: the disk has no room.
            WorkerFailedError: the process cannot be started.
            TmdeError: see `plan`.
        """
        plan = await self.plan(wanted) if isinstance(wanted, PullRequest) else wanted
        return await asyncio.to_thread(self._start, plan)

    async def list(self) -> Sequence[Pull]:
        """Return all pulls, the newest first. Finished ones stay in the list for a day."""
        return await asyncio.to_thread(self._list)

    async def get(self, pull_id: str) -> Pull:
        """Return a pull.

        Raises:
            NotFoundError: there is no such pull.
        """
        return await asyncio.to_thread(lambda: self._look(*self._find(pull_id)))

    async def watch(self, pull_id: str) -> AsyncIterator[Pull]:
        """Yield the pull as it is now, and again whenever it has changed, until it has ended.

        Raises:
            NotFoundError: there is no such pull, or it was discarded meanwhile.
        """
        before = None
        while True:
            now = await self.get(pull_id)
            if now != before:
                yield now
            if now.state in PULL_ENDED:
                return
            before = now
            await asyncio.sleep(POLL_SECONDS)

    async def wait(self, pull_id: str) -> Pull:
        """Wait until a pull has ended.

        Raises:
            NotFoundError: there is no such pull.
        """
        last = await self.get(pull_id)
        async for now in self.watch(pull_id):
            last = now
        return last

    async def cancel(self, pull_id: str) -> Pull:
        """End a pull. What was fetched is kept, so that it can be continued.

        Raises:
            NotFoundError: there is no such pull.
            ConflictError: it has ended already.
            WorkerFailedError: its process does not end.
        """
        staging, job = await asyncio.to_thread(self._find, pull_id)
        if self._look(staging, job).state in PULL_ENDED:
            raise ConflictError(f"The pull of {staging.name} has ended already.")
        with storage_errors(staging.folder):
            staging.cancel_file.touch()
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                return await self.wait(pull_id)
        except TimeoutError:
            process = self._processes.get(pull_id)
            if process is None:
                raise WorkerFailedError(
                    f"The pull of {staging.name} does not end. Another process has started it: end that one."
                ) from None
            process.kill()
            return await self.wait(pull_id)

    async def find_partial_pulls(self) -> Sequence[PartialPull]:
        """Return what unfinished pulls have left on the disk, the newest first. Running ones are left out."""
        return await asyncio.to_thread(self._partial)

    async def discard(self, name: str) -> int:
        """Delete what an unfinished pull has left on the disk, and return the bytes that are free again.

        Args:
            name: the name of the base model, or the id of the pull.

        Raises:
            NotFoundError: there is nothing of this name.
            ConflictError: it is being pulled.
        """
        return await asyncio.to_thread(self._discard, name)

    # ------------------------------------------------------------------------------------ starting

    def _parse(self, request: PullRequest) -> Reference:
        reference = parse_reference(request.repository, self.endpoint)
        if request.file and reference.file and request.file != reference.file:
            raise InvalidInputError(
                f"{request.repository[:100]!r} names a file already, and {request.file[:100]!r} is another one.",
                field="file",
            )
        if request.form == "weights" and request.quantization:
            raise InvalidInputError("Weights have no quantisation. Ask for the GGUF form.", field="quantization")
        return reference

    def _start(self, plan: PullPlan) -> Pull:
        staging = Staging(self.models, plan.name)
        with storage_errors(self.models):
            self.models.mkdir(parents=True, exist_ok=True)
        lock = staging.try_lock()
        if lock is None:
            raise ConflictError(
                f"The base model {plan.name} is being pulled already. `tmde models pull` shows it, or wait until it has "
                "ended.",
                name=plan.name,
            )
        with lock:
            require_room(plan, self.models)
            job = PullJob(id=uuid4().hex, plan=plan, started_at=utc_now())
            staging.write_job(job)
            self._processes[job.id] = process = self._launch(staging, lock)
        log.info("pull.started", name=plan.name, repository=plan.repository, pid=process.pid)
        return self._look(staging, job)

    def _launch(self, staging: Staging, lock: FileLock) -> subprocess.Popen[bytes]:
        """Start the worker. It inherits the lock, and ends when this process does: it reads from a pipe to it."""
        limits = to_json(self._limits).decode()
        with staging.log_file.open("ab") as output:
            try:
                process = subprocess.Popen(
                    command("worker", str(self.models), staging.name, limits),
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment(self._environ),
                    start_new_session=True,
                    pass_fds=(lock.fileno(),),
                )
            except OSError as error:
                raise WorkerFailedError(f"The process of the pull cannot be started: {error.strerror}.") from error
        threading.Thread(target=_reap, args=(process,), name=f"pull-{staging.name[:8]}", daemon=True).start()
        return process

    def stop(self) -> None:
        """End the pulls that this process has started. They count as interrupted, and can be continued."""
        for process in self._processes.values():
            _close_pipe(process)
        for process in self._processes.values():
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # ------------------------------------------------------------------------------------- looking

    def _list(self) -> Sequence[Pull]:
        found = []
        for staging in find_stagings(self.models):
            if (job := staging.job()) is None:
                continue
            pull = self._look(staging, job)
            if pull.state == "done" and pull.ended_at and datetime.now(UTC) - pull.ended_at > KEPT_FOR:
                self._forget(staging)
            else:
                found.append(pull)
        return sorted(found, key=lambda pull: pull.started_at, reverse=True)

    def _find(self, pull_id: str) -> tuple[Staging, PullJob]:
        for staging in find_stagings(self.models):
            job = staging.job()
            if job is not None and job.id == pull_id:
                return staging, job
        raise NotFoundError(f"There is no pull with the id {pull_id[:60]!r}.")

    def _look(self, staging: Staging, job: PullJob) -> Pull:
        alive = staging.is_alive()  # before the log is read: a worker writes its last event before it ends
        last = FileLog(staging.events_file).last()
        state, error = self._judge(staging, last, alive=alive)
        data = last.data if last is not None else {}
        plan = job.plan
        done = plan.total_bytes if state == "done" else sum(map(staging.bytes_of, plan.files))
        running = state == "running"
        return Pull(
            id=job.id,
            name=plan.name,
            repository=plan.repository,
            commit=plan.commit,
            form=plan.form,
            state=state,
            started_at=job.started_at,
            ended_at=_time_of(staging.events_file) if state in PULL_ENDED else None,
            bytes_done=done,
            bytes_total=plan.total_bytes,
            bytes_per_second=_number(data.get("bytesPerSecond")) if running else None,
            eta_seconds=_number(data.get("etaSeconds")) if running else None,
            file=str(data.get("file", "")) if running else "",
            message=str(data.get("message", "")) if running else "",
            files=tuple(
                msgspec.structs.replace(file, bytes_done=file.size_bytes if state == "done" else staging.bytes_of(file))
                for file in plan.files
            ),
            error=error,
        )

    def _judge(self, staging: Staging, last: Event | None, *, alive: bool) -> tuple[PullState, str | None]:
        if last is not None and last.type in TERMINAL:
            detail = str(last.data.get("detail") or "") or None
            return _STATES[last.type], detail if last.type == "error" else None
        if alive:
            return ("queued" if last is None else "running"), None
        full = free_bytes(self.models) < FULL_BYTES
        why = "the disk is full" if full else "its process has ended"
        do = "Free some space, then pull" if full else "Pull"
        return "interrupted", f"Interrupted, because {why}. {do} {staging.name} again: it goes on from there."

    def _partial(self) -> Sequence[PartialPull]:
        found = []
        for staging in find_stagings(self.models):
            if staging.is_alive() or not staging.files.exists():
                continue
            job = staging.job()
            plan = job.plan if job else None
            found.append(
                PartialPull(
                    id=job.id if job else staging.name,
                    name=staging.name,
                    repository=plan.repository if plan else "",
                    form=plan.form if plan else "gguf",
                    bytes_done=_bytes_below(staging.files),
                    bytes_total=plan.total_bytes if plan else 0,
                    changed_at=staging.changed_at(),
                )
            )
        return sorted(found, key=lambda one: one.changed_at, reverse=True)

    def _discard(self, name: str) -> int:
        for staging in find_stagings(self.models):
            job = staging.job()
            if name not in (staging.name, job.id if job else staging.name):
                continue
            lock = staging.try_lock()
            if lock is None:
                raise ConflictError(f"The base model {staging.name} is being pulled. Cancel the pull first.")
            with lock:
                freed = _bytes_below(staging.files)
                staging.discard()
            return freed
        raise NotFoundError(f"There is no unfinished pull of {name[:100]!r}.")

    def _forget(self, staging: Staging) -> None:
        lock = staging.try_lock()
        if lock is not None:
            with lock:
                staging.discard()

    def _variable(self, name: str) -> str:
        return self._environ.get(name, os.environ.get(name, ""))


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for a worker, so that it does not become a zombie, and close the pipe by which it sees this process."""
    process.wait()
    _close_pipe(process)


def _close_pipe(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _time_of(path: Path) -> datetime | None:
    with contextlib.suppress(OSError):
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return None


def _bytes_below(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(root) / name).stat().st_size
    return total
