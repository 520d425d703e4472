"""The same with the trainer that ships, on a model of a few thousand parameters.

On the embedded model it trains in tests/core/lora/test_real_versions.py and in tests/tmde_ui/benchmark/test_report.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import msgspec
import pytest

from tests.core.finetune.conftest import make_trace
from tmde_core.finetune.supervision import supervisor
from tmde_core.lora.files.store import AdapterStore
from tmde_core.plugins import Plugins
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.training import TrainingJob, WorkerCommand
from tmde_core.services import open_services
from tmde_core.settings import load_settings
from tmde_cpu.backend import CpuBackend

pytestmark = pytest.mark.slow

DEADLINE_SECONDS = 120.0
TOML = "[supervisor]\nniceness = 0\n[benchmark]\nafter_training = false\n"
"""Nothing but training, and that at its full share beside other tests."""

HELD_TRAINER = Path(__file__).parents[2] / "tmde_cpu" / "training" / "held_trainer.py"


async def fill(data_dir: Path) -> Path:
    """A data directory with the same traces every time."""
    data_dir.mkdir()
    (data_dir / "tmde.toml").write_text(TOML)
    async with open_services(load_settings(data_dir, environ={}), Plugins()) as services:
        for number in range(24):
            await services.traces.add(make_trace(f"What is {number} times 7?", f"It is {number * 7}.", minutes=number))
    return data_dir


@pytest.fixture
async def filled(data_dir: Path) -> Path:
    return await fill(data_dir)


def config(base_model: object, **changes) -> FineTuneConfig:
    return FineTuneConfig(base_model=str(base_model), min_traces=5, **changes)


def several_epochs(base_model: object) -> FineTuneConfig:
    """A run with a checkpoint in its middle."""
    return config(base_model, epochs=3, batch_size=1, gradient_accumulation_steps=1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, UUID]:
    """Where `several_epochs` was trained on the same traces and nothing happened meanwhile, and the run."""
    data_dir = tmp_path_factory.mktemp("undisturbed") / "data"

    async def trained() -> UUID:
        async with open_services(load_settings(await fill(data_dir), environ={}), serving=True) as services:
            run = await services.finetune.wait((await services.finetune.start(several_epochs(tiny_model))).id)
            assert (run.status, run.error_message) == ("completed", None)
            return run.id

    return data_dir, asyncio.run(trained())


@pytest.fixture
def held(undisturbed, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on a trainer waits after a checkpoint until it may go on."""
    plan = CpuBackend.plan

    def planned(backend: CpuBackend, job: TrainingJob) -> WorkerCommand:
        command = plan(backend, job)
        return msgspec.structs.replace(command, argv=(sys.executable, str(HELD_TRAINER), command.argv[-1]))

    monkeypatch.setattr(CpuBackend, "plan", planned)


def weights(data_dir: Path, run_id: UUID) -> str:
    """The hash of what a run learned."""
    return AdapterStore(data_dir).verify_files(run_id).files["adapter_model.safetensors"]


async def test_the_shipped_trainer_goes_from_traces_to_a_sound_adapter(undisturbed):
    data_dir, run_id = undisturbed
    async with open_services(load_settings(data_dir, environ={})) as services:
        run = await services.finetune.get(run_id)
        assert (run.status, run.error_message) == ("completed", None)
        assert run.metrics is not None
        assert run.metrics.final_train_loss is not None
        assert len(await services.finetune.metrics(run.id)) == run.metrics.total_steps
        manifest = services.stores.adapters.verify_files(run.id)
        assert {
            "adapter_model.safetensors",
            "adapter_config.json",
            "adapter.gguf",
            "metrics.json",
        } <= manifest.files.keys()
        assert manifest.dataset_sha256 == run.dataset_hash
        assert len(manifest.lineage["traceIds"]) == run.traces_used


