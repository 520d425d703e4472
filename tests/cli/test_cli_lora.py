"""`tmde lora …`: adapters as versions on the command line."""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
import typer
from rich.console import Console

from tests.conftest import link_models
from tests.core.lora.archive.archives import packed, peft_files, unpacked
from tests.core.lora.conftest import sane
from tmde_core.cli.lora import archive as lora_archive
from tmde_core.errors import UnprocessableError
from tmde_core.lora.archive.merged import MergedModel, MergeService
from tmde_core.records.lora import Manifest
from tmde_core.records.training import MergeProgress, MergeQuality, MergeResult
from tmde_core.sdk.adapters import publish, staging_directory
from tmde_core.testing.scripted import Reply

Tmde = Callable[..., Any]


@pytest.fixture
def adapter(tmp_path: Path, scripted) -> Callable[..., str]:
    """Publish an adapter; `age` in minutes. The scripted model lets it be activated."""
    scripted.script = sane
    directory = tmp_path / "data" / "lora-adapters"

    def made(age: int = 0, identity: UUID | None = None, **fields: Any) -> str:
        identity = identity or uuid4()
        staging = staging_directory(directory, identity)
        staging.mkdir(parents=True)
        fields = {"base_model": "scripted-1"} | fields
        files = peft_files(base_model_name_or_path=fields["base_model"]) | {"adapter.gguf": b"GGUF" + identity.bytes}
        for name, content in files.items():
            (staging / name).write_bytes(content)
        created = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(minutes=age)
        publish(staging, directory, Manifest(id=identity, created_at=created, **fields))
        return str(identity)

    return made


def spoil(tmp_path: Path, identity: str) -> None:
    file = tmp_path / "data" / "lora-adapters" / identity / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[::-1])


# ------------------------------------------------------------------------------------------ switching


def test_what_may_mean_two_adapters_is_refused_by_every_command_with_both(tmde: Tmde, adapter, tmp_path: Path) -> None:
    one, two = (adapter(identity=UUID(f"abcd1234-0000-4000-8000-00000000000{number}")) for number in (1, 2))
    other = adapter()
    for arguments in (
        ("show", "ABCD1234"), ("activate", "abcd1234"), ("rollback", "abcd1234"), ("tag", "abcd", "--add", "x"),
        ("name", "abcd", "Mine"), ("verify", "abcd1234-0000"), ("export", "abcd", "-o", str(tmp_path / "x.tar.gz")),
        ("compare", "abcd", other), ("delete", "abcd", "--yes"),
    ):  # fmt: skip
        ran = tmde("lora", *arguments)
        assert ran.code == 1, (arguments, ran)
        assert "Several adapters begin with" in ran.err, (arguments, ran.err)
        assert one in ran.err.replace("\n", "")
    assert tmde("lora", "name", other, "abcd1234").code == 0
    ran = tmde("lora", "delete", "abcd1234", "--yes")
    assert ran.code == 1
    assert "is a name and the beginning of another adapter's id" in " ".join(ran.err.split())
    assert tmde("lora", "name", other, one[:18]).code == 0
    assert tmde("lora", "show", one.replace("-", "").upper(), "--json").json["id"] == one
    assert tmde("lora", "show", two.upper(), "--json").json["id"] == two


def test_an_adapter_is_found_by_its_first_digits_and_by_the_name_that_it_was_given(tmde: Tmde, adapter) -> None:
    a, b = adapter(age=2, traces_used=7), adapter(age=1)
    assert tmde("lora", "name", a[:8], "Times tables").out == f"The adapter {a} is called Times tables now.\n"
    for text in ("Times tables", "times TABLES", a[:8], a):
        assert tmde("lora", "show", text, "--json").json["id"] == a
    listed = tmde("lora", "list").out.splitlines()
    columns = ["id", "created", "state", "name", "gate", "score", "traces", "size", "base model", "tags"]
    assert listed[0].split("\t") == columns
    assert [line.split("\t")[3] for line in listed[1:]] == [f"31 Dec · {b[:8]}", "Times tables"]
    tmde("lora", "name", b, "Times tables")
    several = tmde("lora", "activate", "Times tables")
    assert several.code != 0
    assert "Several adapters are called 'Times tables'" in several.err
    assert a in several.err
    assert b in several.err
    assert tmde("lora", "name", a, "  ").code != 0


