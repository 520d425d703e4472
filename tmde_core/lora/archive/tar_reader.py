"""Reads a gzipped tar archive that may be malicious. This module writes no files.

The standard library's reader accepts everything that an archive can contain: names and sizes from extra headers, links,
sparse files, several archives in one file. This reader accepts only plain files and folders, named by their own header.
Every other kind of member is a reason to reject the archive. The reader continues after a reason if it can, so that all
reasons are found at once.

The format: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Literal

from tmde_core.errors import InvalidInputError, TooLargeError
from tmde_core.lora.archive.layout import MAX_ARCHIVE_BYTES
from tmde_core.records.base import Record

GZIP_MAGIC = b"\x1f\x8b"
BLOCK = 512
PIECE = 256 * 1024

MAX_INFLATED_BYTES = MAX_ARCHIVE_BYTES
"""The largest size of the unpacked archive."""
MAX_INFLATION = 100
"""The largest ratio of unpacked to packed size. Weights shrink to about nine tenths, text to one tenth."""
FREE_INFLATION_BYTES = 8 * 1024 * 1024
"""The ratio is not checked below this unpacked size."""
MAX_MEMBERS = 64
MAX_PAX_BYTES = 64 * 1024
MAX_NAME = 255
MAX_REASONS = 50
"""Further reasons are dropped."""

_HARMLESS_PAX = re.compile(
    r"mtime|atime|ctime|uid|gid|uname|gname|comment|LIBARCHIVE\.\S+|SCHILY\.(?!realsize)\S+|APPLE\.\S+"
)
"""Keys of extra headers that change neither the name nor the size nor the kind of a member."""

_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"7": "a contiguous file",
    b"K": "a long link name",
    b"L": "a long name",
    b"M": "a piece of a file of another volume",
    b"S": "a sparse file",
    b"V": "a volume label",
}
_WITHOUT_CONTENT = frozenset({b"1", b"2", b"3", b"4", b"6"})
_UNWALKABLE = frozenset({b"S", b"M"})
"""Kinds of members after which the position of the next member is unknown."""


class DamagedArchiveError(Exception):
    """The archive cannot be read any further; the message gives the reason, as a sentence."""


class Member(Record, frozen=True):
    """One member of the archive: a plain file or a folder."""

    name: str
    """The path, without a leading `./` and without a trailing slash."""
    kind: Literal["file", "folder"]
    size: int


class Inflated:
    """Decompresses a file that consists of exactly one gzip stream, within the size limits."""

    def __init__(self, file: IO[bytes], stopped: Callable[[], bool]) -> None:
        self._file = file
        self._stopped = stopped
        self._inflater = zlib.decompressobj(wbits=31)
        self._packed = file.read(PIECE)
        if not self._packed.startswith(GZIP_MAGIC):
            raise _no_archive()
        self._ready = bytearray()
        self._read = len(self._packed)
        self._inflated = 0

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes, or fewer at the end of the stream."""
        while len(self._ready) < count and not self._inflater.eof:
            if self._stopped():
                raise DamagedArchiveError("The import was interrupted.")
            self._more()
        block = bytes(self._ready[:count])
        del self._ready[:count]
        return block

    def must_end(self) -> None:
        """Check that only zeros follow, and then the end of the gzip stream and of the file."""
        while block := self.take(PIECE):
            if block.strip(b"\0"):
                raise DamagedArchiveError("Something follows the end of the archive.")
        if self._inflater.unused_data or self._packed or self._file.read(1):
            raise DamagedArchiveError("Something follows the end of the gzip stream.")

    def _more(self) -> None:
        if not self._packed:
            self._packed = self._file.read(PIECE)
            self._read += len(self._packed)
            if not self._packed:
                raise DamagedArchiveError("The archive is cut short: the gzip stream has no end.")
        try:
            block = self._inflater.decompress(self._packed, PIECE)
        except zlib.error as error:
            raise DamagedArchiveError(f"The archive is damaged: {error}.") from None
        self._packed = self._inflater.unconsumed_tail
        self._inflated += len(block)
        if self._inflated > MAX_INFLATED_BYTES:
            raise TooLargeError(
                f"The archive holds more than {MAX_INFLATED_BYTES // 1024**3} GiB, which no adapter has.",
                limit=MAX_INFLATED_BYTES,
            )
        if self._inflated > FREE_INFLATION_BYTES and self._inflated > MAX_INFLATION * (self._read - len(self._packed)):
            raise DamagedArchiveError(
                f"The archive is a bomb: it inflates to more than {MAX_INFLATION} times its size."
            )
        self._ready += block


