"""The commands that list, show and change records."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Tmde = Callable[..., Any]

LINES = "".join(
    json.dumps({"query": f"question {n}", "finalAnswer": f"answer {n}", "qualityScore": n, "domain": "tests"}) + "\n"
    for n in range(1, 11)
)


def test_traces_go_in_through_a_pipe_and_come_out_unchanged(process: Tmde, tmp_path: Path) -> None:
    assert process("traces", "import", "-", stdin=LINES).out == "Imported 10 traces, left out 0.\n"
    listed = process("traces", "list", "--json", "--limit", "3").json
    assert (listed["total"], len(listed["items"])) == (10, 3)
    exported = process("traces", "export").out
    assert len(exported.splitlines()) == 10
    other = tmp_path / "other"
    assert process("traces", "import", "-", "--data-dir", other, stdin=exported).code == 0
    assert process("traces", "export", "--data-dir", other).out == exported


def test_bad_lines_of_an_import_are_named_by_number(process: Tmde) -> None:
    ran = process("traces", "import", "-", stdin='{"query": "q", "finalAnswer": "a"}\nnonsense\n{}\n')
    assert ran.code == 0
    assert ran.out == "Imported 1 trace, left out 2.\n"
    assert "line 2: " in ran.err
    assert "line 3: " in ran.err
    assert process("traces", "import", "-", stdin="nonsense\n").code == 1


def test_a_second_import_makes_no_copies_unless_it_is_asked_for(tmde: Tmde, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(LINES, encoding="utf-16")
    assert tmde("traces", "import", file).out == "Imported 10 traces, left out 0.\n"
    again = tmde("traces", "import", file)
    assert (again.code, again.out) == (0, "Imported 0 traces, left out 10.\n")
    assert "10 are already here. To import copies, add --again." in again.err
    assert tmde("traces", "import", file, "--again").out == "Imported 10 traces, left out 0.\n"


def test_the_original_projects_file_is_known_by_its_content(tmde: Tmde, tmp_path: Path) -> None:
    file = tmp_path / "old.data"
    with sqlite3.connect(file) as database:
        database.executescript(
            """
            CREATE TABLE traces (id, created_at, query, final_answer, total_rounds, early_stopped, quality_score, user_rating,
              auto_score, proposer_model, skeptic_model, synthesizer_model, embedding_model, total_duration_ms, rag_duration_ms,
              synthesis_duration_ms, templates_used, metadata);
            CREATE TABLE rounds (id, trace_id, round_number, proposer_response, skeptic_response, proposer_duration_ms,
              skeptic_duration_ms);
            INSERT INTO traces (id, created_at, query, final_answer) VALUES ('7', '2025-01-01T00:00:00Z', 'old?', 'yes');
            """
        )
    database.close()
    ran = tmde("traces", "import", file)
    assert ran.out == "Imported 1 trace, left out 0.\n", ran.err
    assert tmde("traces", "list", "--json").json["items"][0]["query"] == "old?"


def test_a_trace_can_be_found_shown_rated_and_withdrawn(tmde: Tmde, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(LINES)
    tmde("traces", "import", tmp_path / "t.jsonl")
    found = tmde("traces", "list", "--json", "-q", "question", "--min-quality", "9").json
    assert found["total"] == 2
    trace_id = found["items"][0]["id"]
    assert tmde("traces", "rate", trace_id, "3", "--corrected", "better").out.startswith("Rated 3 of 10, with")
    shown = tmde("traces", "show", trace_id)
    assert "Corrected answer\nbetter" in shown.out
    assert tmde("traces", "rate", trace_id, "11").code == 2
    assert (
        tmde("traces", "withdraw", trace_id, "--reason", "wrong").out == "Withdrawn. No adapter has learned from it.\n"
    )
    assert tmde("traces", "stats", "--json").json["withdrawn"] == 1
    assert "withdrawn  " in tmde("traces", "stats").out


def test_traces_are_deleted_after_a_yes(tmde: Tmde, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(LINES)
    tmde("traces", "import", tmp_path / "t.jsonl")
    first, second = (one["id"] for one in tmde("traces", "list", "--json").json["items"][:2])
    unasked = tmde("traces", "delete", first)
    assert unasked.code != 0
    assert "say --yes" in unasked.err
    told = tmde("traces", "delete", first, second, "--yes")
    assert told.out == "Deleted 2 traces. No adapter has learned from them.\n"
    assert tmde("traces", "show", first).code != 0


def test_a_correction_needs_no_rating_and_is_trained_on(tmde: Tmde, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"query": "6 * 7?", "finalAnswer": "41", "qualityScore": 2}\n')
    tmde("traces", "import", tmp_path / "t.jsonl")
    trace = tmde("traces", "list", "--json").json["items"][0]["id"]
    assert tmde("traces", "stats", "--json").json["eligible"] == 0
    assert tmde("traces", "correct", trace[:6], "42").out == "Corrected.\n"
    shown = tmde("traces", "show", trace[:6], "--json").json
    assert (shown["userRating"], shown["correctedAnswer"]) == (None, "42")
    assert tmde("traces", "stats", "--json").json["eligible"] == 1
    assert tmde("traces", "correct", trace, " ").out == "The correction was removed.\n"
    assert tmde("traces", "stats", "--json").json["eligible"] == 0


def test_lists_are_tab_separated_in_a_pipe_and_page_on(tmde: Tmde, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(LINES)
    tmde("traces", "import", tmp_path / "t.jsonl")
    ran = tmde("traces", "list", "--limit", "4")
    header, *rows = [line.split("\t") for line in ran.out.splitlines()]
    assert header == ["id", "created", "quality", "source", "question"]
    assert len(rows) == 4
    cursor = ran.err.split()[-1]
    assert "4 of 10" in ran.err
    following = tmde("traces", "list", "--limit", "200", "--cursor", cursor, "--json").json
    assert not {row[0] for row in rows} & {item["id"] for item in following["items"]}


def test_an_export_to_a_file_is_whole_or_not_there(tmde: Tmde, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(LINES)
    tmde("traces", "import", tmp_path / "t.jsonl")
    out = tmp_path / "out.jsonl"
    assert "Exported 10 traces" in tmde("traces", "export", out).err
    assert len(out.read_text().splitlines()) == 10
    assert tmde("traces", "export", tmp_path / "no" / "such" / "dir.jsonl").code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out.jsonl", "t.jsonl"]


@pytest.mark.parametrize("arguments", [["traces", "list"], ["lora", "list"], ["lora", "history"], ["finetune", "list"]])
def test_an_empty_list_says_how_to_fill_it_and_json_stays_json(tmde: Tmde, arguments: list[str]) -> None:
    ran = tmde(*arguments)
    assert (ran.code, ran.out) == (0, "")
    assert len(ran.err) > 10
    assert tmde(*arguments, "--json").json in (
        [],
        {"items": [], "total": 0},
        {"items": [], "total": 0, "nextCursor": None},
    )


def test_without_adapters_the_base_model_answers(tmde: Tmde) -> None:
    assert tmde("lora", "active").out == "No adapter is active: the base model answers.\n"
    assert tmde("lora", "active", "--json").json is None
    assert tmde("lora", "deactivate").code == 0
    assert tmde("lora", "rollback").code == 1
    unknown = "00000000-0000-4000-8000-000000000000"
    for arguments in (["show", unknown], ["activate", unknown], ["rollback", unknown], ["show", "../../etc/passwd"]):
        ran = tmde("lora", *arguments)
        assert ran.code == 1
        assert len(ran.err.splitlines()) == 1


def test_training_says_what_it_lacks(tmde: Tmde) -> None:
    ran = tmde("finetune", "start")
    assert ran.code == 1
    assert "there are 0" in ran.err
    assert "No training run is in progress" in tmde("finetune", "watch").err
    assert "No training run is in progress" in tmde("finetune", "cancel").err
    assert tmde("finetune", "list", "--status", "odd").code == 2


def test_hyperparameters_are_shown_checked_and_kept(tmde: Tmde) -> None:
    assert tmde("finetune", "config", "epochs=5", "learning-rate=3e-4", "loraRank=8").code == 0
    kept = tmde("finetune", "config", "--json").json
    assert (kept["epochs"], kept["learningRate"], kept["loraRank"]) == (5, 3e-4, 8)
    for change, says in (
        ("epochs=99", "epochs"),
        ("epochs=many", "epochs"),
        ("pace=1", "pace"),
        ("epochs", "NAME=VALUE"),
    ):
        ran = tmde("finetune", "config", change)
        assert ran.code == 2
        assert says in ran.err
    assert tmde("finetune", "config", "--json").json == kept
    assert "lora_rank\t8\t4–128" in tmde("finetune", "config").out
    assert "99" in tmde("finetune", "start", "--set", "epochs=99").err


def test_templates_are_listed_shown_and_found(tmde: Tmde) -> None:
    templates = tmde("templates", "list", "--json").json
    assert len(templates) >= 12
    first = templates[0]
    by_id, by_name = tmde("templates", "show", first["id"]), tmde("templates", "show", first["name"].upper())
    assert by_id.out == by_name.out
    assert first["description"] in by_id.out
    assert tmde("templates", "show", "no such").code == 1
    hits = tmde("templates", "search", "prove that the square root of two is irrational", "--json").json
    assert 1 <= len(hits) <= 5


def test_models_are_those_of_every_runtime_that_answers(tmde: Tmde) -> None:
    models = tmde("models", "list", "--json").json
    served = [(form["runtime"], form["model"]) for model in models for form in model["served"]]
    assert ("scripted", "scripted-1") in served
    assert tmde("models").out == tmde("models", "list").out
    assert tmde("models").out.splitlines()[0].split("\t")[0] == "model"


def test_a_runtime_that_lacks_something_says_what_beside_the_models(process: Tmde, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tmde.toml").write_text("[runtimes.embedded]\nslots = 0\n")
    ran = process("models")
    assert "embedded: In the settings, runtimes.embedded.slots:" in ran.err


def test_plugins_show_what_they_provide(process: Tmde) -> None:
    plugins = {plugin["name"]: plugin for plugin in process("plugins", "--json").json}
    assert {"cpu", "runtime_http", "bench_default"} <= plugins.keys()
    assert {provision["name"] for provision in plugins["runtime_http"]["provides"]} == {"ollama", "openai"}


@pytest.mark.slow
def test_a_run_is_started_watched_and_shown(process: Tmde, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tmde.toml").write_text("[supervisor]\nniceness = 0\n")  # other tests take what it would leave
    lines = "".join(
        json.dumps({"query": f"What is {n} plus {n}?", "finalAnswer": f"It is {2 * n}.", "qualityScore": 9}) + "\n"
        for n in range(20)
    )
    assert process("traces", "import", "-", stdin=lines).code == 0
    choices = (f"base_model={tiny_model}", "epochs=1", "max_seq_length=512", "min_traces=10")
    ran = process("finetune", "start", "--watch", "--json", *(word for choice in choices for word in ("--set", choice)))
    assert ran.code == 0, ran.err
    events = ran.json_lines
    assert events[-1]["type"] == "complete"
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    (run,) = process("finetune", "list", "--json").json["items"]
    assert run["status"] == "completed"
    assert process("finetune", "show", run["id"], "--json").json == run
    assert "has ended already" in process("finetune", "cancel", run["id"]).err
    again = process("finetune", "watch", run["id"])
    assert again.code == 0
    assert "step " in again.err
    (adapter,) = process("lora", "list", "--json").json
    assert adapter["id"] == run["id"]
    shown = process("lora", "show", run["id"], "--json").json
    assert {name: shown[name] for name in adapter} == adapter
    assert shown["lineage"]["runId"] == run["id"]
