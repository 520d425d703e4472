"""Starts, watches and cancels training runs, and determines their state after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import structlog

from tmde_core.backends.progress import Installation
from tmde_core.errors import ConflictError, NotFoundError, PluginUnavailableError, TmdeError, WorkerFailedError
from tmde_core.finetune.dataset.leaks import LeakCheck, Protected
from tmde_core.finetune.dataset.selection import Selection, require_enough, select
from tmde_core.finetune.naming import suggest_name
from tmde_core.finetune.ranges import check_config, decode_config
from tmde_core.finetune.store import RunStore
from tmde_core.finetune.supervision import supervisor
from tmde_core.finetune.supervision.attempts import plan_first_attempt, plan_resumed_attempt
from tmde_core.finetune.supervision.launch import Launcher
from tmde_core.finetune.supervision.presence import (
    NO_WORKER,
    RENEW_SECONDS,
    WorkerBackend,
    WorkerPresence,
    WorkerRegistration,
    find_worker,
)
from tmde_core.finetune.supervision.watching import QUEUE_SECONDS, RunMonitor
from tmde_core.lora.files.store import AdapterStore
from tmde_core.lora.naming import check_name
from tmde_core.models.service import TrainingBase
from tmde_core.observers import Publish
from tmde_core.plugins import create
from tmde_core.plugins.defaults import BackendChoice, choose_backend, resolve_backend
from tmde_core.plugins.making import context_for
from tmde_core.plugins.records import describe_error
from tmde_core.prompts import template_text
from tmde_core.records.base import Record, utc_now
from tmde_core.records.finetune import (
    TRAINING_ENDED,
    FineTuneConfig,
    FineTuneRun,
    TrainingProgress,
    TrainingRunStatus,
    TrainingTrigger,
)
from tmde_core.records.runtimes import Availability
from tmde_core.records.traces import Trace
from tmde_core.records.training import ResourceEstimate, WorkerCommand
from tmde_core.sdk.environments import Environment
from tmde_core.sdk.hooks import AUTO
from tmde_core.sdk.training import BackendDescriptor, TrainingBackend
from tmde_core.sdk.worker.kit import RunEvents
from tmde_core.sdk.worker.run_files import CANCEL_FILE, EVENTS_FILE, STOPPED_FILE
from tmde_core.settings import LiveSettings
from tmde_core.storage.events import FileLog
from tmde_core.traces.service import TraceService
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

Runs = list[FineTuneRun]
"""An alias, because the class below has a method called `list`, which hides the type."""
Names = list[str]


FirstTask = Callable[[Callable[[str], None]], Awaitable[object]]
"""What a worker does before its first run. It is given a function that it tells what it does."""


class BackendReport(Record):
    """One training backend, and whether it can work on this machine."""

    name: str
    summary: str
    plugin: str | None
    availability: Availability
    environment: str
    """The directory of the Python environment in which its workers run."""
    default: bool = False
    """Whether `auto` selects this backend."""
    why: str = ""
    """Why `auto` selects it."""


class FineTuneService:
    """Manages the training runs of one data directory.

    A worker outlives the process that started it. Every process with an open data directory can read the state of a
    run, and records the end of a run that has ended. Only the server, a `tmde worker`, and a process that waits for a
    run restart a dead worker.
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
        """Create the service on its stores.

        Args:
            store: the stored runs.
            settings: the settings of this process.
            workspace: the templates, plugins and runtimes.
            traces: the traces to train on.
            adapters: the published adapters.
            protected: returns the current questions of benchmarks, which are never trained on.
            publish: publishes the end of each run that this process records.
        """
        self._protected = protected
        self._settings = settings
        self._workspace = workspace
        self._traces = traces
        self._store = store
        self._launcher = Launcher(settings.started, workspace, adapters, store)
        self.watching = RunMonitor(store, self._launcher, publish, launches=not self.trains_elsewhere)
        self._starting = asyncio.Lock()
        self._ends: dict[UUID, asyncio.Task[FineTuneRun]] = {}

    # ------------------------------------------------------------------------------ configuration

    def config(self) -> FineTuneConfig:
        """Return the default hyperparameters, with the changes that others made to the settings file."""
        self._settings.reread()
        return self._settings.current.finetune

    async def set_config(self, values: FineTuneConfig | Mapping[str, Any]) -> FineTuneConfig:
        """Change the default hyperparameters, here and in the settings file.

        Args:
            values: the new values by JSON name; other hyperparameters keep their values. A whole configuration sets all
                of them.

        Raises:
            InvalidInputError: a value is out of its range, or the backend does not exist.
            ConflictError: an environment variable sets one of the values.
            InsufficientStorageError: the file cannot be written; nothing has changed.
        """
        named = msgspec.to_builtins(values) if isinstance(values, FineTuneConfig) else dict(values)
        before = self.config()
        wanted = decode_config(named, before)
        # The plugin of an earlier choice may have been uninstalled. This must not block changes of other values.
        if wanted.backend not in (AUTO, before.backend):
            self._workspace.plugins.backends.choose(wanted.backend, "backend")
        await self._settings.change({"finetune": named})
        return self.config()

    def backends(self) -> list[BackendReport]:
        """Return a report on every backend, with the reason if it is not available."""
        chosen = self.choose()
        worker = self.find_worker() if self.trains_elsewhere else None
        return [
            BackendReport(
                name=descriptor.name,
                summary=descriptor.summary,
                plugin=self._workspace.plugins.backends.provider(descriptor.name),
                availability=self._availability_for_runs(descriptor.name, worker),
                environment=self._environment(descriptor),
                default=chosen is not None and descriptor.name == chosen.name,
                why=chosen.why if chosen is not None and descriptor.name == chosen.name else "",
            )
            for descriptor in self._workspace.plugins.backends
        ]

    def _environment(self, descriptor: BackendDescriptor) -> str:
        if descriptor.environment_spec is None:
            return descriptor.environment
        try:
            context = context_for(descriptor, self._workspace.settings)
        except TmdeError:  # a wrong setting, which `_availability` names
            return ""
        environment = Environment.of(context, descriptor.name, descriptor.environment_spec)
        return str(environment.interpreter.parents[1])

    def choose(self) -> BackendChoice | None:
        """Return which backend `auto` selects for a run, and why; None if there is no backend.

        If a worker trains, its choice counts, because it knows its environment.
        """
        worker = self.find_worker() if self.trains_elsewhere else None
        if worker is not None and worker.auto in self._workspace.plugins.backends:
            return BackendChoice(worker.auto, "The worker selects it.")
        return choose_backend(self._workspace.plugins, self._workspace.settings)

    def _availability_for_runs(self, name: str, worker: WorkerPresence | None) -> Availability:
        """Return whether a run with this backend may start: here, or where the worker is."""
        if worker is not None and not worker.doing and (found := worker.find(name)) is not None:
            return found
        here = self._availability(name)
        if here.ok or not self.trains_elsewhere:
            return here
        return Availability(
            ok=True, reason=f"The worker checks whether it works there. Here it does not: {here.reason}"
        )

    def _availability(self, name: str) -> Availability:
        try:
            descriptor = self._workspace.plugins.backends.get(name)
            backend: TrainingBackend = create(descriptor, self._workspace.settings)
            return self._launcher.environments.explain(name, backend.availability())
        except PluginUnavailableError as error:
            return Availability(ok=False, reason=error.detail)
        except Exception as error:  # an error in one plugin must not hide the other backends
            return Availability(ok=False, reason=describe_error(error))

    # ---------------------------------------------------------------------------------- starting

    async def select_examples(self, config: FineTuneConfig) -> Selection:
        """Return which traces a run with this configuration would use now, and which are left out and why."""
        traces = await self._traces.list_eligible(config.eligibility)
        texts = {template.name: template_text(template) for template in await self._workspace.templates.list()}

        def templates_text(names: Sequence[str]) -> str:
            return "\n\n".join(texts[name] for name in names if name in texts)

        withdrawn = await self._traces.list_withdrawn(config.min_quality_score)
        protected = await self._protected()
        return await asyncio.to_thread(lambda: select(traces, templates_text, LeakCheck(protected), withdrawn))

    async def start(
        self,
        config: FineTuneConfig | None = None,
        triggered_by: TrainingTrigger = "manual",
        name: str | None = None,
    ) -> FineTuneRun:
        """Freeze a dataset, start a detached worker on it, and return the pending run at once.

        If the settings assign training to a `tmde worker`, the run is queued for the worker instead.

        Args:
            config: the hyperparameters; None: the default ones.
            triggered_by: who asked for the run.
            name: the run's name; None: a name is made from the date and the questions.

        Raises:
            ConflictError: a run is in progress.
            PluginUnavailableError: the backend cannot work here.
            InsufficientTracesError: there are too few good traces; context has `current` and `required`.
            InsufficientStorageError: there is too little disk space.
            InvalidInputError: a value is out of its range, the backend does not exist, or the base model does not exist
                or cannot be trained.
            WorkerFailedError: the worker cannot be started.
        """
        config = self.resolve(config or self.config())
        given = check_name(name) if name is not None else None
        async with self._starting:
            await self._require_idle()
            await self._require_startable(config.backend)
            selection = await self.select_examples(config)
            require_enough(selection, config)
            base = await self.resolve_base(config)
            await asyncio.to_thread(self._launcher.require_space)
            run_id = uuid4()
            run_dir = self._launcher.make_directory(run_id)
            leash = supervisor.take_leash(run_dir)
            try:
                dataset = await self._launcher.prepare(run_id, config, selection, base)
                train = [example.trace_id for example in selection.train]
                val = [example.trace_id for example in selection.val]
                started_at = utc_now()
                run = FineTuneRun(
                    id=run_id,
                    name=given or await self._suggest_name(started_at, [*train, *val]),
                    started_at=started_at,
                    traces_used=len(selection),
                    train_examples=dataset.train_examples,
                    val_examples=dataset.val_examples,
                    base_model=base.name,
                    config=config,
                    triggered_by=triggered_by,
                    dataset_hash=dataset.sha256,
                    queued=self.trains_elsewhere,
                )
                await self._store.insert(run, train, val)
            except BaseException:
                leash.release()
                shutil.rmtree(run_dir, ignore_errors=True)
                raise
            log.info("finetune.started", run=str(run_id), examples=len(selection), queued=run.queued)
            if run.queued:
                leash.release()
            else:
                await self.watching.begin(run, plan_first_attempt(config), leash)
        return self._with_notice(await self._store.get(run_id) or run)

    async def _suggest_name(self, moment: datetime, trace_ids: Sequence[str]) -> str:
        taken = set((await self._store.names()).values())
        return suggest_name(moment, await self._store.asked(trace_ids), taken)

    async def rename(self, run_id: UUID, name: str) -> FineTuneRun:
        """Give a run another name. Its adapter has the same name, unless the adapter was given one of its own.

        Raises:
            NotFoundError: the run does not exist.
            InvalidInputError: the name is empty, too long, or has control characters.
        """
        if not await self._store.rename(run_id, check_name(name)):
            raise NotFoundError(f"There is no training run with the id {run_id}.")
        return await self.get(run_id)

    async def resume(self, run_id: UUID) -> FineTuneRun:
        """Resume a failed or cancelled run from its newest complete checkpoint, with the same id, data and log.

        Raises:
            NotFoundError: the run does not exist.
            ConflictError: the run neither failed nor was cancelled, has no complete checkpoint, or another run is in
                progress.
            PluginUnavailableError, InsufficientStorageError, InvalidInputError, WorkerFailedError: see `start`.
        """
        async with self._starting:
            run = await self.get(run_id)
            self._launcher.require_resumable(run)
            await self._require_idle()
            await self._require_startable(run.config.backend)
            await asyncio.to_thread(self._launcher.require_space)
            leash = await asyncio.to_thread(supervisor.try_leash, self.run_dir(run_id))
            if leash is None:
                raise ConflictError(f"The training run {run_id} is still being ended. Try again in a moment.")
            try:
                (self.run_dir(run_id) / CANCEL_FILE).unlink(missing_ok=True)
                (self.run_dir(run_id) / STOPPED_FILE).unlink(missing_ok=True)
                if self.trains_elsewhere:
                    RunEvents(self.run_dir(run_id) / EVENTS_FILE).log("It waits for a worker to resume it.")
                    await self._store.enqueue(run)
            except BaseException:
                leash.release()
                raise
            log.info("finetune.resumed", run=str(run_id), queued=self.trains_elsewhere)
            if self.trains_elsewhere:
                leash.release()
            else:
                await self.watching.begin(run, plan_resumed_attempt(run), leash)
        return self._with_notice(await self._store.get(run_id) or run)

    def can_resume(self, run: FineTuneRun) -> bool:
        """Return whether `resume` can resume the run. This method reads the run's directory."""
        try:
            self._launcher.require_resumable(run)
        except ConflictError:
            return False
        return True

    async def resolve_base(self, config: FineTuneConfig) -> TrainingBase:
        """Return the base model that a run with this configuration would train.

        Raises:
            InvalidInputError: the configuration names none, and the Proposer's model is not known now.
        """
        return await self._workspace.models.resolve_training_base(config.base_model)

    async def require_trainable(self, config: FineTuneConfig) -> TrainingBase:
        """Return the base model that a run with this configuration would train, after asking the backend about it.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained; the detail says what to do.
            PluginUnavailableError: the backend cannot work here.
        """
        config = self.resolve(config)
        base = await self.resolve_base(config)
        await self._require_startable(config.backend)
        backend = self._launcher.make_backend(config.backend)
        await asyncio.to_thread(self._launcher.ask_plan, backend, config, base)
        return base

    def find_dequantizer(self, base: TrainingBase) -> WorkerCommand | None:
        """Return the command that converts the weights of a GGUF file, see `TrainingJob.dequantize`."""
        return self._launcher.find_dequantizer(base)

    def resolve(self, config: FineTuneConfig) -> FineTuneConfig:
        """Return a checked configuration with `auto` replaced by the name of the best backend that works here.

        Raises:
            InvalidInputError: a value is out of its range, or the backend does not exist.
        """
        config = check_config(config)
        if config.backend == AUTO and (chosen := self.choose()) is not None:
            config = msgspec.structs.replace(config, backend=chosen.name)
        return resolve_backend(config, self._workspace.plugins, self._workspace.settings)

    async def require_backend(self, name: str) -> TrainingBackend:
        """Return a backend after checking that it can work here.

        Raises:
            InvalidInputError: the backend does not exist; the detail lists the available backends.
            PluginUnavailableError: the backend cannot work here; the detail says what is missing.
        """
        return await self._launcher.require_backend(name)

    async def _require_startable(self, name: str) -> None:
        """Raise an error if a run with this backend would fail at once.

        If a `tmde worker` trains, its environment counts, and what this process can start does not matter.

        Raises:
            InvalidInputError: the backend does not exist; the detail lists the available backends.
            PluginUnavailableError: the backend cannot work here, or the worker says that it cannot work there.
        """
        if not self.trains_elsewhere:
            await self._launcher.require_backend(name)
            return
        await asyncio.to_thread(self._launcher.make_backend, name)
        worker = self.find_worker()
        found = worker.find(name) if worker is not None and not worker.doing else None
        if found is not None and not found.ok:
            raise PluginUnavailableError(
                f"The worker cannot train with the backend {name!r}: {found.reason}", name=name
            )

    def find_worker(self) -> WorkerPresence | None:
        """Return what the `tmde worker` of this data directory says about itself; None if none runs."""
        return find_worker(self._settings.started.data_path)

    def describe_worker(self) -> str:
        """Return why the next run has to wait for a `tmde worker`, in sentences; empty if one trains it at once.

        It is empty, too, if runs are trained without a `tmde worker`.
        """
        if not self.trains_elsewhere:
            return ""
        worker = self.find_worker()
        if worker is None:
            return f"Runs are trained by a worker. {NO_WORKER}"
        return worker.describe() if worker.is_late() or worker.doing else ""

    def awaits_packages(self, backend: str) -> bool:
        """Return whether a run with this backend waits until TMDE has installed the backend's packages."""
        return self._launcher.environments.awaits_installation(backend)

    def find_installation(self, backend: str) -> Installation | None:
        """Return the installation of a backend's packages that runs now; None if no process installs them."""
        found = self._launcher.environments.installation(backend)
        return found if found is not None and found.state == "installing" else None

    async def describe_pause(self, estimate: ResourceEstimate) -> str:
        """Return which runtimes of this process a run with this estimate would pause, in sentences; else empty."""
        return await self._launcher.cards.describe_pause(estimate)

    async def count_given_back(self, estimate: ResourceEstimate) -> int:
        """Return how much of the card the runtimes of this process would give back, if they were paused for a run."""
        return await self._launcher.cards.count_given_back(estimate)

    async def list_processor_backends(self, without: str) -> Names:
        """Return the names of the other backends that can train here and do not use a card."""
        return await asyncio.to_thread(
            lambda: [
                descriptor.name
                for descriptor in self._workspace.plugins.backends
                if descriptor.name != without and not descriptor.uses_card and self._availability(descriptor.name).ok
            ]
        )

    async def require_free(self) -> None:
        """Raise an error if a run is in progress, or the disk has no room for a run.

        Raises:
            ConflictError: a run is in progress.
            InsufficientStorageError: there is too little disk space.
        """
        await self._require_idle()
        await asyncio.to_thread(self._launcher.require_space)

    async def _require_idle(self) -> None:
        if (other := await self.get_current()) is not None:
            raise ConflictError(
                f"The training run {other.id} is in progress. Wait for its end, or cancel it.", runId=str(other.id)
            )

    # ----------------------------------------------------------------------------------- reading

    def run_dir(self, run_id: UUID) -> Path:
        """Return the directory of the run's files, which may not exist."""
        return self._launcher.run_dir(run_id)

    async def get(self, run_id: UUID) -> FineTuneRun:
        """Return the current state of a run.

        Raises:
            NotFoundError: no run has this id.
        """
        run = await self._store.get(run_id)
        if run is None:
            raise NotFoundError(f"There is no training run with the id {run_id}.")
        return await self._looked_at(run)

    async def list(self, limit: int = 50, offset: int = 0, status: TrainingRunStatus | None = None) -> tuple[Runs, int]:
        """Return a page of runs, newest first, and the total number of runs."""
        await self.get_current()
        return await self._store.page(limit, offset, status)

    async def get_current(self) -> FineTuneRun | None:
        """Return the run in progress; None if there is none."""
        run = await self._store.live()
        if run is not None:
            run = await self._looked_at(run)
        return run if run is not None and run.status not in TRAINING_ENDED else None

    def events(self, run_id: UUID) -> FileLog:
        """Return the run's durable event log.

        A follower gets the terminal event only after the end of the run is stored. From then on, another run can be
        started.

        Raises:
            NotFoundError: the run does not exist.
        """
        if not self.run_dir(run_id).is_dir():
            raise NotFoundError(f"There is no training run with the id {run_id}.")
        return FileLog(self.run_dir(run_id) / EVENTS_FILE, lambda: self._has_ended(run_id))

    async def _has_ended(self, run_id: UUID) -> bool:
        """Return whether the end of a run is stored. Simultaneous callers share one check."""
        looking = self._ends.get(run_id)
        if looking is None:
            looking = self._ends[run_id] = asyncio.create_task(self.get(run_id), name=f"end of {run_id}")
            looking.add_done_callback(lambda _: self._ends.pop(run_id, None))
        try:
            return (await asyncio.shield(looking)).status in TRAINING_ENDED
        except NotFoundError:
            return True  # its row was deleted, so the run cannot continue

    async def log_tail(self, run_id: UUID, lines: int = 40) -> str:
        """Return the last lines of the output of the run's processes; empty if they printed nothing.

        Raises:
            NotFoundError: the run does not exist.
        """
        await self.get(run_id)
        return "\n".join(await asyncio.to_thread(supervisor.log_tail, self.run_dir(run_id), lines))

    def is_interrupted(self, run: FineTuneRun) -> bool:
        """Return whether the run is in progress but has no process. The next supervising process continues the run."""
        return run.status not in TRAINING_ENDED and not run.queued and not supervisor.is_alive(self.run_dir(run.id))

    async def metrics(self, run_id: UUID) -> Sequence[TrainingProgress]:
        """Return every logged step, oldest first.

        Raises:
            NotFoundError: the run does not exist.
        """
        await self.get(run_id)
        events = await asyncio.to_thread(FileLog(self.run_dir(run_id) / EVENTS_FILE).read)
        return [msgspec.convert(event.data, TrainingProgress) for event in events if event.type == "progress"]

    async def list_traces(self, run_id: UUID) -> Sequence[Trace]:
        """Return the traces that the run received, oldest first, without those deleted since.

        Raises:
            NotFoundError: the run does not exist.
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
        """Wait until the run has ended.

        This process watches the run meanwhile and continues it if its worker dies.

        Raises:
            NotFoundError: the run does not exist.
        """
        await self.get(run_id)
        await self.watching.wait(run_id)
        return await self.get(run_id)

    async def cancel(self, run_id: UUID) -> FineTuneRun:
        """End all processes of the run, and return when they have ended.

        Raises:
            NotFoundError: the run does not exist.
            ConflictError: the run has already ended.
            WorkerFailedError: a process of the run cannot be ended.
        """
        async with self._starting:  # a worker that is being launched must exist before its processes are searched
            run = await self.get(run_id)
            if run.status in TRAINING_ENDED:
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
        """Watch the run of an earlier process while its worker lives; otherwise record how it ended.

        Args:
            watch: this process is the server. It watches live runs and continues dead ones, unless the settings assign
                this to a `tmde worker`. Other processes do neither.
        """
        self.watching.adopts = watch and not self.trains_elsewhere
        for run_id, moment in await self._store.nameless():
            trace_ids = [str(one) for one in await self._store.trace_ids(run_id)]
            await self._store.rename(run_id, await self._suggest_name(moment, trace_ids))
        await self.get_current()

    async def run_worker(self, *, once: bool = False, pause: bool = False, first: FirstTask | None = None) -> None:
        """Run the `tmde worker` of this data directory: train and watch queued runs until the task is cancelled.

        If the task is cancelled, the next worker continues the run in progress.

        Args:
            once: return when no run is queued or in progress.
            pause: if the task is cancelled, stop the run in progress at a checkpoint. It waits for the next worker.
                Without this, its training process goes on by itself, which it cannot in a container that ends.
            first: is awaited before the first run, such as an installation. It tells what it does in a sentence.

        Raises:
            ConflictError: another worker runs.
        """
        with WorkerRegistration(self._settings.started.data_path) as registration:
            renewing = asyncio.create_task(self._renew(registration), name="presence of the worker")
            try:
                if first is not None:
                    await first(lambda doing: registration.renew(doing=doing))
                    registration.renew(doing="")
                await self._work(once=once)
            except asyncio.CancelledError:
                if pause and self.trains_elsewhere:
                    registration.renew(doing="It ends, and stops the training at a checkpoint.")
                    await self._pause()
                raise
            finally:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)

    async def _renew(self, registration: WorkerRegistration) -> None:
        """Say again and again that this worker works, and what it can train with."""
        while True:
            try:
                chosen = await asyncio.to_thread(choose_backend, self._workspace.plugins, self._workspace.settings)
                names = self._workspace.plugins.backends.names()
                backends = [WorkerBackend(name, await asyncio.to_thread(self._availability, name)) for name in names]
                registration.renew(backends=tuple(backends), auto=chosen.name if chosen else "")
            except Exception as error:  # a full disk must not end the worker
                log.warning("worker.not_renewed", error=str(error))
            await asyncio.sleep(RENEW_SECONDS)

    async def _pause(self) -> None:
        run = await self.get_current()
        if run is None or run.queued:
            return
        with contextlib.suppress(WorkerFailedError):  # the process is out of reach; the leash says whether it lives
            await self.watching.pause(run)

    async def _work(self, *, once: bool) -> None:
        self.watching.launches = self.watching.adopts = True
        while True:
            run = await self.get_current()
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
        """Stop watching runs. Their workers continue."""
        await self.watching.stop()

    def _describe_waiting(self) -> str:
        worker = self.find_worker()
        if worker is None:
            return f"The run waits for a worker. {NO_WORKER}"
        if worker.is_late() or worker.doing:
            return f"The run waits for a worker. {worker.describe()}"
        return "The run waits for a worker, which is about to take it."

    @property
    def trains_elsewhere(self) -> bool:
        """Whether runs are queued for a `tmde worker`, in whose environment they are trained."""
        return self._settings.started.supervisor.place == "worker"

    async def _looked_at(self, run: FineTuneRun) -> FineTuneRun:
        # Do not adopt a run that this process is just starting. Its watch starts together with its process.
        return self._with_notice(await self.watching.look(run, adopt=not self._starting.locked()))

    def _with_notice(self, run: FineTuneRun) -> FineTuneRun:
        """Return the run with what it waits for, or what it means for the models."""
        if run.status in TRAINING_ENDED:
            return run
        notice = self._describe_waiting() if run.queued else self._launcher.find_notice(run)
        return msgspec.structs.replace(run, notice=notice) if notice else run
