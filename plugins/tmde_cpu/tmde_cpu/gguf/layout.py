"""Read and write the parts of a GGUF file without decoding them. Runs in a subprocess only.

PyPI's `gguf` makes an object of every token of the vocabulary, which takes a gigabyte for a large one. Here the metadata
stays the bytes that it is, so that a file can be written again with other weights in constant memory. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import gguf
import msgspec
import numpy as np

from tmde_cpu.gguf.families import Array

VERSION = 3
ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
MAX_ENTRIES = 4096
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 4

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_UINT32, _STRING, _ARRAY = 4, 8, 9


class Entry(msgspec.Struct, frozen=True):
    """A field of the metadata: its type and its value, as bytes."""

    kind: int
    raw: bytes

    @classmethod
    def text(cls, value: str) -> Entry:
        """Return a field with a text."""
        return cls(_STRING, _text(value))

    @classmethod
    def number(cls, value: int) -> Entry:
        """Return a field with a whole number of 32 bits."""
        return cls(_UINT32, struct.pack("<I", value))

    @property
    def value(self) -> Any:
        """The number or text; None for an array."""
        if self.kind == _STRING:
            return self.raw[8:].decode("utf-8", "replace")
        return struct.unpack("<" + _NUMBERS[self.kind], self.raw)[0] if self.kind in _NUMBERS else None


class Place(msgspec.Struct, frozen=True):
    """A tensor and the place of its values in the file."""

    name: str
    shape: tuple[int, ...]
    """The innermost dimension is last."""
    type: gguf.GGMLQuantizationType
    begin: int = 0

    @property
    def rows(self) -> int:
        """The number of rows, which are quantised one by one."""
        return int(np.prod(self.shape[:-1], dtype=np.int64))

    @property
    def row_bytes(self) -> int:
        """The size of a row in bytes."""
        block, size = gguf.GGML_QUANT_SIZES[self.type]
        if self.shape[-1] % block:
            raise ValueError(
                f"{self.name} has rows of {self.shape[-1]} values, which are no whole blocks of {self.type.name}"
            )
        return self.shape[-1] // int(block) * int(size)

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.rows * self.row_bytes


class Layout:
    """A GGUF file that is open for reading. The values are mapped into memory, and read when they are used."""

    def __init__(self, path: Path) -> None:
        """Open the file at `path`.

        Raises:
            ValueError: it is no GGUF file, or is damaged.
            OSError: the file cannot be read.
        """
        self.path = path
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = _Reader(self._map)
        try:
            if reader.take(4) != b"GGUF" or reader.number("I") not in (2, 3):
                raise ValueError(f"{path.name} is no GGUF file of version 2 or 3")
            tensors, entries = reader.number("Q"), reader.number("Q")
            if entries > MAX_ENTRIES or tensors > MAX_TENSORS:
                raise ValueError(f"{path.name} is damaged: it has {entries} fields and {tensors} tensors")
            self.entries = {reader.text(): reader.entry() for _ in range(entries)}
            places = [reader.place() for _ in range(tensors)]
        except (struct.error, UnicodeDecodeError):
            raise ValueError(f"{path.name} is damaged: its header is cut short") from None
        told = self.entries.get(ALIGNMENT_KEY)
        self.alignment = int(told.value) if told else ALIGNMENT
        if self.alignment < 1:
            raise ValueError(f"{path.name} is damaged: its alignment is {self.alignment}")
        start = _padded(reader.at, self.alignment)
        self.places = [msgspec.structs.replace(place, begin=place.begin + start) for place in places]
        for place in self.places:
            if place.begin + place.size > len(self._map):
                raise ValueError(f"{path.name} is cut short: {place.name} is not there")

    def rows(self, place: Place, first: int, last: int) -> Array:
        """Return rows of a tensor as bytes, [rows, bytes of a row]."""
        count = (last - first) * place.row_bytes
        return np.frombuffer(self._map, np.uint8, count, place.begin + first * place.row_bytes).reshape(
            last - first, -1
        )

    def release(self, place: Place) -> None:
        """Give the memory of a tensor's values back. They are read from the disk again if they are used again."""
        first = place.begin - place.begin % mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, place.begin + place.size - first)

    def told(self, key: str) -> Any:
        """Return the number or text of a field, or None."""
        entry = self.entries.get(key)
        return entry.value if entry else None


def write_head(file: IO[bytes], entries: dict[str, Entry], places: Iterable[Place], alignment: int) -> None:
    """Write everything before the values. The values of the tensors follow, each filled up to the alignment."""
    places = list(places)
    file.write(b"GGUF" + struct.pack("<IQQ", VERSION, len(places), len(entries)))
    for key, entry in entries.items():
        file.write(_text(key) + struct.pack("<I", entry.kind) + entry.raw)
    offset = 0
    for place in places:
        numbers = (len(place.shape), *reversed(place.shape), int(place.type), offset)
        file.write(_text(place.name) + struct.pack(f"<I{len(place.shape)}QIQ", *numbers))
        offset += _padded(place.size, alignment)
    pad(file, alignment)


def pad(file: IO[bytes], alignment: int) -> None:
    """Fill up to the alignment with zeros."""
    at = file.tell()
    file.write(bytes(_padded(at, alignment) - at))


def size_of(entries: dict[str, Entry], places: Iterable[Place], alignment: int) -> int:
    """Return the size in bytes, to within some bytes, of the file with these parts."""
    head = 24 + sum(len(key.encode()) + 12 + len(entry.raw) for key, entry in entries.items())
    return head + sum(_padded(place.size, alignment) + len(place.name.encode()) + 56 for place in places)


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        taken = self._data[self.at : self.at + size]
        if len(taken) != size:
            raise ValueError("its header is cut short")
        self.at += size
        return taken

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8")

    def entry(self) -> Entry:
        kind, begin = self.number("I"), self.at
        if kind == _ARRAY:
            self._skip_array()
        elif kind == _STRING:
            size = self.number("Q")
            self.at += size
        elif kind in _NUMBERS:
            self.at += struct.calcsize("<" + _NUMBERS[kind])
        else:
            raise ValueError(f"its metadata has a field of the unknown type {kind}")
        end, self.at = self.at, begin
        return Entry(kind, self.take(end - begin))

    def _skip_array(self) -> None:
        kind, count = self.number("I"), self.number("Q")
        if kind in _NUMBERS:
            self.at += count * struct.calcsize("<" + _NUMBERS[kind])
        elif kind == _STRING:
            for _ in range(count):
                self.at += struct.unpack_from("<Q", self._data, self.at)[0] + 8
        else:
            raise ValueError(f"its metadata has an array of the unknown type {kind}")

    def place(self) -> Place:
        name, dimensions = self.text(), self.number("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"{name} has {dimensions} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimensions))[::-1]
        return Place(name, shape, gguf.GGMLQuantizationType(self.number("I")), self.number("Q"))


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
