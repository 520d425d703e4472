"""Reads question files: JSON Lines with one `Question` per line.

Each line has `id` and `query`, and optionally `reference` and `check`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tmde_core.errors import InvalidInputError, TmdeError
from tmde_core.records.base import from_json, to_json
from tmde_core.records.questions import Question
from tmde_core.storage.text_files import iterate_lines, read_text_file


def read_questions(path: Path) -> list[Question]:
    """Return all questions of a file, in file order.

    Raises:
        FileMissingError: The file does not exist.
        InvalidInputError: The file is not text, a line is not a question, or an id occurs twice. The error names the
            line.
    """
    return parse_questions(read_text_file(path), str(path))


def parse_questions(text: str, source: str) -> list[Question]:
    """Return the questions of a text with one question per line; skip blank lines.

    Raises:
        InvalidInputError: A line is not a question, an id occurs twice, or there is no question at all.
    """
    questions: dict[str, Question] = {}
    for number, line in iterate_lines(text):
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


def content_hash(questions: Iterable[Question]) -> str:
    """Return the SHA-256 of the questions' content, independent of their order.

    Two files that ask the same questions have the same hash.
    """
    digests = sorted(hashlib.sha256(to_json(question)).hexdigest() for question in questions)
    return hashlib.sha256("".join(digests).encode()).hexdigest()
