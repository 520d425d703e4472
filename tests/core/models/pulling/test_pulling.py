"""Pulls from a played hub: what arrives, where it lies, and what is noted of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from tests.core.models.pulling.conftest import Opening
from tests.core.models.pulling.hub_files import gguf, safetensors, weights_repository, write
from tmde_core.errors import ConflictError, InsufficientStorageError, NotFoundError, UnprocessableError
from tmde_core.models.pulling import planning
from tmde_core.models.pulling.planning import read_notes
from tmde_core.records.pulls import PullRequest

WEIGHTS = [
    "model.json",
    "weights/LICENSE",
    "weights/README.md",
    "weights/chat_template.jinja",
    "weights/config.json",
    "weights/generation_config.json",
    "weights/model.safetensors",
    "weights/tokenizer.json",
    "weights/tokenizer_config.json",
]


async def test_weights_arrive_whole_with_what_training_needs_and_nothing_that_could_run(opened: Opening) -> None:
    async with opened() as here:
        pull = await here.pull("acme/Tiny")
        assert (pull.state, pull.error) == ("done", None)
        assert here.files("Tiny") == WEIGHTS
        original = here.hub.folder / "acme/Tiny/model.safetensors"
        assert (here.models / "Tiny/weights/model.safetensors").read_bytes() == original.read_bytes()
        assert not {path for path in here.hub.bytes_sent if path.endswith((".bin", ".py", ".h5", ".onnx"))}


async def test_the_notes_say_where_the_model_comes_from_and_what_its_files_are(opened: Opening) -> None:
    async with opened() as here:
        plan = await here.service.plan(PullRequest(repository="acme/Tiny"))
        await here.service.wait((await here.service.start(plan)).id)
        notes = read_notes(here.models / "Tiny")
        assert notes is not None
        assert (notes.name, notes.license, notes.source, notes.revision) == (
            "Tiny",
            "apache-2.0",
            "acme/Tiny",
            plan.commit,
        )
        assert (notes.parameters, notes.context_length, notes.aliases) == (300_000, 2048, ("acme/Tiny",))
        content = (here.models / "Tiny/weights/config.json").read_bytes()
        assert notes.files["weights/config.json"].sha256 == hashlib.sha256(content).hexdigest()
        assert set(notes.files) == set(WEIGHTS) - {"model.json"}


async def test_a_gguf_repository_gives_q4_k_m_and_says_what_else_there_is(opened: Opening) -> None:
    async with opened() as here:
        plan = await here.service.plan(PullRequest(repository="acme/Tiny-GGUF"))
        assert (plan.form, plan.quantization, plan.name) == ("gguf", "Q4_K_M", "Tiny")
        assert [choice.quantization for choice in plan.choices] == ["Q2_K", "Q4_K_M", "Q8_0"]
        assert plan.notes == ("Takes Q4_K_M. There are also: Q2_K, Q8_0.",)
        await here.service.wait((await here.service.start(plan)).id)
        assert here.files("Tiny") == ["Tiny-Q4_K_M.gguf", "model.json"]


async def test_a_gguf_file_remembers_where_the_weights_for_training_are(opened: Opening) -> None:
    async with opened() as here:
        await here.pull("acme/Tiny-GGUF")
        notes = read_notes(here.models / "Tiny")
        assert notes is not None
        assert (notes.source, notes.revision, notes.gguf_source) == ("acme/Tiny", "", "acme/Tiny-GGUF")


async def test_both_forms_of_a_model_land_in_one_base_model(opened: Opening) -> None:
    async with opened() as here:
        await here.pull("acme/Tiny-GGUF:q8_0")
        assert (await here.pull("acme/Tiny")).state == "done"
        assert here.files("Tiny") == ["Tiny-Q8_0.gguf", *WEIGHTS]
        notes = read_notes(here.models / "Tiny")
        assert notes is not None
        assert (notes.source, notes.gguf_source) == ("acme/Tiny", "acme/Tiny-GGUF")
        assert set(notes.aliases) == {"acme/Tiny", "acme/Tiny-GGUF"}
        assert "Tiny-Q8_0.gguf" in notes.files
        assert "weights/model.safetensors" in notes.files


async def test_a_quantised_copy_by_somebody_else_joins_the_model_that_its_page_names(opened: Opening) -> None:
    async with opened() as here:
        write(
            here.hub.folder / "someone/Acme_Tiny-GGUF",
            {"README.md": "---\nbase_model: acme/Tiny\n---\n", "Acme_Tiny-Q5_K_M.gguf": gguf()},
        )
        await here.pull("acme/Tiny")
        pull = await here.pull("someone/Acme_Tiny-GGUF")
        assert pull.name == "Tiny"
        assert "Acme_Tiny-Q5_K_M.gguf" in here.files("Tiny")


async def test_another_model_of_the_same_name_is_refused_until_a_person_gives_a_name(opened: Opening) -> None:
    async with opened() as here:
        weights_repository(here.hub.folder / "other/Tiny")
        await here.pull("acme/Tiny")
        with pytest.raises(ConflictError, match="--name other-Tiny"):
            await here.pull("other/Tiny")
        assert (await here.pull("other/Tiny", name="other-Tiny")).state == "done"


async def test_a_gguf_file_of_another_publisher_does_not_replace_one_that_is_here(opened: Opening) -> None:
    async with opened() as here:
        write(
            here.hub.folder / "evil/Tiny-GGUF",
            {"README.md": "---\nbase_model: acme/Tiny\n---\n", "Tiny-Q4_K_M.gguf": gguf(seed=99)},
        )
        await here.pull("acme/Tiny-GGUF")
        before = (here.models / "Tiny/Tiny-Q4_K_M.gguf").read_bytes()
        with pytest.raises(ConflictError, match="another one"):
            await here.pull("evil/Tiny-GGUF")
        assert (here.models / "Tiny/Tiny-Q4_K_M.gguf").read_bytes() == before


async def test_all_parts_of_a_split_gguf_file_are_fetched(opened: Opening) -> None:
    async with opened() as here:
        parts = {f"Q4_K_M/Wide-Q4_K_M-0000{number}-of-00002.gguf": gguf(seed=number) for number in (1, 2)}
        write(here.hub.folder / "acme/Wide-GGUF", parts)
        assert (await here.pull("acme/Wide-GGUF")).state == "done"
        assert here.files("Wide") == [
            "Wide-Q4_K_M-00001-of-00002.gguf",
            "Wide-Q4_K_M-00002-of-00002.gguf",
            "model.json",
        ]


async def test_what_is_here_already_is_not_fetched_again(opened: Opening) -> None:
    async with opened() as here:
        await here.pull("acme/Tiny")
        plan = await here.service.plan(PullRequest(repository="acme/Tiny"))
        assert plan.here
        assert plan.missing_bytes == 0
        before = here.hub.bytes_sent["model.safetensors"]
        assert (await here.service.wait((await here.service.start(plan)).id)).state == "done"
        assert here.hub.bytes_sent["model.safetensors"] == before


async def test_a_new_revision_fetches_only_the_files_that_changed(opened: Opening) -> None:
    async with opened() as here:
        await here.pull("acme/Tiny")
        newer = weights_repository(here.hub.folder / "acme/Tiny@v2")
        (newer / "chat_template.jinja").write_text("{{ newer }}")
        (newer / "LICENSE").unlink()
        here.hub.bytes_sent.clear()
        assert (await here.pull("acme/Tiny", revision="v2")).state == "done"
        assert dict(here.hub.bytes_sent) == {"chat_template.jinja": len("{{ newer }}")}
        assert (here.models / "Tiny/weights/chat_template.jinja").read_text() == "{{ newer }}"
        assert "weights/LICENSE" not in here.files("Tiny")


async def test_a_full_disk_is_told_before_anything_is_fetched(opened: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "free_bytes", lambda _: 1_000_000)
    async with opened() as here:
        with pytest.raises(InsufficientStorageError, match="Free some space"):
            await here.pull("acme/Tiny")
        assert here.hub.bytes_sent.total() == 0


async def test_one_base_model_is_pulled_once_at_a_time_and_others_beside_it(opened: Opening) -> None:
    async with opened("drip=20000") as here:
        write(here.hub.folder / "acme/Wide-GGUF", {"Wide-Q4_K_M.gguf": gguf(10_000)})
        first = await here.service.start(PullRequest(repository="acme/Tiny"))
        with pytest.raises(ConflictError, match="being pulled already"):
            await here.service.start(PullRequest(repository="acme/Tiny-GGUF"))
        assert (await here.pull("acme/Wide-GGUF")).state == "done"
        assert {pull.name: pull.state for pull in await here.service.list()}["Wide"] == "done"
        await here.service.cancel(first.id)


async def test_the_progress_grows_to_the_total(opened: Opening) -> None:
    async with opened("drip=400000") as here:
        pull = await here.service.start(PullRequest(repository="acme/Tiny"))
        seen = [now async for now in here.service.watch(pull.id)]
        assert [now.bytes_done for now in seen] == sorted(now.bytes_done for now in seen)
        assert (seen[-1].state, seen[-1].bytes_done) == ("done", pull.bytes_total)
        assert any(now.bytes_per_second and now.eta_seconds for now in seen)


async def test_a_cancelled_pull_keeps_its_bytes_and_can_be_discarded(opened: Opening) -> None:
    async with opened("drip=20000") as here:
        pull = await here.service.start(PullRequest(repository="acme/Tiny-GGUF"))
        await here.until_bytes_are_here(pull.id)
        assert (await here.service.cancel(pull.id)).state == "cancelled"
        with pytest.raises(ConflictError, match="has ended already"):
            await here.service.cancel(pull.id)
        (left,) = await here.service.find_partial_pulls()
        assert (left.name, left.repository) == ("Tiny", "acme/Tiny-GGUF")
        assert left.bytes_done > 0
        assert await here.service.discard("Tiny") == left.bytes_done
        assert await here.service.find_partial_pulls() == []
        assert list(here.models.iterdir()) == []
        with pytest.raises(NotFoundError):
            await here.service.discard("Tiny")


async def test_a_file_that_is_no_gguf_file_is_refused_and_deleted(opened: Opening) -> None:
    async with opened() as here:
        write(here.hub.folder / "acme/Fake-GGUF", {"Fake-Q4_K_M.gguf": b"MZ" + bytes(100_000)})
        pull = await here.pull("acme/Fake-GGUF")
        assert pull.state == "failed"
        assert "it is no GGUF file" in str(pull.error)
        assert not (here.models / "Fake").exists()
        assert here.files(".pull-Fake/files") == []


async def test_an_adapter_in_a_gguf_file_is_no_base_model(opened: Opening) -> None:
    async with opened() as here:
        write(here.hub.folder / "acme/Lora-GGUF", {"Lora-Q4_K_M.gguf": gguf(kind="adapter")})
        assert "and not a model" in str((await here.pull("acme/Lora-GGUF")).error)


async def test_a_pickle_under_another_name_is_refused(opened: Opening) -> None:
    async with opened() as here:
        write(
            here.hub.folder / "acme/Bad",
            {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": b"\x80\x02" + bytes(5000)},
        )
        assert "a pickle" in str((await here.pull("acme/Bad")).error)
        assert not (here.models / "Bad").exists()


async def test_quantised_safetensors_are_taken(opened: Opening) -> None:
    async with opened() as here:
        write(
            here.hub.folder / "acme/Packed",
            {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": safetensors(dtype="U8")},
        )
        assert (await here.pull("acme/Packed")).state == "done"
        notes = read_notes(here.models / "Packed")
        assert notes is not None
        assert notes.parameters is None  # packed numbers are not weights


async def test_weights_whose_index_names_a_missing_file_are_refused(opened: Opening) -> None:
    async with opened() as here:
        shards = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
        index = {"weight_map": {f"w{number}": shard for number, shard in enumerate(shards)}}
        files = {shard: safetensors(seed=number) for number, shard in enumerate(shards[:2])}
        files |= {"model.safetensors.index.json": json.dumps(index), "config.json": "{}", "tokenizer.json": "{}"}
        write(here.hub.folder / "acme/Holes", files)
        pull = await here.pull("acme/Holes")
        assert pull.state == "failed"
        assert "names weights/model-00003-of-00003.safetensors" in str(pull.error)
        assert not (here.models / "Holes").exists()


async def test_a_repository_of_pickles_only_is_refused_with_what_to_do(opened: Opening) -> None:
    async with opened() as here:
        write(here.hub.folder / "acme/Old", {"config.json": "{}", "pytorch_model.bin": b"\x80\x02"})
        with pytest.raises(UnprocessableError, match=r"only as pickles.*safetensors/convert"):
            await here.service.plan(PullRequest(repository="acme/Old"))


async def test_a_pull_of_another_process_is_seen_and_can_be_cancelled(opened: Opening) -> None:
    async with opened("drip=20000") as here, opened() as other:
        pull = await here.service.start(PullRequest(repository="acme/Tiny-GGUF"))
        await here.until_bytes_are_here(pull.id)
        (seen,) = await other.service.list()
        assert (seen.id, seen.state) == (pull.id, "running")
        assert (await other.service.cancel(pull.id)).state == "cancelled"
        assert (await here.service.get(pull.id)).state == "cancelled"


async def test_a_stopped_server_leaves_an_interrupted_pull_that_goes_on(opened: Opening) -> None:
    async with opened("drip=20000") as here:
        pull = await here.service.start(PullRequest(repository="acme/Tiny-GGUF"))
        await here.until_bytes_are_here(pull.id)
        await asyncio.to_thread(here.service.stop)
        after = await here.service.get(pull.id)
        assert (after.state, after.bytes_done > 0) == ("interrupted", True)
        assert "goes on from there" in str(after.error)
        here.hub.faults.replace()
        assert (await here.pull("acme/Tiny-GGUF")).state == "done"
        assert here.hub.bytes_sent["Tiny-Q4_K_M.gguf"] <= pull.bytes_total + 200_000  # what was under way is lost


@pytest.mark.slow
async def test_a_real_model_arrives_byte_for_byte(opened: Opening, tiny_model: Path) -> None:
    async with opened("other-host", "break-once=50000") as here:
        files = {file.name: file.read_bytes() for file in tiny_model.iterdir() if file.is_file()}
        write(here.hub.folder / "acme/Real", files)
        assert (await here.pull("acme/Real")).state == "done"
        for name, content in files.items():
            assert (here.models / "Real/weights" / name).read_bytes() == content
        notes = read_notes(here.models / "Real")
        assert notes is not None
        assert notes.context_length == 2048
        assert msgspec.to_builtins(notes)["parameters"] > 10_000
