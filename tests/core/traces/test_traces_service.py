from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError
from tmde_core.finetune.lineage import LineageService
from tmde_core.finetune.store import RunStore
from tmde_core.lora.files.store import AdapterStore
from tmde_core.records.debate import Critique, Issue, Round
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.traces import Eligibility, RoleModel, Timings, TokenCounts, Trace, TraceFilter
from tmde_core.settings import LiveSettings, Settings
from tmde_core.storage.database import Database
from tmde_core.traces.service import TraceService
from tmde_core.traces.store import TraceStore, Where, build_page_sql, encode_cursor, fts_query

START = datetime(2026, 1, 1, tzinfo=UTC)


def a_trace(place: int = 0, **changes: Any) -> Trace:
    fields: dict[str, Any] = {
        "id": uuid4(),
        "created_at": START + timedelta(seconds=place),
        "query": f"question {place}",
        "final_answer": f"answer {place}",
    }
    return Trace(**(fields | changes))


A_FULL_TRACE = Trace(
    id=UUID("11111111-2222-4333-8444-555555555555"),
    created_at=START + timedelta(milliseconds=7),
    query="Why is the sky blue?",
    final_answer="Rayleigh scattering.",
    domain="physics",
    rounds=(
        Round(number=1, proposal="It reflects the sea.", critique_text="No.", proposer_ms=12.5, skeptic_ms=3.25),
        Round(
            number=2,
            proposal="Scattering.",
            critique=Critique(issues=(Issue(severity="minor", text="terse"),), score=8.5, verdict="accept"),
        ),
    ),
    early_stopped=True,
    stop_reason="accepted",
    auto_score=8.25,
    judge="rubric",
    score_reasons=("right", "short"),
    user_rating=9,
    corrected_answer="Rayleigh scattering of sunlight.",
    withdrawn_at=START + timedelta(days=1),
    withdrawn_reason="copied",
    models={"proposer": RoleModel(runtime="embedded", model="small")},
    adapter_id="a1",
    templates_used=("decomposition",),
    timings=Timings(total_ms=1.5, retrieval_ms=0.5),
    tokens=TokenCounts(prompt=10, cached=4, completion=6),
    source="ui",
)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.open(tmp_path / "tmde.db") as opened:
        yield opened


@pytest.fixture
def traces(database: Database, tmp_path: Path) -> TraceService:
    store = TraceStore(database)
    lineage = LineageService(store, RunStore(database), AdapterStore(tmp_path))
    return TraceService(store, LiveSettings(Settings()), lineage.find_by_trace_id)


async def test_what_is_added_reads_back_equal(traces: TraceService) -> None:
    await traces.add(A_FULL_TRACE)
    assert await traces.get(A_FULL_TRACE.id) == A_FULL_TRACE


async def test_an_id_is_taken_once_and_an_unknown_one_is_not_found(traces: TraceService) -> None:
    await traces.add(A_FULL_TRACE)
    with pytest.raises(ConflictError):
        await traces.add(A_FULL_TRACE)
    with pytest.raises(NotFoundError):
        await traces.get(uuid4())


async def test_a_trace_whose_rounds_are_refused_leaves_nothing(traces: TraceService) -> None:
    doubled = a_trace(rounds=(Round(number=1, proposal="a"), Round(number=1, proposal="b")))
    with pytest.raises(ConflictError):
        await traces.add(doubled)
    assert (await traces.list()).total == 0


