"""`docs/plugins.md` shows the examples as they are, and every setting on it is one that there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.examples_environment import EXAMPLES, PACKAGES
from tmde_core.settings import Settings, load_settings
from tools import shown_files

PAGE = shown_files.PAGE.read_text(encoding="utf-8")
REFRESH = "docs/plugins.md shows files as they were. Refresh them with: .venv/bin/python -m tools.shown_files"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def shown() -> dict[str, str]:
    return {found["file"]: found["code"] for found in shown_files.SHOWN.finditer(PAGE)}


def test_the_page_shows_the_files_of_the_examples_as_they_are():
    assert shown_files.refreshed(PAGE) == PAGE, REFRESH


def test_all_python_on_the_page_comes_from_a_file():
    assert [block for block in blocks("python") if block not in shown().values()] == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_the_page_shows_every_module_of_every_example(package: Path):
    modules = {str(file.relative_to(EXAMPLES.parent)) for file in package.rglob("*.py")}
    assert modules <= shown().keys()


def test_the_question_on_the_page_is_that_of_the_example():
    (question,) = blocks("json")
    lines = (EXAMPLES / "tmde-questions-everyday" / "tmde_questions_everyday" / "questions.jsonl").read_bytes()
    assert json.loads(question) == json.loads(lines.splitlines()[0])


@pytest.mark.parametrize("block", [block for block in blocks("toml") if block not in shown().values()])
def test_the_settings_on_the_page_are_accepted(block: str, tmp_path: Path):
    (tmp_path / "tmde.toml").write_text(block, encoding="utf-8")
    assert isinstance(load_settings(tmp_path, environ={}), Settings)
