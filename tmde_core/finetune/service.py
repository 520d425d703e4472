"""Training runs: started, watched, cancelled, and told the truth about after a crash."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import structlog

from tmde_core.debate.prompts import template_text
from tmde_core.errors import (
    ConflictError,
    InsufficientStorageError,
    NotFoundError,
    PluginUnavailableError,
    WorkerFailedError,
)
from tmde_core.finetune import supervisor
from tmde_core.finetune.dataset import (
    TRAIN_FILE,
    VAL_FILE,
    Selection,
    freeze,
    query_hash,
    require_enough,
    select,
)
from tmde_core.finetune.ending import CANCEL_FILE, EVENTS_FILE, conclude
from tmde_core.finetune.ranges import checked
from tmde_core.finetune.records import ENDED, FineTuneConfig, FineTuneRun, Progress, RunStatus
from tmde_core.finetune.store import Outcome, RunStore
from tmde_core.lora.publish import staging_directory
from tmde_core.lora.service import LoraService
from tmde_core.plugins import Plugins
from tmde_core.ports import Availability, TrainingBackend, TrainingJob
from tmde_core.record import Record, to_json, utc_now
from tmde_core.settings import SETTINGS_FILE, Settings
from tmde_core.settings_file import update_settings_file
from tmde_core.storage.database import Database
from tmde_core.storage.durable import storage_errors, write_whole
from tmde_core.storage.events import FileLog
from tmde_core.templates.store import TemplateStore
from tmde_core.traces.records import Trace
from tmde_core.traces.service import TraceService

log = structlog.get_logger(__name__)

RUNS_DIR = "runs"
JOB_FILE = "job.json"

DISK_BYTES = 500 * 1024**2
"""What a run may need: at rank 128 the embedded model's adapter has 78 MB in float32; it is kept as safetensors and
GGUF, and two checkpoints hold it with the optimiser's two moments."""

Runs = list[FineTuneRun]
"""The class below has a method called `list`, which would hide the type."""


class BackendReport(Record):
    """One training backend, and whether it can work here."""

    name: str
    summary: str
    plugin: str | None
    availability: Availability


