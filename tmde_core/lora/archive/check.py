"""Checks whether the files from an archive are an adapter that TMDE can serve, and collects all reasons against it."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from tmde_core.errors import TmdeError
from tmde_core.lora.archive.layout import ARGUMENTS_FILE, METRICS_FILE
from tmde_core.lora.archive.unpack import Unpacked
from tmde_core.records.base import from_json
from tmde_core.records.foreign_json import ForeignJsonError, read_object
from tmde_core.records.lora import MANIFEST_VERSION, MAX_TAGS, TAG, Manifest
from tmde_core.sdk.adapters import CONFIG_FILE, MANIFEST_FILE, REQUIRED_FILES, WEIGHTS_FILE
from tmde_core.sdk.plain_lora import (
    MAX_ALPHA,
    RANKS,
    find_config_flaws,
    find_tensor_flaws,
    is_lora_matrix,
    rank_of,
)
from tmde_core.sdk.safetensors_header import SafetensorsError, Tensor, find_non_finite, read_tensors

MAX_BASE_NAME = 500
SHOWN = 3
"""Number of tensors that a reason names; the rest are counted."""

_HASH = re.compile(r"[0-9a-f]{64}")


class Checked(NamedTuple):
    """Stores what the check of the files found."""

    reasons: list[str]
    manifest: Manifest | None
    """The manifest from the archive; None in an archive of another tool."""
    base_model: str
    shapes_sound: bool
    """Configuration and weights agree, so the GGUF form can be created and compared with the base model."""


def check(directory: Path, unpacked: Unpacked) -> Checked:
    """Check all files that were unpacked into `directory`.

    Raises:
        OSError: a file cannot be read.
    """
    reasons: list[str] = []
    kind: list[str] = []
    config: dict[str, Any] | None = None
    tensors: tuple[Tensor, ...] | None = None
    if CONFIG_FILE in unpacked.hashes:
        config, kind, found = _config(directory / CONFIG_FILE)
        reasons += kind + found
    if not kind:  # another kind of adapter has other files and other tensors
        reasons += _layout(unpacked)
    if WEIGHTS_FILE in unpacked.hashes and not kind:
        tensors, found = _weights(directory / WEIGHTS_FILE)
        reasons += found
    sound = config is not None and tensors is not None and not reasons
    if config is not None and tensors:
        found = _shapes(tensors, config)
        reasons += found
        sound = sound and not found
    for name in (ARGUMENTS_FILE, METRICS_FILE):
        if name in unpacked.hashes:
            reasons += _plain_object(directory / name)
    manifest = None
    if unpacked.manifest is not None:
        manifest, found = _manifest(unpacked.manifest, unpacked.hashes)
        reasons += found
    told = config.get("base_model_name_or_path") if config else None
    base = manifest.base_model if manifest else told if isinstance(told, str) else ""
    if config is not None and not base and not kind:
        reasons.append("It does not say which base model it belongs to (base_model_name_or_path).")
    return Checked(reasons, manifest, base, sound)


def _layout(unpacked: Unpacked) -> list[str]:
    if not unpacked.deeper:
        return [f"It has no {name}." for name in unpacked.missing]
    more = f" and {len(unpacked.deeper) - 1} more lie" if len(unpacked.deeper) > 1 else " lies"
    return [f"{unpacked.deeper[0][:80]!r}{more} deeper than one folder; pack the folder of one adapter by itself."]


# ------------------------------------------------------------------------------------ configuration


def _config(path: Path) -> tuple[dict[str, Any] | None, list[str], list[str]]:
    """Return the configuration, why it is not that of plain LoRA, and what else is wrong with it."""
    try:
        config = read_object(path.read_bytes())
    except ForeignJsonError as error:
        return None, [], [f"{CONFIG_FILE} cannot be used: {error}."]
    if kind := find_config_flaws(config):
        return config, kind, []
    wrong = []
    if type(config.get("r")) is not int or config["r"] not in RANKS:
        wrong.append(
            f"the rank r must be a whole number from {RANKS[0]} to {RANKS[-1]}, it is {str(config.get('r'))[:40]}"
        )
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha <= MAX_ALPHA:
        wrong.append(f"lora_alpha must be a number above 0, it is {str(alpha)[:40]}")
    if not _targets_are_sound(config.get("target_modules")):
        wrong.append("target_modules must be a list of names, or one text")
    base = config.get("base_model_name_or_path")
    if base is not None and not _is_name(base):
        wrong.append("base_model_name_or_path is no name")
    return config, [], [f"{CONFIG_FILE} cannot be used: {one}." for one in wrong]


def _targets_are_sound(value: Any) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= 1000
    return isinstance(value, list) and 0 < len(value) <= 5000 and all(isinstance(one, str) and one for one in value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_BASE_NAME and (value.isprintable() or not value)


# ------------------------------------------------------------------------------------------ weights


def _weights(path: Path) -> tuple[tuple[Tensor, ...] | None, list[str]]:
    try:
        tensors = read_tensors(path)
        spoilt = find_non_finite(path, tensors)
    except SafetensorsError as error:
        return None, [f"{WEIGHTS_FILE} cannot be used: {error}."]
    if not tensors:
        return None, [f"{WEIGHTS_FILE} cannot be used: it holds nothing."]
    if spoilt:
        return tensors, [f"{WEIGHTS_FILE} cannot be used: NaN or infinity in {_some(spoilt)}."]
    return tensors, []


def _shapes(tensors: tuple[Tensor, ...], config: dict[str, Any]) -> list[str]:
    """Check that the tensors are pairs of LoRA matrices with the configuration's ranks and target modules."""
    targets = config.get("target_modules")
    ranks: dict[str, int] = {}
    sides: dict[str, dict[str, Tensor]] = {"A": {}, "B": {}}
    misshapen, untargeted = [], []
    for tensor in tensors:
        found = is_lora_matrix(tensor.name)
        if found is None:
            continue  # `find_tensor_flaws` names it
        module = found["module"]
        sides[found["side"]][module] = tensor
        if module not in ranks:
            ranks[module] = rank_of(config, module)
        # A is [rank, in], B is [out, rank].
        place = 0 if found["side"] == "A" else 1
        if len(tensor.shape) != 2 or not all(tensor.shape) or tensor.shape[place] != ranks[module]:
            misshapen.append(f"{tensor.name} {list(tensor.shape)}")
        if isinstance(targets, list) and not any(module == one or module.endswith(f".{one}") for one in targets):
            untargeted.append(tensor.name)
    alone = sorted(sides["A"].keys() ^ sides["B"].keys())
    return find_tensor_flaws(tensors) + [
        f"{WEIGHTS_FILE} does not fit {CONFIG_FILE}: {text} {_some(names)}."
        for text, names in (
            (f"these are not of {_rank_told(config)}:", misshapen),
            ("these have no counterpart:", alone),
            ("target_modules does not name", untargeted),
        )
        if names
    ]


