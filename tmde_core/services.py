"""Builds and connects all services for the API, the CLI and the pages. Only this module knows how they fit together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar
from uuid import UUID

from tmde_core.errors import ConflictError, InsufficientStorageError, NotFoundError
from tmde_core.settings import LiveSettings
from tmde_core.storage.database import Database
from tmde_core.storage.locks import FileLock
from tmde_core.workspace import Workspace

if TYPE_CHECKING:
    from tmde_core.asking.service import SideBySide
    from tmde_core.backends.installing import Installations
    from tmde_core.backends.service import BackendEnvironments
    from tmde_core.benchmark.gate import GateService
    from tmde_core.benchmark.questions.bank import QuestionBank
    from tmde_core.benchmark.service import BenchmarkService
    from tmde_core.benchmark.store import BenchmarkStore
    from tmde_core.debate.service import DebateService
    from tmde_core.debate.store import DebateStore
    from tmde_core.finetune.dataset.leaks import Protected
    from tmde_core.finetune.lineage import LineageService
    from tmde_core.finetune.preview.service import PreviewService
    from tmde_core.finetune.service import FineTuneService
    from tmde_core.finetune.store import RunStore
    from tmde_core.lookup import IdLookup
    from tmde_core.lora.activation.audit import AuditTrail
    from tmde_core.lora.archive.service import ArchiveService
    from tmde_core.lora.files.forms import GgufForms
    from tmde_core.lora.files.store import AdapterStore
    from tmde_core.lora.service import LoraService
    from tmde_core.models.pulling import PullService
    from tmde_core.models.service import ModelService
    from tmde_core.notifications.service import NotificationService
    from tmde_core.observers import Observers
    from tmde_core.plugins import Plugins
    from tmde_core.records.benchmark import BenchmarkQuestion, RunComparison
    from tmde_core.records.finetune import TraceLineage
    from tmde_core.records.lora import LoRAAdapter
    from tmde_core.runtimes import Runtimes
    from tmde_core.schedule.service import ScheduleService
    from tmde_core.sdk.events import Event
    from tmde_core.settings import Settings
    from tmde_core.templates.store import TemplateStore
    from tmde_core.traces.service import TraceService
    from tmde_core.traces.store import TraceStore


class Stoppable(Protocol):
    """A service that must be stopped."""

    async def stop(self) -> None:
        """Stop what is running."""


S = TypeVar("S", bound=Stoppable)


class Stores:
    """The stores of one open data directory. Each store is built on first use.

    The properties import their modules, here and in `Services`. A command that lists one kind of record does not wait
    for the code of the others.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database

    @cached_property
    def adapters(self) -> AdapterStore:
        """The adapters on the disk."""
        from tmde_core.lora.files.store import AdapterStore

        return AdapterStore(self.settings.data_path)

    @cached_property
    def traces(self) -> TraceStore:
        """Finished debates."""
        from tmde_core.traces.store import TraceStore

        return TraceStore(self.database)

    @cached_property
    def debates(self) -> DebateStore:
        """Debates, both running and ended."""
        from tmde_core.debate.store import DebateStore

        return DebateStore(self.database)

    @cached_property
    def audit(self) -> AuditTrail:
        """The audit trail: which operations changed adapters, and who requested them."""
        from tmde_core.lora.activation.audit import AuditTrail

        return AuditTrail(self.database)

    @cached_property
    def runs(self) -> RunStore:
        """Training runs."""
        from tmde_core.finetune.store import RunStore

        return RunStore(self.database)

    @cached_property
    def templates(self) -> TemplateStore:
        """Reasoning templates."""
        from tmde_core.templates.store import TemplateStore

        return TemplateStore(self.database)

    @cached_property
    def benchmark(self) -> BenchmarkStore:
        """Benchmark runs, their answers, and the decisions of the gate."""
        from tmde_core.benchmark.store import BenchmarkStore

        return BenchmarkStore(self.database)


