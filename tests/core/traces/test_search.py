"""Searching traces: every script, every filter, every change of a trace, and databases from before."""

from __future__ import annotations

import itertools
import json
import random
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmde_core.records.debate import Round
from tmde_core.records.traces import Eligibility, Trace, TraceFilter
from tmde_core.storage.database import SCHEMA_DIR, Database
from tmde_core.traces.store import TraceStore

START = datetime(2026, 1, 1, tzinfo=UTC)


def a_trace(query: str, place: int = 0, **changes: Any) -> Trace:
    fields: dict[str, Any] = {"id": uuid4(), "created_at": START + timedelta(seconds=place), "final_answer": "x"}
    return Trace(query=query, **(fields | changes))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.open(tmp_path / "tmde.db") as opened:
        yield opened


@pytest.fixture
def store(database: Database) -> TraceStore:
    return TraceStore(database)


async def ids(store: TraceStore, q: str, **wanted: Any) -> list[UUID]:
    found, total, _ = await store.page(TraceFilter(q=q, **wanted), Eligibility(8.0), 200, None)
    assert total == len(found)
    return [trace.id for trace in found]


CASES = [
    ("中国的首都是哪里？", "中国的首都是北京。", ["首都", "北京", "中国", "京", "首都 北京"]),
    ("日本の首都はどこですか？", "東京です。", ["東京", "日本", "首都はどこ"]),
    ("เมืองหลวงของประเทศไทยคืออะไร", "กรุงเทพมหานคร", ["กรุงเทพ", "ประเทศไทย", "เมือง"]),
    ("Wo liegt Mu\u0308nchen?", "Bayern", ["München", "Mu\u0308nchen", "munchen", "Münch"]),
    ("Où est l'école d'Élise?", "là", ["Élise", "E\u0301lise", "elise", "école"]),
    ("ما هي عاصِمة فرنسا؟", "باريس", ["عاصمة", "باريس"]),
    ("Кто написал «Войну и мир»?", "Толстой", ["Войну", "толстой"]),
    ("COVID-19 in 3.5% of C++ users", "x", ["COVID-19", "C++ users", "3.5%"]),
    ("한국의 수도는?", "서울입니다", ["서울", "수도"]),
]


async def test_traces_are_found_in_every_script(store: TraceStore) -> None:
    made = [a_trace(query, final_answer=answer) for query, answer, _ in CASES]
    for trace in made:
        await store.add(trace)
    for trace, (_, _, searches) in zip(made, CASES, strict=True):
        for sought in searches:
            assert trace.id in await ids(store, sought), sought
    assert len(await ids(store, "首都")) == 2
    for nothing in ("大阪", "東北", '"首都" OR', "北*东", "AND", "上海"):
        assert await ids(store, nothing) == [], nothing


async def test_each_filter_finds_in_the_index_what_it_finds_in_the_table(store: TraceStore, database: Database) -> None:
    chance = random.Random(7)
    made = [
        a_trace(
            chance.choice(["a blue whale", "a red whale", "the blue 鲸鱼"]),
            chance.randrange(20),
            auto_score=chance.choice([None, 0.0, 5.0, 7.25, 7.3, 7.5, 7.9, 8.0, 9.99, 10.0]),
            user_rating=chance.choice([None, None, 1, 7, 8, 10]),
            source=chance.choice(["cli", "ui", "benchmark", "import"]),
            withdrawn_at=chance.choice([None, None, START]),
            corrected_answer=chance.choice([None, None, None, "It is blue."]),
            finish_reason=chance.choice([None, "stop", "length", "content_filter"]),
        )
        for _ in range(300)
    ]
    for trace in made:
        await store.add(trace)
    for source, rated, eligible, least, threshold, cut_wanted in itertools.product(
        (None, "cli", "benchmark", "no-such"),
        (None, True, False),
        (None, True, False),
        (None, -1, 0, 7.3, 7.5, 8, 10, 11, float("inf")),
        (7.4, 8.0),
        (False, True),
    ):
        wanted = TraceFilter(source=source, rated=rated, eligible=eligible, min_quality=least)
        everything, _, _ = await store.page(wanted, Eligibility(threshold, cut_wanted), 1000, None)
        searched = TraceFilter(q="blue", source=source, rated=rated, eligible=eligible, min_quality=least)
        found, total, _ = await store.page(searched, Eligibility(threshold, cut_wanted), 1000, None)
        assert [trace.id for trace in found] == [trace.id for trace in everything if "blue" in trace.query], searched
        assert total == len(found)


