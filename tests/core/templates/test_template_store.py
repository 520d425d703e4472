"""Templates in SQLite: seeded once, found by what they are for, safe from what is typed."""

import unicodedata
from pathlib import Path
from uuid import uuid4, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.errors import NotFoundError
from tmde_core.storage.database import Database
from tmde_core.templates.front_matter import parse_template
from tmde_core.templates.store import STARTER_NAMESPACE, TemplateStore, build_match_expression, starter_directory

STARTERS = starter_directory()


@pytest.fixture
async def store(tmp_path):
    async with Database.open(tmp_path / "tmde.db") as database:
        opened = TemplateStore(database)
        await opened.seed()
        yield opened


async def test_at_least_fourteen_starters_with_stable_ids(store):
    templates = await store.list()
    assert len(templates) >= 14
    assert all(one.id == uuid5(STARTER_NAMESPACE, one.name) for one in templates)
    assert all(one.source == "starter" for one in templates)
    assert await store.get(templates[0].id) == templates[0]


@pytest.mark.parametrize("path", sorted(STARTERS.glob("*.md")) if STARTERS else [], ids=lambda path: path.stem)
def test_each_starter_is_short_and_has_steps_an_example_and_checks(path):
    body = parse_template(path.read_bytes()).body
    assert 120 <= len(body.split()) <= 250
    assert all(part in body for part in ("Steps:", "Example:", "Checks:"))


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("Prove that the square root of 2 is irrational.", "Proof by contradiction"),
        ("How many minutes are in 3 hours?", "Dimensional analysis and unit conversion"),
        ("My program crashes with a segmentation fault", "Debugging by bisection"),
        ("Write a poem about the sea", "Creative constraints"),
        ("Explain photosynthesis to a child", "Explanation for a beginner"),
        ("What is 15 percent of 80?", "Careful arithmetic"),
        ("Which number is larger, 45 or 54?", "Case analysis"),
        ("Train or plane: which is the better choice, compared by cost?", "Comparison and decision matrix"),
    ],
)
async def test_a_question_finds_the_method_that_fits(store, question, name):
    found = await store.search(question, 3)
    assert found[0].template.name == name
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


@pytest.mark.parametrize("question", ["What is the capital of France?", "Who wrote Hamlet?", "?!", "42", ""])
async def test_a_question_without_a_telling_word_finds_nothing(store, question):
    assert await store.search(question, 3) == []


async def test_limits_are_kept(store):
    assert len(await store.search("compare an estimate, a proof and a plan", 2)) == 2
    assert await store.search("compare", 0) == []


@given(query=st.text(max_size=200) | st.text(alphabet='"*():^-+{}ANDORNEAR name', max_size=60))
def test_nothing_but_quoted_words_reaches_the_search_syntax(query):
    expression = build_match_expression(query)
    if expression:
        words = expression.split(" AND (", 1)[1].removesuffix(")")
        assert all(word[0] == word[-1] == '"' for word in words.split(" OR "))
        # Planes of Chinese characters also hold code points that no version of Unicode has assigned yet.
        assert all(
            unicodedata.category(one)[0] in "LMN" or unicodedata.category(one) == "Cn"
            for word in words.split(" OR ")
            for one in word[1:-1]
        )


@pytest.mark.parametrize(
    "query",
    [
        'compare" OR name:*',
        "NEAR(compare estimate)",
        "compare AND NOT estimate",
        "name : compare",
        '"""',
        "compare*",
        "{",
        "ﬁ ½ ² 𝟜 compare",
    ],
)
async def test_search_syntax_in_a_question_is_harmless(store, query):
    await store.search(query, 3)


def template_file(name: str, body: str = "Steps:\n\n1. Go.\n") -> str:
    return (
        f"---\nname: {name}\ndescription: d\ndomain: general\nmethodology: m\nkeywords: [zebra crossing]\n---\n{body}"
    )


async def test_seeding_again_changes_nothing_and_a_changed_file_updates_its_row(tmp_path):
    directory = tmp_path / "starters"
    directory.mkdir()
    file = directory / "one.md"
    file.write_text(template_file("One"))
    (directory / "broken.md").write_text("nonsense")
    async with Database.open(tmp_path / "tmde.db") as database:
        store = TemplateStore(database, directory)
        await store.seed()
        (first,) = await store.list()
        await store.seed()
        assert await store.list() == [first]
        file.write_text(template_file("One", "Steps:\n\n1. Run.\n"))
        await store.seed()
        (changed,) = await store.list()
        assert changed.id == first.id
        assert "Run." in changed.body
        assert changed.keywords == ("zebra crossing",)
        assert [hit.template.name for hit in await store.search("a zebra", 3)] == ["One"]


async def test_without_starter_files_there_are_no_templates(tmp_path):
    async with Database.open(tmp_path / "tmde.db") as database:
        store = TemplateStore(database, Path(tmp_path / "nowhere"))
        await store.seed()
        assert await store.list() == []


async def test_an_unknown_template_is_not_found(store):
    with pytest.raises(NotFoundError):
        await store.get(uuid4())


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("反证法", "请用反证法证明根号二是无理数"),
        ("背理法による証明", "√2が無理数であることを背理法で示せ"),
        ("귀류법", "귀류법으로 증명하라"),
        ("การพิสูจน์โดยข้อขัดแย้ง", "ช่วยเขียนการพิสูจน์ให้หน่อย"),
        ("Démonstration par l’absurde", "Une demonstration par l'absurde, s'il vous plai\u0302t"),
        ("Widerspruchsbeweis für Anfänger", "Wie geht das fu\u0308r Anfa\u0308nger?"),
    ],
)
async def test_a_template_in_any_script_is_found_by_a_question_in_it(tmp_path, name, question):
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "one.md").write_text(template_file(name), encoding="utf-8")
    (folder / "two.md").write_text(template_file("Something else"), encoding="utf-8")
    async with Database.open(tmp_path / "tmde.db") as database:
        store = TemplateStore(database, folder)
        await store.seed()
        assert [hit.template.name for hit in await store.search(question, 3)] == [name]
        (folder / "one.md").write_text(template_file("Renamed"), encoding="utf-8")
        await store.seed()
        await database.write("DELETE FROM templates WHERE name = ?", (name,))
        assert await store.search(question, 3) == []
