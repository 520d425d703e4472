"""A debate service on real SQLite, with a scripted runtime at the port."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from tmde_core.debate.service import DebateService
from tmde_core.debate.store import DebateStore
from tmde_core.lora.files.lease import Lease
from tmde_core.observers import Observers
from tmde_core.plugins import Plugins
from tmde_core.records.chat import AdapterRef
from tmde_core.records.finetune import TraceLineage
from tmde_core.settings import LiveSettings, Settings
from tmde_core.storage.database import Database
from tmde_core.storage.events import MemoryLog
from tmde_core.templates.store import TemplateStore
from tmde_core.testing import ScriptedRuntime, scripted_plugins, scripted_settings
from tmde_core.traces.service import TraceService
from tmde_core.traces.store import TraceStore
from tmde_core.workspace import Workspace


@dataclass
class PinnedAdapter:
    """Stands for the adapter service: debates ask it for one thing only."""

    ref: AdapterRef | None = None

    async def acquire_active(self) -> tuple[AdapterRef | None, Lease]:
        return self.ref, Lease()


async def untaught(trace_id: UUID) -> TraceLineage:
    """Nothing has learned from a trace here."""
    return TraceLineage(trace_id=trace_id, runs=(), adapters=())


@dataclass
class Table:
    """Everything a test of debates touches."""

    debates: DebateService
    runtime: ScriptedRuntime
    database: Database
    traces: TraceService
    templates: TemplateStore
    plugins: Plugins
    settings: Settings
    lora: PinnedAdapter = field(default_factory=PinnedAdapter)

    async def ask(self, query: str = "What is 6 times 7?", **options):
        """Start a debate, wait for its end; returns it and its log."""
        debate = await self.debates.start(query, **options)
        log = await self.debates.events(debate.id)
        return await self.debates.wait(debate.id), log


def events(log: MemoryLog, type_: str) -> list[dict]:
    """The data of a log's events of one type."""
    return [event.data for event in log.events if event.type == type_]


Open = Callable[..., AbstractAsyncContextManager[Table]]


@pytest.fixture
def open_table(tmp_path: Path) -> Open:
    """Opens a table: `async with open_table(runtime) as table`."""

    @asynccontextmanager
    async def opened(
        runtime: ScriptedRuntime | None = None, plugins: Plugins | None = None, settings: Settings | None = None
    ) -> AsyncIterator[Table]:
        runtime = runtime or ScriptedRuntime()
        settings = settings or scripted_settings(tmp_path)
        plugins = scripted_plugins(runtime, plugins or Plugins.load())
        lora = PinnedAdapter()
        async with Database.open(tmp_path / "tmde.db") as database:
            templates = TemplateStore(database)
            await templates.seed()
            workspace = Workspace(live := LiveSettings(settings), templates, plugins)
            traces = TraceService(TraceStore(database), live, untaught)
            debates = DebateService(
                DebateStore(database), workspace, traces, lora, Observers(plugins, tmp_path).publish
            )
            try:
                yield Table(debates, runtime, database, traces, templates, plugins, settings, lora)
            finally:
                await debates.stop()
                await workspace.stop()

    return opened


@pytest.fixture
async def table(open_table: Open) -> AsyncIterator[Table]:
    """A table with the default script: two rounds, the second is accepted."""
    async with open_table() as opened:
        yield opened
