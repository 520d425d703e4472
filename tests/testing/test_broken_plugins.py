"""Authors of plugins that break a rule are told which one, in a sentence; plugins that break none are told nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.testing.broken import ALL, Case

CASES = [(kind, name, case) for kind, cases in ALL.items() for name, case in cases.items()]


@cache
def found(kind: str) -> dict[str, Any]:
    """What all plugins of a kind are told."""
    program = Path(__file__).with_name("broken.py")
    done = subprocess.run([sys.executable, program, kind], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize(
    ("kind", "name", "case"),
    [
        pytest.param(
            *each,
            id=f"{each[0]}: {each[1]}",
            marks=[pytest.mark.slow] if each[0] == "backend" else [],
        )
        for each in CASES
    ],
)
def test_the_author_is_told_what_is_wrong(kind: str, name: str, case: Case) -> None:
    broken, not_run, held = found(kind)[name]
    if case.words:
        assert any(case.words in sentence for sentence in broken), (broken, not_run)
    else:
        assert (broken, held > 0) == ([], True), (broken, not_run)


def test_what_cannot_work_here_is_not_tried_and_the_reason_is_told() -> None:
    broken, not_run, _ = found("runtime")["not there"]
    assert broken == []
    assert "No server is there." in not_run[0]
