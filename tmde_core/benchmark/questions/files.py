"""Reads question files: JSON Lines, one `Question` a line (`id`, `query`, and where known `reference` and `check`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tmde_core.errors import InvalidInputError, NotFoundError, TmdeError
from tmde_core.records.base import from_json, to_json
from tmde_core.records.questions import Question

MAX_FILE_BYTES = 64 * 1024 * 1024
"""A question file is read whole; a larger one is no question file."""


def read_questions(path: Path) -> list[Question]:
    """All questions of a file, in its order.

    Raises:
        NotFoundError: no such file.
        InvalidInputError: a line is no question, or an id comes twice; names the line.
    """
    return parse_questions(read_bytes(path).splitlines(), str(path))


def parse_questions(lines: Iterable[bytes], source: str) -> list[Question]:
    """Questions from lines; blank lines are passed over.

    Raises:
        InvalidInputError: a line is no question, an id comes twice, or there is no question at all.
    """
    questions: dict[str, Question] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            question = from_json(line, Question)
        except TmdeError as error:
            raise InvalidInputError(
                f"{source}, line {number}: {error.detail} Correct the line and start again."
            ) from None
        if not question.query.strip():
            raise InvalidInputError(f"{source}, line {number}: the question is empty. Write one, or remove the line.")
        if question.id in questions:
            raise InvalidInputError(
                f"{source}, line {number}: the id {question.id!r} stands there twice. Ids must differ."
            )
        questions[question.id] = question
    if not questions:
        raise InvalidInputError(f"{source} holds no questions. Write one JSON object a line, with id and query.")
    return list(questions.values())


def read_bytes(path: Path) -> bytes:
    """The content of a question file.

    Raises:
        NotFoundError: no such file.
        InvalidInputError: it cannot be read, or is too large to be one.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInputError(
                f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB; split it into several files."
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}. Check the path.") from None
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}.") from None


def content_hash(questions: Iterable[Question]) -> str:
    """SHA-256 over the questions' content, whatever their order: equal for files that ask the same."""
    digests = sorted(hashlib.sha256(to_json(question)).hexdigest() for question in questions)
    return hashlib.sha256("".join(digests).encode()).hexdigest()
