"""The embedded model's names mean the shipped file, for training, conversion, serving and adapters alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from tmde_core.errors import InvalidInputError, NotFoundError
from tmde_core.models.belonging import decide, read_claim
from tmde_core.models.grouping import FactsReader, group
from tmde_core.models.service import find_served_model
from tmde_core.records.runtimes import ModelInfo
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


def belongs(data_dir: Path, catalog: Catalog, name: str, served: ModelInfo) -> bool:
    facts = FactsReader()
    bases = group(catalog.list(set()), (), facts, lambda _: None)
    claim = read_claim(data_dir / "no-adapter", name.strip(), None)
    return decide(claim, served, None, bases, {}, facts, data_dir / "no-adapter").same


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
    assert belongs(data_dir, catalog, name, served)


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
    assert not belongs(data_dir, catalog, name, models[0])
