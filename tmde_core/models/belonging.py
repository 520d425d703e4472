"""Decides whether an adapter belongs to a served model, and says why. On another model its answers are gibberish."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from tmde_core.errors import TmdeError
from tmde_core.models.grouping import GENERIC, FactsReader
from tmde_core.models.names import make_bare
from tmde_core.records.base import Record
from tmde_core.records.lora import Manifest
from tmde_core.records.models import BaseModel
from tmde_core.records.runtimes import ModelInfo
from tmde_core.sdk.adapters import CONFIG_FILE, WEIGHTS_FILE
from tmde_core.sdk.gguf_header import read_shapes
from tmde_core.sdk.safetensors_header import SafetensorsError, read_tensors

SAID_KEY = "baseSaid"
"""The key in an adapter's lineage that holds the base model which a person named."""

_MATRIX = re.compile(
    r"base_model\.model\.(?:.*\.)?layers\.(?P<block>\d+)\.\w+\.(?P<module>\w+)\.lora_(?P<side>[AB])\..+"
)
_GGUF_NAMES: Mapping[str, str] = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "qkv_proj": "attn_qkv",
}


class BaseClaim(Record):
    """What an adapter says about its base model."""

    names: tuple[str, ...]
    """The names in its manifest and in PEFT's configuration."""
    sha256: str | None = None
    """The hash of the weights that it was trained on."""
    said: str = ""
    """The base model that a person named for it; empty: nobody did."""


class Belonging(Record):
    """Whether an adapter belongs to a model."""

    same: bool
    by: Literal["file", "form", "name", "person", "nothing"]
    """What decided: the hash of the file, the hash of another form, the names and sizes, or a person."""
    why: str
    """The reason, in a sentence."""


def read_claim(directory: Path, base_model: str, sha256: str | None, said: str = "") -> BaseClaim:
    """Return what an adapter says about its base model.

    Args:
        directory: the adapter's directory.
        base_model: the name in its manifest.
        sha256: the hash in its manifest.
        said: the base model that a person named.
    """
    try:
        named = msgspec.json.decode((directory / CONFIG_FILE).read_bytes(), type=dict).get("base_model_name_or_path")
    except (OSError, msgspec.DecodeError):
        named = None
    names = (base_model, named if isinstance(named, str) else "")
    return BaseClaim(names=tuple(dict.fromkeys(filter(None, names))), sha256=sha256, said=said)


def note_base(manifest: Manifest, said: str) -> Manifest:
    """Return the manifest with the base model that a person named."""
    return msgspec.structs.replace(manifest, lineage={**manifest.lineage, SAID_KEY: said})


def decide(
    claim: BaseClaim,
    served: ModelInfo,
    served_sha256: str | None,
    bases: Sequence[BaseModel],
    hashes: Mapping[str, str],
    facts: FactsReader,
    directory: Path,
) -> Belonging:
    """Return whether an adapter belongs to a served model.

    Hashes decide where they are known; else the names, if the sizes of all matrices fit.

    Args:
        claim: what the adapter says.
        served: the model that would serve it.
        served_sha256: the hash of the served file; None: unknown.
        bases: all base models.
        hashes: the known hashes of model files, by path.
        facts: reads headers.
        directory: the adapter's directory.
    """
    base = find_base(bases, served)
    if claim.sha256 and claim.sha256 == served_sha256:
        return Belonging(
            same=True, by="file", why=f"It was trained on the served file {served.name} (SHA-256 {claim.sha256[:12]}…)."
        )
    owner = next((one for one in bases if claim.sha256 and claim.sha256 in _hashes_of(one, hashes)), None)
    if owner is not None and base is not None and owner.name == base.name:
        return Belonging(
            same=True, by="form", why=f"It was trained on another form of {base.name}, known by its SHA-256."
        )
    misfit = find_misfit(directory, served)
    if claim.said and make_bare(claim.said) in _names_of(base, served, facts):
        if misfit:
            return Belonging(same=False, by="nothing", why=f"You said that it belongs to {claim.said}, but {misfit}")
        return Belonging(same=True, by="person", why=f"You said that it belongs to {claim.said}, and its sizes fit.")
    if owner is not None:
        return Belonging(same=False, by="nothing", why=f"It was trained on {owner.name}, known by its SHA-256.")
    other = next((one for one in bases if base is not None and one.name != base.name and _is_called(one, claim)), None)
    # A second file of the served model may be here under another name. The adapter then names both.
    if other is not None and not _is_named(base, claim):
        return Belonging(same=False, by="nothing", why=f"It names {other.name}, which is another model here.")
    named = {make_bare(name): name for name in claim.names}
    common = sorted((set(named) & _names_of(base, served, facts)) - GENERIC)
    if not common:
        return Belonging(same=False, by="nothing", why="The names differ.")
    if misfit:
        return Belonging(same=False, by="nothing", why=f"The names agree, but {misfit}")
    if claim.sha256 and served_sha256 and served.name in claim.names:
        told = f"(SHA-256 {claim.sha256[:12]}… and {served_sha256[:12]}…)"
        return Belonging(same=False, by="nothing", why=f"The file {served.name} has other content now {told}.")
    return Belonging(
        same=True,
        by="name",
        why=f"{named[common[0]]} and {served.name} name the same model, and the sizes of all matrices fit.",
    )


