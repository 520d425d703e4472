"""Writes `adapter_model.bin`, the weights as a PyTorch file for tools that read no safetensors. PyTorch is not needed.

The file is an uncompressed zip archive: a pickle that describes the tensors, and one member of raw bytes for each
tensor. Loading a pickle runs the code that the pickle names. Therefore TMDE stores adapters as safetensors, writes this
file only on export, and rejects archives that contain one. The pickle written here names only
`torch._utils._rebuild_tensor_v2`, the storage types and `OrderedDict`, so `torch.load(…, weights_only=True)` accepts
it.

The format: https://github.com/pytorch/pytorch/blob/main/caffe2/serialize/inline_container.h and
`torch/serialization.py`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from tmde_core.errors import UnprocessableError
from tmde_core.records.base import Record
from tmde_core.sdk.safetensors_header import ITEM_BYTES, Tensor

STORAGES = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage"}

ALIGNMENT = 64
"""Every tensor begins at a multiple of this, as in PyTorch's own writer, so that the file can be mapped into memory."""
MAX_BYTES = 2**32 - 1
"""Larger zip archives need another format, ZIP64."""
PIECE = 1024 * 1024

_DAY = (1980 - 1980) << 9 | 1 << 5 | 1
"""1 January 1980, the earliest date in a zip archive. A fixed date makes the same weights give the same bytes."""


class _Entry(Record, frozen=True):
    """One member of the zip archive: its bytes, or their position in the weights file."""

    name: str
    crc: int
    size: int
    content: bytes = b""
    begin: int | None = None


class TorchFile:
    """Plans the layout of the file, so that its size is known before it is written."""

    def __init__(self, weights: Path, tensors: Sequence[Tensor]) -> None:
        """Plan the file. Read the weights once, because a zip archive stores each checksum before the content.

        Args:
            weights: the safetensors file.
            tensors: the tensors in the safetensors file.

        Raises:
            UnprocessableError: the file would be larger than 4 GB.
        """
        needed = sum(tensor.end - tensor.begin + 1024 for tensor in tensors)
        if needed > MAX_BYTES:
            raise UnprocessableError(
                f"The weights would take {needed:,} bytes as adapter_model.bin; at most 4 GB can be written. Export the format peft."
            )
        self._weights = weights
        self._entries = [_whole("data.pkl", build_pickle(tensors)), _whole("byteorder", b"little")]
        self._entries += [_stored(number, tensor, weights) for number, tensor in enumerate(tensors)]
        self._entries.append(_whole("version", b"3\n"))
        self._heads: list[bytes] = []
        self._places: list[int] = []
        position = 0
        for entry in self._entries:
            head = _local_header(entry, position)
            self._heads.append(head)
            self._places.append(position)
            position += len(head) + entry.size
        self._directory = _directory(self._entries, self._places, position)
        self.size = position + len(self._directory)
        """Size of the file in bytes."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the file in pieces."""
        with self._weights.open("rb") as weights:
            for entry, head in zip(self._entries, self._heads, strict=True):
                yield head + entry.content
                if entry.begin is not None:
                    weights.seek(entry.begin)
                    left = entry.size
                    while left and (block := weights.read(min(PIECE, left))):
                        left -= len(block)
                        yield block
        yield self._directory


def build_pickle(tensors: Sequence[Tensor]) -> bytes:
    """Return the pickle of `{name: tensor, …}` as `torch.save` writes it (protocol 2), but without memo entries."""
    parts = [b"\x80\x02}("]  # PROTO 2, EMPTY_DICT, MARK
    for number, tensor in enumerate(tensors):
        count = (tensor.end - tensor.begin) // ITEM_BYTES[tensor.dtype]
        strides = list(accumulate(reversed(tensor.shape[1:]), lambda left, right: left * right, initial=1))[::-1]
        parts += [
            _text(tensor.name),
            b"ctorch._utils\n_rebuild_tensor_v2\n(",  # GLOBAL, MARK of its arguments
            b"(" + _text("storage") + b"ctorch\n" + STORAGES[tensor.dtype].encode() + b"\n",
            _text(str(number)) + _text("cpu") + _whole_number(count) + b"tQ",  # TUPLE, BINPERSID: the storage
            _whole_number(0),  # its offset in the storage
            b"(" + b"".join(map(_whole_number, tensor.shape)) + b"t",
            b"(" + b"".join(map(_whole_number, strides if tensor.shape else [])) + b"t",
            b"\x89",  # NEWFALSE: requires_grad
            b"ccollections\nOrderedDict\n)R",  # no hooks
            b"tR",  # TUPLE, REDUCE
        ]
    return b"".join([*parts, b"u."])  # SETITEMS, STOP


def _text(text: str) -> bytes:
    content = text.encode()
    return b"X" + struct.pack("<I", len(content)) + content  # BINUNICODE


def _whole_number(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)  # BININT
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content  # LONG1


def _whole(name: str, content: bytes) -> _Entry:
    return _Entry(name=f"archive/{name}", crc=zlib.crc32(content), size=len(content), content=content)


def _stored(number: int, tensor: Tensor, weights: Path) -> _Entry:
    crc, left = 0, tensor.end - tensor.begin
    with weights.open("rb") as file:
        file.seek(tensor.begin)
        while left and (block := file.read(min(PIECE, left))):
            crc = zlib.crc32(block, crc)
            left -= len(block)
    return _Entry(name=f"archive/data/{number}", crc=crc, size=tensor.end - tensor.begin, begin=tensor.begin)


def _local_header(entry: _Entry, position: int) -> bytes:
    name = entry.name.encode()
    padding = -(position + 30 + len(name) + 4) % ALIGNMENT
    extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    return struct.pack("<4s5H3I2H", b"PK\3\4", *_common(entry), len(name), len(extra)) + name + extra


def _directory(entries: Sequence[_Entry], places: Sequence[int], position: int) -> bytes:
    records = []
    for entry, place in zip(entries, places, strict=True):
        name = entry.name.encode()
        records.append(
            struct.pack("<4sH5H3I5H2I", b"PK\1\2", 20, *_common(entry), len(name), 0, 0, 0, 0, 0, place) + name
        )
    content = b"".join(records)
    return content + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(entries), len(entries), len(content), position, 0)


def _common(entry: _Entry) -> tuple[int, ...]:
    """Return the fields that both kinds of header share.

    In order: version, flags (names in UTF-8), no compression, time, date, checksum, packed size, unpacked size.
    """
    return 20, 0x800, 0, 0, _DAY, entry.crc, entry.size, entry.size
