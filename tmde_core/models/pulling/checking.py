"""Checks files that were fetched: their hashes, and whether they are what their names say."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tmde_core.errors import InvalidInputError, UnprocessableError
from tmde_core.models.facts import read_facts
from tmde_core.records.pulls import PullFile, PullPlan
from tmde_core.sdk.gguf_header import read_header, read_shapes
from tmde_core.sdk.model_folders import WEIGHTS_FOLDER, find_folder
from tmde_core.sdk.safetensors_header import SafetensorsError, Tensor, read_tensors

INDEX_FILE = "weights/model.safetensors.index.json"
CONFIG_FILE = "weights/config.json"
LARGEST_JSON_BYTES = 10_000_000
"""Larger JSON files are not parsed: the vocabulary of Gemma 3 has 33 MB and would take ten times that in memory."""
_BLOCK = 1024 * 1024

STORED_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
    "C64": 8,
}
"""The types of the weights of base models. Quantised ones have small integers."""
_WHOLE_WEIGHTS = frozenset({"F16", "BF16", "F32", "F64"})


class Hasher:
    """Computes the hash by which a hub names a file while its bytes arrive."""

    def __init__(self, file: PullFile) -> None:
        """Begin with no bytes."""
        self._wanted = file.sha256 or file.git_sha1
        self._hash = hashlib.sha256() if file.sha256 else _begin_git_sha1(file.size_bytes)

    def update(self, content: bytes) -> None:
        """Add bytes."""
        self._hash.update(content)

    def read(self, path: Path) -> int:
        """Add the bytes of a file, and return how many there are."""
        count = 0
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                self._hash.update(block)
                count += len(block)
        return count

    @property
    def digest(self) -> str:
        """The hash of the bytes so far, hex."""
        return self._hash.hexdigest()

    def matches(self) -> bool:
        """Return whether the bytes have the hash that the hub names; True if it names none."""
        return self._wanted is None or self.digest == self._wanted


def git_sha1(path: Path) -> str:
    """Return the git blob id of a file, hex."""
    begun = _begin_git_sha1(path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            begun.update(block)
    return begun.hexdigest()


def check_header(path: Path, name: str) -> None:
    """Check that a file is what its name says.

    Raises:
        UnprocessableError: it is not; the detail says what is wrong.
    """
    suffix = Path(name).suffix.lower()
    if suffix == ".gguf":
        _check_gguf(path, name)
    elif suffix == ".safetensors":
        try:
            read_tensors(path, STORED_BYTES)
        except SafetensorsError as error:
            raise _refuse(name, str(error)) from None
    elif suffix == ".json":
        _read_json(path, name)


def check_together(folder: Path, plan: PullPlan) -> None:
    """Check that the files of a base model belong together.

    Raises:
        UnprocessableError: the index names weights that the repository does not have.
    """
    targets = {file.target for file in plan.files}
    shards = sum(target.endswith(".safetensors") for target in targets)
    if INDEX_FILE not in targets or shards < 2:
        return
    index = _read_json(folder / INDEX_FILE, INDEX_FILE)
    if index is None:
        return
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict):
        raise _refuse(INDEX_FILE, "it has no weight_map")
    if missing := sorted({f"weights/{name}" for name in map(str, named.values())} - targets):
        raise UnprocessableError(
            f"{plan.repository} is not whole: its index names {missing[0][:100]}"
            f"{f' and {len(missing) - 1} more files' if len(missing) > 1 else ''}, which the repository does not have. "
            "Choose another revision or another copy of the model."
        )


def check_same_model(folder: Path, target: Path, plan: PullPlan) -> None:
    """Check that what was fetched is the model whose other form is in the base model's folder already.

    Args:
        folder: the folder of the fetched files.
        target: the folder of the base model, which may not exist.
        plan: the plan.

    Raises:
        UnprocessableError: they have other sizes, so they are two models.
    """
    first = next((file.target for file in plan.files if file.target.endswith(".gguf")), "")
    fresh = folder / WEIGHTS_FOLDER if plan.form == "weights" else folder / first
    there = find_folder(target.parent, target.name)
    other = None if there is None else next(iter(there.gguf_files), None) if plan.form == "weights" else there.weights
    if other is None:
        return
    try:
        mine, theirs = read_facts(fresh).shape, read_facts(other).shape
    except InvalidInputError:
        return  # the header check says what is wrong with a file
    if mine.differs_from(theirs):
        raise UnprocessableError(
            f"{plan.repository} is not the model {plan.name} that is here: {mine.blocks or '?'} layers of width "
            f"{mine.width or '?'} were fetched, and {other.name} has {theirs.blocks or '?'} of width {theirs.width or '?'}. "
            "Nothing was changed. Pull it again with --name and another name."
        )


def count_parameters(folder: Path, plan: PullPlan) -> int | None:
    """Return the number of weights; None if the files do not tell."""
    if plan.form == "gguf":
        shapes = [read_shapes(folder / file.target) for file in plan.files]
        return sum(math.prod(shape) for part in shapes for shape in part.values()) or None
    tensors: Sequence[Tensor] = [
        tensor
        for file in plan.files
        if file.target.endswith(".safetensors")
        for tensor in read_tensors(folder / file.target, STORED_BYTES)
    ]
    if not tensors or not all(tensor.dtype in _WHOLE_WEIGHTS for tensor in tensors if len(tensor.shape) > 1):
        return plan.parameters  # packed weights have fewer numbers than the model
    return sum(math.prod(tensor.shape) for tensor in tensors)


def read_context_length(folder: Path, plan: PullPlan) -> int | None:
    """Return the most tokens that the model was trained for; None if the files do not tell."""
    if plan.form == "gguf":
        return read_header(folder / plan.files[0].target).context_length
    config = _read_json(folder / CONFIG_FILE, CONFIG_FILE)
    inner = config.get("text_config") if isinstance(config, dict) else None
    for place in (config, inner):
        value = place.get("max_position_embeddings") if isinstance(place, dict) else None
        if isinstance(value, int) and value > 0:
            return value
    return None


def _check_gguf(path: Path, name: str) -> None:
    try:
        header = read_header(path)
    except InvalidInputError:
        raise _refuse(name, "it is no GGUF file") from None
    if header.kind != "model":
        raise _refuse(name, f"it holds a GGUF {header.kind[:40]!r}, and not a model")
    if not header.architecture:
        raise _refuse(name, "it names no architecture")


def _read_json(path: Path, name: str) -> Any:
    if path.stat().st_size > LARGEST_JSON_BYTES:
        return None
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise _refuse(name, "it is no JSON") from None


def _refuse(name: str, why: str) -> UnprocessableError:
    return UnprocessableError(
        f"{name[:150]} cannot be used: {why.rstrip('.')}. It arrived as the hub has it, so the fault is the publisher's. Choose "
        "another revision or another copy of the model."
    )


def _begin_git_sha1(size: int) -> hashlib._Hash:
    # git names its objects by SHA-1; the hash tells apart whole and broken files here, and secures nothing.
    return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