async def test_a_trainer_killed_in_the_middle_goes_on_from_its_checkpoint_and_learns_the_same(
    filled, tiny_model, undisturbed, held
):
    async with open_services(load_settings(filled, environ={}), serving=True) as services:
        run = await services.finetune.start(several_epochs(tiny_model))
        async for event in services.finetune.events(run.id).follow():
            if event.type == "checkpoint":
                break
        for process in supervisor.find_processes(str(run.id)):
            process.kill()
        (services.finetune.run_dir(run.id) / "go").touch()
        ended = await services.finetune.wait(run.id)
        assert [attempt.outcome for attempt in ended.attempts] == ["killed", "completed"]
        assert ended.attempts[1].resumed_from_step
    assert weights(filled, run.id) == weights(*undisturbed)


async def test_a_cancelled_run_that_is_resumed_learns_the_same(filled, tiny_model, undisturbed, held):
    async with open_services(load_settings(filled, environ={}), serving=True) as services:
        run = await services.finetune.start(several_epochs(tiny_model))
        async for event in services.finetune.events(run.id).follow():
            if event.type == "checkpoint":
                break
        await services.finetune.cancel(run.id)
        (services.finetune.run_dir(run.id) / "go").touch()
        await services.finetune.resume(run.id)
        ended = await services.finetune.wait(run.id)
        assert [attempt.outcome for attempt in ended.attempts] == ["cancelled", "completed"]
    assert weights(filled, run.id) == weights(*undisturbed)


def test_runs_of_the_command_line_and_of_the_api_end_in_equal_adapters_whatever_happens_to_the_server(
    data_dir, tiny_model
):
    data_dir.mkdir()
    settings = f'[finetune]\nbase_model = "{tiny_model}"\nepochs = 6\nbatch_size = 1\ngradient_accumulation_steps = 1\n'
    (data_dir / "tmde.toml").write_text(settings + TOML)
    traces = data_dir.parent / "traces.jsonl"
    lines = [f'{{"query": "{n} and 7?", "finalAnswer": "{n + 7}.", "qualityScore": 9}}' for n in range(60)]
    traces.write_text("\n".join(lines))
    assert "Imported 60 traces" in tmde(data_dir, "traces", "import", str(traces))

    with served(data_dir) as (server, api):
        by_api = api.post("/api/finetune").raise_for_status().json()["runId"]
        with api.stream("GET", f"/api/finetune/{by_api}/progress") as stream:
            assert any(line == "event: progress" for line in stream.iter_lines())
        server.kill()
    with served(data_dir) as (_, api):
        ending = [line for line in progress(api, by_api) if line.startswith("event: ")][-1]
        assert ending == "event: complete"
        # The stream ends with the worker's last word; `watch` returns when the end is on record, too.
        assert "Completed, final loss" in tmde(data_dir, "finetune", "watch", by_api)
        assert "Completed, final loss" in tmde(data_dir, "finetune", "start", "--watch")
        (by_cli,) = {adapter["id"] for adapter in api.get("/api/lora").json()["items"]} - {by_api}
        one, other = (api.get(f"/api/lora/{adapter}").json() for adapter in (by_api, by_cli))
        assert one["tracesUsed"] >= 50
        assert one["sha256"] == other["sha256"]


def progress(api: httpx.Client, run_id: str) -> list[str]:
    """The lines of a run's event stream, to its end."""
    with api.stream("GET", f"/api/finetune/{run_id}/progress") as stream:
        return list(stream.iter_lines())


def tmde(data_dir: Path, *arguments: str) -> str:
    """What `tmde …` prints."""
    command = [sys.executable, "-m", "tmde_core.cli", "--data-dir", str(data_dir), *arguments]
    return _said(subprocess.run(command, check=False, capture_output=True, text=True, timeout=DEADLINE_SECONDS))


def _said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@contextlib.contextmanager
def served(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """`tmde serve` in a process of its own, and a client of it."""
    command = [sys.executable, "-m", "tmde_core.cli", "serve", "--no-ui", "--port", "0", "--data-dir", str(data_dir)]
    with (data_dir.parent / "server.log").open("ab") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[3]
        with httpx.Client(base_url=url, timeout=DEADLINE_SECONDS) as api:
            yield server, api
    finally:
        server.terminate()
        server.communicate(timeout=30)
