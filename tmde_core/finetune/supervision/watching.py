"""Watches runs to their end: ends hanging processes, records how each run ended, and starts the next attempt if needed.

Any number of processes may watch the same run. The process that acquires the leash of a dead worker decides what
follows. The other processes then see a run that has ended, or a new worker that holds the leash.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Coroutine
from typing import Any, Literal, cast
from uuid import UUID

import structlog

from tmde_core.errors import InsufficientStorageError, TmdeError
from tmde_core.finetune.limits import Limits
from tmde_core.finetune.store import RunResult, RunStore
from tmde_core.finetune.supervision import supervisor
from tmde_core.finetune.supervision.attempts import (
    AttemptPlan,
    close_last_attempt,
    describe_ending,
    plan_next_attempt,
    plan_resumed_attempt,
)
from tmde_core.finetune.supervision.ending import Ending, close_log, examine
from tmde_core.finetune.supervision.launch import Launcher
from tmde_core.finetune.supervision.watchdog import Watchdog
from tmde_core.observers import Publish
from tmde_core.records.finetune import TRAINING_ENDED, FineTuneRun
from tmde_core.sdk.events import RunFinished
from tmde_core.sdk.worker.run_files import EVENTS_FILE, PAUSE_FILE, is_cancel_requested, record_stop
from tmde_core.storage.events import FileLog
from tmde_core.storage.locks import FileLock

log = structlog.get_logger(__name__)

Process = subprocess.Popen[bytes]

QUEUE_SECONDS = 0.5
"""The time between two checks of a row that another process will change, seconds."""
TELLING_SECONDS = 5.0
"""The time that listeners have to finish when this process ends, seconds."""


class RunMonitor:
    """The watches of this process, at most one per run."""

    def __init__(self, store: RunStore, launcher: Launcher, publish: Publish, *, launches: bool) -> None:
        """Create the watches, without any run.

        Args:
            store: the stored runs.
            launcher: starts the next attempts.
            publish: publishes the end of each run that this process records.
            launches: whether this process may start the next attempt of a watched run.
        """
        self.limits = Limits()
        self.launches = launches
        self.adopts = False
        """Whether this process watches every live run, and not only the runs that it waits for."""
        self._store = store
        self._launcher = launcher
        self._publish = publish
        self._looking = asyncio.Lock()
        self._watches: dict[UUID, asyncio.Task[None]] = {}
        self._settling: dict[UUID, asyncio.Task[Process | None]] = {}
        self._telling: dict[UUID, asyncio.Task[None]] = {}

    def watch(self, run_id: UUID, process: Process | None = None) -> asyncio.Task[None]:
        """Return the task that watches a run to its end; start it if needed."""
        task = self._watches.get(run_id)
        if task is None:
            task = asyncio.create_task(self._see_to_the_end(run_id, process), name=f"run {run_id}")
            self._watches[run_id] = task
            task.add_done_callback(lambda _: self._watches.pop(run_id, None))
        return task

    async def wait(self, run_id: UUID) -> None:
        """Wait until the run has ended.

        If this process recorded the end, also wait until all listeners have received it.
        """
        await asyncio.shield(self.watch(run_id))
        if (telling := self._telling.get(run_id)) is not None:
            await asyncio.shield(telling)

    async def look(self, run: FineTuneRun, *, adopt: bool) -> FineTuneRun:
        """Return the current state of the run; first handle the death of its worker if no task here watches the run.

        A process that does not adopt runs does not touch a run that is to be tried again.
        """
        if run.status in TRAINING_ENDED or run.queued or run.id in self._watches:
            return run
        async with self._looking:  # several tasks may call this at once, but only one can hold the leash
            leash = await asyncio.to_thread(self._free_leash, run.id)
            if leash is not None:
                await self._settle(run.id, supervisor.WorkerExit(leash, None), launches=self.adopts and self.launches)
            elif self.adopts and adopt and run.id not in self._watches:
                self.watch(run.id)
                log.info("finetune.adopted", run=str(run.id))
        return await self._store.get(run.id) or run

    async def cancel_queued(self, run: FineTuneRun) -> bool:
        """End a queued run; return False if a worker is taking the run at this moment."""
        leash = await asyncio.to_thread(self._free_leash, run.id)
        if leash is None:
            return False
        try:
            return await self._record(run, Ending(kind="cancelled", outcome=RunResult(status="cancelled")))
        finally:
            leash.release()

    async def take(self, run: FineTuneRun) -> bool:
        """Start a worker on a queued run; return False if no worker was started.

        No worker starts if another process takes or cancels the run, or if the program cannot be started.
        """
        leash = await asyncio.to_thread(self._free_leash, run.id)
        if leash is None:
            return False
        return await self._busy(run.id, self._begin(run, plan_resumed_attempt(run), leash)) is not None

    async def begin(self, run: FineTuneRun, wanted: AttemptPlan, leash: FileLock) -> None:
        """Start the next worker of a new or resumed run, and release the leash.

        Raises:
            TmdeError: see `Launcher.launch`; the run has failed.
        """
        await self._busy(run.id, self._begin(run, wanted, leash, raises=True))

    async def pause(self, run: FineTuneRun) -> None:
        """Stop the processes of a run at a checkpoint. The run then waits for the next `tmde worker`.

        Raises:
            WorkerFailedError: a process of the run cannot be ended.
        """
        run_dir = self._launcher.run_dir(run.id)
        (run_dir / PAUSE_FILE).touch()
        watch = self.watch(run.id)
        deadline = time.monotonic() + self.limits.pause_seconds
        while time.monotonic() < deadline:
            if watch.done() or not supervisor.is_alive(run_dir):
                break
            await asyncio.sleep(supervisor.POLL_SECONDS)
        await asyncio.to_thread(supervisor.end, str(run.id), run_dir)
        # The watch, or another process that holds the leash, records it.
        deadline = time.monotonic() + TELLING_SECONDS
        while time.monotonic() < deadline:
            now = await self._store.get(run.id)
            if now is None or now.queued or now.status in TRAINING_ENDED:
                break
            await asyncio.sleep(supervisor.POLL_SECONDS)

    async def stop(self) -> None:
        """Stop watching after pending records are written. Workers continue."""
        for watch in (watches := list(self._watches.values())):
            watch.cancel()
        await asyncio.gather(*watches, *self._settling.values(), return_exceptions=True)
        if self._telling:
            _, late = await asyncio.wait(self._telling.values(), timeout=TELLING_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # ------------------------------------------------------------------------------------ watching

    async def _see_to_the_end(self, run_id: UUID, process: Process | None) -> None:
        while True:
            try:
                run = await self._store.get(run_id)
                if run is None or run.status in TRAINING_ENDED:
                    return
                if not run.queued:
                    death = await self._death(run, process)
                    process = await self._settle(run_id, death, launches=self.launches)
            except (TmdeError, OSError) as error:
                # The database or the disk has failed. Keep watching the run and try again.
                log.exception("finetune.unsettled", run=str(run_id), error=str(error))
                process = None
            if process is None:
                await asyncio.sleep(QUEUE_SECONDS)  # queued, ended, or another process starts the next attempt

    async def _death(self, run: FineTuneRun, process: Process | None) -> supervisor.WorkerExit:
        """Wait for the end of the worker, and end the worker if it hangs."""
        mark = supervisor.make_mark(run.id, len(run.attempts))
        over = supervisor.wait_for_exit(mark, self._launcher.run_dir(run.id), process)
        beside = [asyncio.create_task(self._note_beginning(run.id)), asyncio.create_task(self._guard(run.id, mark))]
        try:
            return await over
        except asyncio.CancelledError:
            if over.done() and not over.cancelled() and over.exception() is None:
                over.result().leash.release()
            over.cancel()
            raise
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _note_beginning(self, run_id: UUID) -> None:
        """Record that the run is running once its worker reports something; until then it is pending."""
        events = FileLog(self._launcher.run_dir(run_id) / EVENTS_FILE)
        before = await asyncio.to_thread(events.read)
        # The supervisor writes the mark of a later attempt, not the worker.
        after = before[-1].id if before and "attempt" in before[-1].data else 0
        async for _ in events.follow(after):
            await self._store.running(run_id)
            return

    async def _guard(self, run_id: UUID, mark: str) -> None:
        run_dir = self._launcher.run_dir(run_id)
        dog = Watchdog(run_dir, self.limits)
        while True:
            await asyncio.sleep(self.limits.look_seconds)
            try:
                found = await asyncio.to_thread(dog.look)
                if found is None and not is_cancel_requested(run_dir):
                    continue
                now = await self._store.get(run_id)
                if now is not None and (current := supervisor.make_mark(run_id, len(now.attempts))) != mark:
                    mark, dog = current, Watchdog(run_dir, self.limits)  # another process has started the next attempt
                    continue
                if found is not None and found != "dead":
                    log.warning("finetune.stopped", run=str(run_id), reason=found.reason, detail=found.detail)
                    with contextlib.suppress(InsufficientStorageError):  # a full disk must not keep it from being ended
                        await asyncio.to_thread(record_stop, run_dir, found)
                await asyncio.to_thread(supervisor.end_family, mark)
            except (OSError, TmdeError) as error:  # a failed check must not end the watch
                log.warning("finetune.guard", run=str(run_id), error=str(error))

    # ------------------------------------------------------------------------------------ settling

    def _free_leash(self, run_id: UUID) -> FileLock | None:
        run_dir = self._launcher.run_dir(run_id)
        return None if supervisor.is_alive(run_dir) else supervisor.try_leash(run_dir)

    async def _settle(self, run_id: UUID, death: supervisor.WorkerExit, *, launches: bool) -> Process | None:
        """Record the end, or start the next attempt and return its process.

        Cancelling the caller does not interrupt this.
        """
        return await self._busy(run_id, self._settled(run_id, death, launches=launches))

    async def _busy(self, run_id: UUID, work: Coroutine[Any, Any, Process | None]) -> Process | None:
        task = asyncio.create_task(work, name=f"settle {run_id}")
        self._settling[run_id] = task
        task.add_done_callback(lambda _: self._settling.pop(run_id, None))
        return await asyncio.shield(task)

    async def _settled(self, run_id: UUID, death: supervisor.WorkerExit, *, launches: bool) -> Process | None:
        try:
            run = await self._store.get(run_id)
            if run is None or run.status in TRAINING_ENDED or run.queued:
                return None
            ending = await asyncio.to_thread(
                examine, run_id, self._launcher.run_dir(run_id), self._launcher.adapters, death.status
            )
            if ending.kind == "paused":
                await self._store.requeue(run, close_last_attempt(run.attempts, ending))
                await asyncio.to_thread(self._launcher.give_back_card, run_id)
                log.info("finetune.paused", run=str(run_id))
                return None
            wanted = plan_next_attempt(run, ending, self.limits)
            if wanted is None:
                await self._record(run, describe_ending(run, ending))
                return None
            if not launches:
                return None
            log.warning("finetune.again", run=str(run_id), reason=ending.reason)
            try:
                process = await self._launcher.launch(
                    run, close_last_attempt(run.attempts, ending), wanted, death.leash
                )
            except TmdeError as error:
                why = f"{ending.reason} It could not be started again: {error.detail}"
                failed = Ending(kind=ending.kind, outcome=RunResult(status="failed", error=why))
                await self._record(await self._store.get(run_id) or run, failed)
                return None
            if process is not None:
                self.watch(run_id, process)  # if no task watches the run yet
            return process
        finally:
            death.leash.release()

    async def _begin(
        self, run: FineTuneRun, wanted: AttemptPlan, leash: FileLock, *, raises: bool = False
    ) -> Process | None:
        try:
            if is_cancel_requested(self._launcher.run_dir(run.id)):
                return None
            process = await self._launcher.launch(run, run.attempts, wanted, leash)
        except TmdeError as error:
            failed = Ending(kind="failed", outcome=RunResult(status="failed", error=error.detail))
            await self._record(await self._store.get(run.id) or run, failed)
            if raises:
                raise
            return None
        finally:
            leash.release()
        if process is not None:
            self.watch(run.id, process)
        return process

    async def _record(self, run: FineTuneRun, ending: Ending) -> bool:
        """Record the end of the run, complete its log, and publish the event. The caller must hold the leash."""
        # Complete the log first. If this process dies in between, the next one finds the same ending again.
        await asyncio.to_thread(close_log, self._launcher.run_dir(run.id), run.id, ending)
        recorded = await self._store.finish(run, ending.outcome, close_last_attempt(run.attempts, ending))
        # Before the end is published: what follows a run, such as its benchmark, needs the runtimes.
        await asyncio.to_thread(self._launcher.give_back_card, run.id)
        if recorded:
            log.info("finetune.ended", run=str(run.id), status=ending.outcome.status, error=ending.outcome.error)
            ended = await self._store.get(run.id)
            if ended is not None:
                task = self._publish(_finished(ended))
                self._telling[run.id] = task
                task.add_done_callback(lambda _: self._telling.pop(run.id, None))
        return recorded


def _finished(run: FineTuneRun) -> RunFinished:
    """Return the event for the end of a run."""
    return RunFinished(
        run_id=run.id,
        status=cast("Literal['completed', 'failed', 'cancelled']", run.status),
        triggered_by=run.triggered_by,
        traces_used=run.traces_used,
        metrics=run.metrics,
        error_message=run.error_message,
    )
