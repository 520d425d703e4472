"""Every reader of a file that people bring takes the same encodings and line ends, and refuses the same others."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tmde_core.benchmark.questions.files import read_questions as read_loop_questions
from tmde_core.benchmark.questions.imports import read_entries
from tmde_core.cli.bench.questions import _rated
from tmde_core.cli.debate.batch import read_questions as read_batch
from tmde_core.errors import InvalidInputError
from tmde_core.records.debate import DebateConfig
from tmde_core.settings import load_settings
from tmde_core.settings.file import update_settings_file
from tmde_core.storage.text_files import read_text_file, split_file_lines, split_lines
from tmde_core.templates.front_matter import parse_template
from tmde_core.traces.exchange import from_line

NAME = "Köln – 中"
QUESTION = f'{{"id": "a", "query": "{NAME}"}}\n\n{{"id": "b", "query": "{NAME}", "reference": "x"}}\n'
DATA_SET = f'{{"question": "{NAME}", "answer": "x"}}\n'
YAML = f"- question: {NAME}\n  answer: x\n"
SETTINGS = f"# {NAME}\nport = 8123\n\n[roles.proposer]\nruntime = 'scripted'\n"
TEMPLATE = (
    f"---\nname: {NAME}\ndescription: d\ndomain: d\nmethodology: m\nkeywords: [a]\n---\nFirst line.\nSecond line.\n"
)
RATED = f'{{"question": "{NAME}", "answer": "x", "rating": 5}}\n'
TRACE = f'{{"query": "{NAME}", "finalAnswer": "x"}}\n'


def batch(file: Path) -> Any:
    asked, bad = read_batch(file, DebateConfig())
    assert not bad, bad
    return [(one.line, one.question.query) for one in asked]


def loop(file: Path) -> Any:
    return [(one.id, one.query) for one in read_loop_questions(file)]


def questions(file: Path) -> Any:
    return [(line, entry.query) for line, entry in read_entries(file.read_bytes(), as_yaml=file.suffix == ".yaml")]  # type: ignore[union-attr]


def settings(file: Path) -> Any:
    return load_settings(file.parent, environ={}).port


def changed_settings(file: Path) -> Any:
    update_settings_file(file, {"port": 9000})
    assert NAME in file.read_text(encoding="utf-8")
    return load_settings(file.parent, environ={}).port


def template(file: Path) -> Any:
    found = parse_template(file.read_bytes())
    return found.front.name, found.body


def rated(file: Path) -> Any:
    return [one.question for one in _rated(read_text_file(file))]


def traces(file: Path) -> Any:
    with file.open("rb") as stream:
        return [from_line(line).query for line in split_file_lines(stream)]


def uploaded_traces(file: Path) -> Any:
    async def chunks():
        for byte in file.read_bytes():
            yield bytes([byte])

    async def lines() -> list[bytes]:
        return [line async for line in split_lines(chunks())]

    return [from_line(line).query for line in asyncio.run(lines())]


READERS: list[tuple[Callable[[Path], Any], str, str, Any]] = [
    (batch, "q.jsonl", QUESTION, [(1, NAME), (3, NAME)]),
    (loop, "q.jsonl", QUESTION, [("a", NAME), ("b", NAME)]),
    (questions, "q.jsonl", DATA_SET, [(1, NAME)]),
    (questions, "q.yaml", YAML, [(1, NAME)]),
    (settings, "tmde.toml", SETTINGS, 8123),
    (changed_settings, "tmde.toml", SETTINGS, 9000),
    (template, "t.md", TEMPLATE, (NAME, "First line.\nSecond line.\n")),
    (rated, "r.jsonl", RATED, [NAME]),
    (traces, "t.jsonl", TRACE, [NAME]),
    (uploaded_traces, "t.jsonl", TRACE, [NAME]),
]
each_reader = pytest.mark.parametrize(
    ("read", "name", "text", "expected"), READERS, ids=[f"{one[0].__name__}-{one[1]}" for one in READERS]
)


@each_reader
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
def test_a_file_of_any_editor_is_read(tmp_path: Path, read, name, text, expected, encoding, end) -> None:
    (tmp_path / name).write_bytes(text.replace("\n", end).encode(encoding))
    assert read(tmp_path / name) == expected


@each_reader
@pytest.mark.parametrize(
    "content",
    [
        lambda text: text.replace(" – 中", "").encode("latin-1"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-32"),
        lambda text: text.encode().replace(b"K", b"\0K"),
    ],
    ids=["latin-1", "utf-16 without a mark", "utf-32", "a NUL character"],
)
def test_other_files_are_refused_in_one_sentence(tmp_path: Path, read, name, text, expected, content) -> None:
    (tmp_path / name).write_bytes(content(text))
    with pytest.raises(InvalidInputError) as caught:
        read(tmp_path / name)
    assert "UTF-8" in caught.value.detail
    assert "\n" not in caught.value.detail


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_question_from_a_windows_pipe_has_no_byte_order_mark(tmde, monkeypatch, encoding: str) -> None:
    piped = io.BytesIO("What is six times seven?".encode(encoding))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(piped, encoding="utf-8"))
    assert tmde("debate", "-").code == 0
    (trace,) = tmde("traces", "list", "--json").json["items"]
    assert trace["query"] == "What is six times seven?"