class Services:
    """All services of one open data directory. Each is built on first use and stopped when the directory is closed."""

    def __init__(
        self, settings: Settings, database: Database, stack: AsyncExitStack, plugins: Plugins | None = None
    ) -> None:
        """Prepare the services without building any.

        Args:
            settings: the settings at the start.
            database: the open database.
            stack: is open as long as the data directory. When it closes, it stops the services, the newest first.
            plugins: the plugins to use; None: load the installed plugins when they are needed.
        """
        self.live = LiveSettings(settings, [self._check])
        self.database = database
        self.stores = Stores(settings, database)
        self._stack = stack
        self._given = plugins

    @property
    def settings(self) -> Settings:
        """The settings in force now."""
        return self.live.current

    def _check(self, wanted: Settings, stored: Settings) -> None:
        """Check new settings before they are stored, beyond their types and ranges."""
        from tmde_core.debate.judging import NONE
        from tmde_core.notifications.service import check_webhook
        from tmde_core.plugins.making import check_tables
        from tmde_core.schedule.service import check_schedules
        from tmde_core.sdk.hooks import AUTO

        check_schedules(wanted, stored)
        check_webhook(wanted, stored)
        for role in ("proposer", "skeptic", "synthesizer", "judge"):
            runtime = getattr(wanted.roles, role).runtime
            # The plugin of an earlier choice may have been uninstalled. This must not block changes of other settings.
            if runtime not in (AUTO, getattr(stored.roles, role).runtime):
                self.plugins.runtimes.choose(runtime, f"roles.{role}.runtime")
        check_tables(self.plugins, wanted, stored)
        if wanted.finetune.backend not in (AUTO, stored.finetune.backend):
            self.plugins.backends.choose(wanted.finetune.backend, "finetune.backend")
        if wanted.debate.judge not in (AUTO, NONE, stored.debate.judge):
            self.plugins.judges.choose(wanted.debate.judge, "debate.judge")
        if wanted.benchmark.judge not in (AUTO, stored.benchmark.judge):  # a benchmark cannot run without a judge
            self.plugins.judges.choose(wanted.benchmark.judge, "benchmark.judge")

    def _stopped(self, service: S) -> S:
        """Stop the service when the data directory is closed, and return the service."""
        self._stack.push_async_callback(service.stop)
        return service

    # -------------------------------------------------------------------------------- what services share

    @cached_property
    def workspace(self) -> Workspace:
        """What the services that use models share."""
        return self._stopped(Workspace(self.live, self.stores.templates, self._given))

    @property
    def plugins(self) -> Plugins:
        """All plugins."""
        return self.workspace.plugins

    @property
    def runtimes(self) -> Runtimes:
        """The model runtimes of this process."""
        return self.workspace.runtimes

    @property
    def models(self) -> ModelService:
        """The base models."""
        return self.workspace.models

    @cached_property
    def pulls(self) -> PullService:
        """Pulls of base models. Those that this process has started end with it, and can be continued."""
        from tmde_core.models.pulling import PullService

        service = PullService(self.settings)
        self._stack.push_async_callback(asyncio.to_thread, service.stop)
        return service

    @property
    def templates(self) -> TemplateStore:
        """Reasoning templates."""
        return self.stores.templates

    @cached_property
    def observers(self) -> Observers:
        """The listeners of events: the notifications, the gate and the plugins' observers."""
        from tmde_core.notifications.listener import EventNotifier
        from tmde_core.observers import Observers

        observers = Observers(self.plugins, self.settings.data_path)
        observers.subscribe(EventNotifier(self.notifications, self._find_name).hear)
        observers.subscribe(self._measure)
        return self._stopped(observers)

    async def _find_name(self, run_or_adapter: UUID) -> str | None:
        """Return the name of an adapter, or of a training run that has not created one."""
        try:
            return (await self.lora.get(run_or_adapter)).name
        except NotFoundError:
            return (await self.stores.runs.names()).get(run_or_adapter)

    async def _measure(self, event: Event) -> None:
        await self.gate.hear(event)  # the gate is built after the observers, so that it is stopped before them

    def _publish(self, event: Event) -> asyncio.Task[None]:
        return self.observers.publish(event)

    @cached_property
    def questions(self) -> QuestionBank:
        """The questions of benchmarks: those of plugins and the user's own."""
        from tmde_core.benchmark.questions.bank import QuestionBank

        return QuestionBank(self.database, self.plugins)

    @cached_property
    def forms(self) -> GgufForms:
        """The GGUF forms of adapters, which runtimes serve."""
        from tmde_core.lora.files.forms import GgufForms

        return GgufForms(self.workspace, self.stores.adapters)

    # ------------------------------------------------------------------------------------------- services

    @cached_property
    def lineage(self) -> LineageService:
        """Finds which runs and adapters learned from which traces."""
        from tmde_core.finetune.lineage import LineageService

        return LineageService(self.stores.traces, self.stores.runs, self.stores.adapters)

    @cached_property
    def traces(self) -> TraceService:
        """Finished debates."""
        from tmde_core.traces.service import TraceService

        return TraceService(self.stores.traces, self.live, self._taught)

    async def _taught(self, trace_id: UUID) -> TraceLineage:
        return await self.lineage.find_by_trace_id(trace_id)

    @cached_property
    def notifications(self) -> NotificationService:
        """Notifications for people."""
        from tmde_core.notifications.service import NotificationService

        return self._stopped(NotificationService(self.database, self.live))

    @cached_property
    def lora(self) -> LoraService:
        """Adapters, including the active adapter."""
        from tmde_core.lora.service import LoraService

        return LoraService(
            self.stores.adapters, self.stores.audit, self.forms, self.workspace, self._compared, self._publish,
            self.stores.runs.names, self.stores.benchmark.scores,
        )  # fmt: skip

    async def _compared(self, a: UUID, b: UUID) -> RunComparison | None:
        return await self.benchmark.compare_adapters(a, b)

    @cached_property
    def ids(self) -> IdLookup:
        """Finds what an id means that a person or a program gave, whole or in part."""
        from tmde_core.lookup import IdLookup

        return IdLookup(self.database, self._all_adapters, self._all_questions)

    async def _all_adapters(self) -> Sequence[LoRAAdapter]:
        return await self.lora.list()

    async def _all_questions(self) -> Sequence[BenchmarkQuestion]:
        return await self.questions.list()

    @cached_property
    def archives(self) -> ArchiveService:
        """The export and import of adapters."""
        from tmde_core.lora.archive.merged import MergeService
        from tmde_core.lora.archive.service import ArchiveService

        merges = MergeService(self.workspace, self.lora, self.stores.adapters)
        return ArchiveService(self.lora, self.stores.adapters, self.forms, merges, self.models)

    @cached_property
    def debates(self) -> DebateService:
        """Debates."""
        from tmde_core.debate.service import DebateService

        return self._stopped(DebateService(self.stores.debates, self.workspace, self.traces, self.lora, self._publish))

    @cached_property
    def finetune(self) -> FineTuneService:
        """Training runs. The process that records the end of a run also publishes it."""
        from tmde_core.finetune.service import FineTuneService

        service = FineTuneService(
            self.stores.runs,
            self.live,
            self.workspace,
            self.traces,
            self.stores.adapters,
            self._protected,
            self._publish,
        )
        return self._stopped(service)

    async def _protected(self) -> Sequence[Protected]:
        return await self.questions.list_protected()

    @cached_property
    def backends(self) -> BackendEnvironments:
        """The Python environments of training backends."""
        from tmde_core.backends.service import BackendEnvironments

        return BackendEnvironments(self.plugins, lambda: self.settings)

    @cached_property
    def installations(self) -> Installations:
        """Installations of these environments. Those that this process has started end with it, and can be continued."""
        from tmde_core.backends.installing import Installations

        installations = Installations(self.backends)
        self._stack.push_async_callback(installations.aclose)
        return installations

    @cached_property
    def previews(self) -> PreviewService:
        """Previews of training runs."""
        from tmde_core.finetune.preview.service import PreviewService

        return PreviewService(self.settings, self.finetune, self.traces)

    @cached_property
    def ask(self) -> SideBySide:
        """Asks several adapters the same question."""
        from tmde_core.asking.service import SideBySide

        return self._stopped(SideBySide(self.workspace, self.lora))

    @cached_property
    def benchmark(self) -> BenchmarkService:
        """Benchmark runs."""
        from tmde_core.benchmark.service import BenchmarkService

        return self._stopped(
            BenchmarkService(self.stores.benchmark, self.questions, self.workspace, self.lora, self._publish)
        )

    @cached_property
    def gate(self) -> GateService:
        """Measures new adapters."""
        from tmde_core.benchmark.gate import GateService

        return self._stopped(
            GateService(self.live, self.benchmark, self.lora, self.notifications, self.stores.benchmark, self._publish)
        )

    @cached_property
    def schedules(self) -> ScheduleService:
        """Scheduled actions."""
        from tmde_core.finetune.scheduled import ScheduledTraining
        from tmde_core.schedule.service import ScheduleService

        service = ScheduleService(self.database, self.live)
        service.register("benchmark", self.gate.run_scheduled)
        service.register("finetune", ScheduledTraining(self.finetune, self.traces).decide)
        return self._stopped(service)

    # ----------------------------------------------------------------------------------- opening, serving

    async def settle(self, serving: bool) -> None:
        """Build every service and clean up what a crash left unfinished.

        This affects debates, activations, training runs and benchmarks.

        Raises:
            InvalidInputError: a setting cannot be used, such as a schedule or the address of the webhook.
        """
        await self.templates.seed()
        self._build()
        await self.debates.settle()
        await self.lora.settle()
        await self.finetune.settle(watch=serving)
        await self.benchmark.settle(serving)

    def _build(self) -> None:
        """Build every service. The last one built is stopped first."""
        for name in (
            "workspace", "lineage", "traces", "notifications", "observers", "lora", "archives", "debates", "finetune", "previews", "ask",
            "benchmark", "gate", "schedules",
        ):  # fmt: skip
            getattr(self, name)

    async def serve(self) -> None:
        """Start what only the server runs: schedules, measuring new adapters, and checks of the adapters' files."""
        from tmde_core.finetune.following import RunFollower
        from tmde_core.lora.patrol import Patrol

        await self.gate.start()
        follower = self._stopped(RunFollower(self.stores.runs, self.gate.hear))
        await follower.start()
        await self.schedules.start()
        self.previews.sweep()
        patrol = self._stopped(Patrol(self.lora, self.stores.adapters, self._publish))
        await patrol.start()


