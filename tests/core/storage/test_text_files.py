"""The text files that people bring: encodings, byte order marks and line ends."""

from __future__ import annotations

import asyncio
import codecs
import io
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.errors import FileMissingError, InvalidInputError
from tmde_core.storage.text_files import (
    decode_text,
    iterate_lines,
    read_text_file,
    split_file_lines,
    split_lines,
    split_text_lines,
)

TEXT = "Wie heißt „Paris“ auf 中文?\nzwei\u2028drei\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        codecs.BOM_UTF8 * 2 + TEXT.encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    ],
)
def test_the_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, content: bytes):
    (tmp_path / "file").write_bytes(content)
    assert read_text_file(tmp_path / "file") == TEXT
    assert [line.decode() for line in split_file_lines(io.BytesIO(content))] == split_text_lines(TEXT)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "ok\nGrüße".encode("latin-1"),
            "F is not UTF-8 text: byte 6 belongs to no character (line 2). Save the file as",
        ),
        ("Grüße".encode("utf-16-le"), "it looks like UTF-16 without a byte order mark"),
        ("Grüße".encode("utf-16-be"), "it looks like UTF-16 without a byte order mark"),
        ("Grüße".encode("utf-32"), "F is UTF-32"),
        (b"one\r\ntwo\rthr\0ee", "F is not a text file: line 3 holds a NUL character"),
        (codecs.BOM_UTF16_LE + b"a", "F is not UTF-16 text: byte 3"),
        (b"\xff\x00\xfe", "F is not UTF-8 text: byte 1"),
    ],
)
def test_other_files_are_refused_in_one_sentence_that_says_where(content: bytes, says: str):
    with pytest.raises(InvalidInputError) as caught:
        decode_text(content, "F")
    assert says in caught.value.detail


def test_what_cannot_be_read_is_told_apart(tmp_path: Path):
    with pytest.raises(FileMissingError, match="There is no file"):
        read_text_file(tmp_path / "none")
    with pytest.raises(InvalidInputError, match="cannot be read: Is a directory"):
        read_text_file(tmp_path)
    with pytest.raises(InvalidInputError, match="larger than 1,000 bytes"):
        read_text_file(Path("/dev/zero"), limit=1000)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_text_file(Path("a\0b"))


def test_lines_end_with_lf_crlf_or_cr_and_with_nothing_else():
    assert split_text_lines("a\nb\r\nc\rd\u2028e\x0bf\x85g\n\n") == ["a", "b", "c", "d\u2028e\x0bf\x85g", ""]
    assert list(iterate_lines("a\r\n\r\n \ufeffb\n\n")) == [(1, "a"), (3, "b")]
    assert list(iterate_lines("a\n\ufeffb")) == [(1, "a"), (2, "b")]
    assert split_text_lines("") == []


@given(
    data=st.text(st.sampled_from("ab\r\n中\u2028😀")).map(str.encode) | st.binary(max_size=200),
    cuts=st.lists(st.integers(0, 300), max_size=8),
)
def test_lines_do_not_depend_on_where_a_stream_is_cut(data: bytes, cuts: list[int]):
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})

    async def chunks():
        for start, end in itertools.pairwise(places):
            yield data[start:end]

    async def streamed() -> list[bytes]:
        return [line async for line in split_lines(chunks(), limit=50)]

    def outcome(lines):
        try:
            return lines()
        except InvalidInputError as error:
            return error.detail

    whole = outcome(lambda: list(split_file_lines(io.BytesIO(data), limit=50)))
    assert outcome(lambda: asyncio.run(streamed())) == whole


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")),
    st.sampled_from(["utf-8-sig", "utf-16"]),
)
def test_a_stream_has_the_lines_of_the_text(text: str, encoding: str):
    lines = [line.decode() for line in split_file_lines(io.BytesIO(text.encode(encoding)))]
    assert lines == split_text_lines(text)
    assert decode_text(text.encode(encoding)) == text


@given(st.binary(max_size=200))
def test_any_bytes_are_text_or_refused(data: bytes):
    try:
        text = decode_text(data)
    except InvalidInputError:
        return
    assert "\0" not in text


def test_a_half_character_spoils_only_its_own_line():
    content = codecs.BOM_UTF16_LE + "good\n\ud800\nalso good\n".encode("utf-16-le", "surrogatepass") + b"x"
    lines = list(split_file_lines(io.BytesIO(content)))
    assert lines[0] == b"good"
    assert [_is_text(line) for line in lines] == [True, False, True, False]


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