class FineTuneService:
    """The training runs of one data directory.

    A worker outlives the process that started it. Whoever has the directory open can read how a run stands; the server
    watches until the end, and any process that finds a dead worker records how it ended.
    """

    def __init__(
        self, database: Database, settings: Settings, plugins: Plugins, traces: TraceService, lora: LoraService
    ) -> None:
        self._settings = settings
        self._plugins = plugins
        self._traces = traces
        self._templates = TemplateStore(database)
        self._adapters = lora.store
        self._store = RunStore(database)
        self._config = settings.finetune
        self._watches: dict[UUID, asyncio.Task[None]] = {}
        self._starting = asyncio.Lock()
        self._serving = False

    # ------------------------------------------------------------------------------ configuration

    def config(self) -> FineTuneConfig:
        """The hyperparameters that a run has unless it is given others."""
        return self._config

    async def set_config(self, config: FineTuneConfig) -> FineTuneConfig:
        """Change the default hyperparameters, here and in the settings file.

        Raises:
            InvalidInputError: a value is out of its range.
            PluginUnavailableError: no such backend.
            InsufficientStorageError: the file cannot be written; nothing has changed.
        """
        config = checked(config)
        self._plugins.backends.get(config.backend)
        before = msgspec.structs.asdict(self._config)
        changes = {name: value for name, value in msgspec.structs.asdict(config).items() if value != before[name]}
        if changes:
            file = self._settings.data_path / SETTINGS_FILE
            await asyncio.to_thread(update_settings_file, file, {"finetune": changes})
        self._config = config
        self._traces.min_quality_score = config.min_quality_score
        return config

    def backends(self) -> list[BackendReport]:
        """Every backend, available or why not."""
        return [
            BackendReport(
                name=descriptor.name,
                summary=descriptor.summary,
                plugin=self._plugins.backends.provider(descriptor.name),
                availability=self._availability(descriptor.name),
            )
            for descriptor in self._plugins.backends
        ]

    def _availability(self, name: str) -> Availability:
        try:
            return self._plugins.backends.get(name).create(self._settings.data_path).availability()
        except Exception as error:  # a plugin's own defect must not hide the other backends
            return Availability(ok=False, reason=f"{type(error).__name__}: {error}")

    # ---------------------------------------------------------------------------------- starting

    async def selection(self, config: FineTuneConfig) -> Selection:
        """What a run with this configuration would be trained on now, and what is left out and why."""
        traces = await self._traces.eligible(config.min_quality_score)
        texts = {template.name: template_text(template) for template in await self._templates.list()}

        def templates_text(names: Sequence[str]) -> str:
            return "\n\n".join(texts[name] for name in names if name in texts)

        return await asyncio.to_thread(lambda: select(traces, templates_text, self._benchmark_hashes()))

    def _benchmark_hashes(self) -> frozenset[str]:
        hashes: set[str] = set()
        for suite in self._plugins.suites:
            try:
                hashes |= {query_hash(question.query) for question in suite.questions() if question.split != "practice"}
            except Exception as error:  # a plugin's own defect must not stop training; its suite cannot run either
                log.warning("finetune.suite_unreadable", suite=suite.name, error=f"{type(error).__name__}: {error}")
        return frozenset(hashes)

    async def start(self, config: FineTuneConfig | None = None, triggered_by: str = "user") -> FineTuneRun:
        """Freeze a dataset and start a worker on it, detached. Returns at once; the run is pending.

        Raises:
            ConflictError: a run is in progress.
            PluginUnavailableError: no such backend, or it cannot work here.
            InsufficientTracesError: too few good traces; context has `current` and `required`.
            InsufficientStorageError: too little disk.
            InvalidInputError: a value is out of its range, or the base model does not exist or cannot be trained.
            WorkerFailedError: the worker cannot be started.
        """
        config = checked(config or self._config)
        async with self._starting:
            if (other := await self.current()) is not None:
                raise ConflictError(
                    f"The training run {other.id} is in progress. Wait for its end, or cancel it.", runId=str(other.id)
                )
            backend = await self._ready_backend(config.backend)
            selection = await self.selection(config)
            require_enough(selection, config)
            await asyncio.to_thread(self._require_space)
            return await self._launch(config, backend, selection, triggered_by)

    async def _ready_backend(self, name: str) -> TrainingBackend:
        backend = self._plugins.backends.get(name).create(self._settings.data_path)
        availability = await asyncio.to_thread(backend.availability)
        if not availability.ok:
            raise PluginUnavailableError(
                f"The training backend {name!r} cannot work here: {availability.reason}", name=name
            )
        return backend

    def _require_space(self) -> None:
        free = shutil.disk_usage(self._settings.data_path).free
        if free < DISK_BYTES:
            raise InsufficientStorageError(
                f"A training run needs up to {DISK_BYTES // 1024**2} MB of disk in {self._settings.data_dir}; "
                f"{free // 1024**2} MB are free. Free some space and start again.",
                need=DISK_BYTES,
                have=free,
            )

    async def _launch(
        self, config: FineTuneConfig, backend: TrainingBackend, selection: Selection, triggered_by: str
    ) -> FineTuneRun:
        run_id = uuid4()
        run_dir = self.run_dir(run_id)
        with storage_errors(run_dir):
            run_dir.mkdir(parents=True)
            self._adapters.directory.mkdir(parents=True, exist_ok=True)
        leash = supervisor.take_leash(run_dir)
        try:
            try:
                dataset = await asyncio.to_thread(freeze, selection, run_dir)
                job = self._job(run_id, config)
                write_whole(run_dir / JOB_FILE, msgspec.json.format(to_json(job), indent=2) + b"\n")
                command = await asyncio.to_thread(backend.plan, job)
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
                )
                train = [example.trace_id for example in selection.train]
                await self._store.insert(run, train, [example.trace_id for example in selection.val])
            except BaseException:
                shutil.rmtree(run_dir, ignore_errors=True)
                raise
            try:
                process = supervisor.launch(command, str(run_id), run_dir, leash)
            except WorkerFailedError as error:
                await self._store.finish(run_id, Outcome(status="failed", error=error.detail))
                raise
        finally:
            os.close(leash)
        self._watch(run_id, process)
        log.info("finetune.started", run=str(run_id), examples=len(selection), backend=config.backend, pid=process.pid)
        return run

    def _job(self, run_id: UUID, config: FineTuneConfig) -> TrainingJob:
        run_dir = self.run_dir(run_id)
        return TrainingJob(
            run_id=str(run_id),
            run_dir=str(run_dir),
            train_file=str(run_dir / TRAIN_FILE),
            val_file=str(run_dir / VAL_FILE),
            output_dir=str(staging_directory(self._adapters.directory, run_id)),
            base_model=config.base_model,
            data_dir=self._settings.data_dir,
            config=msgspec.to_builtins(config),
        )

    # ----------------------------------------------------------------------------------- reading

    def run_dir(self, run_id: UUID) -> Path:
        """Where the run's files are, or would be."""
        return self._settings.data_path / RUNS_DIR / str(run_id)

    async def get(self, run_id: UUID) -> FineTuneRun:
        """One run, as it stands.

        Raises:
            NotFoundError: there is none with that id.
        """
        run = await self._store.get(run_id)
        if run is None:
            raise NotFoundError(f"There is no training run with the id {run_id}.")
        return await self._up_to_date(run)

    async def list(self, limit: int = 50, offset: int = 0, status: RunStatus | None = None) -> tuple[Runs, int]:
        """Runs, newest first, and how many there are in all."""
        await self.current()
        return await self._store.page(limit, offset, status)

    async def current(self) -> FineTuneRun | None:
        """The run in progress, if there is one."""
        run = await self._store.live()
        if run is not None:
            run = await self._up_to_date(run)
        return run if run is not None and run.status not in ENDED else None

    def events(self, run_id: UUID) -> FileLog:
        """The run's durable event log.

        Raises:
            NotFoundError: there is no such run.
        """
        if not self.run_dir(run_id).is_dir():
            raise NotFoundError(f"There is no training run with the id {run_id}.")
        return FileLog(self.run_dir(run_id) / EVENTS_FILE)

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
        """Wait until the run has ended.

        Raises:
            NotFoundError: there is no such run.
        """
        run = await self.get(run_id)
        if run.status not in ENDED:
            await asyncio.shield(self._watch(run_id))
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
            watch: this process is the server and watches live runs; others leave them alone.
        """
        self._serving = watch
        run = await self._store.live()
        if run is not None:
            await self._up_to_date(run)

    async def stop(self) -> None:
        """Stop watching. Workers go on."""
        watches = list(self._watches.values())
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)

    async def _up_to_date(self, run: FineTuneRun) -> FineTuneRun:
        """The run, after its end was recorded in case its worker died while nobody watched."""
        if run.status in ENDED or run.id in self._watches:
            return run
        if supervisor.is_alive(self.run_dir(run.id)):
            # Not one that this process is just starting: that gets its watch together with its process.
            if self._serving and not self._starting.locked():
                self._watch(run.id)
                log.info("finetune.adopted", run=str(run.id))
            return run
        await asyncio.shield(self._watch(run.id))  # dead: over at once, and done once however many ask
        return await self._store.get(run.id) or run

    def _watch(self, run_id: UUID, process: subprocess.Popen[bytes] | None = None) -> asyncio.Task[None]:
        """The task that waits for the worker's end and records it; at most one a run."""
        task = self._watches.get(run_id)
        if task is None:
            over = supervisor.ended(self.run_dir(run_id), process)
            task = asyncio.create_task(self._see_to_the_end(run_id, over), name=f"run {run_id}")
            self._watches[run_id] = task
            task.add_done_callback(lambda _: self._watches.pop(run_id, None))
        return task

    async def _see_to_the_end(self, run_id: UUID, over: asyncio.Future[int | None]) -> None:
        begun = asyncio.create_task(self._note_beginning(run_id))
        try:
            status = await over
        finally:
            begun.cancel()
            await asyncio.gather(begun, return_exceptions=True)
        await self._finish(run_id, status)

    async def _note_beginning(self, run_id: UUID) -> None:
        """A run is pending until its worker reports something."""
        async for _ in FileLog(self.run_dir(run_id) / EVENTS_FILE).follow():
            await self._store.running(run_id)
            return

    async def _finish(self, run_id: UUID, status: int | None) -> None:
        outcome = await asyncio.to_thread(conclude, run_id, self.run_dir(run_id), self._adapters, status)
        if await self._store.finish(run_id, outcome):
            log.info("finetune.ended", run=str(run_id), status=outcome.status, error=outcome.error)
