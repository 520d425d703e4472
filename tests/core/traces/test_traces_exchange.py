from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tmde_core.errors import InvalidInputError, NotFoundError
from tmde_core.records.debate import Critique, Exchange, Issue, Round
from tmde_core.records.finetune import TraceLineage
from tmde_core.records.traces import RoleModel, SkippedLine, Timings, TokenCounts, Trace
from tmde_core.settings import LiveSettings, Settings
from tmde_core.storage.database import Database
from tmde_core.storage.text_files import MAX_LINE_BYTES, split_lines
from tmde_core.storage.words import is_blank
from tmde_core.traces.exchange import LineRound, TraceLine, from_line, to_line
from tmde_core.traces.service import TraceService
from tmde_core.traces.store import COLUMNS, TraceDetails, TraceStore, build_twins_sql


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.open(tmp_path / "tmde.db") as opened:
        yield opened


async def untaught(trace_id: UUID) -> TraceLineage:
    return TraceLineage(trace_id=trace_id, runs=(), adapters=())


def service(database: Database) -> TraceService:
    return TraceService(TraceStore(database), LiveSettings(Settings()), untaught)


@pytest.fixture
def traces(database: Database) -> TraceService:
    return service(database)


# ------------------------------------------------------------------------------------------ round trip


def test_every_field_of_a_trace_has_its_place_in_the_store_and_in_a_line():
    stored = {*COLUMNS.split(", "), *TraceDetails.__struct_fields__, "rounds"} - {"seq", "details"}
    assert stored == set(Trace.__struct_fields__)
    assert set(TraceLine.__struct_fields__) == {*Trace.__struct_fields__, "quality_score"}
    assert set(LineRound.__struct_fields__) == set(Round.__struct_fields__)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
filled = texts.filter(lambda text: bool(text.strip()))
amounts = st.floats(0, 1e9, allow_nan=False).map(lambda number: round(number, 3))
moments = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(  # noqa: DTZ001 - hypothesis wants naive bounds
    lambda moment: moment.replace(tzinfo=UTC, microsecond=moment.microsecond // 1000 * 1000)
)
reasons = st.sampled_from([None, "stop", "length", "content_filter"])
critiques = st.builds(
    Critique,
    issues=st.lists(
        st.builds(Issue, severity=st.sampled_from(["minor", "major", "critical"]), text=texts), max_size=2
    ).map(tuple),
    score=st.none() | st.floats(0, 10),
    verdict=st.sampled_from([None, "accept", "revise"]),
    malformed=st.booleans(),
)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[Round, ...]:
    return tuple(
        Round(
            number=number,
            proposal=draw(texts),
            critique=draw(st.none() | critiques),
            critique_text=draw(texts),
            proposer_ms=draw(amounts),
            skeptic_ms=draw(amounts),
            proposer_thought=draw(texts),
            skeptic_thought=draw(texts),
            proposer_finish_reason=draw(reasons),
            skeptic_finish_reason=draw(reasons),
        )
        for number in range(1, draw(st.integers(0, 3)) + 1)
    )


any_trace = st.builds(
    Trace,
    id=st.uuids(),
    created_at=moments,
    query=texts.filter(lambda text: not is_blank(text)),
    final_answer=filled,
    domain=st.none() | texts,
    rounds=rounds(),
    early_stopped=st.booleans(),
    stop_reason=texts,
    auto_score=st.none() | st.floats(0, 10),
    judge=st.none() | texts,
    score_reasons=st.lists(texts, max_size=2).map(tuple),
    user_rating=st.none() | st.integers(1, 10),
    follows=st.none() | st.uuids(),
    earlier=st.lists(st.builds(Exchange, question=texts, answer=texts), max_size=2).map(tuple),
    corrected_answer=st.none() | texts.filter(str.strip),
    withdrawn_at=st.none() | moments,
    withdrawn_reason=st.none() | texts,
    models=st.dictionaries(texts, st.builds(RoleModel, runtime=texts, model=texts), max_size=2),
    adapter_id=st.none() | texts,
    templates_used=st.lists(texts, max_size=2).map(tuple),
    timings=st.builds(Timings, total_ms=amounts, retrieval_ms=amounts, synthesis_ms=amounts, scoring_ms=amounts),
    tokens=st.builds(
        TokenCounts, prompt=st.integers(0, 10**6), cached=st.integers(0, 10**6), completion=st.integers(0, 10**6)
    ),
    source=st.sampled_from(["api", "cli", "ui", "import", "loop", "benchmark"]),
    finish_reason=reasons,
    synthesizer_thought=texts,
)


def test_a_thought_within_an_imported_answer_is_kept_apart() -> None:
    round_ = {"proposal": "Hm.\n</think>\n41"}
    trace = from_line(
        json.dumps({"query": "6*7?", "finalAnswer": "<think>Hm.</think>\n42", "rounds": [round_]}).encode()
    )
    assert (trace.final_answer, trace.synthesizer_thought) == ("42", "Hm.")
    assert (trace.rounds[0].proposal, trace.rounds[0].proposer_thought) == ("41", "Hm.")


def test_an_imported_answer_that_is_only_a_thought_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="a model's thought without an answer"):
        from_line(json.dumps({"query": "6*7?", "finalAnswer": "<think>Hm, six times"}).encode())