def test_adapters_are_activated_rolled_back_and_deactivated_with_words(tmde: Tmde, adapter) -> None:
    a, b = adapter(age=2), adapter(age=1)
    assert tmde("lora", "activate", a).out == f"The adapter {a} answers from the next debate on.\n"
    assert tmde("lora", "activate", b, "--json").json["isActive"] is True
    assert tmde("lora", "active", "--json").json["id"] == b
    assert tmde("lora", "rollback").out == f"The adapter {a} answers from the next debate on.\n"
    assert tmde("lora", "rollback", b, "--json").json["id"] == b
    assert tmde("lora", "deactivate").out == "The base model answers from the next debate on.\n"
    states = [line.split("\t")[2] for line in tmde("lora", "list").out.splitlines()[1:]]
    assert states == ["-", "-"]


def test_the_list_says_that_the_active_adapter_does_not_answer_for_another_model(
    tmde: Tmde, adapter, tmp_path, embedded_model
) -> None:
    identity = adapter()
    assert tmde("lora", "activate", identity).code == 0
    assert tmde("lora", "list").out.splitlines()[1].split("\t")[2] == "active"
    link_models(tmp_path / "data")
    assert tmde("models", "use", "SmolLM2-135M-Instruct", "--role", "proposer").code == 0
    ran = tmde("lora", "list")
    assert ran.out.splitlines()[1].split("\t")[2] == "active, but not served: the base model answers"
    assert "The active adapter does not answer. It was trained on scripted-1, and the Proposer's model is" in ran.err


def test_what_is_held_back_needs_force_and_another_base_is_named(tmde: Tmde, adapter) -> None:
    held_back, foreign = adapter(gate="held-back"), adapter(base_model="other-model")
    ran = tmde("lora", "activate", held_back)
    assert (ran.code, ran.out) == (1, "")
    assert "holds the adapter" in ran.err
    assert tmde("lora", "activate", held_back, "--force").code == 0
    assert tmde("lora", "list", "--json").json[0]["gate"] in ("forced", "candidate")
    ran = tmde("lora", "activate", foreign)
    assert ran.code == 1
    assert "other-model" in ran.err
    assert "scripted-1" in ran.err


def test_the_history_says_what_was_done_and_what_answered_at_a_moment(tmde: Tmde, adapter) -> None:
    a, b = adapter(), adapter()
    tmde("lora", "activate", a)
    tmde("lora", "activate", b)
    tmde("lora", "activate", adapter(base_model="other"))
    lines = tmde("lora", "history").out.splitlines()
    assert lines[0].split("\t") == ["when", "what", "outcome", "adapter", "by", "detail"]
    told = [line.split("\t")[1:5] for line in lines[1:]]
    assert [one[:2] for one in told] == [["activate", "failed"], ["activate", "done"], ["activate", "done"]]
    assert told[1][2:] == [b, "user"]
    events = tmde("lora", "history", "--limit", "2", "--offset", "1", "--json").json
    assert [event["adapterId"] for event in events] == [b, a]
    at = events[1]["timestamp"]
    found = tmde("lora", "history", "--at", at, "--json").json
    assert (found["adapterId"], found["since"], found["until"]) == (a, at, events[0]["timestamp"])
    assert f"answered  adapter {a}\n" in tmde("lora", "history", "--at", at).out
    assert "answered  the base model\n" in tmde("lora", "history", "--at", "2020-01-01T00:00").out
    ran = tmde("lora", "history", "--at", "yesterday")
    assert ran.code != 0
    assert "'yesterday' is no time. Write it as 2026-11-24T08:30." in ran.err


# ------------------------------------------------------------------------------------------- keeping


