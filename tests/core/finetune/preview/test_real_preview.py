"""What the preview of the shipped backend says is what the run then does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tmde_core.errors import InvalidInputError
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.services import open_services
from tmde_core.settings import load_settings

pytestmark = pytest.mark.slow


@pytest.fixture
async def services(data_dir: Path, trace):
    data_dir.mkdir(exist_ok=True)
    (data_dir / "tmde.toml").write_text("[supervisor]\nniceness = 0\n")
    async with open_services(load_settings(data_dir, environ={}), serving=True) as opened:
        for number in range(24):
            await opened.traces.add(trace(f"What is {number} times 7?", f"It is {number * 7}.", minutes=number))
        yield opened


async def test_examples_and_steps_are_those_that_the_run_has(services, data_dir: Path, tiny_model: Path, trace):
    long = trace(f"What comes after {'a long way, ' * 600}?", minutes=50)
    await services.traces.add(long)
    config = FineTuneConfig(base_model=str(tiny_model), min_traces=5, epochs=2, batch_size=4, max_seq_length=512)
    told = await services.previews.preview(config)
    assert (told.refusal, told.left_out_by_reason, told.calibrated) == (None, {"too-long": 1}, True)
    assert told.left_out[0].trace_id == long.id
    assert told.longest is not None
    assert told.longest > 512
    assert not list(data_dir.glob(".preview-*"))
    run = await services.finetune.wait((await services.finetune.start(config)).id)
    assert run.status == "completed", run.error_message
    assert run.metrics is not None
    assert run.metrics.total_steps == told.total_steps
    said = [event.data["text"] for event in services.finetune.events(run.id).read() if event.type == "log"]
    assert any(str(long.id) in text for text in said)


async def test_a_base_model_that_cannot_be_loaded_is_told_before_any_time_is_spent(services, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    config = FineTuneConfig(base_model=str(tmp_path / "empty"), min_traces=5)
    with pytest.raises(InvalidInputError, match=str(tmp_path / "empty")):
        await services.previews.preview(config)


async def test_of_the_embedded_model_the_template_is_read_and_the_answer_learned(services, data_dir, embedded_model):
    (data_dir / "models").symlink_to(embedded_model.parent, target_is_directory=True)
    told = await services.previews.preview(FineTuneConfig(min_traces=5))
    assert told.refusal is None, told.refusal
    read, learned = told.first_example
    assert (read.supervised, learned.supervised) == (False, True)
    assert read.text.startswith("<|im_start|>")
    assert read.text.endswith("<|im_start|>assistant\n")
    assert learned.text.split("<|im_end|>")[0] in {f"It is {number * 7}." for number in range(24)}
    assert told.calibrated
    assert told.estimated_seconds is not None
    assert told.estimated_ram_bytes is not None
    assert 5 < told.estimated_seconds < 3600
    assert 400_000_000 < told.estimated_ram_bytes < 8_000_000_000
