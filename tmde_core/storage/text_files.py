"""Reads the text files that people bring: questions, traces, settings and templates.

Every reader of such a file uses this module, so all of them take the same encodings: UTF-8, and UTF-16 with the byte
order mark that Windows programs write. A byte order mark is never part of the text. Other encodings and binary files
are refused in one sentence, because guessing an encoding would garble letters without a word.

A line ends with LF, CR LF or CR. The line separator U+2028 is no line end, because JSON allows it inside a string.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from tmde_core.errors import FileMissingError, InvalidInputError

MAX_TEXT_BYTES = 64 * 1024 * 1024
"""The largest file that is read into memory. No real file of questions or settings is larger."""

MAX_LINE_BYTES = 1_000_000
"""The longest line of a stream. A debate of ten long rounds takes a tenth of this size."""

BLOCK_BYTES = 256 * 1024
"""Bytes that are read from a file at once."""

BYTE_ORDER_MARK = "\ufeff"
_SAVE = "Save the file as UTF-8 text and try again."
_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_SNIFFED = 4
"""So many bytes at the begin of a file show its encoding."""
_LINE_END = re.compile(r"\r\n|\n|\r")


def read_text_file(path: Path, limit: int = MAX_TEXT_BYTES, advice: str = "Split it into several files.") -> str:
    """Return the text of a file, without its byte order mark.

    Args:
        limit: The largest size that is read, bytes.
        advice: What to do with a file that is too large.

    Raises:
        FileMissingError: The file does not exist.
        InvalidInputError: The file cannot be read, is too large, or is not text in UTF-8 or UTF-16.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise FileMissingError(f"There is no file {path}. Check the path.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInputError(f"{path} cannot be read: {reason}.") from None
    if len(content) > limit:
        size = f"{limit // 2**20} MiB" if limit >= 2**20 else f"{limit:,} bytes"
        raise InvalidInputError(f"{path} is larger than {size}. {advice}")
    return decode_text(content, str(path))


def decode_text(content: bytes, source: str = "The file") -> str:
    """Return the text of a file's content, without its byte order mark. The line ends stay as they are.

    Args:
        source: The name of the file, for the error.

    Raises:
        InvalidInputError: The content is not text in UTF-8, or in UTF-16 with a byte order mark.
    """
    if content.startswith(_UTF_32):
        raise InvalidInputError(f"{source} is UTF-32, which is not read. {_SAVE}")
    encoding = _UTF_16.get(content[:2], "utf-8")
    if encoding == "utf-8" and _is_unmarked_utf_16(content):
        raise InvalidInputError(f"{source} is not UTF-8 text: {_unmarked()}")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(encoding, "replace")
        name = "UTF-8" if encoding == "utf-8" else "UTF-16"
        raise InvalidInputError(
            f"{source} is not {name} text: byte {error.start + 1} belongs to no character (line {_line(before)}). {_SAVE}"
        ) from None
    if (nul := text.find("\0")) >= 0:
        raise InvalidInputError(
            f"{source} is not a text file: line {_line(text[:nul])} holds a NUL character. Check that it is the right "
            "file, or save it as UTF-8 text."
        )
    return text.lstrip(BYTE_ORDER_MARK)


def split_text_lines(text: str) -> list[str]:
    """Return the lines of a text without their ends. A line end at the end of the text begins no further line."""
    lines = _LINE_END.split(text)
    if not lines[-1]:
        lines.pop()
    return lines


def iterate_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is not blank.

    A byte order mark at the begin of a line is passed over: joining two files leaves one in the middle.
    """
    for number, line in enumerate(split_text_lines(text), 1):
        if plain := line.strip().lstrip(BYTE_ORDER_MARK).strip():
            yield number, plain


async def split_lines(chunks: AsyncIterable[bytes], limit: int = MAX_LINE_BYTES) -> AsyncIterator[bytes]:
    """Split a stream of bytes into lines of UTF-8, whatever its size.

    A line longer than `limit` is cut just above the limit, so that the reader recognises the line as too long. Bytes
    that are not UTF-8 stay in their line, so that the reader can report that line.

    Raises:
        InvalidInputError: The stream begins as UTF-32, or as UTF-16 without a byte order mark.
    """
    splitter = _LineSplitter(limit)
    async for chunk in chunks:
        for line in splitter.feed(chunk):
            yield line
    for line in splitter.end():
        yield line


def split_file_lines(file: BinaryIO, limit: int = MAX_LINE_BYTES) -> Iterator[bytes]:
    """Split an open file into lines of UTF-8, as `split_lines` does.

    Raises:
        InvalidInputError: as `split_lines`.
    """
    return _split_blocks(iter(lambda: file.read(BLOCK_BYTES), b""), limit)


def _split_blocks(blocks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    splitter = _LineSplitter(limit)
    for block in blocks:
        yield from splitter.feed(block)
    yield from splitter.end()


class _LineSplitter:
    """Turns blocks of bytes into lines of UTF-8."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._head: bytes | None = b""
        """The first bytes, until there are enough to recognise the encoding. None: the encoding is known."""
        self._decoder: codecs.IncrementalDecoder | None = None
        self._held = b""
        """A CR at the end of the last block. The next block may begin with its LF."""
        self._rest = b""
        self._dropping = False

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield the lines that this block completes."""
        if self._head is not None:
            self._head += block
            if len(self._head) < _SNIFFED:
                return
            block = self._recognised()
        yield from self._lines(self._as_utf_8(block))

    def end(self) -> Iterator[bytes]:
        """Yield the last lines of the stream."""
        block = b"" if self._head is None else self._recognised()
        yield from self._lines(self._as_utf_8(block, final=True), final=True)
        if self._rest and not self._dropping:
            yield self._rest

    def _recognised(self) -> bytes:
        """Find the encoding from the first bytes, and return these bytes without the byte order mark."""
        head, self._head = self._head or b"", None
        if head.startswith(_UTF_32):
            raise InvalidInputError(f"The file is UTF-32, which is not read. {_SAVE}")
        if encoding := _UTF_16.get(head[:2]):
            # A half character stays in its line, where UTF-8 has no place for it; the reader then reports that line.
            self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
            return head[2:]
        if _is_unmarked_utf_16(head):
            raise InvalidInputError(f"The file is not UTF-8 text: {_unmarked()}")
        while head.startswith(codecs.BOM_UTF8):
            head = head.removeprefix(codecs.BOM_UTF8)
        return head

    def _as_utf_8(self, block: bytes, *, final: bool = False) -> bytes:
        if self._decoder is None:
            return block
        try:
            return self._decoder.decode(block, final).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # the stream ends within a character
            return b"\xff"

    def _lines(self, block: bytes, *, final: bool = False) -> Iterator[bytes]:
        block, self._held = self._held + block, b""
        if block.endswith(b"\r") and not final:
            block, self._held = block[:-1], b"\r"
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            if not self._dropping:
                yield line[: self._limit + 1]
            self._dropping = False
        if self._dropping:
            self._rest = b""
        elif len(self._rest) > self._limit:
            yield self._rest[: self._limit + 1]
            self._rest, self._dropping = b"", True


def _is_unmarked_utf_16(content: bytes) -> bool:
    """Return whether the text begins with two ASCII characters in UTF-16."""
    first, second, third, fourth = content[:_SNIFFED] if len(content) >= _SNIFFED else b"text"
    return bool((first and third and not second and not fourth) or (second and fourth and not first and not third))


def _unmarked() -> str:
    return f"it looks like UTF-16 without a byte order mark. {_SAVE}"


def _line(before: str) -> int:
    return len(_LINE_END.findall(before)) + 1
