"""Imports questions from files: JSON Lines, JSON and YAML, in TMDE's own form and in the forms of data sets.

| in the file | becomes |
|---|---|
| TMDE's own form: `query` and the other fields of a question; also `question`, `referenceAnswer`, `scoringRubric` | the question as it is |
| inspect_ai's Sample: `input`, `target`, `choices`, `id`, `metadata`; OpenAI evals: `input`, `ideal` | `query` from `input`; system messages come before the user's turn |
| lm-evaluation-harness's logged samples: `doc`, `target`, `arguments`, `doc_id` | `query` from the first argument (the prompt as it was sent); several continuations are the options |
| ARC, OpenBookQA, CommonsenseQA, MMLU, MMLU-Pro, RACE, HellaSwag, TruthfulQA (mc1), SciQ, GPQA: a question with options | a letter to choose; `options` says how the right one is found |
| WinoGrande, PIQA, COPA, DROP and others whose fields need more than other names | `known` translates them |
| SQuAD, TriviaQA, BoolQ, gsm8k, MATH, Alpaca: a question with an answer | `targets` says how the answer is checked |
| HumanEval, MBPP: a task with tests | code that the tests check |

A passage, a context or an article is a part of the question. A line whose picture, field or answer TMDE does not
understand is refused with the reason. `domain` and `difficulty` come from the line or its metadata if the value is one
that TMDE knows, and otherwise from the caller. Formats: https://inspect.aisi.org.uk/datasets.html, `--log_samples` of
lm-evaluation-harness, and the data sets' pages at https://huggingface.co/datasets.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tmde_core.benchmark.questions.custom import DIFFICULTIES, ID, decode_question
from tmde_core.benchmark.questions.fields import ANSWERS, CHOICES, INDEXES, fold_name
from tmde_core.benchmark.questions.file_text import read_json, read_yaml
from tmde_core.benchmark.questions.options import FROM_ZERO, Counting
from tmde_core.benchmark.questions.rubric import with_check
from tmde_core.benchmark.questions.shapes import note_counting, read_parts, shape_of, spread, unwrapped
from tmde_core.errors import InvalidInputError, TmdeError
from tmde_core.records.base import Record
from tmde_core.records.benchmark import DOMAINS
from tmde_core.records.questions import Question
from tmde_core.storage.text_files import decode_text

MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_ENTRIES = 10_000
IDS = ("id", "question_id", "questionId", "QuestionId", "task_id", "example_id", "qid", "Record ID", "doc_id")
OWN_NAMES = {"question": "query", "referenceAnswer": "reference", "scoringRubric": "rubric"}
"""Names of the interface for fields of a question."""
OF_TMDE = ("isBuiltIn", "createdAt", "builtin", "suite", "quick")
"""Fields that TMDE's own answers add to a question. An import makes them anew."""


YAML_NULLS = ("null", "Null", "NULL", "~")
"""What YAML's readers take for nothing. TMDE's keeps the text, so that a reference may be any word."""


class SkippedEntry(Record):
    """An entry of a file that was not imported, and the reason."""

    line: int
    reason: str


class QuestionImport(Record):
    """The result of an import."""

    imported: tuple[str, ...]
    """Ids of the imported questions."""
    skipped: tuple[SkippedEntry, ...] = ()


Read = tuple[int, Question | str]
"""The entry's line (JSON) or number (YAML), and the question, or the reason why the entry is not a question."""


def read_entries(
    content: bytes | str, *, as_yaml: bool = False, domain: str = "reasoning", difficulty: str = "medium"
) -> Iterator[Read]:
    """Yield the questions of a file, one after the other.

    Args:
        domain, difficulty: Used for entries that name none.

    Raises:
        InvalidInputError: The file is too large, is not text, or is not a YAML list.
    """
    if len(content) > MAX_FILE_BYTES:
        raise InvalidInputError(f"The file is larger than {MAX_FILE_BYTES // 2**20} MiB; split it into several.")
    text = decode_text(content) if isinstance(content, bytes) else content
    found = [(number, _spread(entry)) for number, entry in (read_yaml(text) if as_yaml else read_json(text))]
    counted = _count(one for _, entry in found if not isinstance(entry, str) for one in entry)
    entries = 0
    for number, entry in found:
        if isinstance(entry, str):
            yield number, entry
            continue
        for question in _questions(entry, counted, domain, difficulty, as_yaml=as_yaml):
            entries += 1
            if entries > MAX_ENTRIES:
                raise InvalidInputError(f"The file has more than {MAX_ENTRIES:,} entries; split it into several.")
            yield number, question


Counted = Mapping[frozenset[str], Counting]
"""For each shape of an entry, from where its options are counted."""


def _spread(entry: Mapping[str, Any] | str) -> Sequence[Mapping[str, Any]] | str:
    """Return the questions that an entry holds, or the reason why they cannot be read."""
    if isinstance(entry, str):
        return entry
    try:
        return list(spread(entry)) or "The entry holds no question."
    except (TmdeError, RecursionError) as error:
        return error.detail if isinstance(error, TmdeError) else "The entry is nested too deeply."