def test_tags_are_put_on_and_taken_off(tmde: Tmde, adapter) -> None:
    identity = adapter()
    assert tmde("lora", "tag", identity, "--add", "stable", "--add", "v1.0").out == "Tags: stable, v1.0.\n"
    assert [one["id"] for one in tmde("lora", "list", "--tag", "stable", "--json").json] == [identity]
    assert tmde("lora", "tag", identity, "--remove", "stable", "--json").json["tags"] == ["v1.0"]
    assert "Say which tags" in tmde("lora", "tag", identity).err
    assert "is no tag" in tmde("lora", "tag", identity, "--add", "two words").err
    assert "no adapter" in tmde("lora", "tag", str(uuid4()), "--add", "x").err


def test_deleting_asks_on_a_terminal_and_needs_yes_without_one(tmde: Tmde, adapter, tmp_path: Path) -> None:
    identity, active, stable = adapter(), adapter(), adapter(tags=("stable",))
    tmde("lora", "activate", active)
    ran = tmde("lora", "delete", identity)
    assert ran.code != 0
    assert "say --yes" in ran.err
    assert (tmp_path / "data" / "lora-adapters" / identity).is_dir()
    ran = tmde("lora", "delete", identity, "--yes")
    assert ran.code == 0
    assert ran.out.startswith(f"The adapter {identity} is deleted; ")
    assert not (tmp_path / "data" / "lora-adapters" / identity).exists()
    assert "is active" in tmde("lora", "delete", active, "--yes").err
    assert "tagged `stable`" in tmde("lora", "delete", stable, "--yes").err
    assert tmde("lora", "delete", identity, "--yes").code == 1
    assert tmde("lora", "history", "--json").json[0]["operation"] == "delete"


def test_pruning_says_first_what_would_go_and_keeps_what_is_protected(tmde: Tmde, adapter) -> None:
    ids = [adapter(age=age, tags=("stable",) if age == 5 else ()) for age in range(6)]
    tmde("lora", "activate", ids[4])
    shown = tmde("lora", "prune", "--keep", "1", "--dry-run").out.splitlines()
    assert [line.split("\t")[0] for line in shown[1:]] == ids[1:4]
    assert "say --yes" in tmde("lora", "prune", "--keep", "1").err
    assert len(tmde("lora", "list", "--json").json) == 6
    found = tmde("lora", "prune", "--keep", "1", "--yes", "--json").json
    assert [one["id"] for one in found["deleted"]] == ids[1:4]
    assert [one["id"] for one in tmde("lora", "list", "--json").json] == [ids[0], *ids[4:]]
    assert tmde("lora", "prune", "--keep", "9", "--yes").err == "Nothing to delete.\n"


def test_the_storage_figures_count_damaged_ones_too(tmde: Tmde, adapter, tmp_path: Path) -> None:
    adapter()
    (tmp_path / "data" / "lora-adapters" / adapter() / "manifest.json").unlink()
    found = tmde("lora", "storage", "--json").json
    assert (found["adapters"], found["invalid"]) == (2, 1)
    assert found["bytes"] > 2 * len(peft_files()["adapter_model.safetensors"])
    assert "adapters  2\n" in tmde("lora", "storage").out


def test_verifying_ends_with_one_when_something_is_wrong(tmde: Tmde, adapter, tmp_path: Path) -> None:
    sound, damaged = adapter(age=1), adapter()
    assert tmde("lora", "verify", sound, "--json").json["isValid"] is True
    spoil(tmp_path, damaged)
    ran = tmde("lora", "verify", "--all")
    assert ran.code == 1
    states = [line.split("\t")[1] for line in ran.out.splitlines()[1:]]
    assert states == ["damaged", "sound"]
    assert "adapter_model.safetensors has changed" in ran.out
    assert tmde("lora", "verify", damaged).code == 1
    assert "Name one adapter" in tmde("lora", "verify").err


