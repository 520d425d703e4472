"""Composes the services: what API, CLI and pages are given. The one place that knows how they fit together."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tmde_core.asking.service import SideBySide
from tmde_core.benchmark.gate import GateService
from tmde_core.benchmark.questions.bank import QuestionBank
from tmde_core.benchmark.service import BenchmarkService
from tmde_core.debate.service import DebateService
from tmde_core.errors import ConflictError, InsufficientStorageError
from tmde_core.finetune.lineage import LineageService
from tmde_core.finetune.preview.service import PreviewService
from tmde_core.finetune.scheduled import ScheduledTraining
from tmde_core.finetune.service import FineTuneService
from tmde_core.lora.archive.service import ArchiveService
from tmde_core.lora.files.patrol import Patrol
from tmde_core.lora.files.store import AdapterStore
from tmde_core.lora.service import LoraService
from tmde_core.notifications.damage import damage_teller
from tmde_core.notifications.service import NotificationService, check_webhook
from tmde_core.notifications.training import teller
from tmde_core.plugins import Plugins
from tmde_core.runtimes import Runtimes
from tmde_core.schedule.service import ScheduleService, check_schedules
from tmde_core.settings import Check, LiveSettings, Settings
from tmde_core.storage.database import Database
from tmde_core.storage.durable import storage_errors
from tmde_core.templates.store import TemplateStore
from tmde_core.traces.service import TraceService


@dataclass(frozen=True)
class Services:
    """Every service of one open data directory."""

    live: LiveSettings
    plugins: Plugins
    database: Database
    runtimes: Runtimes
    templates: TemplateStore
    traces: TraceService
    lora: LoraService
    finetune: FineTuneService
    debates: DebateService
    notifications: NotificationService
    schedules: ScheduleService
    previews: PreviewService
    lineage: LineageService
    archives: ArchiveService
    ask: SideBySide
    benchmark: BenchmarkService
    gate: GateService

    @property
    def settings(self) -> Settings:
        """The settings in force now."""
        return self.live.current


@asynccontextmanager
async def open_services(
    settings: Settings, plugins: Plugins | None = None, *, serving: bool = False
) -> AsyncIterator[Services]:
    """Open the data directory and build the services on it.

    Args:
        serving: this process is the server: it alone may hold the directory as a server, and it settles what a
            crash left open (interrupted debates, adopted training runs, open activation intents).

    Raises:
        ConflictError: another server uses this data directory.
        InsufficientStorageError: the directory cannot be written.
    """
    async with AsyncExitStack() as stack:
        if serving:
            _hold(settings, stack)
        plugins = plugins or Plugins.load()
        live = LiveSettings(settings, _checks(plugins))
        database = await stack.enter_async_context(Database.open(settings.data_path / "tmde.db"))
        runtimes = Runtimes(plugins, settings)
        stack.push_async_callback(runtimes.stop)
        templates = TemplateStore(database)
        await templates.seed()
        lineage = LineageService(database, AdapterStore(settings.data_path))
        traces = TraceService(database, live)
        notifications = NotificationService(database, live)
        stack.push_async_callback(notifications.stop)
        lora = LoraService(database, settings, runtimes, plugins)
        finetune = FineTuneService(database, live, plugins, traces, lora, QuestionBank(database, plugins).protected)
        debates = DebateService(database, settings, plugins, runtimes, templates, traces, lora)
        stack.push_async_callback(debates.stop)
        stack.push_async_callback(finetune.stop)
        ask = SideBySide(settings, runtimes, lora)
        stack.push_async_callback(ask.stop)
        benchmark = BenchmarkService(database, live, plugins, runtimes, templates, lora)
        stack.push_async_callback(benchmark.stop)
        lora.benchmarks = benchmark.of_adapters
        gate = GateService(live, benchmark, lora, notifications)
        stack.push_async_callback(gate.stop)
        finetune.when_ended(teller(notifications))
        finetune.when_ended(gate.after_training)
        schedules = ScheduleService(database, live)
        schedules.register("benchmark", gate.scheduled)
        schedules.register("finetune", ScheduledTraining(finetune, traces).decide)
        stack.push_async_callback(schedules.stop)
        await debates.settle()
        await lora.settle()
        await finetune.settle(watch=serving)
        await benchmark.settle(serving)
        previews = PreviewService(settings, finetune, traces)
        if serving:
            await gate.start()
            await schedules.start()
            previews.sweep()
            patrol = Patrol(lora, damage_teller(notifications))
            stack.push_async_callback(patrol.stop)
            await patrol.start()
        yield Services(
            live=live,
            plugins=plugins,
            database=database,
            runtimes=runtimes,
            templates=templates,
            traces=traces,
            lora=lora,
            finetune=finetune,
            debates=debates,
            notifications=notifications,
            schedules=schedules,
            previews=previews,
            lineage=lineage,
            archives=ArchiveService(lora),
            ask=ask,
            benchmark=benchmark,
            gate=gate,
        )


def _checks(plugins: Plugins) -> tuple[Check, ...]:
    """What new settings must pass beside their ranges, before they are stored."""

    def check_runtimes(wanted: Settings, stored: Settings) -> None:
        for role in ("proposer", "skeptic", "synthesizer", "judge"):
            runtime = getattr(wanted.roles, role).runtime
            # An old choice may have lost its plugin. It must not stand in the way of other settings.
            if runtime != getattr(stored.roles, role).runtime:
                plugins.runtimes.choose(runtime, f"roles.{role}.runtime")

    def check_backend(wanted: Settings, stored: Settings) -> None:
        if wanted.finetune != stored.finetune:
            plugins.backends.choose(wanted.finetune.backend, "finetune.backend")

    return check_schedules, check_webhook, check_runtimes, check_backend


def _hold(settings: Settings, stack: AsyncExitStack) -> None:
    """Take the server's lock on the data directory; the kernel releases it however this process ends."""
    path = settings.data_path / "server.lock"
    try:
        file = stack.enter_context(path.open("a+"))
    except OSError as error:
        raise InsufficientStorageError(
            f"The data directory {settings.data_dir} cannot be written: {error.strerror}."
        ) from None
    try:
        with storage_errors(settings.data_path):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        other = file.read(20).strip()
        raise ConflictError(
            f"Another TMDE server (process {other or 'unknown'}) uses the data directory {settings.data_dir}. "
            "Stop it, or choose another directory with --data-dir."
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
