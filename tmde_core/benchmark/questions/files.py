"""Reads question files: JSON Lines with one `Question` per line.

Each line has `id` and `query`, and optionally `reference` and `check`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tmde_core.errors import FileMissingError, InvalidInputError, TmdeError
from tmde_core.records.base import from_json, to_json
from tmde_core.records.questions import Question

MAX_FILE_BYTES = 64 * 1024 * 1024
"""The largest question file that is read. A file is read into memory as a whole; no real question file is larger."""


def read_questions(path: Path) -> list[Question]:
    """Return all questions of a file, in file order.

    Raises:
        FileMissingError: The file does not exist.
        InvalidInputError: A line is not a question, or an id occurs twice. The error names the line.
    """
    return parse_questions(read_bytes(path).splitlines(), str(path))


def parse_questions(lines: Iterable[bytes], source: str) -> list[Question]:
    """Return the questions read from lines; skip blank lines.

    Raises:
        InvalidInputError: A line is not a question, an id occurs twice, or there is no question at all.
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
    """Return the content of a question file.

    Raises:
        NotFoundError: The file does not exist.
        InvalidInputError: The file cannot be read, or is too large to be a question file.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInputError(
                f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB; split it into several files."
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise FileMissingError(f"There is no file {path}. Check the path.") from None
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}.") from None


def content_hash(questions: Iterable[Question]) -> str:
    """Return the SHA-256 of the questions' content, independent of their order.

    Two files that ask the same questions have the same hash.
    """
    digests = sorted(hashlib.sha256(to_json(question)).hexdigest() for question in questions)
    return hashlib.sha256("".join(digests).encode()).hexdigest()
