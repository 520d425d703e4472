"""Training runs: started, watched, cancelled, and told the truth about after a crash."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import structlog

from tmde_core.errors import ConflictError, NotFoundError
from tmde_core.finetune.dataset.leaks import LeakCheck, Protected
from tmde_core.finetune.dataset.selection import Selection, require_enough, select
from tmde_core.finetune.ranges import checked
from tmde_core.finetune.store import RunStore
from tmde_core.finetune.supervision import supervisor
from tmde_core.finetune.supervision.attempts import first_try, resumed
from tmde_core.finetune.supervision.launch import Launcher
from tmde_core.finetune.supervision.watching import QUEUE_SECONDS, Watching
from tmde_core.lora.files.store import AdapterStore
from tmde_core.observers import Publish
from tmde_core.plugins import context_for
from tmde_core.prompts import template_text
from tmde_core.records.base import Record, utc_now
from tmde_core.records.finetune import ENDED, FineTuneConfig, FineTuneRun, Progress, RunStatus
from tmde_core.records.runtimes import Availability
from tmde_core.records.traces import Trace
from tmde_core.sdk.training import TrainingBackend
from tmde_core.sdk.worker.kit import RunEvents
from tmde_core.sdk.worker.run_files import CANCEL_FILE, EVENTS_FILE, STOPPED_FILE
from tmde_core.settings import LiveSettings
from tmde_core.storage.events import FileLog
from tmde_core.traces.service import TraceService
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

Runs = list[FineTuneRun]
"""The class below has a method called `list`, which would hide the type."""


class BackendReport(Record):
    """One training backend, and whether it can work here."""

    name: str
    summary: str
    plugin: str | None
    availability: Availability
    environment: str
    """The directory of the Python environment that its workers run in."""


class FineTuneService:
    """The training runs of one data directory.

    A worker outlives the process that started it. Whoever has the directory open can read how a run stands, and records an end
    that it finds. Only the server, a `tmde worker`, and who waits for a run start a worker anew that has died.
    """

    def __init__(
        self,
        store: RunStore,
        settings: LiveSettings,
        workspace: Workspace,
        traces: TraceService,
        adapters: AdapterStore,
        protected: Callable[[], Awaitable[Sequence[Protected]]],
        publish: Publish,
    ) -> None:
        """Build it on its stores.

        Args:
            protected: the benchmark's questions as they are now, which are never trained on.
            publish: tells of each run whose end this process records.
        """
        self._protected = protected
        self._settings = settings
        self._workspace = workspace
        self._traces = traces
        self._store = store
        self._launcher = Launcher(settings.started, workspace, adapters, store)
        self.watching = Watching(store, self._launcher, publish, launches=not self._enqueues)
        self._starting = asyncio.Lock()
        self._ends: dict[UUID, asyncio.Task[FineTuneRun]] = {}

    # ------------------------------------------------------------------------------ configuration

    def config(self) -> FineTuneConfig:
        """The hyperparameters that a run has unless it is given others."""
        return self._settings.current.finetune

    async def set_config(self, config: FineTuneConfig) -> FineTuneConfig:
        """Change the default hyperparameters, here and in the settings file.

        Raises:
            InvalidInputError: a value is out of its range, or there is no such backend.
            ConflictError: an environment variable sets one of them.
            InsufficientStorageError: the file cannot be written; nothing has changed.
        """
        config = checked(config)
        self._workspace.plugins.backends.choose(config.backend, "backend")
        await self._settings.change({"finetune": msgspec.to_builtins(config)})
        return self.config()

    def backends(self) -> list[BackendReport]:
        """Every backend, available or why not."""
        return [
            BackendReport(
                name=descriptor.name,
                summary=descriptor.summary,
                plugin=self._workspace.plugins.backends.provider(descriptor.name),
                availability=self._availability(descriptor.name),
                environment=descriptor.environment,
            )
            for descriptor in self._workspace.plugins.backends
        ]

    def _availability(self, name: str) -> Availability:
        try:
            descriptor = self._workspace.plugins.backends.get(name)
            return descriptor.create(context_for(descriptor, self._workspace.settings)).availability()
        except Exception as error:  # a plugin's own defect must not hide the other backends
            return Availability(ok=False, reason=f"{type(error).__name__}: {error}")

    # ---------------------------------------------------------------------------------- starting

    async def selection(self, config: FineTuneConfig) -> Selection:
        """What a run with this configuration would be trained on now, and what is left out and why."""
        traces = await self._traces.eligible(config.min_quality_score)
        texts = {template.name: template_text(template) for template in await self._workspace.templates.list()}

        def templates_text(names: Sequence[str]) -> str:
            return "\n\n".join(texts[name] for name in names if name in texts)

        withdrawn = await self._traces.withdrawn(config.min_quality_score)
        protected = await self._protected()
        return await asyncio.to_thread(lambda: select(traces, templates_text, LeakCheck(protected), withdrawn))

    async def start(self, config: FineTuneConfig | None = None, triggered_by: str = "user") -> FineTuneRun:
        """Freeze a dataset and start a worker on it, detached. Returns at once; the run is pending.

        Where the settings leave training to a `tmde worker`, the run is queued for it instead.

        Raises:
            ConflictError: a run is in progress.
            PluginUnavailableError: the backend cannot work here.
            InsufficientTracesError: too few good traces; context has `current` and `required`.
            InsufficientStorageError: too little disk.
            InvalidInputError: a value is out of its range, there is no such backend, or the base model does not exist or cannot be trained.
            WorkerFailedError: the worker cannot be started.
        """
        config = checked(config or self.config())
        async with self._starting:
            await self._require_idle()
            await self._launcher.ready_backend(config.backend)
            selection = await self.selection(config)
            require_enough(selection, config)
            await asyncio.to_thread(self._launcher.require_space)
            run_id = uuid4()
            run_dir = self._launcher.make_directory(run_id)
            leash = supervisor.take_leash(run_dir)
            try:
                dataset = await self._launcher.prepare(run_id, config, selection)
                run = FineTuneRun(
                    id=run_id,
                    started_at=utc_now(),
                    traces_used=len(selection),
                    train_examples=dataset.train_examples,
                    val_examples=dataset.val_examples,
                    base_model=config.base_model,
                    config=config,
                    triggered_by=triggered_by,
                    dataset_hash=dataset.sha256,
                    queued=self._enqueues,
                )
                train = [example.trace_id for example in selection.train]
                await self._store.insert(run, train, [example.trace_id for example in selection.val])
            except BaseException:
                leash.release()
                shutil.rmtree(run_dir, ignore_errors=True)
                raise
            log.info("finetune.started", run=str(run_id), examples=len(selection), queued=run.queued)
            if run.queued:
                leash.release()
            else:
                await self.watching.begin(run, first_try(config), leash)
        return await self._store.get(run_id) or run

    async def resume(self, run_id: UUID) -> FineTuneRun:
        """Go on with a run that failed or was cancelled, from its newest complete checkpoint: same id, data and log.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: it did not fail and was not cancelled, has no complete checkpoint, or another is in progress.
            PluginUnavailableError, InsufficientStorageError, InvalidInputError, WorkerFailedError: see `start`.
        """
        async with self._starting:
            run = await self.get(run_id)
            self._launcher.require_resumable(run)
            await self._require_idle()
            await self._launcher.ready_backend(run.config.backend)
            await asyncio.to_thread(self._launcher.require_space)
            leash = await asyncio.to_thread(supervisor.try_leash, self.run_dir(run_id))
            if leash is None:
                raise ConflictError(f"The training run {run_id} is still being ended. Try again in a moment.")
            try:
                (self.run_dir(run_id) / CANCEL_FILE).unlink(missing_ok=True)
                (self.run_dir(run_id) / STOPPED_FILE).unlink(missing_ok=True)
                if self._enqueues:
                    RunEvents(self.run_dir(run_id) / EVENTS_FILE).log("It waits for a worker to resume it.")
                    await self._store.enqueue(run)
            except BaseException:
                leash.release()
                raise
            log.info("finetune.resumed", run=str(run_id), queued=self._enqueues)
            if self._enqueues:
                leash.release()
            else:
                await self.watching.begin(run, resumed(run), leash)
        return await self._store.get(run_id) or run

    def resumable(self, run: FineTuneRun) -> bool:
        """Whether the run has what `resume` needs. Looks into its directory."""
        try:
            self._launcher.require_resumable(run)
        except ConflictError:
            return False
        return True

    async def ready_backend(self, name: str) -> TrainingBackend:
        """The backend, able to work here.

        Raises:
            InvalidInputError: no such backend; the detail lists those there are.
            PluginUnavailableError: it lacks something.
        """
        return await self._launcher.ready_backend(name)

    async def require_free(self) -> None:
        """Refuse while a run is in progress, or the disk has no room for one.

        Raises:
            ConflictError: a run is in progress.
            InsufficientStorageError: too little disk.
        """
        await self._require_idle()
        await asyncio.to_thread(self._launcher.require_space)

    async def _require_idle(self) -> None:
        if (other := await self.current()) is not None:
            raise ConflictError(
                f"The training run {other.id} is in progress. Wait for its end, or cancel it.", runId=str(other.id)
            )

    # ----------------------------------------------------------------------------------- reading

    def run_dir(self, run_id: UUID) -> Path:
        """Where the run's files are, or would be."""
        return self._launcher.run_dir(run_id)

    async def get(self, run_id: UUID) -> FineTuneRun:
        """One run, as it stands.

        Raises:
            NotFoundError: there is none with that id.
        """
        run = await self._store.get(run_id)
        if run is None:
            raise NotFoundError(f"There is no training run with the id {run_id}.")
        return await self._looked_at(run)

    async def list(self, limit: int = 50, offset: int = 0, status: RunStatus | None = None) -> tuple[Runs, int]:
        """Runs, newest first, and how many there are in all."""
        await self.current()
        return await self._store.page(limit, offset, status)

    async def current(self) -> FineTuneRun | None:
        """The run in progress, if there is one."""
        run = await self._store.live()
        if run is not None:
            run = await self._looked_at(run)
        return run if run is not None and run.status not in ENDED else None

    def events(self, run_id: UUID) -> FileLog:
        """The run's durable event log. Who follows it hears of the end when the run has ended: another may be started then.

        Raises:
            NotFoundError: there is no such run.
        """
        if not self.run_dir(run_id).is_dir():
            raise NotFoundError(f"There is no training run with the id {run_id}.")
        return FileLog(self.run_dir(run_id) / EVENTS_FILE, lambda: self._has_ended(run_id))

    async def _has_ended(self, run_id: UUID) -> bool:
        """Whether the end of a run is on record. Of many who ask at once one looks."""
        looking = self._ends.get(run_id)
        if looking is None:
            looking = self._ends[run_id] = asyncio.create_task(self.get(run_id), name=f"end of {run_id}")
            looking.add_done_callback(lambda _: self._ends.pop(run_id, None))
        try:
            return (await asyncio.shield(looking)).status in ENDED
        except NotFoundError:
            return True  # its row is gone: nothing will come of it any more

    async def log_tail(self, run_id: UUID, lines: int = 40) -> str:
        """The end of what the run's processes printed; empty when they said nothing.

        Raises:
            NotFoundError: there is no such run.
        """
        await self.get(run_id)
        return "\n".join(await asyncio.to_thread(supervisor.log_tail, self.run_dir(run_id), lines))

    def interrupted(self, run: FineTuneRun) -> bool:
        """Whether the run is in progress but has no process: whoever supervises next goes on with it."""
        return run.status not in ENDED and not run.queued and not supervisor.is_alive(self.run_dir(run.id))

    async def metrics(self, run_id: UUID) -> Sequence[Progress]:
        """Every logged step, oldest first.

        Raises:
            NotFoundError: there is no such run.
        """
        await self.get(run_id)
        events = await asyncio.to_thread(FileLog(self.run_dir(run_id) / EVENTS_FILE).read)
        return [msgspec.convert(event.data, Progress) for event in events if event.type == "progress"]

    async def traces_of(self, run_id: UUID) -> Sequence[Trace]:
        """The traces that the run was given, oldest first; those deleted since are missing.

        Raises:
            NotFoundError: there is no such run.
        """
        await self.get(run_id)
        found = []
        for trace_id in await self._store.trace_ids(run_id):
            try:
                found.append(await self._traces.get(trace_id))
            except NotFoundError:
                continue
        return sorted(found, key=lambda trace: (trace.created_at, trace.id))

    # -------------------------------------------------------------------------- ending, settling

    async def wait(self, run_id: UUID) -> FineTuneRun:
        """Wait until the run has ended. Who waits also looks after it: it goes on here if its worker dies.

        Raises:
            NotFoundError: there is no such run.
        """
        await self.get(run_id)
        await self.watching.wait(run_id)
        return await self.get(run_id)

    async def cancel(self, run_id: UUID) -> FineTuneRun:
        """End the run with every process that belongs to it; returns when they are gone.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: it has ended.
            WorkerFailedError: a process of it cannot be ended.
        """
        async with self._starting:  # a worker that is just being launched must be there to be found
            run = await self.get(run_id)
            if run.status in ENDED:
                raise ConflictError(
                    f"The training run {run_id} has ended already: it is {run.status}.", status=run.status
                )
            run_dir = self.run_dir(run_id)
            (run_dir / CANCEL_FILE).touch()
            while run.queued and not await self.watching.cancel_queued(run):
                await asyncio.sleep(supervisor.POLL_SECONDS)
                run = await self.get(run_id)
            await asyncio.to_thread(supervisor.end, str(run_id), run_dir)
        run = await self.wait(run_id)
        if run.status == "completed":
            raise ConflictError(
                f"The training run {run_id} was completed before it could be cancelled.", status=run.status
            )
        return run

    async def settle(self, watch: bool) -> None:
        """Look after the run that an earlier process left: adopt it while its worker lives, else record how it ended.

        Args:
            watch: this process is the server: it watches live runs and goes on with dead ones, unless the settings leave
                that to a `tmde worker`. Others leave both alone.
        """
        self.watching.adopts = watch and not self._enqueues
        await self.current()

    async def work(self, *, once: bool = False) -> None:
        """Be the `tmde worker` of this data directory: train what is queued and look after it, until cancelled.

        Cancelled, it leaves the run in progress to the next worker.

        Args:
            once: return when nothing is queued or in progress.
        """
        self.watching.launches = self.watching.adopts = True
        while True:
            run = await self.current()
            if run is not None and run.queued:
                if not await self.watching.take(run):
                    await asyncio.sleep(QUEUE_SECONDS)
            elif run is not None:
                await self.watching.wait(run.id)
            elif once:
                return
            else:
                await asyncio.sleep(QUEUE_SECONDS)

    async def stop(self) -> None:
        """Stop watching. Workers go on."""
        await self.watching.stop()

    @property
    def _enqueues(self) -> bool:
        """Whether runs are left to a `tmde worker`."""
        return self._settings.started.supervisor.place == "worker"

    async def _looked_at(self, run: FineTuneRun) -> FineTuneRun:
        # Not one that this process is just starting: that gets its watch together with its process.
        return await self.watching.look(run, adopt=not self._starting.locked())
