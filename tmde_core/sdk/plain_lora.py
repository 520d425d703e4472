"""Checks that an adapter is plain LoRA: weights · input + B · A · input · alpha / r on an unchanged base model.

The PEFT library saves many relatives of LoRA in the same two files. The servers of adapters here compute plain LoRA and
nothing else, so they would give wrong answers with a relative without a warning. The list below names what plain LoRA
may have. Everything else is refused, also what future versions of PEFT add.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tmde_core.records.foreign_json import ForeignJsonError, read_object
from tmde_core.sdk.safetensors_header import SafetensorsError, Tensor, read_tensors

__all__ = ["find_config_flaws", "find_kind_flaws", "find_tensor_flaws", "is_lora_matrix"]

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_SHOWN = 3
"""The number of tensors that a reason names. The others are counted."""
_MATRIX = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<side>[AB])\.weight")

_UNCHANGED_BASE = ("gaussian", "eva", "orthogonal", "mica")
"""Initialisations that only choose the first A and B."""
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that change the base model's weights, so that the adapter does not fit the published base model."""

_Fits = Callable[[Any, Mapping[str, Any]], bool]


def _any(_value: Any, _config: Mapping[str, Any]) -> bool:
    return True


def _is(*allowed: Any) -> _Fits:
    return lambda value, _: any(type(value) is type(one) and value == one for one in allowed)


def _all_are(key: str) -> _Fits:
    """Accept a pattern that gives every module the value that it has anyway."""
    return lambda value, config: isinstance(value, dict) and all(one == config.get(key) for one in value.values())


def _leaves_the_base(value: Any, _config: Mapping[str, Any]) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.casefold() in _UNCHANGED_BASE)


_PLAIN: Mapping[str, _Fits] = {
    "peft_type": _is("LORA"),
    "task_type": _is("CAUSAL_LM"),
    "init_lora_weights": _leaves_the_base,
    # Where the matrices are and how large they are: the caller compares these with the weights.
    "r": _any,
    "lora_alpha": _any,
    "target_modules": _any,
    "exclude_modules": _any,
    "layers_to_transform": _any,
    "layers_pattern": _any,
    "rank_pattern": _all_are("r"),
    "alpha_pattern": _all_are("lora_alpha"),
    # What only describes the adapter, its training or its first weights. PEFT ignores the settings of an initialisation
    # that `init_lora_weights` does not name; a converted adapter keeps them.
    "auto_mapping": _any,
    "base_model_name_or_path": _any,
    "revision": _any,
    "peft_version": _any,
    "inference_mode": _any,
    "lora_dropout": _any,
    "megatron_core": _any,
    "qalora_group_size": _any,
    "runtime_config": _any,
    "ensure_weight_tying": _any,
    "eva_config": _any,
    "corda_config": _any,
    "loftq_config": _any,
    "lora_ga_config": _any,
    # What makes another kind of adapter.
    "bias": _is("none"),
    "fan_in_fan_out": _is(False),
    "use_rslora": _is(False),
    "use_dora": _is(False),
    "use_qalora": _is(False),
    "use_bdlora": _is(False),
    "lora_bias": _is(False),
    "modules_to_save": _is([]),
    "layer_replication": _is([]),
    "target_parameters": _is([]),
    "trainable_token_indices": _is([], {}),
    "alora_invocation_tokens": _is([]),
    "megatron_config": _is({}),
}
"""Field of adapter_config.json → whether a value leaves plain LoRA. Null always does. A field that is not listed must be
empty. The list covers PEFT up to 0.21."""


def find_config_flaws(config: Mapping[str, Any]) -> list[str]:
    """Return why an adapter's configuration is not that of plain LoRA, in clauses."""
    odd = {name: value for name, value in config.items() if name != "peft_type" and not _fits(name, value, config)}
    kind = config.get("peft_type")
    if kind == "LORA":
        return [_told(name, value) for name, value in odd.items()]
    # Another kind has fields of its own, which say no more than the kind.
    known = [_told(name, value) for name, value in odd.items() if name in _PLAIN]
    return [f"it is of the kind {str(kind)[:40]!r}; TMDE serves LORA", *known]


def find_tensor_flaws(tensors: Sequence[Tensor]) -> list[str]:
    """Return why the weights are not those of plain LoRA, in sentences. Shapes are not compared."""
    foreign = [tensor.name for tensor in tensors if not is_lora_matrix(tensor.name)]
    if not foreign:
        return []
    more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
    shown = ", ".join(name[:120] for name in foreign[:_SHOWN])
    return [f"{_WEIGHTS} does not fit {_CONFIG}: these are no LoRA matrices: {shown}{more}."]


def find_kind_flaws(directory: Path) -> list[str]:
    """Return why the adapter in a directory is no plain LoRA, in sentences; an empty list if it is.

    Only headers are read. Weights that cannot be read are not judged: other checks report them.

    Raises:
        OSError: a file cannot be read.
    """
    try:
        config = read_object((directory / _CONFIG).read_bytes())
    except ForeignJsonError as error:
        return [f"{_CONFIG} cannot be used: {error}."]
    flaws = [f"{_CONFIG} cannot be used: {one}." for one in find_config_flaws(config)]
    try:
        return flaws + find_tensor_flaws(read_tensors(directory / _WEIGHTS))
    except SafetensorsError:
        return flaws


def is_lora_matrix(name: str) -> re.Match[str] | None:
    """Return the match of a plain LoRA matrix's name with the groups `module` and `side` (A or B); None: another."""
    return _MATRIX.fullmatch(name)


def _fits(name: str, value: Any, config: Mapping[str, Any]) -> bool:
    if value is None:
        return True
    if name in _PLAIN:
        return _PLAIN[name](value, config)
    return value is False or value in ("", [], {})


def _told(name: str, value: Any) -> str:
    shown = str(value)[:40]
    if name == "task_type":
        return f"its task is {shown!r}; TMDE serves CAUSAL_LM"
    if name == "init_lora_weights":
        known = shown.casefold().startswith(_CHANGED_BASE)
        does = "changes the base model" if known else "TMDE does not know and which may change the base model"
        return f"it began with {shown[:20]!r}, which {does}; convert it to plain LoRA with PEFT first"
    if name in _PLAIN:
        return f"{name} is {shown!r}, which is no plain LoRA, and TMDE serves nothing else"
    return f"{name[:60]!r} is set to {shown!r}; TMDE does not know this field, so it may be no plain LoRA"
