"""`tmde bench …`."""

from __future__ import annotations

import csv
import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROLES, environment
from tests.conftest import REPOSITORY
from tests.core.lora.conftest import publish_adapter


@pytest.fixture
def asked(tmde) -> str:
    """One question of one's own, which the scripted "42" gets right."""
    ran = tmde("bench", "questions", "add", "What is six times seven?", "--domain", "mathematics", "--number", "42", "--id", "own-1")  # fmt: skip
    assert ran.out == "Added own-1. `tmde bench run custom --question own-1` asks it.\n"
    return "own-1"


@pytest.fixture
def runs(tmde, asked) -> tuple[str, str]:
    """Two runs of it, the older first."""

    def one() -> str:
        ran = tmde("bench", "run", "custom", "--question", asked, "--mode", "proposer", "--json")
        assert ran.code == 0, ran.err
        return str(re.search(r'"id": "([^"]+)"', ran.out)[1])

    return one(), one()


def test_a_run_ends_with_a_table_of_its_answers_and_its_figures(tmde, asked) -> None:
    ran = tmde("bench", "run", "custom", "--question", asked, "--mode", "proposer")
    assert ran.code == 0
    rows = [line.split("\t") for line in ran.out.splitlines() if "\t" in line]
    assert rows[0] == ["question", "domain", "difficulty", "score", "seconds"]
    assert [row[:4] for row in rows[1:]] == [["own-1", "mathematics", "medium", "10"]] * 2
    assert "quality 10.00 of 10" in " ".join(ran.out.split())
    assert "TMDE score 100.0 of 100" in " ".join(ran.out.split())


def test_runs_are_listed_shown_and_deleted(tmde, runs) -> None:
    old, new = runs
    assert [one["id"] for one in tmde("bench", "list", "--json").json["items"]] == [new, old]
    assert new in tmde("bench", "show").out
    assert "quality_score" in tmde("bench", "show", old, "--question", "own-1").out
    assert tmde("bench", "delete", old).out == f"Removed {old}.\n"
    assert tmde("bench", "list", "--json").json["total"] == 1


def test_two_runs_are_compared_in_words_and_as_json(tmde, runs) -> None:
    assert "No difference over 1 question." in tmde("bench", "compare", *runs).out
    assert tmde("bench", "compare", *runs, "--json").json["quality"]["outcome"] == "inconclusive"


def test_exports_are_csv_json_and_a_report(tmde, runs, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(tmde("bench", "export", "--format", "csv").out, newline="")))
    assert [row["question_id"] for row in rows] == ["own-1"] * 4
    assert tmde("bench", "export").json["total"] == 2
    written = tmde("bench", "report", runs[0], "-o", tmp_path / "report.html")
    assert written.err == f"Wrote the report to {tmp_path / 'report.html'}.\n"
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_the_gate_measures_and_says_why_it_decided(tmde, tmp_path: Path) -> None:
    adapter = publish_adapter(tmp_path / "data")
    ran = tmde("bench", "gate", str(adapter), "--json")
    (decision,) = ran.json["items"]
    assert (decision["gate"], decision["adapterId"]) == ("candidate", str(adapter))
    assert "It cannot be told from the base model yet" in decision["reason"]
    assert tmde("lora", "name", str(adapter), "Fractions").code == 0
    name = f"Fractions ({str(adapter)[:8]})"
    assert name in tmde("bench", "gate").out
    assert name in tmde("bench", "show").out
    listed = [line.split("\t")[4] for line in tmde("bench", "list").out.splitlines()]
    assert listed == ["adapter", name, "base model"]
    told = tmde("notifications", "--json").out
    assert "The full benchmark can tell more." in told


def test_questions_come_from_yaml_and_jsonl_and_what_cannot_be_taken_is_told_by_its_place(tmde, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "- query: What is the capital of France?\n  id: paris\n  reference: Paris\n"
        "- query: Where?\n  domain: cooking\n  reference: x\n"
        "- query: Nothing to go by?\n"
        "- query: A bad check?\n  criteria: [{name: a, check: {kind: regex, pattern: '('}}]\n"
    )
    ran = tmde("bench", "questions", "import", tmp_path / "own.yaml")
    assert (ran.code, ran.out) == (0, "Imported 1 question.\n")
    assert ran.err.splitlines() == [
        "Entry 2: domain: 'cooking' is not one of mathematics, coding, science, reasoning, creative.",
        "Entry 3: referenceAnswer: is empty. Give a right answer, or a criterion with a check, which needs none.",
        "Entry 4: criteria[0].check: the pattern is no regular expression: missing ), unterminated subpattern at position 0.",
    ]
    (tmp_path / "samples.jsonl").write_text('{"input": "2 + 2?", "target": "4", "id": "sum"}\n{bad\n')
    ran = tmde("bench", "questions", "import", tmp_path / "samples.jsonl", "--domain", "mathematics")
    assert (ran.code, ran.out) == (0, "Imported 1 question.\n")
    assert ran.err.startswith("Line 2: This is not valid JSON")
    listed = tmde("bench", "questions", "list", "--suite", "custom", "--json").json["items"]
    assert [(one["id"], one["domain"]) for one in listed] == [("paris", "reasoning"), ("sum", "mathematics")]
    change = ("bench", "questions", "add", "What is the capital of Spain?", "--domain", "science", "--fact", "Madrid")
    assert tmde(*change, "--replace").err.startswith("Error: --replace: it needs the --id")
    assert tmde(*change, "--id", "paris", "--replace").out.startswith("Changed paris.")
    assert tmde("bench", "questions", "remove", "paris").out == "Removed paris.\n"