@given(trace=any_trace)
@hypothesis_settings(deadline=None)
def test_a_line_tells_the_whole_trace(trace: Trace) -> None:
    line = to_line(trace)
    assert line.count(b"\n") == 1
    assert from_line(line) == trace
    assert json.loads(line)["qualityScore"] == trace.quality_score


@given(made=st.lists(any_trace, max_size=4, unique_by=lambda trace: trace.id))
@hypothesis_settings(max_examples=15, deadline=None)
async def test_what_is_exported_imports_again_unchanged(made: list[Trace]) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        async with Database.open(Path(one) / "a.db") as a, Database.open(Path(other) / "b.db") as b:
            source, target = service(a), service(b)
            for trace in made:
                await source.add(trace)
            lines = [line async for line in source.export_jsonl()]
            report = await target.import_jsonl(lines)
            assert (report.imported, report.skipped) == (len(made), ())
            assert [line async for line in target.export_jsonl()] == lines
            assert (await target.list()).items == (await source.list()).items
            for trace in made:
                assert await target.get(trace.id) == trace


# ------------------------------------------------------------------------------------------- single lines


async def test_query_and_answer_suffice_and_an_imported_quality_is_the_judges_score(traces: TraceService) -> None:
    report = await traces.import_jsonl(
        [
            b'{"query": "q", "finalAnswer": "a"}',
            (
                b'{"query": "q2", "finalAnswer": "a2", "qualityScore": 8.5, "models": {"proposer": "llama"}, '
                b'"rounds": [{"proposal": "p"}], "createdAt": "2025-03-01T12:00:00+02:00"}\r\n'
            ),
        ]
    )
    assert (report.imported, report.skipped) == (2, ())
    first, second = (await traces.list()).items
    assert (first.source, first.auto_score, first.judge) == ("import", None, None)
    assert (second.auto_score, second.judge) == (8.5, "import")
    assert second.models["proposer"].model == "llama"
    assert second.rounds[0].number == 1
    assert second.created_at == datetime(2025, 3, 1, 10, tzinfo=UTC)


GOOD = b'{"query": "q", "finalAnswer": "a"}'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "must be an object"),
        (b'{"query": "q"}', "finalAnswer"),
        (b'{"query": " ", "finalAnswer": "a"}', "query: must not be blank"),
        ('{"query": "\u200b\u2060\u3164", "finalAnswer": "a"}'.encode(), "query: must not be blank"),
        (b'{"query": "q", "query": "r", "finalAnswer": "a"}', "'query' stands there twice"),
        (
            b'{"query": "q", "finalAnswer": "a", "rounds": [{"proposal": "x", "proposal": "y"}]}',
            "'proposal' stands there",
        ),
        (b'{"query": "q", "finalAnswer": "a", "qualityScore": 11}', "qualityScore"),
        (b'{"query": "q", "finalAnswer": "a", "qualityScore": 1e999}', "too large a number"),
        (b'{"query": "q", "finalAnswer": "a", "qualityScore": NaN}', "not valid JSON"),
        (b'{"query": "q", "finalAnswer": "a", "userRating": 0}', "userRating"),
        (b'{"query": "q", "finalAnswer": "a", "userRating": 7.5}', "userRating: must be a whole number from 1 to 10."),
        (b'{"query": "q", "finalAnswer": "a", "mood": "fine"}', "mood"),
        (b'{"question": "q", "answer": "a"}', "question: there is no such field. A trace has `query`."),
        (b'{"query": "q", "final_answer": "a"}', "final_answer: there is no such field. A trace has `finalAnswer`."),
        (b'{"query": "q", "finalAnswer": "a", "id": "nonsense"}', "id"),
        (b'{"query": "q", "finalAnswer": "a", "createdAt": "yesterday"}', "createdAt"),
        (b'{"query": "q", "finalAnswer": "a", "createdAt": "0001-01-01T00:00:00+05:00"}', "createdAt"),
        (b'{"query": "q\xff", "finalAnswer": "a"}', "not UTF-8 text: its byte 13"),
        (b'{"query": "q\0", "finalAnswer": "a"}', "NUL byte"),
        (b'{"query": "\\ud800", "finalAnswer": "a"}', "not valid JSON"),
        (
            b'{"query": "q", "finalAnswer": "a", "rounds": [{"number": 1, "proposal": "x"}, {"number": 1, "proposal": "y"}]}',
            "same",
        ),
        (b"[" * 5000, "must be an object"),
        (b'{"query": "' + b"x" * MAX_LINE_BYTES + b'", "finalAnswer": "a"}', "longer than 1,000,000 bytes"),
    ],
)
async def test_a_bad_line_is_reported_by_its_number_and_leaves_nothing(
    traces: TraceService, line: bytes, reason: str
) -> None:
    report = await traces.import_jsonl([GOOD, b"", line, GOOD.replace(b'"q"', b'"r"')])
    assert report.imported == 2
    assert report.skipped_total == 1
    assert [skipped.line for skipped in report.skipped] == [3]
    assert reason in report.skipped[0].reason
    assert (await traces.list()).total == 2