def test_two_adapters_are_compared_in_configuration_data_metrics_and_benchmark(tmde: Tmde, adapter) -> None:
    a = adapter(metrics={"finalTrainLoss": 2.0}, lineage={"traceIds": ["x", "y"]}, dataset_sha256="1" * 64)
    b = adapter(metrics={"finalTrainLoss": 1.5}, lineage={"traceIds": ["y", "z", "w"]}, dataset_sha256="2" * 64)
    ran = tmde("lora", "compare", a, b)
    assert "finalTrainLoss\t2\t1.5" in ran.out.replace("2.0", "2")
    assert "traces of both\t1\t1" in ran.out
    assert "traces of one only\t1\t2" in ran.out
    assert "No comparable benchmark runs of both." in ran.out
    tmde("bench", "questions", "add", "What is 6 times 7?", "--domain", "mathematics", "--number", "42")
    question = next(
        one["id"] for one in tmde("bench", "questions", "list", "--json").json["items"] if one["id"].startswith("own")
    )
    for identity in (a, b):
        ran = tmde("bench", "run", "custom", "--question", question, "--mode", "proposer", "--adapter", identity)
        assert ran.code == 0, ran.err
    ran = tmde("lora", "compare", a, b)
    assert "1 questions in both" in ran.out
    assert tmde("lora", "compare", a, b, "--json").json["benchmark"]["quality"]["n"] == 1


# ------------------------------------------------------------------------------------ out and back in


def test_an_adapter_is_exported_deleted_and_imported_again(tmde: Tmde, adapter, tmp_path: Path) -> None:
    identity = adapter(tags=("v1",))
    ran = tmde("lora", "export", identity, "--output", tmp_path)
    file = tmp_path / f"tmde-adapter-{identity[:8]}.tar.gz"
    assert ran.out.startswith(f"Wrote {file} (")
    assert json.loads(unpacked(file.read_bytes())["manifest.json"])["id"] == identity
    ran = tmde("lora", "export", identity, "--output", file)
    assert ran.code != 0
    assert "--force" in ran.err
    assert tmde("lora", "export", identity, "--output", file, "--force").code == 0
    assert tmde("lora", "delete", identity, "--yes").code == 0
    ran = tmde("lora", "import", file)
    assert ran.out.startswith(f"The adapter {identity} is here, for the base model scripted-1.")
    assert tmde("lora", "import", file, "--json").json["tags"] == ["v1"]
    assert len(tmde("lora", "list", "--json").json) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", file.name]


def test_the_other_formats_are_written_and_unknown_ones_named(tmde: Tmde, adapter, tmp_path: Path) -> None:
    identity = adapter()
    assert tmde("lora", "export", identity, "--format", "gguf", "-o", tmp_path / "a.gguf").code == 0
    assert (tmp_path / "a.gguf").read_bytes() == b"GGUF" + UUID(identity).bytes
    assert tmde("lora", "export", identity, "--format", "peft-bin", "-o", tmp_path / "b.tar.gz").code == 0
    assert "adapter_model.bin" in unpacked((tmp_path / "b.tar.gz").read_bytes())
    assert "'zip' is not one of peft, peft-bin, gguf" in tmde("lora", "export", identity, "--format", "zip").err
    ran = tmde("lora", "export", identity, "-o", tmp_path / "nowhere" / "c.tar.gz")
    assert ran.code != 0
    assert "cannot be written" in ran.err


