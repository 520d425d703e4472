"""Translates data sets whose fields need more than other names into the fields that `shapes` reads.

Each function knows one data set, or a few that share a shape. It returns the entry with a question, options and an
answer, or the entry as it came if the entry is not of its kind.

| data set | what is special |
|---|---|
| WinoGrande | a sentence with a blank, and two options that are counted from 1 |
| PIQA | a goal, and two solutions that are counted from 0 |
| COPA, XCOPA | a premise, and whether its cause or its effect is asked for; options counted from 0 |
| Social IQa | `answerA` to `answerC`, counted from 1 |
| ReClor | options under `answers`, and the place of the right one beside them |
| BoolQ in SuperGLUE | 1 and 0 for yes and no |
| DROP | spans, numbers and dates; several spans may be one answer or several wordings, so they are refused |
| BIG-bench | `target_scores`, which gives the right option a 1 |
| MGSM | the final number beside a worked answer |
| StrategyQA, logs of inspect_ai | fields that tell the answer or an answer of a model |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tmde_core.benchmark.questions.fields import CHOICES, INDEXES, fold_name, is_empty
from tmde_core.benchmark.questions.targets import read_number
from tmde_core.errors import InvalidInputError

Entry = Mapping[str, Any]


def translate(entry: Entry) -> Entry:
    """Return the entry with the fields that `shapes` reads.

    Raises:
        InvalidInputError: The entry is of a known data set, and something in it could be read in two ways.
    """
    for known in _KNOWN:
        names = {fold_name(str(name)): name for name in entry}
        entry = known(entry, names)
    return entry


def _changed(entry: Entry, names: Mapping[str, str], without: tuple[str, ...], **added: Any) -> Entry:
    gone = {names[name] for name in without if name in names}
    return {**{name: value for name, value in entry.items() if name not in gone}, **added}


def _winogrande(entry: Entry, names: Mapping[str, str]) -> Entry:
    if not {"sentence", "option1", "option2"} <= names.keys() or "question" in names:
        return entry
    sentence = entry[names["sentence"]]
    if not isinstance(sentence, str) or sentence.count("_") != 1:
        raise InvalidInputError("sentence: a sentence with one blank, written as `_`, belongs there.", field="sentence")
    if "label" in names:
        raise InvalidInputError(
            "label: WinoGrande counts its options from 1, and a label often counts from 0. Write 1 or 2 as `answer`.",
            field="label",
        )
    labelled = {"label": ["1", "2"], "text": [entry[names["option1"]], entry[names["option2"]]]}
    question = f"What belongs in the place of the blank (_) in this sentence?\n\n{sentence}"
    return _changed(entry, names, ("sentence", "option1", "option2"), question=question, choices=labelled)


def _piqa(entry: Entry, names: Mapping[str, str]) -> Entry:
    if not {"goal", "sol1", "sol2"} <= names.keys() or "question" in names:
        return entry
    question = f"Which is the better way to reach this goal?\n\n{entry[names['goal']]}"
    choices = [entry[names["sol1"]], entry[names["sol2"]]]
    return _changed(entry, names, ("goal", "sol1", "sol2"), question=question, choices=choices)


def _copa(entry: Entry, names: Mapping[str, str]) -> Entry:
    asked = {"cause": "What was the cause of this?", "effect": "What happened as a result of this?"}
    if not {"premise", "choice1", "choice2", "question"} <= names.keys():
        return entry
    question = asked.get(str(entry[names["question"]]))
    if question is None:
        return entry
    texts = [entry[names["choice1"]], entry[names["choice2"]]]
    choices = texts if "label" in names else {"label": ["1", "2"], "text": texts}
    return _changed(entry, names, ("question", "choice1", "choice2"), question=question, choices=choices)


def _social_iqa(entry: Entry, names: Mapping[str, str]) -> Entry:
    columns = ("answera", "answerb", "answerc")
    if not {*columns, "label"} <= names.keys():
        return entry
    texts = [entry[names[column]] for column in columns]
    label = str(entry[names["label"]])
    labels = ["1", "2", "3"] if label.isdigit() else ["A", "B", "C"]
    without = (*columns, "label")
    return _changed(entry, names, without, choices={"label": labels, "text": texts}, answerKey=label)


def _reclor(entry: Entry, names: Mapping[str, str]) -> Entry:
    index = any(name in names for name in (*INDEXES, "correct"))
    listed = entry[names["answers"]] if "answers" in names else None
    if not index or not isinstance(listed, list) or len(listed) < 2 or any(name in names for name in CHOICES):
        return entry
    return _changed(entry, names, ("answers",), choices=listed)


def _boolq(entry: Entry, names: Mapping[str, str]) -> Entry:
    if names.keys() != {"question", "passage", "idx", "label"} or entry[names["label"]] not in (0, 1):
        return entry
    return _changed(entry, names, ("label",), answer=entry[names["label"]] == 1)


def _drop(entry: Entry, names: Mapping[str, str]) -> Entry:
    given = entry[names["answersspans"]] if "answersspans" in names else None
    if isinstance(given, Mapping) and isinstance(given.get("spans"), list) and "answer" not in names:
        return _changed(entry, names, ("answersspans",), answer=_one_span(given["spans"], "answers_spans"))
    answer = entry[names["answer"]] if "answer" in names else None
    if not isinstance(answer, Mapping) or not {"number", "date", "spans"} <= answer.keys():
        return entry
    date = answer["date"] if isinstance(answer["date"], Mapping) else {}
    written = " ".join(str(date[part]) for part in ("day", "month", "year") if not is_empty(date.get(part)))
    told = [one for one in (answer["number"], written) if not is_empty(one)]
    told += answer["spans"] if isinstance(answer["spans"], list) else []
    return _changed(entry, names, ("answer", "validatedanswers"), answer=_one_span(told, "answer"))


def _one_span(spans: list[Any], label: str) -> str | None:
    """Return the only answer among DROP's spans.

    Raises:
        InvalidInputError: The spans differ.
    """
    texts = {str(span).strip().casefold(): str(span).strip() for span in spans if not is_empty(span)}
    numbers = {number[0] if (number := read_number(text)) else text for text in texts}
    if len(numbers) > 1:
        raise InvalidInputError(
            f"{label}: there are {len(numbers)} answers, and the file does not say whether one or all of them are right. "
            "Write the right ones as `answer`, or name each in a criterion.",
            field=label,
        )
    return next(iter(texts.values()), None)


def _big_bench(entry: Entry, names: Mapping[str, str]) -> Entry:
    scores = entry[names["targetscores"]] if "targetscores" in names else None
    if not isinstance(scores, Mapping) or not all(isinstance(score, int | float) for score in scores.values()):
        return entry
    right = [text for text, score in scores.items() if score == 1]
    if len(right) != 1 or set(scores.values()) != {0, 1}:
        raise InvalidInputError(
            "target_scores: one option with 1, and all others with 0, belong there.", field="target"
        )
    return _changed(entry, names, ("targetscores", "target"), choices={"text": [*scores]}, answer=right[0])


def _mgsm(entry: Entry, names: Mapping[str, str]) -> Entry:
    number = entry[names["answernumber"]] if "answernumber" in names else None
    if is_empty(number) or isinstance(number, bool) or not isinstance(number, int | float | str):
        return entry
    return _changed(entry, names, ("answer", "answernumber", "equationsolution"), answer=number)


def _strategy_qa(entry: Entry, names: Mapping[str, str]) -> Entry:
    telling = ("term", "description", "facts", "decomposition", "evidence")
    return _changed(entry, names, telling) if {*telling[:4], "question"} <= names.keys() else entry


def _inspect_log(entry: Entry, names: Mapping[str, str]) -> Entry:
    """Leave out what a model answered."""
    if not {"input", "target", "messages", "output"} <= names.keys() or not isinstance(entry[names["output"]], Mapping):
        return entry
    return _changed(entry, names, ("output",))


_KNOWN: tuple[Callable[[Entry, Mapping[str, str]], Entry], ...] = (
    *(_winogrande, _piqa, _copa, _social_iqa, _reclor, _boolq, _drop, _big_bench, _mgsm, _strategy_qa, _inspect_log),
)
