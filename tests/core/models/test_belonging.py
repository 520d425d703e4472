"""Which adapter belongs to which model."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.core.models.files import write_adapter, write_gguf, write_weights
from tmde_core.models.belonging import Belonging, decide, find_base, read_claim
from tmde_core.models.grouping import FactsReader, group
from tmde_core.models.hashes import ModelHashes
from tmde_core.records.base import to_json
from tmde_core.records.models import FileNotes, ModelNotes
from tmde_core.records.runtimes import ModelInfo
from tmde_core.sdk.model_folders import list_folders
from tmde_core.storage.durable import hash_file


class House:
    """A directory of models with one served file."""

    def __init__(self, tmp_path: Path) -> None:
        self.models = tmp_path / "models"
        self.file = write_gguf(self.models / "Tiny-Talker-Q4_0.gguf")
        self.adapters = tmp_path / "adapters"

    def infos(self) -> list[ModelInfo]:
        folders = [file for folder in list_folders(self.models) for file in folder.gguf_files]
        files = [*sorted(self.models.glob("*.gguf")), *folders]
        return [ModelInfo(name=file.name, runtime="embedded", path=str(file)) for file in files]

    def decide(
        self, base: str, sha256: str | None = None, *, said: str = "", width: int = 32, blocks: int = 2, served: int = 0
    ) -> Belonging:
        """Decide about an adapter that says it was trained on `base`."""
        directory = write_adapter(self.adapters / "one", base, width=width, blocks=blocks)
        hashes, facts = ModelHashes(self.models), FactsReader()
        noted, infos = hashes.list_noted(), self.infos()
        bases = group(infos, list_folders(self.models), facts, lambda path: noted.get(path) or hashes.find(path))
        claim = read_claim(directory, base, sha256, said)
        shown = infos[served]
        actual = hash_file(Path(shown.path or "")) if sha256 else None
        return decide(claim, shown, actual, bases, noted, facts, directory)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_the_hash_of_the_served_file_decides_whatever_the_names_are(house: House) -> None:
    found = house.decide("something/else", hash_file(house.file))
    assert (found.same, found.by) == (True, "file")


@pytest.mark.parametrize("base", ["tiny/Tiny-Talker", "Tiny Talker", "tiny-talker", "Tiny-Talker-F16.gguf"])
def test_a_publisher_s_name_means_the_served_quantisation_of_that_model(house: House, base: str) -> None:
    found = house.decide(base)
    assert (found.same, found.by) == (True, "name")
    assert "the sizes of all matrices fit" in found.why


def test_the_same_model_as_safetensors_has_another_hash_and_still_belongs_by_name(house: House) -> None:
    found = house.decide("tiny/Tiny-Talker", "ab" * 32)
    assert (found.same, found.by) == (True, "name")


@pytest.mark.parametrize(
    "base", ["tiny/Tiny-Talker-2", "Tiny-Talker-Instruct", "other", "model", "model.gguf", "Talker"]
)
def test_another_name_is_another_model(house: House, base: str) -> None:
    found = house.decide(base)
    assert (found.same, found.why) == (False, "The names differ.")


def test_an_equal_name_with_other_sizes_is_refused_with_the_size_that_differs(house: House) -> None:
    found = house.decide("Tiny-Talker", width=64)
    assert not found.same
    assert "q_proj of layer 1 has 64 columns in the adapter and 32 in Tiny-Talker-Q4_0.gguf" in found.why


def test_an_equal_name_with_more_layers_is_refused(house: House) -> None:
    found = house.decide("Tiny-Talker", blocks=3)
    assert not found.same
    assert "layer 3, which Tiny-Talker-Q4_0.gguf does not have" in found.why


def test_a_file_whose_content_was_replaced_is_another_model(house: House) -> None:
    found = house.decide("Tiny-Talker-Q4_0.gguf", "ab" * 32)
    assert not found.same
    assert "has other content now" in found.why


def test_a_person_may_say_that_two_names_mean_one_model_if_the_sizes_fit(house: House) -> None:
    assert house.decide("my-own-name", said="Tiny-Talker").by == "person"
    wrong = house.decide("my-own-name", said="Tiny-Talker", width=64)
    assert not wrong.same
    assert wrong.why.startswith("You said that it belongs to Tiny-Talker, but q_proj of layer 1")


def test_saying_another_model_changes_nothing(house: House) -> None:
    assert not house.decide("my-own-name", said="Another").same


def test_an_adapter_trained_on_the_weights_of_a_folder_is_served_by_its_gguf(house: House) -> None:
    folder = house.models / "Odd-Name"
    served = write_gguf(folder / "odd.gguf", "Odd")
    weights = write_weights(folder / "weights") / "model.safetensors"
    sha256 = hash_file(weights)
    files = {"weights/model.safetensors": FileNotes(size_bytes=weights.stat().st_size, sha256=sha256)}
    (folder / "model.json").write_bytes(to_json(ModelNotes(name="Odd-Name", files=files)))
    place = next(index for index, one in enumerate(house.infos()) if one.path == str(served))
    found = house.decide("unrelated", sha256, served=place)
    assert (found.same, found.by) == (True, "form")
    elsewhere = house.decide("Tiny-Talker", sha256)
    assert (elsewhere.same, elsewhere.why) == (False, "It was trained on Odd-Name, known by its SHA-256.")


def test_a_hash_is_computed_once_and_again_only_when_the_file_has_changed(house: House, monkeypatch) -> None:
    first = ModelHashes(house.models).compute(str(house.file))
    assert first == hash_file(house.file)
    monkeypatch.setattr("tmde_core.models.hashes.hash_file", lambda _: "read again")
    assert ModelHashes(house.models).compute(str(house.file)) == first
    write_gguf(house.file, seed=1)
    assert ModelHashes(house.models).compute(str(house.file)) == "read again"


def test_a_second_file_of_the_served_model_under_another_name_changes_nothing(house: House) -> None:
    facts, infos = FactsReader(), house.infos()
    served = next(one for one in infos if one.name.startswith("Tiny"))
    bases = group(infos, (), facts, lambda _: None)
    own = find_base(bases, served)
    assert own is not None
    twin = msgspec.structs.replace(own, name="My-Own-Name", source="", aliases=("Tiny-Talker",), served=())
    claim = read_claim(write_adapter(house.adapters / "two", "Tiny-Talker"), "Tiny-Talker", None)
    found = decide(claim, served, None, [*bases, twin], {}, facts, house.adapters / "two")
    assert (found.same, found.by) == (True, "name")


def test_a_name_that_another_model_here_bears_is_not_overruled_by_the_configuration(house: House) -> None:
    write_gguf(house.models / "Other-Q4_0.gguf", "Other", seed=1)
    served = next(place for place, one in enumerate(house.infos()) if one.name.startswith("Tiny"))
    directory = write_adapter(house.adapters / "two", "Tiny-Talker")
    facts, infos = FactsReader(), house.infos()
    bases = group(infos, (), facts, lambda _: None)
    claim = read_claim(directory, "Other", None)
    assert claim.names == ("Other", "Tiny-Talker")
    found = decide(claim, infos[served], None, bases, {}, facts, directory)
    assert (found.same, found.why) == (False, "It names Other, which is another model here.")