async def test_pages_follow_each_other_newest_first_without_gap_even_at_equal_times(traces: TraceService) -> None:
    made = [a_trace(place // 3) for place in range(20)]
    for trace in made:
        await traces.add(trace)
    seen: list[UUID] = []
    cursor = None
    while True:
        page = await traces.list(limit=7, cursor=cursor)
        assert page.total == 20
        seen.extend(item.id for item in page.items)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [trace.id for trace in reversed(made)]


@pytest.mark.parametrize("cursor", ["", "x", "a" * 9, "MjAyNg", "é", "====", encode_cursor("2026-01-01", 3)])
async def test_a_malformed_cursor_is_refused(traces: TraceService, cursor: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        await traces.list(cursor=cursor)
    assert refused.value.context["field"] == "cursor"


@pytest.mark.parametrize("limit", [0, -1, 201])
async def test_a_limit_outside_the_range_names_the_range(traces: TraceService, limit: int) -> None:
    with pytest.raises(InvalidInputError, match="1 to 200"):
        await traces.list(limit=limit)


async def test_filters_choose_by_quality_rating_eligibility_source_and_words(traces: TraceService) -> None:
    good = a_trace(1, auto_score=9.0, query="the blue whale")
    rated = a_trace(2, auto_score=9.0, user_rating=3, query="a blue whistle")
    poor = a_trace(3, auto_score=2.0, source="cli")
    unscored = a_trace(4)
    bench = a_trace(5, auto_score=10.0, source="benchmark")
    withdrawn = a_trace(6, auto_score=10.0)
    for trace in (good, rated, poor, unscored, bench, withdrawn):
        await traces.add(trace)
    await traces.withdraw(withdrawn.id, "wrong")

    async def chosen(**wanted: Any) -> set[UUID]:
        page = await traces.list(TraceFilter(**wanted))
        assert page.total == len(page.items)
        return {item.id for item in page.items}

    assert await chosen(min_quality=9) == {good.id, bench.id, withdrawn.id}
    assert await chosen(rated=True) == {rated.id}
    assert await chosen(rated=False, source="cli") == {poor.id}
    assert await chosen(eligible=True) == {good.id}
    assert await chosen(eligible=False) == {rated.id, poor.id, unscored.id, bench.id, withdrawn.id}
    assert await chosen(q="blue whale") == {good.id}
    assert await chosen(q="blue whi") == {rated.id}
    assert await chosen(q="blue", min_quality=5) == {good.id}
    assert await chosen(q=" \n ") == {trace.id for trace in (good, rated, poor, unscored, bench, withdrawn)}
    assert await chosen(q="?!") == set()
    assert [trace.id for trace in await traces.list_eligible(Eligibility(min_quality=1.0))] == [
        good.id,
        rated.id,
        poor.id,
    ]


@given(text=st.text(max_size=200))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
def test_any_text_becomes_a_search_that_sqlite_accepts(text: str) -> None:
    import sqlite3

    query = fts_query(text)
    if query is not None:
        connection = sqlite3.connect(":memory:")
        connection.execute("CREATE VIRTUAL TABLE t USING fts5 (a, tokenize='porter unicode61')")
        connection.execute("SELECT count(*) FROM t WHERE t MATCH ?", (query,)).fetchall()
        connection.close()


@pytest.mark.parametrize("text", ["NEAR(a b)", 'say "hi', "a AND", "col:x", "x*", "-", "^a", "(", "a\x00b", "''", "OR"])
async def test_search_operators_are_words(traces: TraceService, text: str) -> None:
    await traces.add(a_trace(query=f"before {text} after"))
    assert (await traces.list(TraceFilter(q=text))).total == (1 if fts_query(text) else 0)


async def test_a_page_of_many_traces_is_found_through_the_index(traces: TraceService, database: Database) -> None:
    made = (a_trace(place, auto_score=place % 11, user_rating=None) for place in range(2_000))
    async with database.transaction() as connection:
        await TraceStore(database).insert(connection, made)
    cursor = (await traces.list(limit=200)).next_cursor
    for wanted in (TraceFilter(), TraceFilter(eligible=True), TraceFilter(source="api"), TraceFilter(rated=True)):
        page = await traces.list(wanted, cursor=cursor)
        assert len(page.items) == (0 if wanted.rated else 50)
        for where in (cursor, None):
            plan = await database.rows(
                "EXPLAIN QUERY PLAN "
                + (sql := build_page_sql(Where(wanted, Eligibility(min_quality=8.0)), 50, where))[0],
                sql[1],
            )
            details = [str(row["detail"]) for row in plan]
            verb = "SEARCH" if where else "SCAN"
            assert any(detail.startswith(f"{verb} traces USING COVERING INDEX traces_newest") for detail in details), (
                details
            )
            assert not any(detail == "SCAN traces" for detail in details), details


async def test_a_rating_counts_before_the_score_and_a_correction_keeps_the_answer(traces: TraceService) -> None:
    trace = a_trace(auto_score=9.0)
    await traces.add(trace)
    rated = await traces.rate(trace.id, 4, "better")
    assert (rated.quality_score, rated.corrected_answer, rated.final_answer) == (4.0, "better", trace.final_answer)
    again = await traces.rate(trace.id, 10)
    assert (again.user_rating, again.corrected_answer) == (10, "better")
    assert (await traces.rate(trace.id, 10, " ")).corrected_answer is None


async def test_ratings_out_of_range_and_over_long_corrections_change_nothing(traces: TraceService) -> None:
    trace = a_trace()
    await traces.add(trace)
    for rating in (0, 11, -1):
        with pytest.raises(InvalidInputError, match="1 to 10"):
            await traces.rate(trace.id, rating)
    with pytest.raises(InvalidInputError, match="64 KiB"):
        await traces.rate(trace.id, 5, "x" * 70_000)
    with pytest.raises(NotFoundError):
        await traces.rate(uuid4(), 5)
    assert await traces.get(trace.id) == trace


async def test_a_withdrawal_names_the_runs_and_the_adapters_that_learned_from_the_trace(
    traces: TraceService, database: Database
) -> None:
    trace = a_trace(auto_score=9.0)
    await traces.add(trace)
    done, failed, other = str(uuid4()), str(uuid4()), str(uuid4())
    for minute, (run, status) in enumerate([(done, "completed"), (failed, "failed"), (other, "completed")]):
        await database.write(
            "INSERT INTO finetune_runs (id, started_at, status, config, triggered_by) VALUES (?, ?, ?, '{}', 'user')",
            (run, f"2026-02-01T00:0{minute}:00.000Z", status),
        )
        if run != other:
            await database.write("INSERT INTO run_traces VALUES (?, ?, 'train')", (run, str(trace.id)))
    first = await traces.withdraw(trace.id, " it is wrong ")
    assert [str(run) for run in first.runs] == [done, failed]
    assert [str(adapter) for adapter in first.adapters] == [done]
    assert first.trace.withdrawn_reason == "it is wrong"
    assert await traces.withdraw(trace.id, "again") == first
    assert await traces.list_eligible(Eligibility(min_quality=0)) == []


async def test_a_withdrawal_needs_a_reason_and_a_trace(traces: TraceService) -> None:
    await traces.add(trace := a_trace())
    for reason in ("", "  ", "x" * 2001):
        with pytest.raises(InvalidInputError):
            await traces.withdraw(trace.id, reason)
    with pytest.raises(NotFoundError):
        await traces.withdraw(uuid4(), "why not")


async def test_deleting_removes_the_debate_and_what_is_searched(traces: TraceService, database: Database) -> None:
    await traces.add(A_FULL_TRACE)
    kept = a_trace(3)
    await traces.add(kept)
    done = await traces.delete([A_FULL_TRACE.id, A_FULL_TRACE.id])
    assert done.deleted == (A_FULL_TRACE.id,)
    with pytest.raises(NotFoundError):
        await traces.get(A_FULL_TRACE.id)
    assert (await traces.list(TraceFilter(q="sky"))).total == 0
    assert await database.value("SELECT count(*) FROM rounds WHERE trace_id = ?", (str(A_FULL_TRACE.id),)) == 0
    assert [one.id for one in (await traces.list()).items] == [kept.id]


async def test_several_traces_are_deleted_together_or_not_at_all(traces: TraceService) -> None:
    one = a_trace()
    await traces.add(one)
    unknown = uuid4()
    with pytest.raises(NotFoundError, match=f"{unknown}'; nothing was deleted"):
        await traces.delete([one.id, unknown])
    assert await traces.get(one.id) == one
    for wanted in ([], [uuid4() for _ in range(201)]):
        with pytest.raises(InvalidInputError, match="1 to 200"):
            await traces.delete(wanted)


async def test_the_figures_count_each_trace_once(traces: TraceService, database: Database) -> None:
    for place, changes in enumerate(
        [
            {"auto_score": 9.0, "domain": "math"},
            {"auto_score": 9.0, "domain": "math", "user_rating": 10},
            {"auto_score": 1.0, "domain": "code"},
            {"source": "benchmark", "auto_score": 10.0},
        ]
    ):
        await traces.add(a_trace(place, **changes))
    stats = await traces.stats()
    assert msgspec.to_builtins(stats) == {
        "total": 4,
        "eligible": 2,
        "rated": 1,
        "withdrawn": 0,
        "cut": 0,
        "byDomain": {"code": 1, "math": 2, "unknown": 1},
        "sinceLastRun": 2,
    }
    await database.write(
        "INSERT INTO finetune_runs (id, started_at, status, config, triggered_by) VALUES (?, ?, 'completed', '{}', 'user')",
        (str(uuid4()), "2026-01-01T00:00:00.000Z"),
    )
    assert (await traces.stats()).since_last_run == 1
    strict = LiveSettings(Settings(finetune=FineTuneConfig(min_quality_score=9.5)))
    assert (await TraceService(TraceStore(database), strict, traces._taught).stats()).eligible == 1


async def test_a_run_of_a_clock_that_was_ahead_hides_no_new_trace(traces: TraceService, database: Database) -> None:
    old = a_trace(1, auto_score=9.0)
    await traces.add(old)
    run = str(uuid4())
    await database.write(
        "INSERT INTO finetune_runs (id, started_at, status, config, triggered_by) VALUES (?, ?, 'completed', '{}', 'user')",
        (run, "2099-01-01T00:00:00.000Z"),
    )
    await database.write("INSERT INTO run_traces VALUES (?, ?, 'train')", (run, str(old.id)))
    assert (await traces.stats()).since_last_run == 0
    await traces.add(a_trace(2, auto_score=9.0))
    await traces.add(a_trace(3, auto_score=1.0))
    assert (await traces.stats()).since_last_run == 1


async def test_an_empty_store_has_figures_too(traces: TraceService) -> None:
    stats = await traces.stats()
    assert (stats.total, stats.eligible, stats.by_domain) == (0, 0, {})
    assert (await traces.list()).items == ()


# -------------------------------------------------------------------------------------- corrections


async def test_a_correction_is_trained_on_whatever_the_rating_and_gives_no_rating(traces: TraceService) -> None:
    rated, unrated, good = a_trace(0), a_trace(1), a_trace(2, auto_score=9.0)
    for trace in (rated, unrated, good):
        await traces.add(trace)
    await traces.rate(rated.id, 2)
    assert [trace.id for trace in await traces.list_eligible(Eligibility(8))] == [good.id]
    assert (await traces.correct(rated.id, "The right one.")).user_rating == 2
    assert (await traces.correct(unrated.id, "Right too.")).user_rating is None
    assert [trace.id for trace in await traces.list_eligible(Eligibility(8))] == [rated.id, unrated.id, good.id]
    assert (await traces.stats()).eligible == 3
    assert (await traces.list(TraceFilter(eligible=True))).total == 3
    assert (await traces.list(TraceFilter(eligible=False))).total == 0
    assert await traces.count_ineligible("low-score", 8, 10) == (0, [])


async def test_rating_badly_with_a_correction_trains_on_the_correction(traces: TraceService) -> None:
    trace = a_trace()
    await traces.add(trace)
    await traces.rate(trace.id, 1, "The right one.")
    assert [one.id for one in await traces.list_eligible(Eligibility(8))] == [trace.id]
    await traces.rate(trace.id, 1, " \n\t ")  # blank text takes the correction back
    assert await traces.list_eligible(Eligibility(8)) == []
    await traces.correct(trace.id, "Right after all.")
    await traces.correct(trace.id, "")
    assert await traces.list_eligible(Eligibility(8)) == []
    assert await traces.count_ineligible("low-score", 8, 10) == (1, [(trace.id, 1)])


@pytest.mark.parametrize("changes", [{"source": "benchmark"}, {"withdrawn_at": START, "withdrawn_reason": "private"}])
async def test_a_correction_makes_no_benchmark_and_no_withdrawn_trace_eligible(traces: TraceService, changes) -> None:
    trace = a_trace(**changes)
    await traces.add(trace)
    await traces.correct(trace.id, "The right one.")
    assert await traces.list_eligible(Eligibility(0)) == []
    assert (await traces.stats()).eligible == 0


async def test_a_blank_correction_in_a_file_is_none(traces: TraceService) -> None:
    line = b'{"query": "Why?", "finalAnswer": "So.", "correctedAnswer": " \\n "}'
    assert (await traces.import_jsonl([line])).imported == 1
    assert await traces.list_eligible(Eligibility(1)) == []


async def test_a_correction_of_nothing_or_too_long_is_refused(traces: TraceService) -> None:
    with pytest.raises(NotFoundError):
        await traces.correct(uuid4(), "Right.")
    trace = a_trace()
    await traces.add(trace)
    with pytest.raises(InvalidInputError, match="correctedAnswer"):
        await traces.correct(trace.id, "x" * 2_000_000)


async def test_counting_what_is_eligible_reads_only_the_index(database: Database) -> None:
    clause, parameters = Where(TraceFilter(eligible=True), Eligibility(8.0)).sql()
    plan = await database.rows(f"EXPLAIN QUERY PLAN SELECT count(*) FROM traces {clause}", parameters)
    assert any("USING COVERING INDEX traces_" in row["detail"] for row in plan), [row["detail"] for row in plan]