@asynccontextmanager
async def open_reading(settings: Settings, plugins: Plugins | None = None) -> AsyncIterator[Services]:
    """Open the data directory for a command that only reads.

    Nothing is cleaned up after a crash, and services are loaded only on first use.

    Raises:
        InsufficientStorageError: the directory cannot be written.
    """
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(settings.data_path / "tmde.db"))
        yield Services(settings, database, stack, plugins)


@asynccontextmanager
async def open_services(
    settings: Settings, plugins: Plugins | None = None, *, serving: bool = False
) -> AsyncIterator[Services]:
    """Open the data directory, build its services and clean up what a crash left unfinished.

    Args:
        settings: the settings at the start.
        plugins: the plugins to use; None: load the installed plugins.
        serving: this process is the server. Only one server may use the directory at a time. The server resumes what a
            crash interrupted and runs the schedules.

    Raises:
        ConflictError: another server uses this data directory.
        InsufficientStorageError: the directory cannot be written.
    """
    with _held(settings) if serving else nullcontext():
        async with open_reading(settings, plugins) as services:
            await services.settle(serving)
            if serving:
                await services.serve()
            yield services


@contextmanager
def _held(settings: Settings) -> Iterator[None]:
    """Hold the server's lock on the data directory. The kernel releases it when this process ends."""
    path = settings.data_path / "server.lock"
    try:
        lock = FileLock.try_acquire(path)
    except OSError as error:
        raise InsufficientStorageError(
            f"The data directory {settings.data_dir} cannot be written: {error.strerror}."
        ) from None
    if lock is None:
        other = path.read_text(encoding="utf-8")[:20].strip()
        raise ConflictError(
            f"Another TMDE server (process {other or 'unknown'}) uses the data directory {settings.data_dir}. "
            "Stop it, or choose another directory with --data-dir."
        )
    with lock:
        lock.write(str(os.getpid()).encode())
        yield
