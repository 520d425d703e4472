"""Sees runs to their end: ends processes that hang, records how each ended, begins the next where one is due.

Any number of processes may watch the same run. Whoever is given the leash of a dead worker settles what that means; the
others find a run that has ended, or a new worker that holds the leash.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Coroutine
from typing import Any, Literal, cast
from uuid import UUID

import structlog

from tmde_core.errors import InsufficientStorageError, TmdeError
from tmde_core.finetune.limits import Limits
from tmde_core.finetune.store import Outcome, RunStore
from tmde_core.finetune.supervision import supervisor
from tmde_core.finetune.supervision.attempts import Try, closed, following, resumed, told
from tmde_core.finetune.supervision.ending import Ending, close_log, examine
from tmde_core.finetune.supervision.launch import Launcher
from tmde_core.finetune.supervision.watchdog import Watchdog
from tmde_core.observers import Publish
from tmde_core.records.finetune import ENDED, FineTuneRun
from tmde_core.sdk.events import RunFinished
from tmde_core.sdk.worker.run_files import EVENTS_FILE, note_stopped, wanted_cancelled
from tmde_core.storage.events import FileLog
from tmde_core.storage.locks import FileLock

log = structlog.get_logger(__name__)

Process = subprocess.Popen[bytes]

QUEUE_SECONDS = 0.5
"""Between two looks at a row that another process will change."""
TELLING_SECONDS = 5.0
"""What listeners get to finish when this process ends."""


class Watching:
    """The watches of this process, at most one a run."""

    def __init__(self, store: RunStore, launcher: Launcher, publish: Publish, *, launches: bool) -> None:
        """`launches`: whether this process may start the next attempt of a run that it watches."""
        self.limits = Limits()
        self.launches = launches
        self.adopts = False
        """Whether every live run is watched, not only those that someone here waits for."""
        self._store = store
        self._launcher = launcher
        self._publish = publish
        self._looking = asyncio.Lock()
        self._watches: dict[UUID, asyncio.Task[None]] = {}
        self._settling: dict[UUID, asyncio.Task[Process | None]] = {}
        self._telling: dict[UUID, asyncio.Task[None]] = {}

    def watch(self, run_id: UUID, process: Process | None = None) -> asyncio.Task[None]:
        """The task that sees a run to its end."""
        task = self._watches.get(run_id)
        if task is None:
            task = asyncio.create_task(self._see_to_the_end(run_id, process), name=f"run {run_id}")
            self._watches[run_id] = task
            task.add_done_callback(lambda _: self._watches.pop(run_id, None))
        return task

    async def wait(self, run_id: UUID) -> None:
        """Until the run has ended and, if this process recorded it, everyone has been told."""
        await asyncio.shield(self.watch(run_id))
        if (telling := self._telling.get(run_id)) is not None:
            await asyncio.shield(telling)

    async def look(self, run: FineTuneRun, *, adopt: bool) -> FineTuneRun:
        """The run as it stands, after what its worker's death means was settled, if nobody here watches it.

        A process that does not adopt runs leaves one alone that is to be tried again.
        """
        if run.status in ENDED or run.queued or run.id in self._watches:
            return run
        async with self._looking:  # several may ask at once, of whom one can have the leash
            leash = await asyncio.to_thread(self._free_leash, run.id)
            if leash is not None:
                await self._settle(run.id, supervisor.Death(leash, None), launches=self.adopts and self.launches)
            elif self.adopts and adopt and run.id not in self._watches:
                self.watch(run.id)
                log.info("finetune.adopted", run=str(run.id))
        return await self._store.get(run.id) or run

    async def cancel_queued(self, run: FineTuneRun) -> bool:
        """End a run that waits for a worker; False when one is taking it in this moment."""
        leash = await asyncio.to_thread(self._free_leash, run.id)
        if leash is None:
            return False
        try:
            return await self._record(run, Ending(kind="cancelled", outcome=Outcome(status="cancelled")))
        finally:
            leash.release()

    async def take(self, run: FineTuneRun) -> bool:
        """Start a worker on a queued run; False when somebody else does, or is cancelling it, or it cannot be started."""
        leash = await asyncio.to_thread(self._free_leash, run.id)
        if leash is None:
            return False
        return await self._busy(run.id, self._begin(run, resumed(run), leash)) is not None

    async def begin(self, run: FineTuneRun, wanted: Try, leash: FileLock) -> None:
        """Start the next worker of a run that is new, or that a person resumes; releases the leash.

        Raises:
            TmdeError: see `Launcher.launch`; the run has failed.
        """
        await self._busy(run.id, self._begin(run, wanted, leash, raises=True))

    async def stop(self) -> None:
        """Stop watching. Workers go on; what is being recorded is recorded first."""
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
                if run is None or run.status in ENDED:
                    return
                if not run.queued:
                    death = await self._death(run, process)
                    process = await self._settle(run_id, death, launches=self.launches)
            except (TmdeError, OSError) as error:
                # The database or the disk fails now; the run must not be forgotten for that.
                log.exception("finetune.unsettled", run=str(run_id), error=str(error))
                process = None
            if process is None:
                await asyncio.sleep(QUEUE_SECONDS)  # it waits, has ended, or someone else begins the next attempt

    async def _death(self, run: FineTuneRun, process: Process | None) -> supervisor.Death:
        """Wait for the end of the worker, and bring it about when it hangs."""
        mark = supervisor.mark_of(run.id, len(run.attempts))
        over = supervisor.death(mark, self._launcher.run_dir(run.id), process)
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
        """A run is pending until its worker reports something."""
        events = FileLog(self._launcher.run_dir(run_id) / EVENTS_FILE)
        before = await asyncio.to_thread(events.read)
        # The mark of a later attempt is the supervisor's word, not the worker's.
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
                if found is None and not wanted_cancelled(run_dir):
                    continue
                now = await self._store.get(run_id)
                if now is not None and (current := supervisor.mark_of(run_id, len(now.attempts))) != mark:
                    mark, dog = current, Watchdog(run_dir, self.limits)  # another process has begun the next attempt
                    continue
                if found is not None and found != "dead":
                    log.warning("finetune.stopped", run=str(run_id), reason=found.reason, detail=found.detail)
                    with contextlib.suppress(InsufficientStorageError):  # all the more reason to end it
                        await asyncio.to_thread(note_stopped, run_dir, found)
                await asyncio.to_thread(supervisor.end_family, mark)
            except (OSError, TmdeError) as error:  # a look that fails must not end the watch
                log.warning("finetune.guard", run=str(run_id), error=str(error))

    # ------------------------------------------------------------------------------------ settling

    def _free_leash(self, run_id: UUID) -> FileLock | None:
        run_dir = self._launcher.run_dir(run_id)
        return None if supervisor.is_alive(run_dir) else supervisor.try_leash(run_dir)

    async def _settle(self, run_id: UUID, death: supervisor.Death, *, launches: bool) -> Process | None:
        """Record the end, or begin the next attempt; gives its process. Done to its end whatever is cancelled."""
        return await self._busy(run_id, self._settled(run_id, death, launches=launches))

    async def _busy(self, run_id: UUID, work: Coroutine[Any, Any, Process | None]) -> Process | None:
        task = asyncio.create_task(work, name=f"settle {run_id}")
        self._settling[run_id] = task
        task.add_done_callback(lambda _: self._settling.pop(run_id, None))
        return await asyncio.shield(task)

    async def _settled(self, run_id: UUID, death: supervisor.Death, *, launches: bool) -> Process | None:
        try:
            run = await self._store.get(run_id)
            if run is None or run.status in ENDED or run.queued:
                return None
            ending = await asyncio.to_thread(
                examine, run_id, self._launcher.run_dir(run_id), self._launcher.adapters, death.status
            )
            wanted = following(run, ending, self.limits)
            if wanted is None:
                await self._record(run, told(run, ending))
                return None
            if not launches:
                return None
            log.warning("finetune.again", run=str(run_id), reason=ending.reason)
            try:
                process = await self._launcher.launch(run, closed(run.attempts, ending), wanted, death.leash)
            except TmdeError as error:
                why = f"{ending.reason} It could not be started again: {error.detail}"
                failed = Ending(kind=ending.kind, outcome=Outcome(status="failed", error=why))
                await self._record(await self._store.get(run_id) or run, failed)
                return None
            if process is not None:
                self.watch(run_id, process)  # where this is no watch already
            return process
        finally:
            death.leash.release()

    async def _begin(self, run: FineTuneRun, wanted: Try, leash: FileLock, *, raises: bool = False) -> Process | None:
        try:
            if wanted_cancelled(self._launcher.run_dir(run.id)):
                return None
            process = await self._launcher.launch(run, run.attempts, wanted, leash)
        except TmdeError as error:
            failed = Ending(kind="failed", outcome=Outcome(status="failed", error=error.detail))
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
        """Record the end of the run, complete its log, and tell the listeners; the caller holds the leash."""
        # The log first: whoever finds it complete and the row open comes to the same outcome again.
        await asyncio.to_thread(close_log, self._launcher.run_dir(run.id), run.id, ending)
        recorded = await self._store.finish(run, ending.outcome, closed(run.attempts, ending))
        if recorded:
            log.info("finetune.ended", run=str(run.id), status=ending.outcome.status, error=ending.outcome.error)
            ended = await self._store.get(run.id)
            if ended is not None:
                task = self._publish(_finished(ended))
                self._telling[run.id] = task
                task.add_done_callback(lambda _: self._telling.pop(run.id, None))
        return recorded


def _finished(run: FineTuneRun) -> RunFinished:
    """Return the event that tells of a run's end."""
    return RunFinished(
        run_id=run.id,
        status=cast("Literal['completed', 'failed', 'cancelled']", run.status),
        triggered_by=run.triggered_by,
        traces_used=run.traces_used,
        metrics=run.metrics,
        error_message=run.error_message,
    )