async def test_a_rating_that_pandas_wrote_as_a_float_is_taken(traces: TraceService) -> None:
    await traces.import_jsonl([b'{"query": "q", "finalAnswer": "a", "userRating": 7.0}'])
    (trace,) = (await traces.list()).items
    assert (trace.user_rating, type(trace.user_rating)) == (7, int)


async def test_duplicates_are_skipped_within_a_file_and_against_the_store(traces: TraceService) -> None:
    line = json.dumps({"id": str(uuid4()), "query": "q", "finalAnswer": "a"}).encode()
    first = await traces.import_jsonl([line, line])
    again = await traces.import_jsonl([line])
    assert (first.imported, again.imported) == (1, 0)
    assert first.skipped[0].line == 2
    assert "already" in again.skipped[0].reason


async def export(traces: TraceService) -> list[bytes]:
    return [line async for line in traces.export_jsonl()]


@pytest.mark.parametrize("named", [True, False])
async def test_a_second_import_of_the_same_traces_makes_no_copies_and_says_so(
    traces: TraceService, named: bool
) -> None:
    ids = [{"id": str(uuid4())} if named else {} for _ in range(3)]
    lines = [json.dumps({"query": f"q{n}", "finalAnswer": "a", **ids[n]}).encode() for n in range(3)]
    await traces.import_jsonl(lines[:2])
    here = await export(traces)
    report = await traces.import_jsonl(lines)
    assert (report.imported, report.already_here, report.skipped_total) == (1, 2, 2)
    short = json.loads(here[0])["id"][:8]
    assert f"trace {short}" in report.skipped[0].reason
    assert "already here" in report.skipped[0].reason
    assert (await export(traces))[:2] == here


@pytest.mark.parametrize("named", [True, False])
async def test_copies_are_made_when_they_are_asked_for(traces: TraceService, named: bool) -> None:
    own = {"id": str(uuid4()), "source": "ui"} if named else {}
    line = json.dumps({"query": "q", "finalAnswer": "a", **own}).encode()
    await traces.import_jsonl([line])
    report = await traces.import_jsonl([line, line], copies=True)
    assert (report.imported, report.already_here) == (2, 0)
    newest = (await traces.list()).items
    assert len({trace.id for trace in newest}) == 3
    assert sum(trace.source == "import" for trace in newest) == (2 if named else 3)


async def test_a_copy_under_another_id_is_known_by_question_answer_and_time(traces: TraceService) -> None:
    fields = {"query": "q", "finalAnswer": "a", "createdAt": "2025-01-02T03:04:05Z"}
    first, second = (json.dumps({**fields, "id": str(uuid4())}).encode() for _ in range(2))
    later = json.dumps({**fields, "id": str(uuid4()), "createdAt": "2025-01-02T03:04:06Z"}).encode()
    assert (await traces.import_jsonl([first])).imported == 1
    report = await traces.import_jsonl([second, later])
    assert (report.imported, report.already_here) == (1, 1)
    assert "the same question and answer" in report.skipped[0].reason


