"""Reads the header of a safetensors file strictly, and checks its numbers, without the safetensors library.

    8 bytes   length N of the header, little endian
    N bytes   JSON: tensor name → {dtype, shape, data_offsets: [begin, end]}, and perhaps `__metadata__`
    the rest  the tensors, one after the other, without gaps

The format: https://huggingface.co/docs/safetensors/index#format. A file that deviates from this format is refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tmde_core.records.base import Record
from tmde_core.records.foreign_json import ForeignJsonError, read_object

__all__ = [
    "ITEM_BYTES",
    "MAX_DIMENSIONS",
    "MAX_HEADER_BYTES",
    "MAX_NAME",
    "MAX_TENSORS",
    "SafetensorsError",
    "Tensor",
    "all_zero",
    "find_non_finite",
    "read_tensors",
]

MAX_HEADER_BYTES = 8 * 1024 * 1024
"""The longest header that is read. An adapter for all projections of 100 layers has 1,400 tensors, which take 200
kB."""
MAX_TENSORS = 20_000
"""The most tensors that a header may list."""
MAX_DIMENSIONS = 8
"""The most dimensions that a tensor may have."""
MAX_NAME = 300
"""The most characters that a tensor's name may have."""

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""The supported types, with the bytes of one number."""

SCAN_BYTES = 4 * 1024 * 1024

_METADATA = "__metadata__"
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


class SafetensorsError(ValueError):
    """The file is refused; the message says why, without a full stop."""


class Tensor(Record, frozen=True):
    """One tensor of a file."""

    name: str
    """Its name."""
    dtype: str
    """The type of its numbers: a key of `ITEM_BYTES`, or of the types that the reader was told to accept."""
    shape: tuple[int, ...]
    """Its dimensions."""
    begin: int
    """The position of its first byte in the file."""
    end: int
    """The position after its last byte."""


def read_tensors(path: Path, item_bytes: Mapping[str, int] = ITEM_BYTES) -> tuple[Tensor, ...]:
    """Return the tensors of a file in the order of their data.

    Args:
        path: the file.
        item_bytes: the types to accept, with the bytes of one number.

    Raises:
        SafetensorsError: the header is damaged or does not match the file.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        content, start = _header(file, size)
    try:
        entries = read_object(content)
    except ForeignJsonError as error:
        raise SafetensorsError(f"its header is damaged: {error}") from None
    metadata = entries.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise SafetensorsError("its header is damaged: the metadata are not texts")
    if len(entries) > MAX_TENSORS:
        raise SafetensorsError(f"its header names {len(entries):,} tensors; at most {MAX_TENSORS:,} are read")
    tensors = sorted(
        (_tensor(name, entry, start, item_bytes) for name, entry in entries.items()),
        key=lambda one: (one.begin, one.end),
    )
    _must_be_dense(tensors, start, size)
    return tuple(tensors)


def find_non_finite(path: Path, tensors: Sequence[Tensor]) -> list[str]:
    """Return the names of the tensors that contain NaN or infinity, reading the file in pieces."""
    return [tensor.name for tensor, sound in _look(path, tensors, _is_finite) if not sound]


def all_zero(path: Path, tensors: Sequence[Tensor]) -> list[str]:
    """Return the names of the tensors that contain only zeros, reading the file in pieces."""
    return [tensor.name for tensor, zero in _look(path, tensors, _is_zero) if zero]


def _look(path: Path, tensors: Sequence[Tensor], holds: Callable[[bytes, str], bool]) -> Iterator[tuple[Tensor, bool]]:
    """Yield each tensor with whether `holds` is true for all its pieces."""
    with path.open("rb") as file:
        for tensor in tensors:
            file.seek(tensor.begin)
            sizes = range(tensor.end - tensor.begin, 0, -SCAN_BYTES)
            yield tensor, all(holds(file.read(min(SCAN_BYTES, left)), tensor.dtype) for left in sizes)


def _is_finite(block: bytes, dtype: str) -> bool:
    import numpy as np

    if dtype == "BF16":
        # A bfloat16 is the upper half of a float32. It is infinity or NaN if all eight bits of the exponent are set.
        return not bool(((np.frombuffer(block, "<u2") & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(np.frombuffer(block, "<f4" if dtype == "F32" else "<f2")).all())


def _is_zero(block: bytes, dtype: str) -> bool:
    import numpy as np

    # Ignore the sign bit, because -0.0 is zero as well.
    bits = np.frombuffer(block, "<u4") & 0x7FFF_FFFF if dtype == "F32" else np.frombuffer(block, "<u2") & 0x7FFF
    return not bool(bits.any())


def _header(file: IO[bytes], size: int) -> tuple[bytes, int]:
    """Return the header's text, and the position at which the tensors begin."""
    head = file.read(8)
    if head.startswith(_PICKLES):
        raise SafetensorsError("it is no safetensors file but a pickle, which would run code when it is loaded")
    if len(head) < 8:
        raise SafetensorsError("it is no safetensors file: it ends before its header")
    length = struct.unpack("<Q", head)[0]
    if length > MAX_HEADER_BYTES:
        raise SafetensorsError(f"it is no safetensors file: its header would have {length:,} bytes")
    if 8 + length > size:
        raise SafetensorsError(f"it is cut short: its header has {length:,} bytes, the whole file {size:,}")
    content = file.read(length)
    if not content.startswith(b"{"):
        raise SafetensorsError("it is no safetensors file: its header is no JSON object")
    return content, 8 + length


def _tensor(name: str, entry: Any, start: int, item_bytes: Mapping[str, int]) -> Tensor:
    told = f"its header is damaged: the tensor {name[:80]!r}"
    if len(name) > MAX_NAME or not name.isprintable():
        raise SafetensorsError(f"{told} has no decent name")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise SafetensorsError(f"{told} needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in item_bytes:
        raise SafetensorsError(
            f"the tensor {name[:80]!r} is of the type {str(dtype)[:20]!r}; read are {', '.join(item_bytes)}"
        )
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise SafetensorsError(f"{told} has no sound shape")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise SafetensorsError(f"{told} has no sound offsets")
    needed = math.prod(shape) * item_bytes[dtype]
    if offsets[1] - offsets[0] != needed:
        raise SafetensorsError(
            f"its header lies: the tensor {name[:80]!r} has {offsets[1] - offsets[0]:,} bytes where its shape needs {needed:,}"
        )
    return Tensor(name=name, dtype=dtype, shape=tuple(shape), begin=start + offsets[0], end=start + offsets[1])


def _counts(values: Any) -> bool:
    """Return whether the value is a list of integers from 0 up; a bool does not count as an integer."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _must_be_dense(tensors: list[Tensor], start: int, size: int) -> None:
    position = start
    for tensor in tensors:
        if tensor.begin != position:
            what = "overlaps the one before it" if tensor.begin < position else "leaves a hole before it"
            raise SafetensorsError(f"its header lies: the tensor {tensor.name[:80]!r} {what}")
        position = tensor.end
    if position != size:
        raise SafetensorsError(f"its header lies: the tensors end at byte {position:,}, the file at byte {size:,}")
