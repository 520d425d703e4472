"""Who learned from a trace: runs by their rows, adapters by their manifests, wherever those came from."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.core.lora.conftest import publish_adapter
from tmde_core.errors import NotFoundError
from tmde_core.records.finetune import FineTuneConfig


async def trained(services, how: str = "quick") -> UUID:
    run = await services.finetune.start(FineTuneConfig(backend="stand-in", base_model=how, min_traces=5))
    await services.finetune.wait(run.id)
    return run.id


@pytest.fixture
async def taught(services) -> UUID:
    return (await services.traces.list(limit=20)).items[3].id


async def test_run_and_traces_name_each_other(services, taught):
    run, failed = await trained(services), await trained(services, "raises")
    found = await services.lineage.find_by_trace(taught)
    assert (found.runs, found.adapters) == ((run, failed), (run,))
    assert taught in [trace.id for trace in await services.finetune.list_traces(run)]
    assert services.stores.adapters.read_manifest(run).lineage["traceIds"].count(str(taught)) == 1


async def test_withdrawing_a_trace_names_every_adapter_that_it_tainted(services, data_dir: Path, taught):
    run = await trained(services)
    elsewhere = publish_adapter(data_dir, lineage={"runId": str(uuid4()), "traceIds": [str(uuid4()), str(taught)]})
    renamed = publish_adapter(data_dir, lineage={"runId": str(run)})
    damaged = publish_adapter(data_dir, lineage={"traceIds": [str(taught)]})
    (data_dir / "lora-adapters" / str(damaged) / "adapter_model.safetensors").unlink()
    publish_adapter(data_dir, lineage={"runId": str(uuid4()), "traceIds": [str(uuid4())]})
    publish_adapter(data_dir, lineage={"runId": 7, "traceIds": "all"})
    withdrawn = await services.traces.withdraw(taught, "It is wrong.")
    assert withdrawn.runs == (run,)
    assert withdrawn.adapters[0] == run
    assert sorted(withdrawn.adapters) == sorted([run, elsewhere, renamed, damaged])
    assert set((await services.lineage.find_by_trace(taught)).adapters) == set(withdrawn.adapters)


async def test_an_adapter_whose_run_is_forgotten_is_known_by_its_manifest(services, taught):
    run = await trained(services)
    await services.database.write("DELETE FROM run_traces WHERE run_id = ?", (str(run),))
    await services.database.write("DELETE FROM finetune_runs WHERE id = ?", (str(run),))
    found = await services.lineage.find_by_trace(taught)
    assert (found.runs, found.adapters) == ((), (run,))


async def test_an_adapter_that_was_deleted_has_still_learned(services, data_dir: Path, taught):
    run = await trained(services)
    shutil.rmtree(data_dir / "lora-adapters" / str(run))
    assert (await services.lineage.find_by_trace(taught)).adapters == (run,)


async def test_what_lies_about_among_the_adapters_stops_nothing(services, data_dir: Path, taught):
    run = await trained(services)
    directory = data_dir / "lora-adapters"
    shutil.copytree(directory / str(run), directory / str(uuid4()))
    (directory / str(uuid4())).symlink_to(directory / str(run))
    (directory / "empty").mkdir()
    (directory / "half").mkdir()
    (directory / "half" / "manifest.json").write_text('{"lineage": ')
    assert (await services.lineage.find_by_trace(taught)).adapters == (run,)


async def test_a_trace_that_taught_nothing_has_no_lineage_and_an_unknown_one_is_refused(services, taught):
    found = await services.lineage.find_by_trace(taught)
    assert (found.trace_id, found.runs, found.adapters) == (taught, (), ())
    with pytest.raises(NotFoundError, match="no trace with the id"):
        await services.lineage.find_by_trace(uuid4())