class TarReader:
    """Reads the members of an archive, and collects in `reasons` what is wrong with them."""

    def __init__(self, file: IO[bytes], stopped: Callable[[], bool] = lambda: False) -> None:
        self.reasons: list[str] = []
        self.deeper: list[str] = []
        """Names of the members that lie deeper than one folder and were skipped."""
        self._source = Inflated(file, stopped)
        self._left = 0
        """Unread bytes of the current member."""
        self._padding = 0
        self._seen: set[str] = set()
        self._headers = 0

    def refuse(self, reason: str) -> None:
        """Add a reason to reject the archive."""
        if len(self.reasons) < MAX_REASONS:
            self.reasons.append(reason)

    def members(self) -> Iterator[Member]:
        """Yield the valid members, one after the other.

        Raises:
            InvalidInputError: the file is not a gzipped tar archive.
            DamagedArchiveError: the archive cannot be read any further; `reasons` remains valid.
            TooLargeError: the unpacked archive is larger than an adapter may be.
        """
        while (header := self._header()) is not None:
            member = self._member(header)
            if member is not None:
                yield member
        self._source.must_end()

    def content(self) -> Iterator[bytes]:
        """Yield the content of the current member, in pieces."""
        while self._left:
            block = self._source.take(min(PIECE, self._left))
            if not block:
                raise DamagedArchiveError("The archive is cut short within a file.")
            self._left -= len(block)
            yield block

    def _header(self) -> bytes | None:
        """Return the next header, or None at the end of the archive."""
        for _ in self.content():
            pass
        if len(self._source.take(self._padding)) < self._padding:
            raise DamagedArchiveError("The archive is cut short within a file.")
        self._padding = 0
        header = self._source.take(BLOCK)
        if self._headers and header == bytes(BLOCK) == self._source.take(BLOCK):
            return None
        if len(header) < BLOCK and self._headers:
            raise DamagedArchiveError("The archive is cut short: its end is missing.")
        if not _is_header(header):
            if not self._headers:
                raise _no_archive()
            raise DamagedArchiveError("The archive is damaged: there is no member where one should begin.")
        self._headers += 1
        if self._headers > 2 * MAX_MEMBERS:
            raise DamagedArchiveError(
                f"The archive has more than {MAX_MEMBERS} members; an adapter has fewer than ten."
            )
        return header

    def _member(self, header: bytes) -> Member | None:
        raw = header[345:500].rstrip(b"\0").split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
        name = (raw + b"/" if raw else b"") + header[:100].split(b"\0")[0]
        flag = header[156:157].replace(b"\0", b"0")
        size = _octal(header[124:136])
        shown = repr(name[:80].decode("utf-8", "replace"))
        if size is None:
            raise DamagedArchiveError(f"{shown} has no size that can be read, or one of more than 8 GB.")
        if flag in _UNWALKABLE:
            raise DamagedArchiveError(f"{shown} is {_KINDS[flag]}; an adapter has plain files only.")
        if flag in _WITHOUT_CONTENT:
            size = 0
        self._left, self._padding = size, -size % BLOCK
        if flag in (b"x", b"g"):
            self._pax(size)
            return None
        if flag not in (b"0", b"5"):
            kind = _KINDS.get(flag, f"of an unknown kind ({flag!r})")
            self.refuse(f"{shown} is {kind}; an adapter has plain files only.")
            return None
        cleaned = self._name(name, flag == b"0")
        if cleaned is None:
            return None
        if flag == b"5" and size:
            self.refuse(f"{shown} is a folder with a content.")
            return None
        if not cleaned:
            return None
        if cleaned.casefold() in self._seen:
            self.refuse(f"{shown} is there twice.")
            return None
        self._seen.add(cleaned.casefold())
        if len(self._seen) > MAX_MEMBERS:
            raise DamagedArchiveError(
                f"The archive has more than {MAX_MEMBERS} members; an adapter has fewer than ten."
            )
        return Member(name=cleaned, kind="folder" if flag == b"5" else "file", size=size)

    def _name(self, raw: bytes, is_file: bool) -> str | None:
        """Return the cleaned path of a member: "" is the root folder, None is a rejected name."""
        shown = repr(raw[:80].decode("utf-8", "replace"))
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            self.refuse(f"The name {shown} is no UTF-8.")
            return None
        name = name.removeprefix("./").rstrip("/") if not name.startswith("/") else name
        parts = name.split("/")
        if name.startswith("/") or re.match(r"[A-Za-z]:", name):
            self.refuse(f"The name {shown} is absolute.")
        elif ".." in parts:
            self.refuse(f"The name {shown} leads out of the archive.")
        elif not name.isprintable() or "\\" in name or len(raw) > MAX_NAME or (is_file and raw.endswith(b"/")):
            self.refuse(f"The name {shown} is no plain file name.")
        elif name not in ("", ".") and any(part in ("", ".") for part in parts):
            self.refuse(f"The name {shown} is no plain path.")
        elif len(parts) > 2:
            self.deeper.append(name)
        else:
            return "" if name == "." else name
        return None

    def _pax(self, size: int) -> None:
        """Read an extra header; ignore harmless keys, and add a reason for all other keys."""
        if size > MAX_PAX_BYTES:
            self.refuse(f"An extra header has {size:,} bytes.")
            return
        content = b"".join(self.content())
        while content:
            length, _, _ = content.partition(b" ")
            if not re.fullmatch(rb"[0-9]{1,6}", length) or not len(length) < int(length) <= len(content):
                self.refuse("An extra header is damaged.")
                return
            record, content = content[: int(length)], content[int(length) :]
            key, equals, _ = record[len(length) + 1 :].partition(b"=")
            if not equals or not record.endswith(b"\n"):
                self.refuse("An extra header is damaged.")
                return
            word = key.decode("utf-8", "replace")
            if not _HARMLESS_PAX.fullmatch(word):
                self.refuse(
                    f"An extra header sets {word[:60]!r}: names and sizes count only where they stand in a member's own header."
                )


def _is_header(header: bytes) -> bool:
    told = _octal(header[148:156])
    actual = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    return told == actual and header[257:262] == b"ustar"


def _octal(field: bytes) -> int | None:
    """Return an octal number of a header, or None if the field is damaged or in the binary format for large numbers."""
    text = field.split(b"\0")[0].strip(b" ")
    return int(text, 8) if re.fullmatch(rb"[0-7]{1,12}", text) else None


def _no_archive() -> InvalidInputError:
    return InvalidInputError(
        "This is no gzipped tar archive. Send what `tmde lora export` writes, or an adapter's folder packed with `tar czf`.",
        field="file",
    )
