"""A pulled form must be the model whose other form is here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.models.files import write_gguf, write_weights
from tmde_core.errors import UnprocessableError
from tmde_core.models.pulling.checking import check_same_model
from tmde_core.records.base import to_json
from tmde_core.records.models import ModelNotes
from tmde_core.records.pulls import PullFile, PullPlan


def plan(form: str, target: str) -> PullPlan:
    file = PullFile(path=Path(target).name, target=target, size_bytes=1)
    return PullPlan(
        name="Tiny", repository="acme/Tiny", endpoint="", revision="main", commit="0" * 40, form=form, files=(file,)
    )


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The folder of a base model with a GGUF file."""
    folder = tmp_path / "models" / "Tiny"
    write_gguf(folder / "tiny-Q8_0.gguf")
    (folder / "model.json").write_bytes(to_json(ModelNotes(name="Tiny")))
    return folder


def test_weights_of_another_size_do_not_join_a_gguf_file(here: Path, tmp_path: Path) -> None:
    write_weights(tmp_path / "fetched" / "weights", width=64)
    with pytest.raises(
        UnprocessableError, match=r"2 layers of width 64 were fetched, and tiny-Q8_0.gguf has 2 of width 32"
    ):
        check_same_model(tmp_path / "fetched", here, plan("weights", "weights/model.safetensors"))


def test_a_gguf_file_of_another_size_does_not_join_weights(here: Path, tmp_path: Path) -> None:
    write_weights(here / "weights")
    fetched = write_gguf(tmp_path / "fetched" / "other.gguf", blocks=3)
    with pytest.raises(UnprocessableError, match="3 layers of width 32 were fetched"):
        check_same_model(fetched.parent, here, plan("gguf", "other.gguf"))


def test_forms_of_one_size_join_and_a_first_form_needs_no_other(here: Path, tmp_path: Path) -> None:
    write_weights(tmp_path / "fetched" / "weights")
    for target in (here, tmp_path / "models" / "New"):
        check_same_model(tmp_path / "fetched", target, plan("weights", "weights/model.safetensors"))
