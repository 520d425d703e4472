"""`tmde debate`: watched, as JSON Lines, cancelled, and from a file."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tmde_core.errors import InsufficientStorageError, WorkerFailedError
from tmde_core.testing.fake_servers import FakeVllm, serving
from tmde_core.testing.scripted import ScriptedRuntime

Tmde = Callable[..., Any]


def test_a_debate_shows_rounds_verdicts_answer_and_trace(tmde: Tmde) -> None:
    ran = tmde("debate", "What is six times seven?")
    assert ran.code == 0, ran.err
    assert ran.err == ""
    shown = ran.out
    assert shown.index("--- Round 1") < shown.index("--- Round 2") < shown.index("--- Answer")
    assert "The answer is 42." in shown
    assert "Skeptic · 4 of 10 · wants a revision\n  major    It gives no reason." in shown
    assert "Six times seven is 42." in shown
    assert "{" not in shown, "the Skeptic's JSON is shown as what it means"
    trace_id = shown.split()[-1]
    assert tmde("traces", "show", trace_id, "--json").json["source"] == "cli"


def test_a_question_follows_up_another_and_is_answered_by_a_chosen_model(tmde: Tmde, scripted: ScriptedRuntime) -> None:
    first = tmde("debate", "What is six times seven?").out.split()[-1]
    ran = tmde("debate", "And twice that?", "--follow", first[:8], "--model", "scripted-1")
    assert ran.code == 0, ran.err
    asked = scripted.of_role("proposer")[-1]
    assert asked.model == "scripted-1"
    assert "Earlier question: What is six times seven?" in asked.messages[1].content
    assert tmde("debate", "And?", "--follow", "ffffffff").code == 1
    assert tmde("debate", "--file", "x.jsonl", "--follow", first).code == 2


def test_json_gives_the_events_one_a_line(tmde: Tmde) -> None:
    ran = tmde("debate", "What is six times seven?", "--json")
    events = ran.json_lines
    assert ran.code == 0
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "start"
    assert events[-1]["type"] == "complete"
    assert events[-1]["data"]["finalAnswer"] == "Six times seven is 42."


def test_options_reach_the_debate(tmde: Tmde, scripted: ScriptedRuntime) -> None:
    ran = tmde(
        *("debate", "six times seven?", "--rounds", "1", "--reference", "42", "--check", "number", "--seed", "5"),
        *("--max-tokens", "50", "--temperature", "0.1", "--templates", "0", "--synthesis", "never", "--json"),
    )
    start, *_, complete = ran.json_lines
    assert start["data"]["maxRounds"] == 1
    assert (complete["data"]["judge"], complete["data"]["score"]) == ("verifier", 10)
    asked = scripted.requests[0]
    assert (asked.max_tokens, asked.temperature) == (50, 0.1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["   "], "question"),
        (["x" * 40_000], "question"),
        (["a\x01b"], "question"),
        (["q", "--rounds", "11"], "maxRounds"),
        (["q", "--rounds", "1", "--min-rounds", "2"], "minRounds"),
        (["q", "--check", "number"], "reference"),
        (["q", "--judge", "nobody"], "nobody"),
        (["q", "--synthesis", "sometimes"], "synthesis"),
    ],
)
def test_what_cannot_be_debated_is_one_sentence(tmde: Tmde, arguments: list[str], says: str) -> None:
    ran = tmde("debate", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_question_can_come_from_stdin(tmde: Tmde, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"What is six times seven?"), encoding="utf-8"))
    assert tmde("debate", "-").code == 0


def test_a_model_that_fails_is_one_sentence(tmde: Tmde, scripted: ScriptedRuntime) -> None:
    scripted.script = {"proposer": WorkerFailedError("The model server fell over.")}
    ran = tmde("debate", "What is six times seven?")
    assert ran.code == 1
    assert ran.err == "Error: The model server fell over.\n"
    assert tmde("debate", "What is six times seven?", "--json").code == 1


def test_control_characters_of_a_model_do_not_reach_the_terminal(tmde: Tmde, scripted: ScriptedRuntime) -> None:
    scripted.script = {
        "proposer": "\x1b]0;owned\x07 42",
        "skeptic": "\x1b[2J",
        "synthesizer": "\x1b[31m42",
        "judge": "9",
    }
    ran = tmde("debate", "What is six times seven?", "--rounds", "1")
    assert ran.code == 0
    assert "\x1b" not in ran.out
    assert "\x07" not in ran.out


async def test_ctrl_c_cancels_the_debate_and_leaves_no_trace(tmp_path: Path) -> None:
    server = FakeVllm()
    server.hold = asyncio.Event()
    data = tmp_path / "data"
    data.mkdir()
    async with serving(server) as url:
        roles = "".join(
            f'[roles.{role}]\nruntime = "openai"\n' for role in ("proposer", "skeptic", "synthesizer", "judge")
        )
        (data / "tmde.toml").write_text(f'{roles}[runtimes.openai]\nbase_url = "{url}"\n')
        debate = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tmde_core.cli", "--data-dir", str(data), "debate", "2 + 2?", "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert debate.stdout is not None
        async for line in debate.stdout:
            if json.loads(line)["type"] == "token":
                break
        debate.send_signal(signal.SIGINT)
        rest, errors = await debate.communicate()
        await server.hung_up.wait()
    assert debate.returncode == 130
    assert errors.decode() == "Cancelled; nothing was stored.\n"
    assert b"complete" not in rest
    with sqlite3.connect(data / "tmde.db") as database:
        assert database.execute("SELECT status FROM debates").fetchall() == [("cancelled",)]
        assert database.execute("SELECT count(*) FROM traces").fetchone() == (0,)
    database.close()


# --------------------------------------------------------------------------------------------- --file


def _questions(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_file_of_questions_is_worked_through(tmde: Tmde, tmp_path: Path) -> None:
    file = _questions(
        tmp_path / "q.jsonl",
        '{"query": "six times seven?", "reference": "42", "check": "number", "id": "a"}',
        '{"query": "six times seven?", "reference": "41", "check": "number", "id": "b", "split": "practice"}',
    )
    ran = tmde("debate", "--file", file, "--json")
    assert ran.code == 0, ran.err
    assert [(line["line"], line["id"], line["score"]) for line in ran.json_lines] == [(1, "a", 10), (2, "b", 0)]
    assert "2 asked, 0 failed, mean score 5.00" in ran.err
    assert "six times seven?\tSix times seven is 42.\n" in tmde("debate", "--file", file, "--restart").out


def test_only_what_is_not_done_is_asked_again(tmde: Tmde, tmp_path: Path) -> None:
    file = _questions(tmp_path / "q.jsonl", '{"query": "one?"}', '{"query": "two?"}')
    first = tmde("debate", "--file", file, "--json").json_lines
    _questions(file, '{"query": "zero?"}', '{"query": "one?"}', '{"query": "two?"}')
    ran = tmde("debate", "--file", file, "--json")
    assert "2 of 3 questions are done already" in ran.err
    assert [line["query"] for line in ran.json_lines] == ["zero?"]
    with sqlite3.connect(tmp_path / "data" / "tmde.db") as database:
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("DELETE FROM traces WHERE id = ?", (first[0]["traceId"],))
    database.close()
    assert [line["query"] for line in tmde("debate", "--file", file, "--json").json_lines] == ["one?"]
    assert tmde("debate", "--file", file, "--json").out == ""
    assert len(tmde("debate", "--file", file, "--json", "--restart").json_lines) == 3
    assert len(tmde("debate", "--file", file, "--json", "--rounds", "1").json_lines) == 3, (
        "another setting, another debate"
    )


def test_bad_lines_are_named_by_number_and_the_good_ones_debated(tmde: Tmde, tmp_path: Path) -> None:
    file = _questions(
        tmp_path / "q.jsonl",
        "{}",
        "nonsense",
        '{"query": "one?"}',
        "",
        '{"query": 7}',
        '{"query": "x", "check": "number"}',
    )
    ran = tmde("debate", "--file", file, "--json")
    assert ran.code == 1
    assert {line["line"]: line["status"] for line in ran.json_lines} == {3: "completed", 6: "failed"}
    for number in (1, 2, 5):
        assert f"line {number}: " in ran.err


def test_a_failed_question_is_asked_again_the_next_time(tmde: Tmde, tmp_path: Path, scripted: ScriptedRuntime) -> None:
    file = _questions(tmp_path / "q.jsonl", '{"query": "one?"}', '{"query": "two?"}')
    working = scripted.script
    scripted.script = lambda request: (
        WorkerFailedError("It fell over.") if "two?" in request.messages[-1].content else "fine"
    )
    ran = tmde("debate", "--file", file, "--json")
    assert ran.code == 1
    assert [line["error"] for line in ran.json_lines] == [None, "It fell over."]
    scripted.script = working
    assert [line["query"] for line in tmde("debate", "--file", file, "--json").json_lines] == ["two?"]


def test_several_debates_may_run_at_once(tmde: Tmde, tmp_path: Path) -> None:
    file = _questions(tmp_path / "q.jsonl", *(f'{{"query": "number {n}?"}}' for n in range(6)))
    ran = tmde("debate", "--file", file, "--json", "--parallel", "3")
    assert sorted(line["line"] for line in ran.json_lines) == [1, 2, 3, 4, 5, 6]


def test_a_file_that_is_not_there_or_empty_is_one_sentence(tmde: Tmde, tmp_path: Path) -> None:
    assert "There is no file" in tmde("debate", "--file", tmp_path / "none.jsonl").err
    assert "has no question" in tmde("debate", "--file", _questions(tmp_path / "empty.jsonl")).err


def test_what_fails_side_by_side_is_one_sentence_too(
    tmde: Tmde, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise InsufficientStorageError("The disk is full. Free some space.")

    monkeypatch.setattr("tmde_core.cli.debate.batch._State.add", full)
    file = tmp_path / "questions.jsonl"
    file.write_text('{"query": "one?"}\n{"query": "two?"}\n', encoding="utf-8")
    ran = tmde("debate", "--file", file)
    assert (ran.code, ran.err.splitlines()[-1]) == (1, "Error: The disk is full. Free some space.")
