"""The functions that Python calls in the browser are there."""

from __future__ import annotations

import re
from pathlib import Path

import tmde_ui
from tmde_ui.kit.script import call
from tmde_ui.kit.shell.theme import ASSETS

SOURCES = sorted(Path(tmde_ui.__file__).parent.rglob("*.py"))


def test_arguments_are_written_as_json():
    assert call("fillField", 7, 'a "word"') == r'tmde.fillField(7, "a \"word\"")'


def test_what_python_calls_and_what_the_script_offers_are_the_same():
    offered = set(
        re.findall(r"\w+", (ASSETS / "tmde.js").read_text().partition("window.tmde = {")[2].partition("}")[0])
    )
    python = "\n".join(file.read_text() for file in SOURCES)
    called = set(re.findall(r"\btmde\.(\w+)\(", python)) | set(re.findall(r"\bcall\([\"'](\w+)[\"']", python))
    assert called == offered


def test_python_holds_no_javascript_of_more_than_an_expression():
    long = re.compile(r"=> *\{\{?\s|document\.|<script>|\bconst ")
    assert [file.name for file in SOURCES if long.search(file.read_text())] == []
