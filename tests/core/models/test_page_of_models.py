"""What the page of models asks the core: the toy of a newcomer, and the adapters on each base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from tests.core.models.pulling.hub_files import gguf
from tmde_core.errors import WorkerFailedError
from tmde_core.models.belonging import count_adapters
from tmde_core.models.service import ModelService
from tmde_core.records.models import BaseModel
from tmde_core.records.runtimes import ModelInfo
from tmde_core.runtimes import Runtimes
from tmde_core.settings import Roles, RoleSettings
from tmde_core.testing.scripted import ScriptedRuntime, scripted_plugins, scripted_settings

TOY = "SmolLM2-135M-Instruct"


class Mixed(ScriptedRuntime):
    """Serves a toy and another model."""

    file: Path

    async def models(self) -> Sequence[ModelInfo]:
        toy = ModelInfo(
            name="toy.gguf", runtime=self.name, aliases=(TOY,), path=str(self.file), default=True, shipped=True
        )
        return [toy, ModelInfo(name="other", runtime=self.name)]


class Silent(ScriptedRuntime):
    """A server that would be asked in vain."""

    async def models(self) -> Sequence[ModelInfo]:
        raise WorkerFailedError("The server does not respond.")


def service(directory: Path, runtime: str, model: str) -> ModelService:
    mixed = Mixed()
    mixed.file = directory / "toy.gguf"
    mixed.file.write_bytes(gguf(400))
    plugins = scripted_plugins(Silent(name="silent"), scripted_plugins(mixed))
    settings = scripted_settings(directory)
    runtimes = Runtimes(plugins, settings)
    roles = Roles(proposer=RoleSettings(runtime=runtime, model=model))
    now = msgspec.structs.replace(settings, roles=roles)
    return ModelService(lambda: runtimes, lambda: now)


async def test_the_toy_is_known_with_its_name_without_asking_other_runtimes(tmp_path: Path):
    for model in ("", "toy.gguf", TOY):
        toy = await service(tmp_path, "scripted", model).find_toy()
        assert toy is not None
        assert (toy.name, toy.embedded) == (TOY, True)


@pytest.mark.parametrize(
    ("runtime", "model"), [("scripted", "other"), ("scripted", "gone"), ("silent", ""), ("none", "")]
)
async def test_there_is_no_toy_if_another_model_answers_or_its_runtime_is_silent(runtime, model, tmp_path: Path):
    assert await service(tmp_path, runtime, model).find_toy() is None


def test_adapters_are_counted_for_the_base_model_that_they_name_in_any_spelling():
    bases = [BaseModel(name="Qwen3-4B", aliases=("Qwen/Qwen3-4B",)), BaseModel(name=TOY)]
    names = ["Qwen/Qwen3-4B", "qwen3-4b", f"{TOY}.Q4_1.gguf", "elsewhere/Unknown"]
    assert [one.adapters for one in count_adapters(bases, names)] == [2, 1]
    assert [one.adapters for one in count_adapters(bases, [])] == [0, 0]
