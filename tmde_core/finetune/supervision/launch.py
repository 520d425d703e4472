"""Starts the processes of runs: the first one on a newly frozen dataset, later ones on the existing files."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import structlog

from tmde_core.backends.service import BackendEnvironments
from tmde_core.card import give_back
from tmde_core.errors import (
    ConflictError,
    InsufficientStorageError,
    InvalidInputError,
    PluginUnavailableError,
    TmdeError,
)
from tmde_core.finetune.dataset.selection import TRAIN_FILE, VAL_FILE, Selection, freeze
from tmde_core.finetune.dequantizing import find_dequantizer
from tmde_core.finetune.store import RunStore
from tmde_core.finetune.supervision import await_packages, supervisor
from tmde_core.finetune.supervision.attempts import AttemptPlan, append_attempt
from tmde_core.finetune.supervision.becoming import put_before
from tmde_core.finetune.supervision.lending import CardLender
from tmde_core.finetune.supervision.watchdog import step_of
from tmde_core.lora.files.store import AdapterStore
from tmde_core.models.service import TrainingBase
from tmde_core.plugins import create
from tmde_core.records.base import to_json
from tmde_core.records.finetune import Dataset, FineTuneConfig, FineTuneRun, RunAttempt
from tmde_core.records.training import TrainingJob, WorkerCommand
from tmde_core.sdk.adapters import staging_directory
from tmde_core.sdk.training import TrainingBackend
from tmde_core.sdk.worker.kit import RunEvents, list_checkpoints
from tmde_core.sdk.worker.run_files import EVENTS_FILE, JOB_FILE, PAUSE_FILE, STOPPED_FILE
from tmde_core.sdk.worker.vitals import HEARTBEAT_FILE
from tmde_core.settings import Settings
from tmde_core.storage.durable import storage_errors, write_atomic
from tmde_core.storage.locks import FileLock
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

RUNS_DIR = "runs"

AWAITS = "The run waits until the packages of training are installed, and then begins."

DISK_BYTES = 500 * 1024**2
"""The disk space that a run may need. At rank 128 the embedded model's adapter has 78 MB in float32. It is stored as
safetensors and GGUF, and two checkpoints contain it with the two moments of the optimiser."""


class Launcher:
    """Prepares the directories of runs and starts workers in them.

    A caller that starts a worker must hold the run's leash.
    """

    def __init__(self, settings: Settings, workspace: Workspace, adapters: AdapterStore, store: RunStore) -> None:
        self._settings = settings
        self._workspace = workspace
        self.adapters = adapters
        self._store = store
        self.cards = CardLender(settings, workspace)
        self.environments = BackendEnvironments(workspace.plugins, lambda: workspace.settings)

    def run_dir(self, run_id: UUID) -> Path:
        """Return the directory of the run's files, which may not exist."""
        return self._settings.data_path / RUNS_DIR / str(run_id)

    async def require_backend(self, name: str) -> TrainingBackend:
        """Return a backend after checking that it can work here.

        Raises:
            InvalidInputError: the backend does not exist; the detail lists the available backends.
            PluginUnavailableError: the backend cannot be created or cannot work here; the detail says why.
        """
        backend = self.make_backend(name)
        availability = await asyncio.to_thread(backend.availability)
        if not availability.ok:
            raise PluginUnavailableError(
                f"The training backend {name!r} cannot work here: {availability.reason}", name=name
            )
        return backend

    def make_backend(self, name: str) -> TrainingBackend:
        """Return a backend, which may not be able to work here.

        Raises:
            InvalidInputError: the backend does not exist; the detail lists the available backends.
            PluginUnavailableError: the backend cannot be created; the detail says why.
        """
        descriptor = self._workspace.plugins.backends.choose(name, "backend")
        backend: TrainingBackend = create(descriptor, self._workspace.settings)
        return backend

    def require_space(self) -> None:
        """Raise an error if a run could fill the disk.

        Raises:
            InsufficientStorageError: there is too little disk space; context has `need` and `have` in bytes.
        """
        # Adapters or runs may be on separate disks.
        places = [self._settings.data_path, self._settings.data_path / RUNS_DIR, self.adapters.directory]
        frees = {place: shutil.disk_usage(place).free for place in places if place.is_dir()}
        place, free = min(frees.items(), key=lambda one: one[1])
        if free < DISK_BYTES:
            raise InsufficientStorageError(
                f"A training run needs up to {DISK_BYTES // 1024**2} MB of disk in {place}; "
                f"{free // 1024**2} MB are free. Free some space and start again.",
                need=DISK_BYTES,
                have=free,
            )

    def make_directory(self, run_id: UUID) -> Path:
        """Create and return the directory of a new run; also create the directory of adapters.

        Raises:
            InsufficientStorageError: a directory cannot be created.
        """
        run_dir, adapters = self.run_dir(run_id), self.adapters.directory
        with storage_errors(run_dir):
            try:
                adapters.mkdir(parents=True, exist_ok=True)
                run_dir.mkdir(parents=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise InsufficientStorageError(
                    f"{error.filename} is in the way: a directory should be there. Move it away and start again."
                ) from None
        return run_dir

    async def prepare(self, run_id: UUID, config: FineTuneConfig, selection: Selection, base: TrainingBase) -> Dataset:
        """Freeze the dataset and check with the backend that it can be trained.

        The caller must have checked that the backend can work where the run is trained.

        Raises:
            InsufficientStorageError: the disk is full.
            InvalidInputError: the base model does not exist or cannot be trained.
        """
        dataset = await asyncio.to_thread(freeze, selection, self.run_dir(run_id))
        job = self._write_job(run_id, config, None, base)
        await asyncio.to_thread(plan_on_base, self.make_backend(config.backend).plan, job, base)
        return dataset

    def ask_plan(self, backend: TrainingBackend, config: FineTuneConfig, base: TrainingBase) -> None:
        """Raise an error if the backend cannot train the base model. No file is written.

        Raises:
            InvalidInputError: see `plan_on_base`.
        """
        plan_on_base(backend.plan, self._job(uuid4(), config, None, base), base)

    def require_resumable(self, run: FineTuneRun) -> None:
        """Raise an error if the run cannot be resumed.

        Raises:
            ConflictError: the run is not failed or cancelled, has no complete checkpoint, or its adapter exists.
        """
        if run.status not in ("failed", "cancelled"):
            raise ConflictError(
                f"The training run {run.id} is {run.status}. Only one that failed or was cancelled can be resumed.",
                status=run.status,
            )
        if self.adapters.path(run.id).exists():
            raise ConflictError(
                f"The training run {run.id} has published its adapter already, so there is nothing to resume. Start a new run."
            )
        run_dir = self.run_dir(run.id)
        if not list_checkpoints(run_dir) or not (run_dir / TRAIN_FILE).exists():
            raise ConflictError(
                f"The training run {run.id} has no complete checkpoint to go on from. Start a new run instead."
            )

    async def launch(
        self, run: FineTuneRun, attempts: tuple[RunAttempt, ...], wanted: AttemptPlan, leash: FileLock
    ) -> subprocess.Popen[bytes] | None:
        """Start the next process of a run; return None if `run` is outdated.

        Args:
            run: the run as it was read.
            attempts: the previous attempts, all ended.
            wanted: the parameters of the next attempt.
            leash: the run's leash, which the process inherits.

        Raises:
            ConflictError: another run is in progress.
            PluginUnavailableError, InvalidInputError, InsufficientStorageError: see `require_backend`, `prepare`.
            WorkerFailedError: the program cannot be started; the row already contains the new attempt.
        """
        run_dir = self.run_dir(run.id)
        if not (run_dir / TRAIN_FILE).exists():
            raise ConflictError(f"The files of the training run {run.id} are gone.")
        backend = await self.require_backend(run.config.backend)
        await asyncio.to_thread(self.require_space)
        if wanted.anew:
            await asyncio.to_thread(self._forget_checkpoints, run_dir)
        newest = next(reversed(list_checkpoints(run_dir)), None)
        config = msgspec.structs.replace(
            run.config,
            batch_size=wanted.batch_size,
            gradient_accumulation_steps=wanted.gradient_accumulation_steps,
        )
        # A resumed run goes on with the base model that it began with, whatever the Proposer uses now.
        base = await self._workspace.models.resolve_training_base(run.config.base_model or run.base_model)
        job = self._write_job(run.id, config, newest, base)
        command = await asyncio.to_thread(plan_on_base, backend.plan, job, base)
        begun = append_attempt(attempts, wanted, None if newest is None else step_of(newest))
        if not await self._store.attempt(run, begun):
            return None
        for name in (STOPPED_FILE, PAUSE_FILE, HEARTBEAT_FILE):
            (run_dir / name).unlink(missing_ok=True)
        if len(begun) > 1:
            self._mark(run_dir, begun)
        if (loan := await self.cards.lend(msgspec.structs.replace(run, attempts=attempts), backend, job)) is not None:
            command = self.cards.wait_first(loan, command)
            RunEvents(run_dir / EVENTS_FILE).log(self.cards.describe(loan), attempt=len(begun))
        if await asyncio.to_thread(self.environments.awaits_installation, config.backend):
            command = put_before(command, await_packages, self._settings.data_dir, config.backend, str(run_dir))
            RunEvents(run_dir / EVENTS_FILE).log(AWAITS, attempt=len(begun))
        niceness = self._settings.supervisor.niceness
        process = supervisor.launch(command, supervisor.make_mark(run.id, len(begun)), run_dir, leash, niceness)
        log.info("finetune.launched", run=str(run.id), attempt=len(begun), backend=config.backend, pid=process.pid)
        return process

    def _mark(self, run_dir: Path, attempts: tuple[RunAttempt, ...]) -> None:
        """Write to the event log that it continues. An earlier terminal event is then no longer the last event."""
        *_, before, now = attempts
        where = "from the first step" if now.resumed_from_step is None else f"after step {now.resumed_from_step}"
        smaller = ""
        if now.batch_size != before.batch_size:
            smaller = f", with batches of {now.batch_size} and {now.gradient_accumulation_steps} accumulation steps"
        why = f"{before.reason} " if now.automatic else ""
        RunEvents(run_dir / EVENTS_FILE).log(f"{why}Attempt {now.number} begins {where}{smaller}.", attempt=now.number)

    def find_notice(self, run: FineTuneRun) -> str:
        """Return what a run in progress waits for, or what it means for the models; else empty."""
        if run.status == "pending" and run.attempts and (waiting := self._describe_wait(run.config.backend)):
            return waiting
        return self.cards.find_notice(run.id)

    def _describe_wait(self, backend: str) -> str:
        try:
            return self.environments.describe_wait(backend)
        except TmdeError:  # the plugin was uninstalled meanwhile
            return ""

    def give_back_card(self, run_id: UUID) -> None:
        """End the run's loan of the graphics card, so that the paused runtimes come back."""
        give_back(self._settings.data_path, run_id)

    def _forget_checkpoints(self, run_dir: Path) -> None:
        """Delete the checkpoints of another batch size, which are unusable and would count as newer ones."""
        doomed = run_dir / ".checkpoints"
        shutil.rmtree(doomed, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            (run_dir / "checkpoints").rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def find_dequantizer(self, base: TrainingBase) -> WorkerCommand | None:
        """Return the command that converts the weights of a GGUF file, see `TrainingJob.dequantize`.

        If the packages of the converting backend are not installed yet, the command installs them first.
        """
        found = find_dequantizer(self._workspace.plugins, self._workspace.settings, base.weights)
        if found is None:
            return None
        name, command = found
        if self.environments.awaits_installation(name):
            return put_before(command, await_packages, self._settings.data_dir, name, await_packages.NO_RUN)
        return command

    def _write_job(
        self, run_id: UUID, config: FineTuneConfig, resume_from: Path | None, base: TrainingBase
    ) -> TrainingJob:
        job = self._job(run_id, config, resume_from, base)
        write_atomic(self.run_dir(run_id) / JOB_FILE, msgspec.json.format(to_json(job), indent=2) + b"\n")
        return job

    def _job(self, run_id: UUID, config: FineTuneConfig, resume_from: Path | None, base: TrainingBase) -> TrainingJob:
        run_dir = self.run_dir(run_id)
        return TrainingJob(
            run_id=str(run_id),
            run_dir=str(run_dir),
            train_file=str(run_dir / TRAIN_FILE),
            val_file=str(run_dir / VAL_FILE),
            output_dir=str(staging_directory(self.adapters.directory, run_id)),
            base_model=base.weights,
            base_model_name=base.name,
            base_model_source=base.source,
            data_dir=self._settings.data_dir,
            dequantize=self.find_dequantizer(base),
            config=msgspec.to_builtins(config),
            resume_from=None if resume_from is None else str(resume_from),
        )


def plan_on_base(plan: Callable[[TrainingJob], WorkerCommand], job: TrainingJob, base: TrainingBase) -> WorkerCommand:
    """Return what a backend's `plan` or `preview` returns for the job.

    Raises:
        InvalidInputError: the base model does not exist or cannot be trained; the detail says what to do.
    """
    try:
        return plan(job)
    except InvalidInputError as error:
        if base.why_not and error.context.get("field") == "baseModel":
            raise InvalidInputError(base.why_not, field="baseModel") from None
        raise
