"""Composes the services: what API, CLI and pages are given. The one place that knows how they fit together."""

from __future__ import annotations

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
from tmde_core.notifications.service import NotificationService
from tmde_core.notifications.training import teller
from tmde_core.plugins import Plugins
from tmde_core.runtimes import Runtimes
from tmde_core.schedule.service import ScheduleService
from tmde_core.settings import Settings
from tmde_core.storage.database import Database
from tmde_core.storage.locks import FileLock
from tmde_core.templates.store import TemplateStore
from tmde_core.traces.service import TraceService


@dataclass(frozen=True)
class Services:
    """Every service of one open data directory."""

    settings: Settings
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
        database = await stack.enter_async_context(Database.open(settings.data_path / "tmde.db"))
        runtimes = Runtimes(plugins, settings)
        stack.push_async_callback(runtimes.stop)
        templates = TemplateStore(database)
        await templates.seed()
        lineage = LineageService(database, AdapterStore(settings.data_path))
        traces = TraceService(database, settings)
        notifications = NotificationService(database, settings)
        stack.push_async_callback(notifications.stop)
        lora = LoraService(database, settings, runtimes, plugins)
        finetune = FineTuneService(database, settings, plugins, traces, lora, QuestionBank(database, plugins).protected)
        debates = DebateService(database, settings, plugins, runtimes, templates, traces, lora)
        stack.push_async_callback(debates.stop)
        stack.push_async_callback(finetune.stop)
        ask = SideBySide(settings, runtimes, lora)
        stack.push_async_callback(ask.stop)
        benchmark = BenchmarkService(database, settings, plugins, runtimes, templates, lora)
        stack.push_async_callback(benchmark.stop)
        lora.benchmarks = benchmark.of_adapters
        gate = GateService(settings, benchmark, lora, notifications)
        stack.push_async_callback(gate.stop)
        finetune.when_ended(teller(notifications))
        finetune.when_ended(gate.after_training)
        schedules = ScheduleService(database, settings)
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
            settings=settings,
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


def _hold(settings: Settings, stack: AsyncExitStack) -> None:
    """Take the server's lock on the data directory; the kernel releases it however this process ends."""
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
    stack.enter_context(lock).write(str(os.getpid()).encode())
