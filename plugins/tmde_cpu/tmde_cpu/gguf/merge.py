"""Add an adapter to its base model, and write both as one GGUF file. Runs in a subprocess only.

The adapter's GGUF form already has llama.cpp's names and order of rows, so every family is merged alike: a base weight W
becomes W + alpha / rank · B · A, which is what llama.cpp computes with base model and adapter. The file is written piece
by piece in constant memory. Fields of the base model, such as tokenizer, chat template and licence, are copied.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO

import gguf
import msgspec
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

from tmde_core.sdk.training import Quantization
from tmde_cpu.gguf.families import Array
from tmde_cpu.gguf.layout import Entry, Layout, Place, pad, size_of, write_head

PIECE_VALUES = 2 * 1024 * 1024
"""The number of values that are computed at once by one thread: 8 MB in float32, and some times this on the way."""
MAX_THREADS = 4
WRITABLE = (Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q5_1, Type.Q5_0, Type.Q4_1, Type.Q4_0)
"""The types that can be written here. K-quants and the like can only be read."""
FILE_TYPES = {"Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0, "F16": gguf.LlamaFileType.MOSTLY_F16}
FREE_RESERVE = 64 * 1024 * 1024
"""The free space in bytes that must be left on the disk."""
LARGEST_F16 = 65_504.0
"""The largest number in 16 bits."""
ROUTER = ".ffn_gate_inp."
"""Part of the name of what chooses among experts. It stays as exact as it is."""

Progress = Callable[[int, int], None]
"""Called with the bytes that are written, and those of the whole file."""


class MergeError(Exception):
    """The merge is impossible. The message says why."""


class NoRoomError(MergeError):
    """The disk has too little free space."""


class Merged(msgspec.Struct, frozen=True):
    """What was written."""

    size: int
    types: dict[str, int]
    """The number of tensors of each type."""
    requantized: dict[str, int]
    """Type of the base model that cannot be written here → the number of changed matrices that became Q8_0 instead."""


def merge(base: Path, adapter: Path, target: Path, quantization: Quantization, *, name: str, tell: Progress) -> Merged:
    """Write the model `base` with the adapter's GGUF form `adapter` to `target`.

    Args:
        base: a GGUF file.
        adapter: the adapter's GGUF form.
        target: the new file. It is synced to the disk.
        quantization: `base` keeps the type of each tensor where it can be written.
        name: how the adapter is called in `general.name`.
        tell: reports the progress.

    Raises:
        MergeError: the files do not fit together, or cannot be merged here.
        NoRoomError: the disk has too little free space.
        ValueError, OSError: a file is damaged or cannot be read or written.
    """
    model = Layout(base)
    deltas = _Deltas(Layout(adapter), model)
    _must_be_one_model(model)
    places = [
        msgspec.structs.replace(place, type=_new_type(place, place.name in deltas, quantization))
        for place in model.places
    ]
    entries = _entries(model, deltas, quantization, name)
    size = size_of(entries, places, model.alignment)
    if shutil.disk_usage(target.parent).free < size + FREE_RESERVE:
        raise NoRoomError(
            f"The merged model needs {size / 1e9:.1f} GB of free space in {target.parent}. Free some space."
        )
    written = 0
    with target.open("wb") as file, ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads:
        write_head(file, entries, places, model.alignment)
        for old, new in zip(model.places, places, strict=True):
            for piece in _in_order(threads, _jobs(model, old, new, deltas)):
                file.write(piece.data)
                written += piece.nbytes
                tell(written, size)
            pad(file, model.alignment)
            model.release(old)
        _sync(file)
        size = file.tell()
    lost = Counter(
        old.type.name
        for old, new in zip(model.places, places, strict=True)
        if quantization == "base" and old.type != new.type
    )
    return Merged(size, dict(Counter(place.type.name for place in places)), dict(lost))


def _must_be_one_model(model: Layout) -> None:
    if model.told("general.type") not in (None, "model"):
        raise MergeError(f"{model.path.name} is no model.")
    if (model.told("split.count") or 1) > 1:
        raise MergeError(
            f"{model.path.name} is one of {model.told('split.count')} parts. Join them with llama-gguf-split --merge first."
        )


def _new_type(place: Place, touched: bool, quantization: Quantization) -> Type:
    if len(place.shape) < 2 or (ROUTER in place.name and not touched):
        return place.type
    if quantization == "base":
        wanted = place.type if not touched or place.type in WRITABLE else Type.Q8_0
    else:
        wanted = Type[quantization]
    if wanted != place.type and place.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        return Type.F16  # rows that are no whole blocks
    return wanted


def _entries(model: Layout, deltas: _Deltas, quantization: Quantization, name: str) -> dict[str, Entry]:
    entries = dict(model.entries)
    former = model.told("general.name") or model.path.stem
    entries["general.name"] = Entry.text(f"{former} with {name}")
    entries.setdefault("general.base_model.count", Entry.number(1))
    entries.setdefault("general.base_model.0.name", Entry.text(former))
    entries["tmde.adapter"] = Entry.text(name)
    entries["tmde.merged"] = Entry.text(f"{len(deltas)} matrices")
    if quantization in FILE_TYPES:
        entries["general.file_type"] = Entry.number(int(FILE_TYPES[quantization]))
        entries["general.quantization_version"] = Entry.number(gguf.GGML_QUANT_VERSION)
    return entries


# ---------------------------------------------------------------------------------------- the sum


class _Deltas:
    """What the adapter adds to the weights of the base model."""

    def __init__(self, adapter: Layout, model: Layout) -> None:
        if adapter.told("adapter.type") != "lora":
            raise MergeError(f"{adapter.path.name} is no LoRA adapter.")
        if adapter.told("general.architecture") != model.told("general.architecture"):
            raise MergeError(
                f"The adapter is for {adapter.told('general.architecture')} models, and {model.path.name} is "
                f"{model.told('general.architecture')}."
            )
        self._adapter = adapter
        self._places = {place.name: place for place in adapter.places}
        self._alpha = float(adapter.told("adapter.lora.alpha") or 0.0)
        self._targets = {name.removesuffix(".lora_a") for name in self._places if name.endswith(".lora_a")}
        known = {place.name: place for place in model.places}
        for target in self._targets:
            place, a, b = known.get(target), self._places[f"{target}.lora_a"], self._places.get(f"{target}.lora_b")
            if place is None or b is None or (b.shape[0], a.shape[-1]) != place.shape or b.shape[1] != a.shape[0]:
                raise MergeError(f"The adapter's matrices for {target} do not fit the model {model.path.name}.")

    def __contains__(self, name: str) -> bool:
        return name in self._targets

    def __len__(self) -> int:
        return len(self._targets)

    def left(self, name: str) -> Array:
        """Return alpha / rank · A."""
        a = self._read(f"{name}.lora_a")
        with np.errstate(all="ignore"):  # what is no number is told when it is added
            return a * np.float32(self._alpha / a.shape[0] if self._alpha else 1.0)

    def right(self, name: str, first: int, last: int) -> Array:
        """Return rows of B."""
        return self._read(f"{name}.lora_b", first, last)

    def _read(self, name: str, first: int = 0, last: int | None = None) -> Array:
        place = self._places[name]
        return _values(self._adapter, place, first, place.rows if last is None else last)


def _jobs(model: Layout, old: Place, new: Place, deltas: _Deltas) -> Iterator[Callable[[], Array]]:
    """Yield what computes the bytes of a tensor, piece by piece."""
    step = max(1, PIECE_VALUES // old.shape[-1])
    touched = old.name in deltas
    left = deltas.left(old.name) if touched else None
    for first in range(0, old.rows, step):
        last = min(first + step, old.rows)
        if left is None and new.type == old.type:
            yield partial(model.rows, old, first, last)
        else:
            yield partial(_piece, model, old, new, first, last, left, deltas)


def _piece(model: Layout, old: Place, new: Place, first: int, last: int, left: Array | None, deltas: _Deltas) -> Array:
    values = _values(model, old, first, last)
    if left is not None:
        with np.errstate(all="ignore"):  # what is no number is told below
            values = values + deltas.right(old.name, first, last) @ left
    largest = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(largest):
        raise MergeError(f"The sum of base model and adapter is no number in {old.name}.")
    if new.type == Type.F16 and largest > LARGEST_F16:
        raise MergeError(
            f"{old.name} has the weight {largest:.0f}, which F16 cannot hold. Choose another quantization."
        )
    return np.ascontiguousarray(quantize(values, new.type)).view(np.uint8)


def _values(layout: Layout, place: Place, first: int, last: int) -> Array:
    raw = layout.rows(place, first, last)
    if place.type == Type.F32:
        return raw.view("<f4")
    if place.type == Type.F16:
        return raw.view("<f2").astype(np.float32)
    try:
        return np.asarray(dequantize(raw, place.type), np.float32)
    except NotImplementedError:
        raise MergeError(f"Weights of the type {place.type.name} cannot be read here ({place.name}).") from None


def _in_order(threads: ThreadPoolExecutor, jobs: Iterator[Callable[[], Array]]) -> Iterator[Array]:
    """Yield the results of jobs in their order. Some are computed ahead, and only these are in memory."""
    ahead: deque[Future[Array]] = deque()
    for job in jobs:
        ahead.append(threads.submit(job))
        if len(ahead) > MAX_THREADS:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
