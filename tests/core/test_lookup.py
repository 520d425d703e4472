"""What an id means: whole, in part, or by a name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from tmde_core.errors import InvalidInputError, NotFoundError
from tmde_core.lookup import IdLookup
from tmde_core.records.benchmark import BenchmarkQuestion
from tmde_core.records.lora import LoRAAdapter
from tmde_core.storage.database import Database

A = UUID("abcd1234-0000-4000-8000-000000000001")
B = UUID("abcd1234-0000-4000-8000-000000000002")
C = UUID("ffff0000-0000-4000-8000-000000000003")
NAMES = {A: "30 Nov · times tables", B: "Best one", C: "best ONE"}


def adapter(identity: UUID) -> LoRAAdapter:
    return LoRAAdapter(
        id=identity, created_at=datetime(2026, 11, 30, tzinfo=UTC), base_model="m", is_active=False, tags=(), metrics={},
        traces_used=0, size_bytes=0, sha256="", path="", is_valid=True, invalid_reason=None, gate="candidate",
        name=NAMES[identity],
    )  # fmt: skip


def question(identity: str) -> BenchmarkQuestion:
    return BenchmarkQuestion(
        id=identity, domain="science", difficulty="easy", question="?", reference_answer="", scoring_rubric="",
        is_built_in=False, created_at=None, suite="custom",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own names."""
    monkeypatch.setitem(NAMES, A, NAMES[A])


@pytest.fixture
async def ids(tmp_path: Path) -> AsyncIterator[IdLookup]:
    async def adapters() -> list[LoRAAdapter]:
        return [adapter(one) for one in (A, B, C)]

    async def questions() -> list[BenchmarkQuestion]:
        return [question(one) for one in ("math-01", "math-010", "own-1a2b3c4d", "own-1a2bffff", str(C))]

    async with Database.open(tmp_path / "tmde.db") as database:
        for number, one in enumerate((A, B, C)):
            await database.write(
                "INSERT INTO finetune_runs (id, started_at, status, config, triggered_by, name) "
                "VALUES (?, '2026-01-01T00:00:00.000Z', 'failed', '{}', 'manual', ?)",
                (str(one), NAMES[one]),
            )
            await database.write(
                "INSERT INTO traces (seq, id, created_at, query, final_answer, source, details) VALUES (?, ?, '', '', '', '', '')",
                (number, str(one)),
            )
        yield IdLookup(database, adapters, questions)


@pytest.mark.parametrize("kind", ["run", "adapter", "trace"])
async def test_the_beginning_of_an_id_that_only_one_thing_has_is_enough(ids, kind):
    find = getattr(ids, kind)
    for text in ("ffff", "FFFF", "ffff0000", "ffff0000-0000", "ffff00000000", "ffff0000-", str(C), C.hex, " ffff\n"):
        assert await find(text) == C
    for text in (str(C).upper(), C.hex.upper(), f" {C} "):
        assert await find(text) == C
    assert await find(f"{A.hex}") == A


@pytest.mark.parametrize("kind", ["run", "adapter", "trace"])
async def test_a_beginning_that_several_things_have_is_answered_with_all_of_them(ids, kind):
    with pytest.raises(NotFoundError, match=r"Several .* begin with 'abcd'") as refused:
        await getattr(ids, kind)("abcd")
    assert str(A) in refused.value.detail
    assert str(B) in refused.value.detail


@pytest.mark.parametrize("kind", ["run", "adapter", "trace", "template", "debate", "benchmark", "notification"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "f",
        "fff",
        "nope",
        "0123",
        "ffff-0000",
        "ffff0000-00-00",
        "%",
        "ffff%",
        "ffff*",
        "' OR 1=1",
        "g" * 36,
        "f" * 40,
    ],
)
async def test_what_is_no_beginning_of_an_id_is_not_found(ids, kind, text):
    with pytest.raises(NotFoundError):
        await getattr(ids, kind)(text)


async def test_a_whole_id_is_taken_as_it_is_even_if_nothing_has_it(ids):
    unknown = UUID("01234567-0000-4000-8000-000000000000")
    assert await ids.trace(str(unknown)) == unknown  # whoever asks for the trace says that there is none


@pytest.mark.parametrize("kind", ["run", "adapter"])
async def test_a_name_is_enough_in_commands_where_only_one_thing_has_it(ids, kind):
    find = getattr(ids, kind)
    assert await find("30 nov · Times Tables", named=True) == A
    with pytest.raises(NotFoundError, match=r"Several .* are called 'best one'"):
        await find("best one", named=True)
    with pytest.raises(NotFoundError):
        await find("30 Nov · times tables")  # over HTTP, names are no ids


@pytest.mark.parametrize("kind", ["run", "adapter"])
async def test_a_name_that_looks_like_an_id_of_something_else_is_never_taken_for_it(ids, kind):
    find = getattr(ids, kind)
    await rename(ids, A, "FFFF")
    with pytest.raises(NotFoundError, match=r"'ffff' is a name and the beginning of another .*'s id") as refused:
        await find("ffff", named=True)
    assert f"{A} (FFFF)" in refused.value.detail
    assert str(C) in refused.value.detail
    assert await find("ffff0", named=True) == C
    await rename(ids, A, str(C))
    assert await find(str(C), named=True) == C  # a whole id means what has it
    await rename(ids, A, "01234567-0000-4000-8000-000000000000")
    assert await find("01234567-0000-4000-8000-000000000000", named=True) == A
    await rename(ids, A, A.hex[:4])
    with pytest.raises(NotFoundError):
        await find(A.hex[:4], named=True)  # B begins so, too
    await rename(ids, A, "Mu\u0308nchen ")
    assert await find(" M\u00fcnchen", named=True) == A


async def rename(ids, identity: UUID, name: str) -> None:
    NAMES[identity] = name
    await ids._database.write("UPDATE finetune_runs SET name = ? WHERE id = ?", (name, str(identity)))


async def test_too_few_digits_and_unknown_names_are_told_in_other_words(ids):
    with pytest.raises(NotFoundError, match="'ff' is too short to be part of an id of a trace"):
        await ids.trace("ff")
    with pytest.raises(NotFoundError, match="There is no adapter with the id or name 'nope'"):
        await ids.adapter("nope", named=True)


async def test_a_question_is_found_by_its_beginning_and_a_whole_id_goes_first(ids):
    assert await ids.question("math-01") == "math-01"
    assert await ids.question("own-1a2bf") == "own-1a2bffff"
    assert await ids.question(" OWN-1A2BF ") == "own-1a2bffff"
    assert await ids.question("MATH-01") == "math-01"
    for text in (str(C).upper(), C.hex, C.hex[:12], "FFFF0000-0000"):
        assert await ids.question(text) == str(C)
    with pytest.raises(NotFoundError, match="Several questions begin"):
        await ids.question("own-1a2b")
    with pytest.raises(InvalidInputError, match="questionIds: there is no question called 'nope'"):
        await ids.list_questions(["math-01", "nope"])
