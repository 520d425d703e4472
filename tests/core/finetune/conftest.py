"""Traces to train on, and a backend whose worker is a real process that only pretends to train."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid5

import pytest

from tmde_core.finetune.supervision import supervisor
from tmde_core.plugins import Plugins
from tmde_core.records.runtimes import Availability
from tmde_core.records.traces import Trace
from tmde_core.records.training import ResourceEstimate, TrainingJob, WorkerCommand
from tmde_core.sdk.training import BackendDescriptor
from tmde_core.services import open_services
from tmde_core.settings import Settings
from tmde_core.testing.scripted import ScriptedRuntime, scripted_plugins, scripted_settings

WORKER = Path(__file__).with_name("stand_in_worker.py")
NEEDS_CARD = "needs-card"
"""While this file is in the data directory, runs of the stand-in need the graphics card."""
NAMESPACE = UUID("00000000-0000-0000-0000-00000000abcd")
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class StandInBackend:
    def __init__(self, availability: Availability | None = None) -> None:
        self._availability = availability or Availability(ok=True)

    def availability(self) -> Availability:
        return self._availability

    def estimate(self, job: TrainingJob) -> ResourceEstimate:
        needs_card = (Path(job.data_dir) / NEEDS_CARD).exists()
        return ResourceEstimate(vram_bytes=6_000_000_000, seconds=720) if needs_card else ResourceEstimate()

    def plan(self, job: TrainingJob) -> WorkerCommand:
        program = "/no/such/program" if job.base_model == "no-program" else sys.executable
        return WorkerCommand(argv=(program, str(WORKER), str(Path(job.run_dir) / "job.json")))


def stand_in_plugins(others: Plugins | None = None) -> Plugins:
    plugins = scripted_plugins(ScriptedRuntime(vram_bytes=4_000_000_000), others)
    plugins.backends.add(
        BackendDescriptor(name="stand-in", summary="pretends", create=lambda _: StandInBackend()), "tests"
    )
    lacking = Availability(ok=False, reason="It lacks a card.")
    plugins.backends.add(
        BackendDescriptor(name="lacking", summary="cannot", create=lambda _: StandInBackend(lacking)), "tests"
    )
    return plugins


def settings_on(data_dir: Path) -> Settings:
    data_dir.mkdir(exist_ok=True)
    return scripted_settings(data_dir)


def make_trace(query: str, answer: str = "An answer.", *, minutes: int = 0, **fields: object) -> Trace:
    created = EPOCH + timedelta(minutes=minutes)
    identity = uuid5(NAMESPACE, f"{query} {answer} {minutes} {fields}")
    fields.setdefault("auto_score", 9.0)
    return Trace(id=identity, created_at=created, query=query, final_answer=answer, **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def trace() -> Callable[..., Trace]:
    return make_trace


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory; workers that a failing test leaves alive are ended with it."""
    yield tmp_path / "data"
    for run_dir in (tmp_path / "data" / "runs").glob("*"):
        supervisor.end(run_dir.name, run_dir, grace_seconds=0)


@pytest.fixture
def stand_in():
    """Opens services whose only training backend pretends: `async with stand_in(data_dir) as services`."""

    def opened(data_dir: Path, *, serving: bool = False):
        return open_services(settings_on(data_dir), stand_in_plugins(), serving=serving)

    return opened


@pytest.fixture
async def services(stand_in, data_dir: Path):
    """Services on a data directory with twenty traces that may be trained on."""
    async with stand_in(data_dir, serving=True) as opened:
        for number in range(20):
            await opened.traces.add(make_trace(f"What is {number} times 7?", f"It is {number * 7}.", minutes=number))
        yield opened