async def test_two_debates_with_the_same_answer_both_come_back_from_an_export(
    traces: TraceService, tmp_path: Path
) -> None:
    for number in range(2):
        await traces.add(
            Trace(id=uuid4(), created_at=datetime(2025, 1, 1, 0, 0, number, tzinfo=UTC), query="q", final_answer="a")
        )
    again = msgspec.structs.replace((await traces.list()).items[0], id=uuid4())
    await traces.add(again)  # even at the same time
    lines = await export(traces)
    async with Database.open(tmp_path / "other.db") as other:
        target = service(other)
        assert (await target.import_jsonl(lines)).imported == 3
        assert [line async for line in target.export_jsonl()] == lines
        assert (await target.import_jsonl(lines)).already_here == 3


@given(
    st.lists(
        st.tuples(st.sampled_from(["q", "q\0", "Q", "é", "q" * 70, "q" * 69 + "r"]), st.sampled_from("ab")), max_size=9
    )
)
@hypothesis_settings(max_examples=15, deadline=None)
async def test_each_question_with_each_answer_comes_in_once(made: list[tuple[str, str]]) -> None:
    lines = [json.dumps({"query": query, "finalAnswer": answer}).encode() for query, answer in made]
    with tempfile.TemporaryDirectory() as directory:
        async with Database.open(Path(directory) / "a.db") as database:
            traces = service(database)
            report = await traces.import_jsonl(lines)
            again = await traces.import_jsonl(lines)
    assert report.imported == len(set(made))
    assert (again.imported, again.already_here) == (0, len(made))


async def test_looking_for_twins_uses_the_index(database: Database) -> None:
    plan = await database.rows(f"EXPLAIN QUERY PLAN {build_twins_sql(2)}", ("a", "b", "c", "d"))
    assert any("traces_by_content" in row["detail"] for row in plan)


async def test_a_byte_order_mark_is_passed_over(traces: TraceService) -> None:
    assert (await traces.import_jsonl([b"\xef\xbb\xbf" + GOOD])).imported == 1


async def test_many_lines_go_in_several_batches(traces: TraceService) -> None:
    lines = [json.dumps({"query": f"q{n}", "finalAnswer": "a"}).encode() for n in range(1201)]
    lines[700] = b"?"
    report = await traces.import_jsonl(lines)
    assert report.imported == 1200
    assert [skipped.line for skipped in report.skipped] == [701]
    assert len([1 async for _ in traces.export_jsonl()]) == 1200


async def test_an_endless_line_is_cut_short_and_the_next_line_is_read(traces: TraceService) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 100_000
        yield b"\n" + GOOD + b"\n"

    sizes = [len(line) async for line in split_lines(chunks())]
    assert sizes == [MAX_LINE_BYTES + 1, len(GOOD)]
    report = await traces.import_jsonl(split_lines(chunks()))
    assert report.imported == 1
    assert report.skipped == (SkippedLine(line=1, reason="The line is longer than 1,000,000 bytes."),)


# ------------------------------------------------------------------------------------ the original project's file

TRACES = (
    "CREATE TABLE traces (id TEXT PRIMARY KEY, created_at TEXT, query TEXT, final_answer TEXT, total_rounds INTEGER, "
    "early_stopped INTEGER, quality_score REAL, user_rating INTEGER, auto_score REAL, proposer_model TEXT, skeptic_model TEXT, "
    "synthesizer_model TEXT, embedding_model TEXT, total_duration_ms REAL, rag_duration_ms REAL, synthesis_duration_ms REAL, "
    "templates_used TEXT, metadata TEXT)"
)
ROUNDS = (
    "CREATE TABLE rounds (id INTEGER PRIMARY KEY, trace_id TEXT, round_number INTEGER, proposer_response TEXT, "
    "skeptic_response TEXT, proposer_duration_ms REAL, skeptic_duration_ms REAL)"
)
ROW: dict[str, Any] = {
    "id": "8a8a8a8a-0000-4000-8000-000000000001",
    "created_at": "2025-05-06 07:08:09",
    "query": "q",
    "final_answer": "a",
    "total_rounds": 1,
    "early_stopped": 1,
    "quality_score": 6.5,
    "user_rating": 9,
    "auto_score": None,
    "proposer_model": "llama",
    "total_duration_ms": 1500,
    "rag_duration_ms": 10,
    "synthesis_duration_ms": 20,
    "templates_used": '["one", "two"]',
    "metadata": '{"domain": "math"}',
}


