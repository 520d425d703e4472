"""Converts a line of a data set into the fields of a question; `imports` lists the shapes.

A line is read right or refused. A passage becomes a part of the question. A field that may be needed to answer and is
not understood refuses its line (`fields.Fields.refuse_unread`).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tmde_core.benchmark.questions.fields import (
    ANSWERS,
    CHOICES,
    INDEXES,
    PASSAGES,
    QUESTIONS,
    Fields,
    fold_name,
    is_empty,
)
from tmde_core.benchmark.questions.known import translate
from tmde_core.benchmark.questions.options import (
    FROM_ZERO,
    Counting,
    Option,
    choice_parts,
    find_right,
    mixed,
    named_number,
    read_options,
)
from tmde_core.benchmark.questions.targets import (
    LETTERS,
    Parts,
    answer_parts,
    bare_letter,
    letter_parts,
    read_wordings,
)
from tmde_core.errors import InvalidInputError

_WRONG_ANSWER = re.compile(r"(?:distractor|incorrectanswer|wronganswer|incorrect)\d")
_TEMPLATE_MARKS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|user|>", "<|User|>")
"""A prompt with one of these was written in a model's chat template. Another model must not be asked it."""
_LETTERED_LINE = re.compile(r"^\s*\(?([A-Z])[.):]\s*\S", re.MULTILINE)
_AIME = re.compile(r"0\d{1,2}", re.ASCII)
"""AIME writes its answers, the whole numbers to 999, with three digits."""
_IMPOSSIBLE = ("isimpossible", "impossible")


_LEVELS = ("rows", "data", "paragraphs", "qas", "examples", "samples", "instances", "questions")
"""Fields under which files nest their questions: the rows of https://datasets-server.huggingface.co, SQuAD's levels, the
tasks of BIG-bench, the logs of inspect_ai."""


