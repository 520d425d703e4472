"""The embedded model's names mean the shipped file, for training, conversion, serving and adapters alike."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError
from tmde_core.lora.files.base_match import find_served_model, require_same_base
from tmde_core.records.lora import Manifest
from tmde_cpu.base_name import is_embedded_name, resolve_base_model
from tmde_cpu.embedded import EMBEDDED_FILE
from tmde_cpu.serving.catalog import Catalog
from tmde_cpu.serving.options import EmbeddedSettings

NAMES = (
    EMBEDDED_FILE,
    "SmolLM2-135M-Instruct.Q4_1",
    "SmolLM2-135M-Instruct",
    "smollm2-135m-instruct",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "huggingfacetb/smollm2-135m-INSTRUCT",
    " HuggingFaceTB/SmolLM2-135M-Instruct ",
)
OTHERS = ("SmolLM2-135M", "SmolLM2-360M-Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "Instruct")


@pytest.fixture
def data_dir(tmp_path: Path, embedded_model: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / EMBEDDED_FILE).symlink_to(embedded_model)
    return tmp_path


def manifest(base_model: str) -> Manifest:
    return Manifest(id=uuid4(), created_at=datetime(2026, 1, 1, tzinfo=UTC), base_model=base_model)


@pytest.mark.parametrize("name", NAMES)
async def test_every_name_of_the_shipped_file_means_it_everywhere(data_dir: Path, name: str) -> None:
    file = data_dir / "models" / EMBEDDED_FILE
    catalog = Catalog(data_dir / "models", EmbeddedSettings())
    assert is_embedded_name(name)
    assert resolve_base_model(data_dir, name) == file
    assert catalog.find(name).path == file
    assert Catalog(data_dir / "models", EmbeddedSettings(model=name)).default.path == file
    served = find_served_model(catalog.list(set()), name, "embedded")
    assert served.name == EMBEDDED_FILE
    await require_same_base(manifest(name.strip()), served)


@pytest.mark.parametrize("name", OTHERS)
async def test_a_name_that_only_resembles_it_means_another_model(data_dir: Path, name: str) -> None:
    catalog = Catalog(data_dir / "models", EmbeddedSettings())
    assert not is_embedded_name(name)
    with pytest.raises(InvalidInputError):
        resolve_base_model(data_dir, name)
    with pytest.raises(NotFoundError):
        catalog.find(name)
    models = catalog.list(set())
    with pytest.raises(NotFoundError):
        find_served_model(models, name, "embedded")
    with pytest.raises(ConflictError):
        await require_same_base(manifest(name), models[0])