async def test_pages_of_a_search_follow_each_other_newest_first_also_at_equal_times(store: TraceStore) -> None:
    made = [a_trace("whale", place // 3) for place in range(20)]
    early = a_trace("whale", created_at=datetime(1200, 1, 1, tzinfo=UTC))
    late = a_trace("whale", created_at=datetime(9000, 1, 1, tzinfo=UTC))
    for trace in (*made, early, late):
        await store.add(trace)
    seen: list[UUID] = []
    cursor = None
    while True:
        page, total, cursor = await store.page(TraceFilter(q="whale", min_quality=None), Eligibility(8.0), 3, cursor)
        assert total == 22
        seen += [trace.id for trace in page]
        if cursor is None:
            break
    assert seen == [late.id, *(trace.id for trace in reversed(made)), early.id]


async def test_a_page_follows_a_trace_that_was_deleted_meanwhile(store: TraceStore, database: Database) -> None:
    made = [a_trace("whale", place) for place in range(4)]
    for trace in made:
        await store.add(trace)
    page, _, cursor = await store.page(TraceFilter(q="whale"), Eligibility(8.0), 2, None)
    await database.write("DELETE FROM traces WHERE id = ?", (str(page[-1].id),))
    rest, total, _ = await store.page(TraceFilter(q="whale"), Eligibility(8.0), 2, cursor)
    assert ([trace.id for trace in rest], total) == ([made[1].id, made[0].id], 3)


async def test_every_change_of_a_trace_reaches_the_index(store: TraceStore, database: Database) -> None:
    trace = a_trace("a blue whale", auto_score=9.0)
    await store.add(trace)
    assert await ids(store, "blue", eligible=True) == [trace.id]
    await store.rate(trace.id, 3, None)
    assert await ids(store, "blue", eligible=True) == []
    assert await ids(store, "blue", rated=True) == [trace.id]
    await store.rate(trace.id, 3, "It is green.")
    assert await ids(store, "blue", eligible=True) == [trace.id]
    await store.rate(trace.id, 9, None)
    await store.withdraw(trace.id, "wrong")
    assert await ids(store, "blue", eligible=False) == [trace.id]
    await database.write("UPDATE traces SET query = '一头蓝鲸', created_at = '2020-01-01T00:00:00.000Z'")
    assert (await ids(store, "blue"), await ids(store, "蓝鲸")) == ([], [trace.id])
    await database.write("DELETE FROM traces")
    assert await ids(store, "蓝鲸") == []
    assert await database.value("SELECT count(*) FROM traces_fts") == 0


async def test_rounds_and_thoughts_are_not_searched(store: TraceStore) -> None:
    await store.add(a_trace("a whale", rounds=(Round(number=1, proposal="secretword", critique_text="hiddenword"),)))
    assert await ids(store, "secretword") == []
    assert await ids(store, "hiddenword") == []


async def test_a_database_from_before_is_indexed_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "tmde.db"
    connection = sqlite3.connect(path)
    for number in range(1, 5):
        [file] = SCHEMA_DIR.glob(f"000{number}_*.sql")
        connection.executescript(file.read_text(encoding="utf-8"))
    connection.execute("PRAGMA user_version = 4")
    made = [(query, answer, str(uuid4())) for query, answer, _ in CASES]
    connection.executemany(
        "INSERT INTO traces (query, final_answer, id, created_at, source, auto_score, details) "
        "VALUES (?, ?, ?, '2026-01-01T00:00:00.000Z', 'cli', 8.5, ?)",
        [(*row, json.dumps({})) for row in made],
    )
    connection.execute(
        "INSERT INTO templates (id, name, description, domain, methodology, keywords, body, source, sha256, created_at, "
        "updated_at) VALUES ('1', '反证法', '', '', '', '', '', 'local', '', '', '')"
    )
    connection.commit()
    connection.close()
    async with Database.open(path) as database:
        store = TraceStore(database)
        for (_, _, identity), (_, _, searches) in zip(made, CASES, strict=True):
            for sought in searches:
                assert UUID(identity) in await ids(store, sought, eligible=True), sought
        assert await database.value("SELECT count(*) FROM templates_fts WHERE templates_fts MATCH '\"反证\"'") == 1
        assert await database.value("SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'") == 0


async def test_strokes_and_digits_of_other_scripts_do_not_matter_also_in_a_database_from_before(tmp_path: Path) -> None:
    texts = {
        "Thủ đô của Việt Nam là Hà Nội": "thu do",
        "Łódź": "lodz",
        "Øresund": "oresund",
        "Æon ǿ": "aeon o",
        "ปี ๒๕๖๖": "2566",
        "عام ٢٠٢٦": "2026",
        "১২ টি": "12",
    }
    path = tmp_path / "tmde.db"
    async with Database.open(path) as database:
        for place, text in enumerate(texts):
            await TraceStore(database).add(a_trace(text, place))
    with sqlite3.connect(path) as connection:  # what schema 9 had in its index
        connection.create_function("search_words", 1, lambda text: (text or "").lower(), deterministic=True)
        connection.create_function("search_marks", 6, lambda *_: "", deterministic=True)
        connection.execute("UPDATE traces SET query = query")
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    async with Database.open(path) as database:
        for place, sought in enumerate(texts.values()):
            (found,) = await ids(TraceStore(database), sought)
            trace = await TraceStore(database).get(found)
            assert trace is not None
            assert trace.query == list(texts)[place]


SPACED = {
    "москва": ["Москва", "МОСКВА"], "елка": ["ёлка", "Ёлка", "е\u0308лка"], "שלום": ["שָׁלוֹם", "שלום"],
    "العربية": ["العَرَبِيَّة", "العربية"], "αθηνα": ["Αθήνα", "ΑΘΉΝΑ"], "हिन्दी": ["हिन्दी"], "do": ["đô", "ĐÔ", "do\u0302"],
    "strasse": ["Straße", "STRASSE"], "x1": ["x₁", "X1"], "munchen": ["München", "Mu\u0308nchen", "ＭÜＮＣＨＥＮ"],
}  # fmt: skip
"""A word without marks, and the ways in which texts write it."""
UNSPACED = ["北京", "東京都", "京都", "กรุงเทพ", "มหานคร", "서울은", "울은", "カタカナ", "ခရီး"]


@st.composite
def texts_and_searches(draw: st.DrawFn) -> tuple[list[list[str]], list[str]]:
    words = st.sampled_from([*SPACED, *UNSPACED])
    return draw(st.lists(st.lists(words, min_size=1, max_size=6), min_size=1, max_size=6)), draw(
        st.lists(words, min_size=1, max_size=3)
    )


@settings(max_examples=25, deadline=None)
@given(case=texts_and_searches(), chance=st.randoms(use_true_random=False))
async def test_a_search_finds_what_a_scan_of_the_texts_finds(
    case: tuple[list[list[str]], list[str]], chance: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made, sought = case

    def written(word: str) -> str:
        return chance.choice(SPACED.get(word, [word]))

    def holds(text: list[str], word: str) -> bool:
        if word in SPACED:
            return word in text
        return any(word in run for run in " ".join(text).split())  # a part of a run without blanks

    async with Database.open(tmp_path_factory.mktemp("search") / "tmde.db") as database:
        store = TraceStore(database)
        traces = [
            a_trace(chance.choice([" ", ", ", "。", "\n"]).join(map(written, text)), place)
            for place, text in enumerate(made)
        ]
        for trace in traces:
            await store.add(trace)
        # The marker at the end keeps the last word from being a prefix.
        found = set(await ids(store, " ".join([*map(written, sought), "x"])))
        expected = {
            trace.id for trace, text in zip(traces, made, strict=True) if all(holds(text, word) for word in sought)
        }
        assert found == expected