def spread(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the questions of an entry. Some files nest many questions in one object, or hold a list for each field.

    Raises:
        InvalidInputError: A level is no list of objects, or the questions cannot be told apart.
    """
    names = {fold_name(str(name)): name for name in entry}
    level = next((level for level in _LEVELS if level in names), None)
    if level is not None and not any(name in names for name in (*QUESTIONS, "doc")):
        inner = entry[names[level]]
        if any(name in names for name in (*ANSWERS, *CHOICES)):
            raise InvalidInputError(
                f"{names[level]}: there are several questions about one text. Write one line for each question, with its "
                "text, its answer and, if it has any, its options.",
                field=str(names[level]),
            )
        if not isinstance(inner, list) or not all(isinstance(one, Mapping) for one in inner):
            raise InvalidInputError(f"{names[level]}: a list of objects belongs there.", field=str(names[level]))
        kept = {name: value for name, value in entry.items() if fold_name(str(name)) in PASSAGES}
        for one in inner:
            yield from spread({**kept, **one})
        return
    yield from _rows(entry)


def _rows(entry: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the rows of an entry that holds a column for each field, as pandas and Parquet tools write them."""
    asked = next((value for name, value in entry.items() if fold_name(str(name)) in QUESTIONS), None)
    columns = {name: value for name, value in entry.items() if not is_empty(value)}
    if len(columns) < 2:
        return [entry]
    if isinstance(asked, list) and all(isinstance(one, str) for one in asked):
        length = len(asked)
        if all(isinstance(column, list) and len(column) == length for column in columns.values()):
            return [{name: column[place] for name, column in columns.items()} for place in range(length)]
    if isinstance(asked, Mapping) and all(str(place).isdigit() for place in asked):
        places = asked.keys()
        if all(isinstance(column, Mapping) and column.keys() == places for column in columns.values()):
            return [{name: column[place] for name, column in columns.items()} for place in places]
    return [entry]


def unwrapped(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row of the datasets server without what is around it.

    Raises:
        InvalidInputError: The server cut a value of the row.
    """
    row = entry.get("row")
    if not isinstance(row, Mapping):
        return entry
    if not is_empty(cut := entry.get("truncated_cells")):
        cells = ", ".join(map(str, cut)) if isinstance(cut, list) else str(cut)
        raise InvalidInputError(
            f"row: the server cut the value of {cells[:60]}. Download the whole data set.",
            field="row",
        )
    return row


def shape_of(entry: Mapping[str, Any]) -> frozenset[str]:
    """Return what the entries of one data set have in common: the names of their fields."""
    return frozenset(fold_name(str(name)) for name in entry)


def note_counting(entry: Mapping[str, Any], seen: Counting) -> Counting:
    """Return what is known of the counting of options after this entry."""
    try:
        fields = Fields(translate(unwrapped(entry)))
        options = read_options(fields)
    except InvalidInputError:
        return seen
    for name in (*ANSWERS, *INDEXES) if options else ():
        if name in fields:
            number = named_number(fields.get(name), _as_counted(fields, name, options))
            seen = seen._replace(
                zero=seen.zero + (number == 0),
                last=seen.last + (number == len(options)),
                between=seen.between + (number is not None and 0 < number < len(options)),
            )
    return seen


def _as_counted(fields: Fields, name: str, options: Sequence[Option]) -> Sequence[Option]:
    """Return the options without labels that count from 1 if the field may count from 0: COPA's `choice1` has `label` 0."""
    numbered = options[0].label == "1" and fields.first(CHOICES) is None
    return [Option(option.text) for option in options] if numbered and name in INDEXES else options


def read_parts(entry: Mapping[str, Any], counting: Counting = FROM_ZERO) -> Parts:
    """Return the question, its reference and its check.

    Args:
        counting: From where the file counts options.

    Raises:
        InvalidInputError: The entry is no question that TMDE can read. The error says why in one sentence.
    """
    if "vars" in entry and ("assert" in entry or "tests" in entry):
        raise InvalidInputError(
            "vars: this is a test of promptfoo, whose question stands in a prompt template. Write the whole question as "
            "`question`, and what the answer must state as `answer`.",
            field="vars",
        )
    entry = translate(entry)
    fields = Fields(entry)
    if "doc" in entry and "arguments" in entry:
        return _logged(entry)
    if "prompt" in fields and "test" in fields and "entrypoint" in fields:
        return _human_eval(fields)
    if "testlist" in fields:
        return _mbpp(fields)
    if isinstance(entry.get("question"), Mapping):
        return read_parts(_flattened(entry), counting)
    return _general(fields, counting)


def _flattened(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ARC's original shape, `question: {stem, choices}`, with all fields on one level."""
    inner = entry["question"]
    outer = {name: value for name, value in entry.items() if name != "question"}
    if "stem" not in inner or set(inner) & set(outer):
        raise InvalidInputError("question: text belongs there.", field="question")
    return {**outer, **inner}


# ------------------------------------------------------------------------------------------- questions and their answers


def _general(fields: Fields, counting: Counting) -> Parts:
    query = _query(fields)
    if any(fields.get(name) in (True, "true", "True") for name in _IMPOSSIBLE):
        raise InvalidInputError("is_impossible: the passage does not answer the question.", field="is_impossible")
    if "mc1targets" in fields:
        return _kept_whole(fields, _truthful(query, fields.get("mc1targets")))
    wrong = _wrong_answers(fields)
    options = read_options(fields)
    if options and not wrong:
        return _kept_whole(fields, choice_parts(query, options, _right(fields, options, counting)))
    name = _answer_name(fields)
    target = fields.get(name) if name else None
    if wrong and name:
        texts = read_wordings(target)
        if len(texts) != 1:
            raise InvalidInputError(f"{fields.label(name)}: one right answer belongs there.", field=fields.label(name))
        _refuse_disagreement(fields, name, target)
        listed, right = mixed(query, texts[0].strip(), (text.strip() for text in wrong))
        return _kept_whole(fields, choice_parts(query, listed, right))
    if "bestanswer" in fields and (name is None or name == "correctanswers"):
        return _kept_whole(fields, _judged(query, fields))
    if name:
        _refuse_disagreement(fields, name, target)
    elif "problem" in fields:
        target = _boxed(fields)
    if "problem" in fields and isinstance(target, str) and _AIME.fullmatch(target.strip()):
        target = int(target)
    parts = _lettered(query, target) or answer_parts(query, target)
    return _kept_whole(fields, parts)


def _boxed(fields: Fields) -> str | None:
    """Return MATH's worked solution, which holds the answer in a box; None if it has no box or several."""
    solution = fields.get("solution")
    return solution if isinstance(solution, str) and solution.count("\\boxed") == 1 else None


def _kept_whole(fields: Fields, parts: Parts) -> Parts:
    fields.refuse_unread(str(parts.get("query", "")))
    return parts


def _query(fields: Fields) -> str:
    """Return the question with its passages before it.

    Raises:
        InvalidInputError: There is no question, or it is not text.
    """
    names = [name for name in QUESTIONS if name in fields]
    if "instruction" in fields and "question" not in fields:  # Alpaca: the input is what the instruction is about
        names = ["instruction", *(name for name in names if name != "instruction")]
        passages = ["input"] if "input" in names else []
    elif "ctx" in fields:  # HellaSwag
        return _hellaswag(fields)
    else:
        passages = []
    if not names:
        said = ", ".join(fields.label(name)[:30] for name in list(fields)[:6])
        raise InvalidInputError(
            "This is no question that we can read: it has none of `query`, `input` (inspect_ai), `doc` with `arguments` "
            f"(lm-evaluation-harness) and `question`. Its fields are: {said or 'none that hold anything'}. Call the question "
            "`question` and the right answer `answer`."
        )
    query = _prompt(fields.get(names[0]), fields.label(names[0]))
    passages += [name for name in fields if name in PASSAGES]
    texts = [_passage(fields.get(name), fields.label(name)) for name in passages]
    return "\n\n".join([*(text for text in texts if text not in query), query])


def _passage(given: Any, label: str) -> str:
    if isinstance(given, str):
        return given.strip()
    if isinstance(given, list) and all(isinstance(one, str) for one in given):
        return "\n\n".join(one.strip() for one in given if one.strip())
    raise InvalidInputError(
        f"{label}: the question comes with this, and it is no text. Write it as one text.", field=label
    )


def _hellaswag(fields: Fields) -> str:
    begin = _passage(fields.get("ctx"), "ctx")
    fields.skip(("ctxa", "ctxb"))
    topic = fields.get("activitylabel")
    return f"Which ending continues this text best?\n\n{f'{topic}: ' if isinstance(topic, str) else ''}{begin}"


def _right(fields: Fields, options: Sequence[Option], counting: Counting) -> int:
    """Return the place of the right option. All fields that name it must agree."""
    named = [name for name in (*ANSWERS, *INDEXES) if name in fields]
    if not named:
        raise InvalidInputError("target: there is none, so nothing can be checked.", field="target")
    counting = counting._replace(columns=any(option.label is not None for option in options))
    places: dict[str, int] = {}
    problem: InvalidInputError | None = None
    for name in named:
        try:
            places[name] = find_right(
                fields.get(name), _as_counted(fields, name, options), by_place=name in INDEXES, counting=counting
            )
        except InvalidInputError as error:
            problem = problem or error
    # A field such as `answer_index` decides where the answer itself could be two options.
    if not places or (problem is not None and not any(name in INDEXES for name in places)):
        raise problem or InvalidInputError("target: there is none, so nothing can be checked.", field="target")
    if len(set(places.values())) > 1:
        first, other = list(places)[:2]
        raise InvalidInputError(
            f"{fields.label(first)} and {fields.label(other)} name different options.", field=fields.label(first)
        )
    return next(iter(places.values()))


def _answer_name(fields: Fields) -> str | None:
    name = fields.first((*ANSWERS, "correctanswers"))
    if name is not None:
        return name
    name = fields.first(INDEXES)
    if name is None:
        return None
    if name not in ("label", "gold") or not isinstance(fields.get(name), str) or str(fields.get(name)).isdigit():
        raise InvalidInputError(
            f"{fields.label(name)}: this is the number of an option, but there are no options.",
            field=fields.label(name),
        )
    return name


def _refuse_disagreement(fields: Fields, name: str, target: Any) -> None:
    """Refuse an entry with two different answers."""
    known = {wording.strip().casefold() for wording in read_wordings(target)}
    for other in (*ANSWERS, "correctanswers"):
        if other == name or other not in fields:
            continue
        wordings = {wording.strip().casefold() for wording in read_wordings(fields.get(other))}
        if not known & wordings:
            raise InvalidInputError(
                f"{fields.label(name)} and {fields.label(other)} hold different answers. Remove one of them.",
                field=fields.label(other),
            )


def _wrong_answers(fields: Fields) -> list[str]:
    """Return the wrong answers of data sets that keep them apart from the right one (SciQ, GPQA)."""
    single = [fields.get(name) for name in fields if _WRONG_ANSWER.fullmatch(name)]
    listed = fields.get("incorrectanswers") if "bestanswer" not in fields else None
    texts = [*single, *(listed if isinstance(listed, list) else [])]
    if not all(isinstance(one, str | int | float) for one in texts):
        raise InvalidInputError("incorrect_answers: texts belong there.", field="incorrect_answers")
    return [str(one) for one in texts]


def _truthful(query: str, targets: Any) -> Parts:
    """Read TruthfulQA's `mc1_targets`, whose first option is always the right one."""
    named = {fold_name(str(name)): value for name, value in targets.items()} if isinstance(targets, Mapping) else {}
    texts, labels = named.get("choices"), named.get("labels")
    if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels) or len(texts) < 2:
        raise InvalidInputError("mc1_targets: `choices` and `labels` belong there.", field="mc1_targets")
    right = [str(text) for text, label in zip(texts, labels, strict=True) if str(label) == "1"]
    if len(right) != 1:
        raise InvalidInputError("mc1_targets: one option must have the label 1.", field="mc1_targets")
    return choice_parts(query, *mixed(query, right[0], map(str, texts)))


def _judged(query: str, fields: Fields) -> Parts:
    """Read TruthfulQA's sentences. No answer repeats them, so a judge compares."""
    best = read_wordings(fields.get("bestanswer"))
    right = [*best, *read_wordings(fields.get("correctanswers"))]
    wrong = read_wordings(fields.get("incorrectanswers"))
    rubric = f"Right answers say the same as one of these: {' | '.join(dict.fromkeys(right))}"
    rubric += f"\nWrong answers say the same as one of these: {' | '.join(wrong)}" if wrong else ""
    return {"query": query, "reference": best[0], "rubric": rubric}


def _lettered(query: str, target: Any) -> Parts | None:
    """Return the check of a letter if the question's own text lists lettered options; else None."""
    if not isinstance(target, str) or (letter := bare_letter(target)) is None:
        return None
    letters = list(dict.fromkeys(_LETTERED_LINE.findall(query)))
    if letters != list(LETTERS[: len(letters)]) or len(letters) < 2 or letter not in letters:
        return None
    return letter_parts(query, letter, letters)


# ------------------------------------------------------------------------------------------------------------- prompts


def _prompt(given: Any, label: str) -> str:
    """Return the text that a model is asked: text, or the turns of a chat.

    Raises:
        InvalidInputError: This is neither, or the chat has several turns of a user.
    """
    if isinstance(given, str):
        return given
    if not isinstance(given, list) or not all(isinstance(turn, Mapping) for turn in given):
        raise InvalidInputError(
            f"{label}: text, or chat messages with a user's turn of text, belong there.", field=label
        )
    system = [_example(turn, label) for turn in given if turn.get("role") in ("system", "developer")]
    turns = [turn for turn in given if turn.get("role") not in ("system", "developer")]
    if len(turns) != 1 or turns[0].get("role") != "user":
        raise InvalidInputError(
            f"{label}: there are {len(turns)} turns. A question of TMDE is one turn of a user, after system messages.",
            field=label,
        )
    return "\n\n".join([*(text for text in system if text.strip()), _content(turns[0], label)])


def _example(turn: Mapping[str, Any], label: str) -> str:
    """Return a system message. OpenAI evals keep examples in such messages, and tell who speaks by a name."""
    speaker = {"example_user": "User: ", "example_assistant": "Assistant: "}.get(str(turn.get("name")), "")
    return f"{speaker}{_content(turn, label)}"


def _content(turn: Mapping[str, Any], label: str) -> str:
    content = turn.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(piece, Mapping) and piece.get("type") == "text" and isinstance(piece.get("text"), str)
        for piece in content
    ):
        return "\n".join(str(piece["text"]) for piece in content)
    raise InvalidInputError(f"{label}: a message holds something else than text.", field=label)


# ----------------------------------------------------------------------------------- lm-evaluation-harness, logged samples


def _logged(entry: Mapping[str, Any]) -> Parts:
    requests = _requests(entry["arguments"])
    target = entry.get("target")
    if is_empty(target):
        raise InvalidInputError("target: there is none, so nothing can be checked.", field="target")
    contexts = [context for context, _ in requests]
    continuations = [continuation for _, continuation in requests if continuation is not None]
    if any(context != contexts[0] for context in contexts) or len(continuations) not in (0, len(requests)):
        raise InvalidInputError(
            "arguments: the requests have different prompts, so the options cannot be read.", field="arguments"
        )
    if len(continuations) == 1:
        raise InvalidInputError(
            "arguments: the task measures how likely a text is. It asks no question.", field="arguments"
        )
    query = _unwrapped(contexts[0])
    if any(mark in query for mark in _TEMPLATE_MARKS):
        if isinstance(entry["doc"], Mapping):
            return read_parts(entry["doc"])
        raise InvalidInputError(
            "arguments: the prompt is written in a model's chat template. Log the samples without a chat template.",
            field="arguments",
        )
    if not continuations:
        return _lettered(query, target) or answer_parts(query, target)
    options = [Option(text.strip()) for text in continuations]
    if not all(option.text for option in options):
        raise InvalidInputError("arguments: an option is empty.", field="arguments")
    asked = re.sub(r"\s*\bAnswer:\s*$", "", query) or query
    return choice_parts(asked, options, find_right(target, options))


def _requests(given: Any) -> list[tuple[Any, str | None]]:
    """Return the prompt and the continuation of each request. Versions of the harness nest them differently."""
    if isinstance(given, Mapping):
        named = sorted(given.items(), key=lambda item: [int(one) for one in re.findall(r"\d+", str(item[0]))])
        given = [value for _, value in named]
    if isinstance(given, list) and given and isinstance(given[0], str):
        given = [given]
    requests = []
    for one in given if isinstance(given, list) else []:
        values = list(one.values()) if isinstance(one, Mapping) else one
        if not isinstance(values, list) or not values or not isinstance(values[0], str | list):
            raise InvalidInputError("arguments: the prompt is not text.", field="arguments")
        if not all(is_empty(value) for value in values[2:]):
            raise InvalidInputError("arguments: the prompt comes with more than text.", field="arguments")
        continuation = values[1] if len(values) > 1 and isinstance(values[1], str) else None
        requests.append((values[0], continuation))
    if not requests:
        raise InvalidInputError("arguments: the prompt is not text.", field="arguments")
    return requests


def _unwrapped(context: Any) -> str:
    """Return the text of a prompt that may be chat messages, also as JSON in a text."""
    if isinstance(context, str) and context.lstrip().startswith("[{"):
        try:
            turns = json.loads(context)
        except (ValueError, RecursionError):
            return context
        if isinstance(turns, list) and all(isinstance(turn, Mapping) and "role" in turn for turn in turns):
            return _prompt(turns, "arguments")
    return _prompt(context, "arguments")


# ---------------------------------------------------------------------------------------------------------------- code


def _human_eval(fields: Fields) -> Parts:
    prompt, test, name = (fields.get(one) for one in ("prompt", "test", "entrypoint"))
    if not all(isinstance(one, str) for one in (prompt, test, name)) or not name.isidentifier():
        raise InvalidInputError("prompt, test and entry_point: text belongs there.", field="prompt")
    solution = fields.get("canonicalsolution")
    query = f"Complete this Python function. Write the whole function.\n\n```python\n{prompt.rstrip()}\n```"
    return _kept_whole(
        fields, _code(query, f"{prompt}{solution}" if isinstance(solution, str) else None, _tests(test, name))
    )


def _tests(test: str, name: str) -> list[str]:
    """Split HumanEval's `check(candidate)` into one test for each assertion."""
    try:
        tree = ast.parse(test)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidInputError(f"test: this is no Python: {error.__class__.__name__}.", field="test") from None
    check = next((one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == "check"), None)
    if check is None or len(check.args.args) != 1:
        raise InvalidInputError("test: there is no function `check` with one argument.", field="test")
    candidate = f"{check.args.args[0].arg} = {name}"
    before = [ast.unparse(one) for one in tree.body if one is not check]
    lines: list[str] = [*before, candidate]
    tests = []
    for statement in check.body:
        nested = any(isinstance(one, ast.Assert) for one in ast.walk(statement)) and not isinstance(
            statement, ast.Assert
        )
        if nested or any(isinstance(one, ast.Return) for one in ast.walk(statement)):
            return [_whole(test, name)]
        if isinstance(statement, ast.Assert):
            tests.append("\n".join([*lines, ast.unparse(statement)]))
        else:
            lines.append(ast.unparse(statement))
    return tests or [_whole(test, name)]


def _whole(test: str, name: str) -> str:
    """Return one test that runs all of `check`, for assertions inside loops."""
    return (
        f"{test.rstrip()}\n\ndef _holds():\n    try:\n        check({name})\n    except Exception:\n        return False\n"
        "    return True\n\nassert _holds()"
    )


def _mbpp(fields: Fields) -> Parts:
    task = fields.get("prompt") or fields.get("text")
    tests = fields.get("testlist")
    if not isinstance(task, str) or not isinstance(tests, list) or not all(isinstance(one, str) for one in tests):
        raise InvalidInputError("text and test_list: a text and a list of texts belong there.", field="test_list")
    setup = [fields.get("testsetupcode"), *(fields.get("testimports") or [])]
    before = "".join(f"{one}\n" for one in setup if isinstance(one, str))
    fields.skip(("challengetestlist", "sourcefile"))
    solution = fields.get("code")
    listed = "\n".join(tests)
    query = f"{task.strip()}\n\nWrite Python code that passes these tests:\n\n```python\n{listed}\n```"
    return _kept_whole(
        fields, _code(query, solution if isinstance(solution, str) else None, [f"{before}{one}" for one in tests])
    )


def _code(query: str, solution: str | None, tests: Sequence[str]) -> Parts:
    check = {"kind": "code", "tests": list(tests)}
    return {
        "query": query,
        "reference": solution,
        "criteria": [{"name": "right", "check": check}],
        "domain": "coding",
    }
