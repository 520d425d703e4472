"""Read the metadata at the start of a GGUF file, to list models and to refuse files that are not models.

The reader is implemented here because the package `gguf` on PyPI needs numpy, and the server's own process must stay
light. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, TypeGuard

import msgspec

from tmde_core.errors import InvalidInputError

__all__ = [
    "PRE_TOKENIZER_KEY",
    "GgufHeader",
    "GgufTensor",
    "MarkedToken",
    "is_count",
    "read_header",
    "read_marked_tokens",
    "read_shapes",
    "read_tensors",
    "shorten",
]

MAGIC = b"GGUF"
MAX_METADATA = 64 * 1024 * 1024
"""The largest metadata. A vocabulary of 256,000 tokens with its merges takes about 15 MB."""
MAX_ENTRIES = 4096
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 4
MAX_TEXTS = 2_000_000
"""The most texts in arrays. A vocabulary of 256,000 tokens has half a million merges; each text costs a step."""
MAX_TEXT = 200
"""The most characters of a name or licence that are believed."""
MAX_COUNT = 2**53
"""Larger counts, such as of tokens, are not believed. JSON could not hold them either."""
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
"""The data of each tensor begin at a multiple of so many bytes, unless the file names another number."""

TOKENS_KEY = "tokenizer.ggml.tokens"
TOKEN_TYPES_KEY = "tokenizer.ggml.token_type"  # noqa: S105 - a field of the file, no password
PRE_TOKENIZER_KEY = "tokenizer.ggml.pre"
"""The key of the name of the rules that cut a text before it is encoded."""
NORMAL_TOKEN = 1

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class GgufHeader(msgspec.Struct, frozen=True):
    """The header of a GGUF file, without arrays (the vocabulary)."""

    metadata: dict[str, Any]
    """The fields by name, such as `general.architecture`."""
    tensors: int
    """Number of tensors."""

    @property
    def kind(self) -> str:
        """`model`, `adapter`, `mmproj`, …; older files without the field are models."""
        return str(self.metadata.get("general.type", "model"))

    @property
    def architecture(self) -> str:
        """The architecture, such as `llama` or `qwen2`."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def context_length(self) -> int | None:
        """The context length in tokens that the model was trained with."""
        value = self.metadata.get(f"{self.architecture}.context_length")
        return value if is_count(value) else None

    @property
    def chat_template(self) -> bool:
        """Whether the file has a chat template."""
        return bool(self.metadata.get("tokenizer.chat_template"))


def is_count(value: object) -> TypeGuard[int]:
    """Return whether a value that a file states can be a count: a positive whole number of a sensible size."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < MAX_COUNT


def shorten(text: str) -> str:
    """Return a text that a file states as a name: short, without line breaks and characters that steer a terminal."""
    return "".join(one for one in text[:MAX_TEXT] if one.isprintable()).strip()


def read_header(path: Path) -> GgufHeader:
    """Return the header of the file at `path`.

    Raises:
        InvalidInputError: the file is missing, cannot be read, or has no complete GGUF header. The error names the
            file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # Opening a pipe or a device may wait for ever.
            raise InvalidInputError(f"{path} is no file, so it cannot be a model.", field="model")
        with path.open("rb") as file:
            return _Reader(file).header()
    except FileNotFoundError:
        raise InvalidInputError(f"The model file {path} is not there.", field="model") from None
    except OSError as error:
        raise InvalidInputError(f"The model file {path} cannot be read: {error.strerror}.", field="model") from None
    except (ValueError, struct.error, UnicodeDecodeError):
        raise InvalidInputError(
            f"The model file {path} is no GGUF file, or is damaged. Replace it with a whole one.", field="model"
        ) from None


class MarkedToken(msgspec.Struct, frozen=True):
    """A token of the vocabulary that is more than a piece of ordinary text."""

    id: int
    """The id of the token."""
    text: str
    """The text of the token."""
    kind: int
    """llama.cpp's token type: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte."""


def read_marked_tokens(path: Path, wanted: Callable[[int, bytes], bool]) -> list[MarkedToken]:
    """Return the tokens of a model's vocabulary for which `wanted(kind, UTF-8 text)` is true.

    Raises:
        InvalidInputError: see `read_header`.
    """
    read_header(path)
    try:
        with path.open("rb") as file:
            texts, kinds = _Reader(file).vocabulary()
    except (OSError, ValueError, struct.error):
        raise InvalidInputError(
            f"The model file {path} is damaged. Replace it with a whole one.", field="model"
        ) from None
    kinds = kinds or [NORMAL_TOKEN] * len(texts)  # a file without types has ordinary tokens only
    return [
        MarkedToken(id=place, text=raw.decode("utf-8", "replace"), kind=kind)
        for place, (raw, kind) in enumerate(zip(texts, kinds, strict=False))
        if wanted(kind, raw)
    ]


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a GGUF file, with the innermost dimension last.

    GGUF itself stores the innermost dimension first.

    Raises:
        InvalidInputError: see `read_header`.
    """
    read_header(path)
    try:
        with path.open("rb") as file:
            return _Reader(file).shapes()
    except (OSError, ValueError, struct.error, UnicodeDecodeError):
        raise InvalidInputError(
            f"The model file {path} is damaged. Replace it with a whole one.", field="model"
        ) from None


class GgufTensor(msgspec.Struct, frozen=True):
    """A tensor as the header describes it."""

    shape: tuple[int, ...]
    """The dimensions, with the innermost dimension last."""
    kind: int
    """ggml's number of the data type, such as 0 for F32 and 12 for Q4_K."""
    size: int
    """The bytes in the file, with the padding that follows."""