def test_a_merged_model_is_written_with_its_notes_beside_it(tmde: Tmde, adapter, tmp_path: Path, monkeypatch) -> None:
    identity, asked = adapter(), []

    async def write(self, adapter_id, target, quantization="base", *, force=False, filename="", tell):
        asked.append((quantization, force, filename))
        tell(MergeProgress(step="merging", share=0.5))
        if not force:
            raise UnprocessableError("It lost much of the adapter. Export it as Q8_0 instead.")
        target.write_bytes(b"GGUF")
        quality = MergeQuality(24, 22, 21, 96, 0.97, 0.1, 0.5, ("It lost much.",))
        return MergedModel(filename, f"# {filename}\n", MergeResult(size_bytes=4, notes=("A note.",), quality=quality))

    monkeypatch.setattr(MergeService, "write", write)
    ran = tmde("lora", "export", identity, "--format", "merged-gguf", "-o", tmp_path / "m.gguf")
    assert (ran.code, "Export it as Q8_0" in ran.err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    ran = tmde(
        "lora",
        "export",
        identity,
        "--format",
        "merged-gguf",
        "--quantization",
        "F16",
        "--force",
        "-o",
        tmp_path / "m.gguf",
    )
    assert ran.code == 0, ran.err
    assert (tmp_path / "m.gguf").read_bytes() == b"GGUF"
    assert (tmp_path / "m.gguf.NOTES.md").read_text() == "# m.gguf\n"
    assert "21 of 24 simple questions right (apart 22)" in ran.out
    assert "A note." in ran.out
    assert "Writing the merged model" in ran.err
    assert "It lost much." in ran.err
    assert asked == [("base", False, "m.gguf"), ("F16", True, "m.gguf")]
    ran = tmde("lora", "export", identity, "--format", "merged-gguf", "-o", tmp_path)
    assert "tmde-" in asked[-1][2]
    for arguments, says in (
        (("-o", tmp_path / "m.gguf"), "exists"),
        (("-o", tmp_path / "nowhere" / "m.gguf"), "There is no directory"),
        (("-o", "-"), "written to a file"),
        (("--quantization", "Q4_K_M"), "is not one of base, Q8_0, F16"),
    ):
        ran = tmde("lora", "export", identity, "--format", "merged-gguf", *arguments)
        assert ran.code != 0
        assert says in ran.err


def test_a_damaged_adapter_is_not_exported_and_leaves_no_file(tmde: Tmde, adapter, tmp_path: Path) -> None:
    identity = adapter()
    spoil(tmp_path, identity)
    ran = tmde("lora", "export", identity, "-o", tmp_path / "a.tar.gz")
    assert ran.code == 1
    assert "has changed" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 1), ("y", 0, 0)])
def test_a_deletion_is_asked_once_on_a_terminal(tmde: Tmde, adapter, monkeypatch, answer, code, left) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    identity = adapter()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
        ran = tmde("lora", "delete", identity)
    assert (ran.code, "Nothing was deleted." in ran.err) == (code, bool(left))
    assert len(tmde("lora", "list", "--json").json) == left


def test_an_archive_goes_through_a_pipe(tmde: Tmde, adapter, process: Tmde, tmp_path: Path, monkeypatch) -> None:
    identity = adapter()
    content = io.BytesIO()

    class Piped:
        buffer = content

        def isatty(self) -> bool:
            return False

    with monkeypatch.context() as patch:
        patch.setattr(lora_archive.sys, "stdout", Piped())
        assert tmde("lora", "export", identity, "-o", "-").code == 0
    with tarfile.open(fileobj=io.BytesIO(content.getvalue()), mode="r:gz") as archive:
        assert len(archive.getnames()) > 4
    content.seek(0)
    monkeypatch.setattr(lora_archive.sys, "stdin", Piped())
    assert tmde("lora", "import", "-", "--json").json["baseModel"] == "scripted-1"


def test_a_second_import_says_which_adapter_it_copies_and_a_person_is_asked(
    tmde: Tmde, scripted, tmp_path: Path, monkeypatch
) -> None:
    file = tmp_path / "adapter.tar.gz"
    file.write_bytes(packed(peft_files()))
    first = tmde("lora", "import", file, "--json").json["id"]
    assert f"It is a copy of {first}." in tmde("lora", "import", file).out
    assert f"(copy of {first[:8]})" in tmde("lora", "list").out
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    asked: list[str] = []

    def confirm(words: str, abort: bool) -> None:
        asked.append(words)
        raise typer.Abort

    monkeypatch.setattr("typer.confirm", confirm)
    assert tmde("lora", "import", file).code != 0
    assert first in asked[0]
    assert len(tmde("lora", "list", "--json").json) == 2
    assert tmde("lora", "import", file, "--again").code == 0


