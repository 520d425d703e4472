"""Reads question files: TMDE's own JSON Lines and YAML, and JSON Lines of inspect_ai and lm-evaluation-harness.

How each format is converted:

| in the file | becomes |
|---|---|
| TMDE's own format: `query` and the other fields of a question | the question as it is |
| inspect_ai's Sample: `input`, `target`, `choices`, `id`, `metadata` | `query` from `input` (the last user message if `input` is a list of chat messages); with `choices`, a letter to choose; otherwise see below |
| lm-evaluation-harness's logged samples: `doc`, `target`, `arguments`, `doc_id` | `query` from the first argument (the prompt as it was sent) |
| a plain document: `question`, `answer`, and optionally `choices`, with the answer's index or letter | as for inspect_ai |

A target that is a number (also after gsm8k's `####`) is checked as a number. Any other target must be stated in the
answer; if there are multiple targets, one of them must be stated. `domain` and `difficulty` come from the line or its
metadata if the value is one that TMDE knows, and otherwise from the caller. Formats:
https://inspect.aisi.org.uk/datasets.html, and `--log_samples` of lm-evaluation-harness.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import yaml

from tmde_core.benchmark.questions.custom import DIFFICULTIES, ID, decode_question
from tmde_core.benchmark.questions.rubric import has_own_names, with_check
from tmde_core.errors import InvalidInputError, TmdeError
from tmde_core.records.base import Record
from tmde_core.records.benchmark import DOMAINS
from tmde_core.records.questions import Question

MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_ENTRIES = 10_000
BOM = b"\xef\xbb\xbf"
"""The byte order mark that editors on Windows write before the first line."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


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
"""The entry's line (JSON Lines) or number (YAML), and the question, or the reason why the entry is not a question."""


def read_entries(
    content: bytes, *, as_yaml: bool = False, domain: str = "reasoning", difficulty: str = "medium"
) -> Iterator[Read]:
    """Yield the questions of a file, one after the other.

    Args:
        domain, difficulty: Used for entries that name none.

    Raises:
        InvalidInputError: The file is too large, or is not a YAML list.
    """
    if len(content) > MAX_FILE_BYTES:
        raise InvalidInputError(f"The file is larger than {MAX_FILE_BYTES // 2**20} MiB; split it into several.")
    for number, entry in _yaml_entries(content) if as_yaml else _json_lines(content):
        if number > MAX_ENTRIES:
            raise InvalidInputError(f"The file has more than {MAX_ENTRIES:,} entries; split it into several.")
        if isinstance(entry, str):
            yield number, entry
            continue
        try:
            yield number, decode_question(_converted(entry, domain, difficulty))
        except TmdeError as error:
            yield number, error.detail