def _rank_told(config: dict[str, Any]) -> str:
    return "the rank that rank_pattern gives" if config.get("rank_pattern") else f"rank {config['r']}"


def _some(names: list[str]) -> str:
    shown = ", ".join(name[:120] for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


# ----------------------------------------------------------------------------------------- manifest


def _plain_object(path: Path) -> list[str]:
    try:
        read_object(path.read_bytes())
    except ForeignJsonError as error:
        return [f"{path.name} cannot be used: {error}."]
    return []


def _manifest(content: bytes, hashes: dict[str, str]) -> tuple[Manifest | None, list[str]]:
    try:
        version = read_object(content).get("format", MANIFEST_VERSION)
        if type(version) is int and version > MANIFEST_VERSION:
            return None, [
                f"It was exported by a newer version of TMDE (format {version}). Update TMDE, then import it."
            ]
        manifest = from_json(content, Manifest)
    except ForeignJsonError as error:
        return None, [f"{MANIFEST_FILE} cannot be used: {error}."]
    except TmdeError as error:
        return None, [f"{MANIFEST_FILE} cannot be used: {error.detail}"]
    wrong = [f"it does not name {name}" for name in REQUIRED_FILES if name not in manifest.files]
    wrong += [
        f"{name} has the SHA-256 {hashes[name][:12]}…, it says {told[:12]}…"
        for name, told in manifest.files.items()
        if name in hashes and hashes[name] != told
    ]
    if not _is_dated(manifest.created_at):
        wrong.append("createdAt is no time of this century with its zone")
    if not _is_name(manifest.base_model) or not manifest.base_model:
        wrong.append("baseModel is no name")
    if len(manifest.tags) > MAX_TAGS or len(set(manifest.tags)) != len(manifest.tags):
        wrong.append(f"it has more than {MAX_TAGS} tags, or one twice")
    if bad := [tag for tag in manifest.tags if not TAG.fullmatch(tag)]:
        wrong.append(f"{bad[0][:60]!r} is no tag (1–40 letters, digits, '-', '_', '.')")
    if manifest.traces_used < 0:
        wrong.append("tracesUsed is negative")
    told_hashes = (
        manifest.base_model_sha256,
        manifest.tokenizer_sha256,
        manifest.chat_template_sha256,
        manifest.dataset_sha256,
    )
    if any(one is not None and not _HASH.fullmatch(one) for one in told_hashes):
        wrong.append("a hash is no SHA-256")
    if not _lineage_is_sound(manifest.lineage):
        wrong.append("its lineage names runs and traces by what are no ids")
    return manifest, [f"{MANIFEST_FILE} cannot be believed: {one}." for one in wrong]


def _is_dated(moment: datetime) -> bool:
    return moment.tzinfo is not None and 2000 <= moment.year < 2100


def _lineage_is_sound(lineage: dict[str, Any]) -> bool:
    traces = lineage.get("traceIds", [])
    run = lineage.get("runId")
    return isinstance(traces, list) and all(map(_is_id, traces)) and (run is None or _is_id(run))


def _is_id(value: Any) -> bool:
    try:
        return isinstance(value, str) and str(UUID(value)) == value
    except ValueError:
        return False