def _count(entries: Iterable[Mapping[str, Any]]) -> Counted:
    """Find out from where each data set of the file counts its options."""
    counted: dict[frozenset[str], Counting] = {}
    for entry in entries:
        shape = shape_of(entry)
        with contextlib.suppress(RecursionError):
            counted[shape] = note_counting(entry, counted.get(shape, FROM_ZERO))
    return counted


def _questions(
    entries: Sequence[Mapping[str, Any]], counted: Counted, domain: str, difficulty: str, *, as_yaml: bool
) -> Iterator[Question | str]:
    for one in entries:
        counting = counted.get(shape_of(one), FROM_ZERO)
        try:
            yield decode_question(_converted(unwrapped(one), counting, domain, difficulty, as_yaml=as_yaml))
        except TmdeError as error:
            yield error.detail if len(entries) == 1 else f"Question {_identity(one) or '?'}: {error.detail}"


def _converted(
    entry: Mapping[str, Any], counting: Counting, domain: str, difficulty: str, *, as_yaml: bool
) -> dict[str, Any]:
    own = _own(entry)
    if own is not None:
        own = with_check(own)
        return {"domain": domain, "difficulty": difficulty, **(_typed(own) if as_yaml else own)}
    if as_yaml:
        entry = {name: None if _says_nothing(name, value) else value for name, value in entry.items()}
    metadata = entry.get("metadata")
    said = {**(metadata if isinstance(metadata, dict) else {}), **entry}
    parts = read_parts(entry, counting)
    common = {
        "domain": said["domain"] if said.get("domain") in DOMAINS else parts.get("domain", domain),
        "difficulty": said["difficulty"] if said.get("difficulty") in DIFFICULTIES else difficulty,
    }
    return with_check({**_named(_identity(entry), parts), **common})


def _says_nothing(name: str, value: Any) -> bool:
    """Return whether a YAML value is nothing. As an answer, `null` is the word."""
    return value in YAML_NULLS and fold_name(name) not in ANSWERS


def _own(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the fields of a question in TMDE's own form; None if the entry has another form."""
    inner = entry.get("question")
    if isinstance(inner, dict) and "query" in inner and "stem" not in inner:
        return inner
    if "referenceAnswer" in entry or "scoringRubric" in entry or ("question" in entry and "criteria" in entry):
        named = {OWN_NAMES.get(name, name): value for name, value in entry.items() if name not in OF_TMDE}
        if len(named) < len([name for name in entry if name not in OF_TMDE]):
            raise InvalidInputError("question: the same field stands there under two names.", field="question")
        return named
    foreign = {*ANSWERS, *CHOICES, *INDEXES}
    if "query" in entry and not any(fold_name(str(name)) in foreign for name in entry):
        return {name: value for name, value in entry.items() if name not in OF_TMDE}
    return None


def _typed(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a question of YAML, where every value is text, with the numbers of its criteria as numbers.

    Raises:
        InvalidInputError: A field that takes text or nothing says `null` without quotation marks.
    """
    if own.get("reference") == "null":
        raise InvalidInputError(
            "reference: leave the field out if there is none. If the answer is the word null, import JSON Lines.",
            field="reference",
        )
    nothing = ("rubric", "check", "split")
    kept = {name: None if name in nothing and value == "null" else value for name, value in own.items()}
    criteria = kept.get("criteria")
    if isinstance(criteria, list):
        kept["criteria"] = [_typed_criterion(one) if isinstance(one, dict) else one for one in criteria]
    return kept


def _typed_criterion(criterion: Mapping[str, Any]) -> dict[str, Any]:
    typed = dict(criterion)
    if "weight" in typed:
        typed["weight"] = _number(typed["weight"])
    check = typed.get("check")
    if isinstance(check, dict):
        numbers = ("tolerance", "minimum", "maximum", "seconds", *(("value",) if check.get("kind") == "number" else ()))
        check = {name: _number(value) if name in numbers else value for name, value in check.items()}
        if "absent" in check:
            check["absent"] = {"true": True, "false": False}.get(str(check["absent"]).lower(), check["absent"])
        if check.get("maximum") == "null":
            check["maximum"] = None
        typed["check"] = check
    elif check == "null":
        typed["check"] = None
    return typed


def _number(value: Any) -> Any:
    """Return the number that a text is in JSON; any other text stays, and its field refuses it."""
    if isinstance(value, str) and re.fullmatch(r"-?(?:0|[1-9]\d{0,17})", value):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?", value):
        return float(value)
    return value


def _identity(entry: Mapping[str, Any]) -> str | None:
    found = next((entry[name] for name in IDS if entry.get(name) not in (None, "")), None)
    return None if found is None else str(found)[:200]


def _named(identity: str | None, parts: dict[str, Any]) -> dict[str, Any]:
    """Return the parts with an id: the entry's own id if it is valid, otherwise an id derived from the question.

    The derived id is the same at every import.
    """
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", identity or "")
    if not ID.fullmatch(text) or text.isdigit():  # a bare number would clash with the same number in another file
        digest = hashlib.sha256(parts["query"].encode("utf-8", "surrogatepass")).hexdigest()[:12]
        text = f"import-{digest}"
    return {"id": text, **parts}