def _json_lines(content: bytes) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(content.removeprefix(BOM).splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            yield number, f"This is not valid JSON: {error}."
            continue
        yield number, entry if isinstance(entry, dict) else "A JSON object belongs there."


def _yaml_entries(content: bytes) -> Iterator[tuple[int, dict[str, Any] | str]]:
    try:
        # YAML aliases can expand a few bytes to gigabytes, and questions do not need aliases.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(content)):
            raise InvalidInputError("The YAML file uses aliases (`*name`), which are not read. Write the values out.")
        found = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InvalidInputError(f"This is not valid YAML: {' '.join(str(error).split())[:200]}.") from None
    entries = found.get("questions") if isinstance(found, dict) else found
    if not isinstance(entries, list):
        raise InvalidInputError("The YAML file must be a list of questions, or have one under `questions`.")
    for number, entry in enumerate(entries, 1):
        yield number, entry if isinstance(entry, dict) else "A mapping with `query` belongs there."


def _converted(entry: Mapping[str, Any], domain: str, difficulty: str) -> dict[str, Any]:
    if has_own_names(entry):
        return {"domain": domain, "difficulty": difficulty, **with_check(entry)}
    metadata = entry.get("metadata")
    said = {**(metadata if isinstance(metadata, dict) else {}), **entry}
    common = {
        "domain": said["domain"] if said.get("domain") in DOMAINS else domain,
        "difficulty": said["difficulty"] if said.get("difficulty") in DIFFICULTIES else difficulty,
    }
    if "input" in entry:
        parts = _parts(_prompt(entry["input"]), entry.get("target"), entry.get("choices"))
        return {**common, **_named(entry.get("id"), parts)}
    if "doc" in entry and "arguments" in entry:
        parts = _parts(_argument(entry["arguments"]), entry.get("target"), None)
        return {**common, **_named(entry.get("doc_id"), parts)}
    if "question" in entry:
        choices = entry.get("choices")
        listed = choices.get("text") if isinstance(choices, dict) else choices
        parts = _parts(_prompt(entry["question"]), entry.get("answer", entry.get("answerKey")), listed)
        return {**common, **_named(entry.get("id"), parts)}
    raise InvalidInputError(
        "This is no question that we can read: it has none of `query`, `input` (inspect_ai), `doc` with `arguments` "
        "(lm-evaluation-harness) and `question`."
    )


def _named(identity: Any, parts: dict[str, Any]) -> dict[str, Any]:
    """Return the parts with an id: the entry's own id if it is valid, otherwise an id derived from the question.

    The derived id is the same at every import.
    """
    text = str(identity) if identity is not None else ""
    if not ID.fullmatch(text) or text.isdigit():  # a bare number would clash with the same number in another file
        digest = hashlib.sha256(parts["query"].encode("utf-8", "surrogatepass")).hexdigest()[:12]
        text = f"import-{digest}"
    return {"id": text, **parts}


def _prompt(given: Any) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, list):
        users = [turn.get("content") for turn in given if isinstance(turn, dict) and turn.get("role") == "user"]
        if users and isinstance(users[-1], str):
            return users[-1]
    raise InvalidInputError("input: text, or chat messages with a user's turn of text, belong there.", field="input")


def _argument(given: Any) -> str:
    """Return the prompt: the first argument of the first request.

    Different versions of the harness nest the arguments differently.
    """
    text = given
    for _ in range(2):
        if isinstance(text, dict):
            text = next(iter(text.values()), None)
        elif isinstance(text, list):
            text = next(iter(text), None)
    if not isinstance(text, str):
        raise InvalidInputError("arguments: the prompt is not text.", field="arguments")
    return text


def _parts(query: str, target: Any, choices: Any) -> dict[str, Any]:
    if isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices):
        return _choice(query, target, choices)
    targets = [str(one) for one in (target if isinstance(target, list) else [target]) if one not in (None, "")]
    if not targets:
        raise InvalidInputError("target: there is none, so nothing can be checked.", field="target")
    reference = targets[0].rsplit("####", 1)[-1].strip() or targets[0]
    check: dict[str, Any]
    if (number := _number(reference)) is not None:
        check = {"kind": "number", "value": number}
    else:
        check = {"kind": "facts", "facts": [[one.strip() for one in targets]]}
    return {"query": query, "reference": reference, "criteria": [{"name": "right", "check": check}]}


def _choice(query: str, target: Any, choices: list[str]) -> dict[str, Any]:
    if len(choices) > len(LETTERS):
        raise InvalidInputError(f"choices: there are {len(choices)}; {len(LETTERS)} are the most.", field="choices")
    letters = LETTERS[: len(choices)]
    wanted = target[0] if isinstance(target, list) and target else target
    if isinstance(wanted, int) and 0 <= wanted < len(choices):
        letter = letters[wanted]
    elif isinstance(wanted, str) and wanted.strip().upper() in letters and len(wanted.strip()) == 1:
        letter = wanted.strip().upper()
    elif wanted in choices:
        letter = letters[choices.index(wanted)]
    else:
        raise InvalidInputError(f"target: {str(wanted)[:40]!r} is none of the {len(choices)} choices.", field="target")
    listed = "\n".join(f"{name}) {choice}" for name, choice in zip(letters, choices, strict=True))
    check = {"kind": "choice", "answer": letter, "options": list(letters)}
    return {
        "query": f"{query}\n\n{listed}\n\nAnswer with the letter of the right one.",
        "reference": letter,
        "criteria": [{"name": "right", "check": check}],
    }


def _number(text: str) -> float | None:
    plain = text.replace(",", "").replace("$", "").strip()
    return float(plain) if re.fullmatch(r"[-+]?\d{1,15}(\.\d{1,15})?", plain) else None
