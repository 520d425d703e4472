"""Benchmark runs that an earlier version stored are read with the present names."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tmde_core.records.base import to_json
from tmde_core.storage.database import SCHEMA_DIR

STORED = Path(__file__).parent / "runs_of_schema_4.sql"


def store_as_schema_4(data_dir: Path) -> None:
    """Write a database as the version with schema 4 left it."""
    connection = sqlite3.connect(data_dir / "tmde.db")
    for migration in sorted(SCHEMA_DIR.glob("000[1-4]_*.sql")):
        connection.executescript(migration.read_text("utf-8"))
    connection.execute("PRAGMA user_version = 4")
    connection.executescript(STORED.read_text("utf-8"))
    connection.commit()
    connection.close()


async def test_earlier_runs_answers_and_comparisons_keep_their_figures(data_dir, opened):
    store_as_schema_4(data_dir)
    async with opened() as services:
        runs, total = await services.benchmark.list(50)
        custom, debate, _, adapter, base = runs
        assert total == 5
        assert [run.triggered_by for run in runs] == ["manual", "manual", "scheduled", "post-finetune", "post-finetune"]
        assert (base.question_count, base.completed_questions, base.answer_count, base.completed_answers) == (10,) * 4
        assert custom.question_count == 1
        assert base.metrics.avg_quality_score == base.metrics.intervals.quality.mean == 4.0
        assert base.metrics.domain_scores["reasoning"] == 10.0
        assert base.metrics.avg_debate_rounds is None
        assert debate.metrics.avg_debate_rounds == debate.metrics.intervals.debate_rounds.mean >= 1
        assert adapter.metrics.vs_baseline == round(100 * (adapter.metrics.tmde_score / base.metrics.tmde_score - 1), 2)
        assert base.metrics.vs_baseline is None
        answers, _ = await services.benchmark.results(debate.id)
        assert all(one.final_answer and one.debate_rounds and one.trace_id == one.id for one in answers)
        answers, _ = await services.benchmark.results(base.id)
        assert all(one.final_answer and one.trace_id is None for one in answers)
        assert len({one.id for one in answers}) == 10
        summary = await services.benchmark.summarise()
        assert summary.total == 5
        compared = await services.benchmark.compare(base.id, adapter.id)
        assert b"avgQualityScore" in to_json(compared)
        stored = await services.benchmark.compare_adapters(adapter.adapter_id, adapter.adapter_id)
        assert stored is not None
        (mine,) = await services.benchmark.questions(suite="custom")
        assert (mine.question, mine.reference_answer, mine.check) == ("Which is larger, 3 or 5?", "5", "number")
        trained, _ = await services.finetune.list(50)
        assert {run.triggered_by for run in trained} == {"manual", "scheduled", "api"}
        first = "1 Nov · mixed questions"
        assert {run.name for run in trained} == {first, f"{first} 2", f"{first} 3", f"{first} 4"}
