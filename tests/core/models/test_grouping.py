"""What is served and what lies in `data/models` becomes base models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.models.files import write_gguf, write_weights
from tmde_core.models.grouping import FactsReader, group
from tmde_core.records.base import to_json
from tmde_core.records.models import BaseModel, ModelNotes, ServerModel
from tmde_core.records.runtimes import ModelInfo
from tmde_core.sdk.model_folders import list_folders


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def note(models: Path, name: str, **notes: object) -> Path:
    (models / name).mkdir(exist_ok=True)
    (models / name / "model.json").write_bytes(to_json(ModelNotes(name=name, **notes)))
    return models / name


def info(name: str, runtime: str = "ollama", path: Path | None = None, **more: object) -> ModelInfo:
    return ModelInfo(name=name, runtime=runtime, path=str(path) if path else None, **more)


def grouped(models: Path, *infos: ModelInfo) -> dict[str, BaseModel]:
    found = group(infos, list_folders(models), FactsReader(), lambda _: None)
    return {one.name: one for one in found}


def test_two_quantisations_of_one_model_are_forms_of_one_base_model(models: Path) -> None:
    files = [write_gguf(models / f"Tiny-Talker-{kind}.gguf") for kind in ("Q4_0", "F16")]
    found = grouped(models, *(info(file.name, "embedded", file) for file in files))
    (base,) = found.values()
    assert (base.name, [one.quantization for one in base.served]) == ("Tiny-Talker", ["Q4_0", "F16"])
    assert (base.license, base.context_length, base.architecture) == ("apache-2.0", 512, "llama")
    assert base.trainable is not None
    assert base.trainable.kind == "gguf"


def test_two_models_of_one_name_and_other_sizes_stay_two(models: Path) -> None:
    one = write_gguf(models / "Tiny-Talker-Q4_0.gguf")
    other = write_gguf(models / "elsewhere" / "Tiny-Talker-Q8_0.gguf", width=64)
    found = grouped(models, info(one.name, "embedded", one), info(other.name, "other", other))
    assert len(found) == 2


def test_a_folder_holds_the_served_and_the_trained_form_of_one_model(models: Path) -> None:
    folder = note(models, "Tiny-Talker", source="tiny/Talker", license="mit")
    file = write_gguf(folder / "talker-Q8_0.gguf")
    write_weights(folder / "weights")
    base = grouped(models, info(file.name, "embedded", file))["Tiny-Talker"]
    assert [one.model for one in base.served] == ["talker-Q8_0.gguf"]
    assert base.trainable is not None
    assert (base.trainable.kind, base.license, base.source) == ("safetensors", "mit", "tiny/Talker")
    assert base.size_bytes == sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def test_a_model_that_only_a_server_has_says_why_it_cannot_be_trained_and_what_to_do(models: Path) -> None:
    base = grouped(models, info("talker:3b"))["talker:3b"]
    assert base.trainable is None
    assert base.why_not_trainable.startswith(
        "talker:3b is only served by 'ollama', and training needs its weights on this machine."
    )
    assert "tmde models pull OWNER/NAME --weights" in base.why_not_trainable
    assert "tmde models add ollama:talker:3b --name NAME" in base.why_not_trainable


def test_weights_that_are_fetched_for_an_added_model_are_to_land_in_its_folder(models: Path) -> None:
    note(models, "My-Talker", servers=(ServerModel(runtime="ollama", model="talker:3b"),))
    base = grouped(models, info("talker:3b"))["My-Talker"]
    assert base.why_not_trainable.endswith("Fetch them with: tmde models pull OWNER/NAME --weights --name My-Talker.")


def test_a_server_s_model_that_was_added_belongs_to_the_folder_also_while_the_server_is_down(models: Path) -> None:
    folder = note(models, "Tiny-Talker", servers=(ServerModel(runtime="ollama", model="talker:3b"),))
    write_weights(folder / "weights")
    up, down = grouped(models, info("talker:3b")), grouped(models)
    for found in (up, down):
        assert list(found) == ["Tiny-Talker"]
        assert [(one.runtime, one.model) for one in found["Tiny-Talker"].served] == [("ollama", "talker:3b")]


def test_incomplete_weights_are_no_form_to_train_and_the_sentence_names_what_is_lacking(models: Path) -> None:
    folder = note(models, "Tiny-Talker", source="tiny/Talker")
    (write_weights(folder / "weights") / "tokenizer.json").unlink()
    base = grouped(models)["Tiny-Talker"]
    assert base.trainable is None
    assert "lack tokenizer.json" in base.why_not_trainable
    assert "tmde models pull tiny/Talker --weights" in base.why_not_trainable


def test_files_called_model_are_told_apart_by_their_folders(models: Path) -> None:
    files = [write_gguf(models / folder / "model.gguf", folder) for folder in ("alpha", "beta")]
    found = grouped(models, *(info(f"{file.parent.name}/model.gguf", "embedded", file) for file in files))
    assert sorted(found) == ["alpha", "beta"]


def test_later_parts_of_a_split_model_are_no_models(models: Path) -> None:
    folder = note(models, "Big")
    for part in (1, 2):
        write_gguf(folder / f"Big-Q4_0-0000{part}-of-00002.gguf")
    (found,) = list_folders(models)
    assert [file.name for file in found.gguf_files] == ["Big-Q4_0-00001-of-00002.gguf"]


@pytest.mark.parametrize("text", ["", "{", '{"name": 3}', '{"name": "x", "more": 1}', "[]"])
def test_a_folder_whose_notes_are_damaged_is_left_out_and_hides_no_other(models: Path, text: str) -> None:
    note(models, "Good")
    (models / "Bad").mkdir()
    (models / "Bad" / "model.json").write_text(text)
    assert list(grouped(models)) == ["Good"]
