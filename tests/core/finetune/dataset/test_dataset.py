"""What is trained on, what is held out, and that nothing ever changes sides."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.finetune.conftest import make_trace, settings_on, stand_in_plugins
from tmde_core.errors import InsufficientTracesError
from tmde_core.finetune.dataset.leaks import LeakCheck, Protected
from tmde_core.finetune.dataset.selection import (
    assign_split,
    content_hash,
    freeze,
    normalise_question,
    query_hash,
    require_enough,
    select,
)
from tmde_core.plugins import Plugins
from tmde_core.prompts import proposer_opening
from tmde_core.records.chat import Message
from tmde_core.records.debate import Exchange
from tmde_core.records.finetune import Dataset, FineTuneConfig
from tmde_core.records.questions import Question
from tmde_core.records.training import TrainingExample
from tmde_core.sdk.suites import SuiteDescriptor
from tmde_core.services import open_services

QUERIES = st.lists(
    st.text(min_size=1).filter(lambda text: normalise_question(text) != ""), unique_by=normalise_question, max_size=30
)


def joined(names) -> str:
    return " & ".join(names)


def sides(selection) -> dict[str, str]:
    return {e.instruction: "train" for e in selection.train} | {e.instruction: "val" for e in selection.val}


def test_the_split_is_the_same_on_every_machine():
    # Written down: a change of the rule would move examples from validation to training.
    assert [number for number in range(60) if assign_split(f"What is {number} times 7?") == "val"] == [0, 12, 17, 51]


def test_about_a_tenth_is_held_out():
    assert sum(assign_split(f"question {number}") == "val" for number in range(20_000)) == pytest.approx(2000, rel=0.1)


@given(QUERIES, st.integers(0, 30))
def test_no_example_changes_sides_as_traces_are_added(trace, queries, earlier):
    traces = [trace(query, minutes=number) for number, query in enumerate(queries)]
    before, after = sides(select(traces[:earlier], joined)), sides(select(traces, joined))
    assert before.items() <= after.items()


@given(QUERIES, st.randoms(use_true_random=False))
def test_the_order_in_which_traces_come_changes_nothing(trace, queries, random):
    traces = [trace(query, minutes=number) for number, query in enumerate(queries)]
    shuffled = random.sample(traces, len(traces))
    assert select(shuffled, joined) == select(traces, joined)


@given(st.lists(st.tuples(st.sampled_from(["a", "A ?", "b", "c"]), st.integers(1, 10), st.integers(0, 5)), max_size=20))
def test_of_one_question_the_best_answer_is_kept_and_the_others_are_accounted_for(trace, asked):
    traces = [
        trace(query, f"answer {n}", minutes=at, auto_score=float(score)) for n, (query, score, at) in enumerate(asked)
    ]
    selection = select(traces, joined)
    kept = {example.trace_id for example in (*selection.train, *selection.val)}
    assert len(kept) == len({normalise_question(one.query) for one in traces})
    assert {str(one.id) for one in traces} == kept | {str(left.trace_id) for left in selection.left_out}
    for one in traces:
        rivals = [other for other in traces if normalise_question(other.query) == normalise_question(one.query)]
        best = max((other.auto_score, other.created_at) for other in rivals)
        assert str(one.id) not in kept or (one.auto_score, one.created_at) == best


@pytest.mark.parametrize(
    ("left", "right"),
    [("What is 2+2?", "what  is 2+2"), ("Why?", " WHY"), ("Café?", "Cafe\u0301"), ("Straße.", "STRASSE")],
)
def test_questions_that_differ_in_form_only_are_one(left, right):
    assert query_hash(left) == query_hash(right)


@pytest.mark.parametrize(("left", "right"), [("2²", "22"), ("Is 5! even?", "Is 5 even?"), ("-3", "3")])
def test_questions_that_differ_in_meaning_stay_apart(left, right):
    assert query_hash(left) != query_hash(right)


KINDS = ("good", "withdrawn", "benchmark", "poor", "unscored", "leak", "blank")
TAUGHT = "good"


@settings(max_examples=25)
@given(kinds=st.lists(st.sampled_from(KINDS), max_size=24), draws=st.randoms(use_true_random=False))
def test_nothing_that_must_not_be_trained_on_is_ever_chosen(tmp_path_factory, kinds, draws):
    words = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty"]

    async def chosen() -> tuple[set[str], set[str]]:
        good = set()
        async with open_services(settings_on(tmp_path_factory.mktemp("data")), protecting()) as services:
            for number, kind in enumerate(kinds):
                query = f"Describe {draws.choice(words)} and {draws.choice(words)} number {number}."
                fields = {"benchmark": {"source": "benchmark"}, "poor": {"auto_score": 7.9}}.get(kind, {})
                if kind == "leak":
                    query = draws.choice(["", "Hello! ", "Be brief: "]) + PROTECTED + draws.choice(["", " Thanks."])
                one = make_trace(query, " " if kind == "blank" else f"answer {number}", minutes=number, **fields)
                if kind == "unscored":
                    one = msgspec.structs.replace(one, auto_score=None)
                await services.traces.add(one)
                if kind == "withdrawn":
                    await services.traces.withdraw(one.id, "It is wrong.")
                if kind == TAUGHT:
                    good.add(str(one.id))
            return set((await services.finetune.select_examples(FineTuneConfig())).trace_ids), good

    found, good = asyncio.run(chosen())
    assert found == good


PROTECTED = "Why does the heron stand on one leg at dusk?"


def protecting() -> Plugins:
    plugins = stand_in_plugins()
    question = Question(id="heron", query=PROTECTED, domain="science")
    plugins.suites.add(SuiteDescriptor(name="suite", summary="", questions=lambda: (question,)), "tests")
    return plugins


HASHED = """
import sys
from pathlib import Path
from tests.core.finetune.conftest import make_trace
from tmde_core.finetune.dataset.selection import freeze, select
from tmde_core.finetune.dataset.leaks import LeakCheck, Protected
leaks = LeakCheck(Protected(f"suite/{n}", f"What is {n} times 8?") for n in range(30))
traces = [make_trace(f"What is {n % 70} times {n % 9}?", f"answer {n}", minutes=n % 13) for n in range(300)]
selection = select(traces, " & ".join, leaks)
print(freeze(selection, Path(sys.argv[1])).sha256, [(str(one.trace_id), one.detail) for one in selection.left_out])
"""


def test_the_dataset_is_the_same_whatever_the_process(tmp_path: Path):
    told = set()
    for number, (seed, zone) in enumerate([("0", "UTC"), ("1", "Asia/Kathmandu"), ("random", "America/St_Johns")]):
        directory = tmp_path / str(number)
        directory.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C"}
        done = subprocess.run(
            [sys.executable, "-c", HASHED, str(directory)], env=environment, capture_output=True, text=True, check=True
        )
        told.add(done.stdout)
    assert len(told) == 1
    assert "It equals the benchmark question suite/8." in told.pop()


def test_an_example_is_what_the_proposer_sees_and_the_corrected_answer(trace):
    one = trace("Why?", "wrong", corrected_answer="right", templates_used=("analogy", "contrast"))
    (example,) = [*(selection := select([one], joined)).train, *selection.val]
    assert example == TrainingExample(
        instruction="Why?",
        input="analogy & contrast",
        output="right",
        messages=(*proposer_opening("Why?", "analogy & contrast"), Message(role="assistant", content="right")),
        trace_id=str(one.id),
    )


def test_a_thought_in_a_correction_is_not_trained_on(trace):
    selection = select([trace("Why?", "wrong", corrected_answer="<think>Hm.</think>right")], joined)
    assert [example.output for example in (*selection.train, *selection.val)] == ["right"]


def test_a_follow_up_is_trained_on_together_with_what_it_follows_up(trace):
    alone = trace("And twice that?", "40")
    one = trace("And twice that?", "84", earlier=(Exchange(question="What is 6 times 7?", answer="42"),))
    selection = select([alone, one], joined)
    read = {example.output: example.messages[1].content for example in (*selection.train, *selection.val)}
    asked = "Earlier question: What is 6 times 7?\nEarlier answer: 42\n\nNow answer this question: And twice that?"
    assert read == {"40": "And twice that?", "84": asked}


def test_empty_answers_and_benchmark_questions_are_left_out_and_said_so(trace):
    traces = [trace("blank", "  "), trace("Leaked?"), trace("fine")]
    selection = select(traces, joined, LeakCheck([Protected("suite/1", "leaked")]))
    assert sides(selection).keys() == {"fine"}
    assert {(left.trace_id, left.reason) for left in selection.left_out} == {
        (traces[0].id, "empty"),
        (traces[1].id, "leak"),
    }


def test_half_of_a_character_leaves_out_its_trace_and_no_other(trace, tmp_path):
    traces = [
        msgspec.structs.replace(trace("a"), query="half \ud83d"),
        trace("fine"),
        msgspec.structs.replace(trace("in the answer"), final_answer="half \udc00"),
    ]
    selection = select(traces, joined)
    freeze(selection, tmp_path)
    assert sides(selection).keys() == {"fine"}
    assert {(left.trace_id, left.reason) for left in selection.left_out} == {
        (traces[0].id, "cannot-encode"),
        (traces[2].id, "cannot-encode"),
    }


def test_too_few_examples_are_refused_with_both_numbers_and_what_to_do(trace):
    selection = select([trace("a"), trace("a"), trace("b")], joined)
    with pytest.raises(
        InsufficientTracesError, match=r"needs 50 different questions.*there are 2.*Debate, rate or correct more"
    ) as caught:
        require_enough(selection, FineTuneConfig())
    assert caught.value.context == {"current": 2, "required": 50}
    require_enough(selection, FineTuneConfig(min_traces=2))


def test_a_dataset_of_held_out_examples_only_is_refused(trace):
    with pytest.raises(InsufficientTracesError, match="keeps it for validation"):
        require_enough(select([trace("What is 12 times 7?")], joined), FineTuneConfig(min_traces=1))


def test_a_frozen_dataset_can_be_read_back_and_its_hash_is_of_its_content(trace, tmp_path: Path):
    selection = select([trace(f"What is {n} times 7?", f"{n * 7}\u2028.") for n in range(20)], joined)
    dataset = freeze(selection, tmp_path)
    train, val = (tmp_path / "train.jsonl").read_bytes(), (tmp_path / "val.jsonl").read_bytes()
    read = [msgspec.json.decode(line, type=TrainingExample) for line in train.splitlines()]
    assert read == list(selection.train)
    assert len(val.splitlines()) == dataset.val_examples == 3
    assert dataset.sha256 == content_hash(train, val) != content_hash(val, train)
    assert msgspec.json.decode((tmp_path / "dataset.json").read_bytes(), type=Dataset) == dataset
    alpaca = [json.loads(line) for line in (tmp_path / "dataset.jsonl").read_bytes().splitlines()]
    assert {tuple(line) for line in alpaca} == {("instruction", "input", "output", "traceId", "split")}
    assert [line["traceId"] for line in alpaca] == [str(identity) for identity in dataset.trace_ids]
    assert [line["split"] for line in alpaca] == ["train"] * 17 + ["val"] * 3


def test_the_same_traces_give_the_same_hash(trace, tmp_path: Path):
    traces = [trace(f"question {number}", minutes=number) for number in range(9)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = freeze(select(traces, joined), tmp_path / "one"), freeze(select(traces[::-1], joined), tmp_path / "two")
    assert one.sha256 == two.sha256