def read_tensors(path: Path) -> dict[str, GgufTensor]:
    """Return the tensors of a GGUF file by name, in the order of their data.

    The sizes come from the positions of the data, so that data types which TMDE does not know are sized as well.

    Raises:
        InvalidInputError: see `read_header`.
    """
    read_header(path)
    try:
        with path.open("rb") as file:
            return _Reader(file).tensors(path.stat().st_size)
    except (OSError, ValueError, struct.error, UnicodeDecodeError):
        raise InvalidInputError(
            f"The model file {path} is damaged. Replace it with a whole one.", field="model"
        ) from None


class _Reader:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = MAX_METADATA
        self._texts_left = MAX_TEXTS

    def header(self) -> GgufHeader:
        if self._take(4) != MAGIC or self._number("I") not in (2, 3):
            raise ValueError("magic or version")
        tensors, entries = self._number("Q"), self._number("Q")
        if entries > MAX_ENTRIES:
            raise ValueError("entries")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            name = self._string()
            value = self._value(self._number("I"))
            if value is not None:
                metadata[name] = value
        return GgufHeader(metadata, tensors)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, shape, _, _ in self._described(self.header())}

    def tensors(self, file_size: int) -> dict[str, GgufTensor]:
        header = self.header()
        described = sorted(self._described(header), key=lambda tensor: tensor[3])
        alignment = header.metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError("alignment")
        data = file_size - -(-self._file.tell() // alignment) * alignment
        ends = [offset for _, _, _, offset in described[1:]] + [data]
        return {
            name: GgufTensor(shape, kind, max(0, end - offset))
            for (name, shape, kind, offset), end in zip(described, ends, strict=False)
        }

    def _described(self, header: GgufHeader) -> list[tuple[str, tuple[int, ...], int, int]]:
        """Return name, shape, type and offset of each tensor. The header has just been read."""
        if header.tensors > MAX_TENSORS:
            raise ValueError("tensors")
        found = []
        for _ in range(header.tensors):
            name, dimensions = self._string(), self._number("I")
            if dimensions > MAX_DIMENSIONS:
                raise ValueError("dimensions")
            shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
            found.append((name, shape, self._number("I"), self._number("Q")))
        return found

    def vocabulary(self) -> tuple[list[bytes], Sequence[int]]:
        """Return the tokens' texts and types in the order of their ids; both are empty if the file has no vocabulary."""
        if self._take(4) != MAGIC or self._number("I") not in (2, 3):
            raise ValueError("magic or version")
        self._number("Q")
        texts: list[bytes] = []
        kinds: Sequence[int] = ()
        for _ in range(min(self._number("Q"), MAX_ENTRIES)):
            name, kind = self._string(), self._number("I")
            if kind == _ARRAY and name == TOKENS_KEY:
                texts = self._texts()
            elif kind == _ARRAY and name == TOKEN_TYPES_KEY:
                kinds = self._whole_numbers()
            else:
                self._value(kind)
        return texts, kinds

    def _texts(self) -> list[bytes]:
        if self._number("I") != _STRING:
            raise ValueError("vocabulary")
        count = self._number("Q")
        self._charge_texts(count)
        return [self._take(self._number("Q")) for _ in range(count)]

    def _whole_numbers(self) -> Sequence[int]:
        form, count = _NUMBERS.get(self._number("I"), ""), self._number("Q")
        if form not in tuple("BbHhIiQq"):
            raise ValueError("token types")
        return struct.unpack(f"<{count}{form}", self._take(count * struct.calcsize("<" + form)))

    def _value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._skip_array()
        raise ValueError("kind")

    def _skip_array(self) -> None:
        kind, count = self._number("I"), self._number("Q")
        if kind in _NUMBERS:
            self._skip(count * struct.calcsize("<" + _NUMBERS[kind]))
        elif kind == _STRING:
            self._charge_texts(count)
            for _ in range(count):
                self._skip(self._number("Q"))
        else:
            raise ValueError("array")

    def _string(self) -> str:
        return self._take(self._number("Q")).decode("utf-8")

    def _number(self, form: str) -> Any:
        return struct.unpack("<" + form, self._take(struct.calcsize("<" + form)))[0]

    def _take(self, size: int) -> bytes:
        self._charge(size)
        data = self._file.read(size)
        if len(data) != size:
            raise ValueError("cut short")
        return data

    def _skip(self, size: int) -> None:
        self._charge(size)
        self._file.seek(size, 1)

    def _charge_texts(self, count: int) -> None:
        self._texts_left -= count
        if self._texts_left < 0:
            raise ValueError("too many texts")

    def _charge(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError("too long")