def original_file(path: Path, rows: list[dict[str, Any]], rounds: list[tuple[Any, ...]] = ()) -> Path:  # type: ignore[assignment]
    connection = sqlite3.connect(path)
    connection.execute(TRACES)
    connection.execute(ROUNDS)
    for row in rows:
        names = ", ".join(row)
        connection.execute(f"INSERT INTO traces ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
    connection.executemany(
        "INSERT INTO rounds (trace_id, round_number, proposer_response, skeptic_response, proposer_duration_ms, "
        "skeptic_duration_ms) VALUES (?, ?, ?, ?, ?, ?)",
        rounds,
    )
    connection.commit()
    connection.close()
    return path


async def test_the_original_projects_file_comes_in_whole(traces: TraceService, tmp_path: Path) -> None:
    second = ROW | {
        "id": "17",
        "auto_score": 4.0,
        "user_rating": None,
        "created_at": 1_700_000_000,
        "templates_used": "x, y",
    }
    file = original_file(
        tmp_path / "old? #1.db", [ROW, second], [(ROW["id"], 2, "p2", None, 3, 4), (ROW["id"], 1, "p1", "no", 1, 2)]
    )
    before = file.read_bytes()
    report = await traces.import_sqlite(file)
    assert (report.imported, report.skipped) == (2, ())
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("old*")) == ["old? #1.db"]
    trace = await traces.get(UUID(ROW["id"]))
    assert (trace.auto_score, trace.judge, trace.user_rating, trace.domain) == (6.5, "import", 9, "math")
    assert trace.created_at == datetime(2025, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert trace.timings == Timings(total_ms=1500, retrieval_ms=10, synthesis_ms=20)
    assert trace.templates_used == ("one", "two")
    assert trace.models == {"proposer": RoleModel(runtime="", model="llama")}
    assert [(r.number, r.proposal, r.critique_text, r.proposer_ms) for r in trace.rounds] == [
        (1, "p1", "no", 1),
        (2, "p2", "", 3),
    ]
    other = next(item for item in (await traces.list()).items if item.id != trace.id)
    assert (other.auto_score, other.quality_score, other.templates_used) == (4.0, 4.0, ("x", "y"))
    assert (await traces.import_sqlite(file)).imported == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"user_rating": 12}, "user_rating"),
        ({"quality_score": "great"}, "quality_score"),
        ({"query": ""}, "query"),
        ({"final_answer": None}, "final_answer"),
        ({"final_answer": b"\x00\xff"}, "binary"),
        ({"created_at": "long ago"}, "created_at"),
        ({"created_at": None}, "created_at"),
        ({"total_duration_ms": float("inf")}, "total_duration_ms"),
    ],
)
async def test_a_bad_row_is_reported_and_the_others_come_in(
    traces: TraceService, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    file = original_file(tmp_path / "old.db", [ROW | {"id": "1"}, ROW | {"id": "2"} | changes, ROW | {"id": "3"}])
    report = await traces.import_sqlite(file)
    assert report.imported == 2
    assert [skipped.line for skipped in report.skipped] == [2]
    assert reason in report.skipped[0].reason


async def test_a_file_whose_names_were_damaged_is_refused_in_a_sentence(traces: TraceService, tmp_path: Path) -> None:
    whole = original_file(tmp_path / "old.db", [ROW]).read_bytes()
    for name in (b"quality_score", b"rounds (id", b"early_stopped"):
        (tmp_path / "damaged.db").write_bytes(whole.replace(name, b"\xda" + name[1:]))
        with pytest.raises(InvalidInputError, match=r"damaged\.db"):
            await traces.import_sqlite(tmp_path / "damaged.db")


async def test_text_in_another_encoding_is_not_guessed(traces: TraceService, tmp_path: Path) -> None:
    file = original_file(tmp_path / "old.db", [ROW | {"id": "1"}, ROW | {"id": "2"}])
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE traces SET query = CAST(x'D673746572726569636800' AS TEXT) WHERE id = '2'")
    connection.close()
    report = await traces.import_sqlite(file)
    assert report.imported == 1
    assert "query: holds binary data" in report.skipped[0].reason


async def test_other_files_are_refused_in_a_sentence(traces: TraceService, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        await traces.import_sqlite(tmp_path / "nothing.db")
    (tmp_path / "text.db").write_text("this is no database, " * 100)
    with pytest.raises(InvalidInputError, match="cannot be read as an SQLite database"):
        await traces.import_sqlite(tmp_path / "text.db")
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE traces (id, query)")
    connection.close()
    with pytest.raises(InvalidInputError, match="lacks the column final_answer"):
        await traces.import_sqlite(tmp_path / "other.db")
    (tmp_path / "empty.db").touch()
    with pytest.raises(InvalidInputError, match="no table 'traces'"):
        await traces.import_sqlite(tmp_path / "empty.db")
