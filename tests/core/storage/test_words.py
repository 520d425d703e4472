"""How texts and search texts are prepared for the full-text index."""

from __future__ import annotations

import sqlite3
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmde_core.storage.words import is_blank, search_terms, search_words


def index(*texts: str) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute(
        "CREATE VIRTUAL TABLE t USING fts5 (words, "
        "tokenize = \"porter unicode61 remove_diacritics 0 categories 'L* M* N* Co'\")"
    )
    connection.executemany("INSERT INTO t VALUES (?)", [(search_words(text),) for text in texts])
    return connection


def found(text: str, sought: str) -> bool:
    query = " AND ".join(term.quoted() for term in search_terms(sought))
    connection = index(text)
    try:
        return bool(query) and bool(
            connection.execute("SELECT count(*) FROM t WHERE t MATCH ?", (query,)).fetchone()[0]
        )
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("text", "sought"),
    [
        ("中国的首都是哪里？", "首都"),
        ("中国的首都是北京。", "北京"),
        ("中国的首都是北京。", "京"),
        ("中國的首都是北京。", "首都是北京"),
        ("日本の首都はどこですか？", "首都"),
        ("東京です。", "東京"),
        ("ｶﾞｰﾄﾞﾚｰﾙ", "ガード"),
        ("ガードレール", unicodedata.normalize("NFD", "ガード")),
        ("人々の 𠮷野家", "𠮷野"),
        ("กรุงเทพมหานคร", "กรุงเทพ"),
        ("เมืองหลวงของประเทศไทยคืออะไร", "ประเทศไทย"),
        ("ປະເທດລາວ", "ລາວ"),
        ("ប្រទេសកម្ពុជា", "កម្ពុជា"),
        ("မြန်မာနိုင်ငံ", "နိုင်ငံ"),
        ("대한민국의 수도는 서울입니다.", "서울"),
        ("서울", unicodedata.normalize("NFD", "서울")),
        ("Wo liegt Mu\u0308nchen?", "München"),
        ("Wo liegt München?", "Mu\u0308nchen"),
        ("Wo liegt MÜNCHEN?", "munchen"),
        ("Où est l'école d'Élise?", "élise"),
        ("Où est l'école d'E\u0301lise?", "ecole Elise"),
        ("Straße", "STRASSE"),
        ("Việt Nam", "Viet Nam"),
        ("Ὀδυσσεύς", "οδυσσευς"),
        ("ما هي عاصِمة فرنسا؟", "عاصمة"),
        ("שָׁלוֹם", "שלום"),
        ("Кто написал «Войну и мир»?", "войну"),
        ("Новогодняя ёлка", "елка"),
        ("हिन्दी भाषा", "हिन्दी"),
        ("தமிழ் மொழி", "தமிழ்"),
        ("COVID-19 in 3.5% of C++ users", "COVID-19 3.5% C++"),
        ("\u001b[31mred\u001b[0m \u202eevil\u202c query", "red evil"),
        ("co\u00adoperate", "cooperate"),
        ("ｉＰｈｏｎｅ手机 at ＮＡＳＡ", "iphone 手机 nasa"),
        ("iPhone的首都", "iPhone首都"),
        ("the ﬁrst ﬂoor", "first floor"),
        ("foo_bar(baz)", "foo_bar"),
    ],
)
def test_a_text_is_found_in_every_form_and_script(text: str, sought: str) -> None:
    assert found(text, sought)


@pytest.mark.parametrize(
    ("text", "sought"),
    [
        ("中国的首都是北京。", "东京"),
        ("北方和京城", "北京"),
        ("中国的首都是北京。", "首北"),
        ("京北", "北京"),
        ("東京です。", "京で東"),
        ("мир", "мйр"),
        ("กรุงเทพมหานคร", "เชียงใหม่"),
        ("は", "ば"),
    ],
)
def test_what_does_not_occur_is_not_found(text: str, sought: str) -> None:
    assert not found(text, sought)


SCRIPTS = 'abcÄö é中国北京東のガ한글กรุงเЖйё ابجـِहिन्2_-"*.\u0308\u0301\u3099\u200b\u00ad\ue000'


@settings(max_examples=200, deadline=None)
@given(
    before=st.text(SCRIPTS, max_size=8),
    text=st.text(SCRIPTS, min_size=1, max_size=12),
    after=st.text(SCRIPTS, max_size=8),
)
def test_a_text_is_found_by_itself_in_both_normal_forms(before: str, text: str, after: str) -> None:
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        sought = unicodedata.normalize(form, text)
        if search_terms(sought):
            assert found(f"{before} {text} {after}", sought)


@given(st.text(max_size=40))
def test_no_text_can_name_a_mark_of_the_index(text: str) -> None:
    assert "\ue000" not in search_words(text)
    assert all("\ue000" not in token for term in search_terms(text) for token in term.tokens)


def test_a_very_long_run_is_cut_to_what_a_search_can_use() -> None:
    [term] = search_terms("京" * 5_000)
    assert len(term.tokens) < 100
    assert found("京" * 6_000, "京" * 5_000)


@pytest.mark.parametrize(
    "text", ["", " \t\n", "\u3000\u2003", "\u200b\u2060\ufeff", "\u00ad", "\u3164", "\u2800", "\ufe0f"]
)
def test_text_of_which_nothing_can_be_seen_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["x", "?", "\u0301", "日", "😀", "\u200bx", "\ue000"])
def test_text_with_anything_to_see_is_not_blank(text: str) -> None:
    assert not is_blank(text)
