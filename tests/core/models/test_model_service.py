"""Base models of a real data directory, with the real embedded runtime and played servers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from tests.core.finetune.conftest import make_trace
from tests.core.models.files import write_adapter, write_gguf, write_weights
from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError
from tmde_core.records.debate import DebateConfig
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.lora import ActivePointer, Manifest
from tmde_core.sdk.adapters import publish, staging_directory
from tmde_core.services import Services, open_services
from tmde_core.settings import Settings
from tmde_core.testing.fake_servers import FakeOllama, serving

EMBEDDED = "SmolLM2-135M-Instruct"


@pytest.fixture
async def own_models(settings: Settings, embedded_model: Path) -> AsyncIterator[Services]:
    """Services whose directory of models may be changed. Ollama is a played server."""
    models = settings.data_path / "models"
    models.mkdir(parents=True)
    (models / embedded_model.name).hardlink_to(embedded_model)
    os.link(
        embedded_model.with_name(f".{embedded_model.name}.verified.json"),
        models / f".{embedded_model.name}.verified.json",
    )
    async with serving(FakeOllama()) as url:
        tables = {**settings.runtimes, "ollama": {"base_url": url}}
        async with open_services(msgspec.structs.replace(settings, runtimes=tables)) as opened:
            yield opened


async def use(services: Services, role: str, runtime: str, model: str) -> None:
    await services.live.change({"roles": {role: {"runtime": runtime, "model": model}}})


async def test_the_embedded_model_is_one_base_model_that_can_be_served_and_trained(own_models: Services) -> None:
    base = await own_models.models.find("huggingfacetb/smollm2-135m-instruct")
    assert (base.name, base.embedded, base.license, base.parameters) == (EMBEDDED, True, "apache-2.0", 134_515_008)
    assert base.roles == ("proposer", "skeptic", "synthesizer", "judge")
    assert base.trainable is not None
    assert (await own_models.models.resolve_training_base("")).name == EMBEDDED


async def test_a_model_is_found_by_every_name_of_it_and_a_wrong_one_is_told_the_nearest(own_models: Services) -> None:
    for name in (EMBEDDED, f"{EMBEDDED}.Q4_1.gguf", f"embedded:{EMBEDDED}.Q4_1.gguf", "SmolLM2 135M Instruct"):
        assert (await own_models.models.find(name)).name == EMBEDDED
    with pytest.raises(NotFoundError, match="Did you mean SmolLM2-135M-Instruct"):
        await own_models.models.find("SmolLM2-136M")


async def test_added_files_are_forms_at_once_and_stay_where_they_are_when_removed(
    own_models: Services, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "elsewhere" / "Tiny-Talker-Q4_0.gguf")
    weights = write_weights(tmp_path / "elsewhere" / "weights-of-it")
    added = await own_models.models.add(str(file))
    assert (added.name, [one.runtime for one in added.served]) == ("Tiny-Talker", ["embedded"])
    both = await own_models.models.add(str(weights), "Tiny-Talker")
    assert both.trainable is not None
    assert both.trainable.kind == "safetensors"
    assert (await own_models.models.resolve_training_base("tiny-talker")).weights == both.trainable.path
    assert both.size_bytes < 10_000
    await own_models.models.remove("Tiny-Talker")
    assert file.exists()
    assert (weights / "model.safetensors").exists()
    with pytest.raises(NotFoundError):
        await own_models.models.find("Tiny-Talker")


async def test_files_of_two_models_do_not_become_one_base_model(own_models: Services, tmp_path: Path) -> None:
    await own_models.models.add(str(write_gguf(tmp_path / "Tiny-Talker-Q4_0.gguf")))
    other = write_weights(tmp_path / "other", width=64)
    with pytest.raises(ConflictError, match="2 layers of width 64; Tiny-Talker: 2 layers of width 32"):
        await own_models.models.add(str(other), "Tiny-Talker")


async def test_what_is_no_model_is_refused_with_what_to_name_instead(own_models: Services, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.gguf").write_text("hello")
    write_gguf(tmp_path / "files" / "b-Q4_0.gguf")
    for target, why in (
        (tmp_path / "files", "Add its GGUF file instead: .*/files/b-Q4_0.gguf"),
        (tmp_path / "empty", "lacks config.json, tokenizer.json, tokenizer_config.json, \\*.safetensors"),
        (tmp_path / "text.gguf", "is no GGUF file"),
        (tmp_path / "nothing", "Name a GGUF file, a directory"),
    ):
        with pytest.raises(InvalidInputError, match=why):
            await own_models.models.add(str(target))
    with pytest.raises(InvalidInputError, match="cannot be the name of a base model"):
        await own_models.models.add(str(write_gguf(tmp_path / "a.gguf")), "../a")
    with pytest.raises(NotFoundError, match="has no model called 'nope'"):
        await own_models.models.add("ollama:nope")
    assert [one.name for one in await own_models.models.list() if one.folder] == []


async def test_a_role_may_name_the_base_model_instead_of_its_file(own_models: Services, tmp_path: Path) -> None:
    await own_models.models.add(str(write_gguf(tmp_path / "some-file.gguf")), "My-Talker")
    await use(own_models, "proposer", "embedded", "My-Talker")
    assert (await own_models.models.find("My-Talker")).roles == ("proposer",)
    found = await own_models.models.find_role_base()
    assert found is not None
    assert found.name == "My-Talker"


async def test_a_model_that_a_role_uses_is_not_removed(own_models: Services, tmp_path: Path) -> None:
    await own_models.models.add(str(write_gguf(tmp_path / "Tiny-Talker-Q4_0.gguf")))
    await use(own_models, "skeptic", "embedded", "Tiny-Talker-Q4_0.gguf")
    with pytest.raises(ConflictError, match="answers for: skeptic"):
        await own_models.models.remove("Tiny-Talker")
    with pytest.raises(ConflictError, match="comes with TMDE"):
        await own_models.models.remove(EMBEDDED)


async def test_a_run_is_refused_before_it_begins_if_the_proposer_s_model_is_only_served(own_models: Services) -> None:
    served = next(one for one in await own_models.models.list() if one.served[0].runtime == "ollama")
    await use(own_models, "proposer", "ollama", served.served[0].model)
    for number in range(6):
        await own_models.traces.add(make_trace(f"What is {number} times 7?", minutes=number))
    config = FineTuneConfig(min_traces=5)
    with pytest.raises(InvalidInputError, match=r"is only served by 'ollama'.*tmde models pull"):
        await own_models.finetune.start(config)
    with pytest.raises(InvalidInputError, match="is only served by 'ollama'"):
        await own_models.previews.preview(config)
    assert (await own_models.finetune.list())[1] == 0


async def test_after_weights_were_added_to_the_served_model_they_are_what_is_trained(
    own_models: Services, tmp_path: Path
) -> None:
    model = next(one for one in await own_models.models.list() if one.served[0].runtime == "ollama").served[0].model
    await use(own_models, "proposer", "ollama", model)
    await own_models.models.add(str(write_weights(tmp_path / "weights")), "Mine")
    base = await own_models.models.add(f"ollama:{model}", "Mine")
    assert (base.name, base.roles, base.why_not_trainable) == ("Mine", ("proposer",), "")
    found = await own_models.models.resolve_training_base("")
    assert (found.name, found.weights) == ("Mine", str(own_models.models.directory / "Mine" / "weights"))


async def test_an_unreachable_proposer_is_no_reason_to_train_another_model(own_models: Services) -> None:
    await use(own_models, "proposer", "openai", "gone")
    with pytest.raises(InvalidInputError, match="its runtime 'openai' does not respond"):
        await own_models.models.resolve_training_base("")


async def test_a_model_is_tried_with_one_question_and_its_speed_is_measured(own_models: Services) -> None:
    found = await own_models.models.try_model(*await own_models.models.find_form(EMBEDDED))
    assert found.answer
    assert found.tokens > 1
    assert found.tokens_per_second
    assert not found.was_loaded


async def test_after_the_proposer_got_another_model_the_active_adapter_does_not_answer_and_says_so(
    own_models: Services, tmp_path: Path
) -> None:
    store = own_models.stores.adapters
    adapter_id = uuid4()
    staging = staging_directory(store.directory, adapter_id)
    write_adapter(staging, "Tiny-Talker")
    manifest = Manifest(id=adapter_id, created_at=datetime(2026, 1, 1, tzinfo=UTC), base_model="Tiny-Talker")
    publish(staging, store.directory, manifest)
    store.point_at(ActivePointer(adapter_id=adapter_id, previous_adapter_id=None, since=manifest.created_at))
    await own_models.runtimes.get("embedded")
    assert not (await own_models.lora.get(adapter_id)).is_answering
    why = own_models.workspace.find_why_idle(own_models.lora.get_active_ref())
    assert why is not None
    assert "was trained on Tiny-Talker, and the Proposer's model is SmolLM2-135M-Instruct.Q4_1.gguf" in why
    short = {role: {"maxTokens": 8} for role in ("proposer", "skeptic", "synthesizer")}
    await own_models.live.change({"roles": short})
    debate = await own_models.debates.start("What is 6 times 7?", DebateConfig(max_rounds=1, min_rounds=1))
    await own_models.debates.wait(debate.id)
    log = await own_models.debates.events(debate.id)
    (warning,) = [event for event in log.events if event.type == "warning"]
    assert "The names differ." in warning.data["detail"]


async def test_only_the_model_that_the_roles_use_is_loaded(
    own_models: Services, embedded_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "Mine-Q4_1.gguf").hardlink_to(embedded_model)
    await own_models.models.add(str(tmp_path / "Mine-Q4_1.gguf"), "Mine")
    for role in ("proposer", "skeptic", "synthesizer", "judge"):
        await use(own_models, role, "embedded", "Mine")
    await own_models.runtimes.get("embedded")
    loaded = [form.model for base in await own_models.models.list() for form in base.served if form.loaded]
    assert loaded == ["Mine-Q4_1.gguf"]
