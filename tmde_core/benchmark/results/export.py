"""Exports benchmark runs as JSON and as CSV for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from tmde_core.records.base import Record
from tmde_core.records.benchmark import BenchmarkResult, BenchmarkRun

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""The characters at which spreadsheets recognise the start of a formula (OWASP, "CSV Injection")."""

RUN_COLUMNS = (
    "run_id", "started_at", "type", "mode", "suite", "suite_sha256", "adapter_id", "base_model", "judge", "repeats", "status",
    "question_count", "completed_questions", "triggered_by", "tmde_score", "avg_quality_score", "quality_low",
    "quality_high", "avg_response_time_ms", "avg_tokens_per_second", "avg_debate_rounds", "early_termination_rate",
    "vs_baseline", "vs_previous", "unscored", "failed", "verdict_vs_previous", "verdict_vs_baseline",
)  # fmt: skip
RESULT_COLUMNS = (
    "result_id", "question_id", "repeat", "domain", "difficulty", "result", "quality_score", "response_time_ms", "tokens",
    "debate_rounds", "early_stopped", "trace_id", "tries", "query", "final_answer", "error",
    "finish_reason",
)  # fmt: skip


class ExportedRun(Record):
    """A run with its answers."""

    run: BenchmarkRun
    results: tuple[BenchmarkResult, ...]


def csv_lines(runs: Sequence[ExportedRun]) -> Iterator[bytes]:
    """Yield one line per answer, with the run's figures before the answer's.

    The format is RFC 4180: CRLF line ends, doubled quotes. The encoding is UTF-8.
    """
    yield _line((*RUN_COLUMNS, *RESULT_COLUMNS))
    for exported in runs:
        head = _run_cells(exported.run)
        for result in exported.results:
            yield _line((*head, *_result_cells(result)))
        if not exported.results:
            yield _line((*head, *([None] * len(RESULT_COLUMNS))))


def escape_formula(value: Any) -> Any:
    """Return the cell's value; put an apostrophe before text that a spreadsheet would run as a formula."""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _line(cells: Sequence[Any]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow([escape_formula(cell) for cell in cells])
    return out.getvalue().encode()


def _run_cells(run: BenchmarkRun) -> tuple[Any, ...]:
    metrics = run.metrics
    figures: tuple[Any, ...] = (None,) * 12
    if metrics is not None:
        figures = (
            metrics.tmde_score,
            metrics.avg_quality_score,
            metrics.intervals.quality.low,
            metrics.intervals.quality.high,
            metrics.avg_response_time_ms,
            metrics.avg_tokens_per_second,
            metrics.avg_debate_rounds,
            metrics.early_termination_rate,
            metrics.vs_baseline,
            metrics.vs_previous,
            metrics.unscored,
            metrics.failed,
        )
    return (
        str(run.id),
        run.started_at.isoformat().replace("+00:00", "Z"),
        run.type,
        run.mode,
        run.suite,
        run.suite_sha256,
        str(run.adapter_id) if run.adapter_id else "base",
        run.base_model,
        run.judge,
        run.repeats,
        run.status,
        run.question_count,
        run.completed_questions,
        run.triggered_by,
        *figures,
        run.verdict_vs_previous,
        run.verdict_vs_baseline,
    )


def _result_cells(result: BenchmarkResult) -> tuple[Any, ...]:
    return (
        str(result.id),
        result.question_id,
        result.repeat,
        result.domain,
        result.difficulty,
        result.status,
        result.quality_score,
        result.response_time_ms,
        result.tokens,
        result.debate_rounds,
        result.early_stopped,
        str(result.trace_id) if result.trace_id else None,
        result.tries,
        result.query,
        result.final_answer,
        result.error,
        result.finish_reason,
    )
