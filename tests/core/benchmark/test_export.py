"""Runs as CSV: what comes out can be read back, and nothing in it is computed."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.benchmark.test_comparison import run
from tmde_core.benchmark.results.export import ExportedRun, csv_lines, escape_formula
from tmde_core.records.benchmark import BenchmarkResult


def rows(*texts: str) -> tuple[bytes, list[dict[str, str]]]:
    """The CSV of a run with these answers, and what a reader makes of it."""
    results = tuple(
        BenchmarkResult(
            id=run().id, run_id=run().id, question_id="q", repeat=n, status="failed", domain="science", difficulty="easy", query=text,
            final_answer=text, error=text,
        )
        for n, text in enumerate(texts)
    )  # fmt: skip
    content = b"".join(csv_lines([ExportedRun(run(), results)]))
    return content, list(csv.DictReader(io.StringIO(content.decode(), newline="")))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1"])
def test_text_that_a_spreadsheet_would_compute_gets_an_apostrophe(text):
    assert escape_formula(text) == f"'{text}"
    _, (row,) = rows(text)
    assert (row["query"], row["final_answer"], row["error"]) == (f"'{text}",) * 3


def test_figures_stay_figures():
    assert (escape_formula(-1.5), escape_formula(0), escape_formula(None), escape_formula("so")) == (-1.5, 0, "", "so")


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=4))
def test_any_text_comes_back_as_it_was(texts):
    content, found = rows(*texts)
    assert [row["final_answer"] for row in found] == [escape_formula(text) for text in texts]
    assert content.endswith(b"\r\n")


def test_a_run_without_answers_has_its_figures_all_the_same():
    content = b"".join(csv_lines([ExportedRun(run(), ())]))
    (row,) = csv.DictReader(io.StringIO(content.decode(), newline=""))
    assert (row["type"], row["adapter_id"], row["question_id"]) == ("full", "base", "")