def test_a_judge_is_held_against_ones_own_ratings(tmde, tmp_path: Path) -> None:
    rated = "".join(f'{{"question": "Q{n}?", "answer": "A.", "rating": {n}}}\n' for n in range(1, 11))
    (tmp_path / "rated.jsonl").write_text(rated)
    found = tmde("bench", "calibrate", tmp_path / "rated.jsonl", "--json").json
    assert (found["judge"], found["n"], found["unscored"]) == ("rubric", 10, 0)
    assert found["meanError"] == pytest.approx(8 - 5.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "huge"), "TYPE: 'huge' is not one of quick, full, custom."),
        (("run", "quick", "--mode", "loud"), "--mode: 'loud' is not one of debate, proposer."),
        (("run", "quick", "--judge", "nobody"), "judge: There is no judge called 'nobody'; available: panel, rubric, verifier."),
        (("run", "quick", "--suite", "nope"), "--suite: no suite is called 'nope'. There are "),
        (("run", "quick", "--adapter", "x"), "There is no adapter with the id or name 'x'."),
        (("run", "custom", "--question", "gone"), "questionIds: there is no question called 'gone'."),
        (("run", "custom"), "questionIds: a custom run needs at least one question."),
        (("list", "--from", "2026-02-02", "--to", "2026-01-01"), "from: lies after `to`. Exchange the two dates."),
        (("list", "--from", "tomorrow"), "--from: 'tomorrow' is no date. Write it as 2026-11-24."),
        (("export", "--format", "xml"), "--format: 'xml' is not one of json, csv."),
        (("show",), "There is no benchmark yet. `tmde bench run quick` begins one."),
        (("show", "x"), "There is no benchmark run with the id 'x'."),
        (("questions", "list", "--domain", "cooking"), "domain: 'cooking' is not one of"),
        (("questions", "list", "--difficulty", "brutal"), "difficulty: 'brutal' is not one of easy, medium, hard."),
        (("questions", "add", "Why?", "--domain", "science"), "referenceAnswer: is empty"),
        (("questions", "add", "Why?", "--domain", "science", "--regex", "("), "criteria[0].check: the pattern is no regular"),
        (("questions", "remove", "math-01"), "The question 'math-01' is built in and cannot be removed."),
        (("questions", "remove", "gone"), "There is no question called 'gone'."),
        (("questions", "import", "/no/such.jsonl"), "There is no file /no/such.jsonl."),
        (("calibrate",), "There is no rated answer to compare with."),
        (("resume", "x"), "There is no benchmark run with the id 'x'."),
        (("gate", "x"), "There is no adapter with the id or name 'x'."),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence_and_a_failure(tmde, arguments, words) -> None:
    ran = tmde("bench", *arguments)
    assert ran.code == (1 if (words.startswith("There is no") and "file" not in words) or "built in" in words else 2)
    (line,) = ran.err.splitlines()
    assert line.startswith(f"Error: {words}")


SCRIPTED = """
import sys
from tmde_core.cli.app import run
from tmde_core.plugins import Plugins
from tmde_core.testing.scripted import ScriptedRuntime, scripted_plugins

load = Plugins.load
Plugins.load = staticmethod(lambda: scripted_plugins(ScriptedRuntime(), load()))
run(sys.argv[1:])
"""


def test_on_a_terminal_a_bar_counts_up_and_a_table_stands_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tmde.toml").write_text(ROLES)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPTED, "--data-dir", str(tmp_path / "data"), "bench", "run", "quick", "--mode", "proposer"],
        stdin=slave, stdout=slave, stderr=slave, cwd=REPOSITORY, env=environment(TERM="xterm", COLUMNS="100"),
    )  # fmt: skip
    os.close(slave)
    seen = b""
    while True:
        try:
            piece = os.read(master, 65_536)
        except OSError:  # the other end has been closed
            break
        if not piece:
            break
        seen += piece
    os.close(master)
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "Asking the base model" in text
    assert "10/10" in text
    assert re.search(r"question\s+domain\s+difficulty\s+score\s+seconds", text)
    assert "Traceback" not in text