def test_every_reason_of_a_refusal_is_told_and_nothing_is_kept(tmde: Tmde, scripted, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.tar.gz"
    hostile.write_bytes(packed(peft_files(use_dora=True, use_qalora=True) | {"evil.pkl": b""}))
    ran = tmde("lora", "import", hostile)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("The archive was refused, for 3 reasons; nothing was kept:\n")
    for word in ("pickle", "use_dora", "use_qalora"):
        assert word in ran.err
    hostile.write_bytes(b"hello")
    assert "no gzipped tar archive" in tmde("lora", "import", hostile).err
    assert "cannot be read" in tmde("lora", "import", tmp_path / "nowhere").err
    (tmp_path / "unpacked").mkdir()
    assert "Pack it first" in tmde("lora", "import", tmp_path / "unpacked").err
    assert tmde("lora", "list", "--json").json == []


# ----------------------------------------------------------------------------------------------- ask


def test_base_and_adapters_are_asked_side_by_side_into_a_pipe(tmde: Tmde, adapter, scripted) -> None:
    a, b = adapter(), adapter(age=1)
    scripted.script = lambda request: f"I am {request.adapter.id if request.adapter else 'the base'}."
    ran = tmde("lora", "ask", "Who?", "-a", a, "-a", b)
    assert ran.code == 0
    assert "== base model (" in ran.out
    for identity in (a, b):
        assert re.search(rf"== adapter \d+ \w+ · .*{identity[:8]}.* \(\d+ tokens", ran.out)
        assert f"I am {identity}." in ran.out
    assert "I am the base." in ran.out
    newest = tmde("lora", "ask", "Who?", "--no-base", "--json").json_lines
    assert newest[0]["versions"] == [a]
    assert [event["type"] for event in newest if event["type"] != "token"] == ["start", "answer", "complete"]
    assert tmde("lora", "active", "--json").json is None


def test_a_version_that_fails_is_named_and_all_failing_ends_with_one(tmde: Tmde, adapter, scripted) -> None:
    a = adapter()
    scripted.script = lambda request: Reply(error=RuntimeError("broke")) if request.adapter else "Fine."
    ran = tmde("lora", "ask", "Who?", "-a", a)
    assert ran.code == 0
    assert "Fine." in ran.out
    assert "== adapter " in ran.err
    assert a[:8] in ran.err
    assert tmde("lora", "ask", "Who?", "-a", a, "--no-base").code == 1
    assert tmde("lora", "ask", "Who?", "--temperature", "9").code == 2
    assert "no adapter" in tmde("lora", "ask", "Who?", "-a", str(uuid4())).err


def test_on_a_terminal_every_version_has_a_panel_that_fills(monkeypatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        lora_archive, "console", lambda: Console(file=screen, force_terminal=True, width=100, color_system=None)
    )
    a, b = uuid4(), uuid4()
    with lora_archive._Beside({None: "base model", str(a): "adapter Fractions", str(b): "adapter Tables"}) as view:
        view.show("start", {})
        for text in ("Because ", "of light."):
            view.show("token", {"version": None, "text": text})
        view.show("answer", {"version": None, "text": "Because of light.", "ms": 1200.0, "tokens": 4})
        view.show("failed", {"version": str(a), "code": "x", "detail": "It broke."})
        view.show("error", {"code": "x", "detail": "All broke."})
        assert view.failed
    shown = screen.getvalue()
    for word in ("base model · 4 tokens", "adapter Fractions", "Because of light.", "It broke.", "All broke."):
        assert word in shown


def test_all_of_it_works_in_a_process_of_its_own(process: Tmde, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(packed(peft_files(base_model_name_or_path="somebody/else")))
    adapter = process("lora", "import", archive, "--json").json
    assert process("lora", "verify", adapter["id"]).code == 0
    ran = process("lora", "activate", adapter["id"])
    assert ran.code != 0
    assert ran.err.startswith("Error: ")
    assert "Traceback" not in ran.err
    assert process("lora", "delete", adapter["id"], "--yes").code == 0
    assert process("lora", "list", "--json").json == []