def find_base(bases: Sequence[BaseModel], served: ModelInfo) -> BaseModel | None:
    """Return the base model of which `served` is a form."""
    for base in bases:
        if any((one.runtime, one.model) == (served.runtime, served.name) for one in base.served):
            return base
    return None


def count_adapters(bases: Sequence[BaseModel], trained_on: Iterable[str]) -> list[BaseModel]:
    """Return the base models with the number of adapters on each, by name.

    Args:
        bases: all base models.
        trained_on: the base model that each adapter names, in any spelling.
    """
    owners = {make_bare(name): base.name for base in reversed(bases) for name in (*base.aliases, base.name)}
    counts = Counter(owners.get(make_bare(name)) for name in trained_on)
    return [msgspec.structs.replace(base, adapters=counts[base.name]) for base in bases]


def find_misfit(directory: Path, served: ModelInfo) -> str | None:
    """Return why an adapter's matrices do not fit the served file, as the end of a sentence; None if all known ones do.

    Only the matrices of Llama-like models are known here. The conversion to GGUF compares the others.
    """
    if not served.path or not served.path.endswith(".gguf"):
        return None
    try:
        shapes = read_shapes(Path(served.path))
        tensors = read_tensors(directory / WEIGHTS_FILE)
    except (TmdeError, SafetensorsError, OSError):
        return None
    if not any(name.startswith("blk.0.attn_") for name in shapes):
        return None
    for tensor in tensors:
        found = _MATRIX.fullmatch(tensor.name)
        if found is None or found["module"] not in _GGUF_NAMES:
            continue
        shape = shapes.get(f"blk.{found['block']}.{_GGUF_NAMES[found['module']]}.weight")
        if shape is None:
            if f"blk.{found['block']}.attn_norm.weight" not in shapes:
                return f"it has matrices for layer {int(found['block']) + 1}, which {served.name} does not have."
            continue  # fused in one of the two
        place = 1 if found["side"] == "A" else 0
        if len(shape) == 2 and len(tensor.shape) == 2 and tensor.shape[place] != shape[place]:
            return (
                f"{found['module']} of layer {int(found['block']) + 1} has {tensor.shape[place]:,} "
                f"{'columns' if place else 'rows'} in the adapter and {shape[place]:,} in {served.name}."
            )
    return None


def _is_called(base: BaseModel, claim: BaseClaim) -> bool:
    """Return whether the first name of a claim, which is that of the manifest, is one of a base model's names."""
    if not claim.names or (bare := make_bare(claim.names[0])) in GENERIC:
        return False
    return bare in {make_bare(name) for name in (base.name, base.source, *base.aliases) if name}


def _is_named(base: BaseModel | None, claim: BaseClaim) -> bool:
    """Return whether a claim names a base model by its own name or its publisher's, and not only by an alias."""
    if base is None or not claim.names:
        return False
    return make_bare(claim.names[0]) in {make_bare(name) for name in (base.name, base.source) if name} - GENERIC


def _names_of(base: BaseModel | None, served: ModelInfo, facts: FactsReader) -> set[str]:
    names = [served.name, *served.aliases]
    if base is not None:
        names += [base.name, base.source, *base.aliases, *(one.model for one in base.served)]
    if served.path:
        names += facts.read(served.path).names
    return {make_bare(name) for name in names if name} - GENERIC


def _hashes_of(base: BaseModel, hashes: Mapping[str, str]) -> set[str]:
    paths = [one.path for one in base.served if one.path]
    found = {one.sha256 for one in base.served if one.sha256}
    if base.trainable is not None:
        paths.append(base.trainable.path)
        if base.trainable.sha256:
            found.add(base.trainable.sha256)
    if base.folder:
        paths += [path for path in hashes if path.startswith(f"{base.folder}/")]
    return found | {hashes[path] for path in paths if path in hashes}
