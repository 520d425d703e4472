"""Checks that an adapter is plain LoRA: weights · input + B · A · input · scale on an unchanged base model.

The scale is alpha / r, or alpha / √r for rsLoRA. Alpha and r may differ from module to module (`alpha_pattern`,
`rank_pattern`), so that the scale of every module is known before the adapter is served: see `scale_of`.

The PEFT library saves many relatives of LoRA in the same two files. The servers of adapters here compute plain LoRA and
nothing else, so they would give wrong answers with a relative without a warning. The list below names what plain LoRA
may have. Everything else is refused, also what future versions of PEFT add.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tmde_core.records.foreign_json import ForeignJsonError, read_object
from tmde_core.records.module_patterns import ModulePattern, PatternError, is_plain
from tmde_core.sdk.safetensors_header import SafetensorsError, Tensor, read_tensors

__all__ = [
    "MAX_ALPHA",
    "RANKS",
    "find_config_flaws",
    "find_kind_flaws",
    "find_tensor_flaws",
    "has_own_scales",
    "is_lora_matrix",
    "rank_of",
    "scale_of",
]

RANKS = range(1, 1025)
"""The ranks that an adapter may have."""
MAX_ALPHA = 65_536.0
"""The largest alpha that an adapter may have."""

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_SHOWN = 3
"""The number of tensors that a reason names. The others are counted."""
_SHOWN_VALUE = 40
"""The number of characters of a field's value that a reason shows."""
_MATRIX = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<side>[AB])\.weight")
_MAX_EXPRESSIONS = 2000
"""The number of entries of `rank_pattern` or `alpha_pattern`. A large model has some hundred matrices."""
_MAX_CHOICES = 2000
"""The number of characters of all expressions that are more than a name. They are matched slowly, for every module."""
_EMBEDDING = re.compile(r"\.lora_embedding_[AB]\b|\.trainable_tokens_")

_UNCHANGED_BASE = ("gaussian", "eva", "orthogonal", "mica")
"""Initialisations that only choose the first A and B."""
_CONVERTIBLE = ("pissa", "olora", "corda", "lora_ga")
"""Initialisations that change the base model's weights and that PEFT can convert to plain LoRA when it saves."""
_CHANGED_BASE = (*_CONVERTIBLE, "loftq")
"""Initialisations that change the base model's weights, so that the adapter does not fit the published base model."""

_Fits = Callable[[Any, Mapping[str, Any]], bool]


def _any(_value: Any, _config: Mapping[str, Any]) -> bool:
    return True


def _is(*allowed: Any) -> _Fits:
    return lambda value, _: any(type(value) is type(one) and value == one for one in allowed)


def _is_rank(value: Any) -> bool:
    return type(value) is int and value in RANKS


def _is_alpha(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= MAX_ALPHA


def _pattern(is_value: Callable[[Any], bool]) -> _Fits:
    """Accept a pattern whose expressions are known and whose values make sense."""
    return lambda value, _: (
        isinstance(value, dict)
        and len(value) <= _MAX_EXPRESSIONS
        and all(_is_expression(key) and is_value(one) for key, one in value.items())
        and sum(len(key) for key in value if not is_plain(key)) <= _MAX_CHOICES
    )


def _is_expression(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        _compiled(value)
    except PatternError:
        return False
    return True


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
    "rank_pattern": _pattern(_is_rank),
    "alpha_pattern": _pattern(_is_alpha),
    "use_rslora": _is(False, True),
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

_KINDS: Mapping[str, str] = {
    "use_dora": "is DoRA",
    "use_rslora": "does not say whether it is rsLoRA",
    "use_qalora": "is QALoRA",
    "use_bdlora": "is BD-LoRA, whose matrices are block-diagonal",
    "alora_invocation_tokens": "is aLoRA, which acts only behind its invocation tokens",
    "arrow_config": "is an Arrow router, which mixes other adapters",
    "kasa_config": "is KaSA, which changes the base model",
    "velora_config": "is VeLoRA",
    "monteclora_config": "is MonteCLoRA",
    "lora_bias": "has biases in its B matrices",
    "bias": "also changes biases of the base model",
    "modules_to_save": "also replaces whole modules of the base model",
    "trainable_token_indices": "also changes token embeddings",
    "rank_pattern": "gives some modules a rank that is no rank, or names them with an expression that TMDE does not try",
    "alpha_pattern": "gives some modules an alpha that is no alpha, or names them with an expression that TMDE does not try",
    "layer_replication": "repeats layers of the base model",
    "target_parameters": "changes parameters outside of linear layers",
    "megatron_config": "is made for Megatron's parallel layers",
    "fan_in_fan_out": "is made for layers that store their weights transposed",
}
"""Field of adapter_config.json → what an adapter is whose value leaves plain LoRA."""


def find_config_flaws(config: Mapping[str, Any]) -> list[str]:
    """Return why an adapter's configuration is not that of plain LoRA, in sentences."""
    kind = config.get("peft_type")
    if kind is None:
        return [f"{_CONFIG} does not say of which kind the adapter is (peft_type); TMDE serves plain LoRA only."]
    if kind != "LORA":  # its other fields say no more than the kind
        return [f"The adapter is of the kind {str(kind)[:40]!r} (peft_type); TMDE serves plain LoRA ('LORA') only."]
    return [_told(name, value) for name, value in config.items() if not _fits(name, value, config)]


def find_tensor_flaws(tensors: Sequence[Tensor]) -> list[str]:
    """Return why the weights are not those of plain LoRA, in sentences. Shapes are not compared."""
    foreign = [tensor.name for tensor in tensors if not is_lora_matrix(tensor.name)]
    if not foreign:
        return []
    more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
    shown = ", ".join(name[:120] for name in foreign[:_SHOWN])
    if embedding := next(filter(_EMBEDDING.search, foreign), None):
        return [f"The adapter also changes token embeddings ({embedding[:120]}); TMDE serves plain LoRA only."]
    return [f"{_WEIGHTS} holds more than plain LoRA: these are no LoRA matrices: {shown}{more}."]


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
    if flaws := find_config_flaws(config):
        return flaws  # the weights of another kind say no more than its name
    try:
        return find_tensor_flaws(read_tensors(directory / _WEIGHTS))
    except SafetensorsError:
        return []


def is_lora_matrix(name: str) -> re.Match[str] | None:
    """Return the match of a plain LoRA matrix's name with the groups `module` and `side` (A or B); None: another."""
    return _MATRIX.fullmatch(name)


def rank_of(config: Mapping[str, Any], module: str) -> int:
    """Return the rank of a module's matrices by the configuration of a plain LoRA."""
    return int(_of_pattern(config, "rank_pattern", "r", module))


def scale_of(config: Mapping[str, Any], module: str) -> float:
    """Return the factor of B · A in a module: alpha / r, or alpha / √r for rsLoRA, with the module's own alpha and r."""
    alpha, rank = float(_of_pattern(config, "alpha_pattern", "lora_alpha", module)), rank_of(config, module)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def has_own_scales(config: Mapping[str, Any]) -> bool:
    """Return whether some modules may have a rank or an alpha of their own. Not every server knows these patterns."""
    return any(
        value != config.get(key)
        for pattern, key in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
        for value in (config.get(pattern) or {}).values()
    )


def _of_pattern(config: Mapping[str, Any], pattern: str, key: str, module: str) -> Any:
    """Return the value of the first expression that fits the end of the module's name, as PEFT does."""
    for expression, value in (config.get(pattern) or {}).items():
        if _compiled(expression).matches(module):
            return value
    return config[key]


@lru_cache(maxsize=2 * _MAX_EXPRESSIONS)
def _compiled(expression: str) -> ModulePattern:
    return ModulePattern(expression)


def _fits(name: str, value: Any, config: Mapping[str, Any]) -> bool:
    if value is None:
        return True
    if name in _PLAIN:
        return _PLAIN[name](value, config)
    return value is False or value in ("", [], {})


def _told(name: str, value: Any) -> str:
    shown = str(value)
    shown = shown if len(shown) <= _SHOWN_VALUE else f"{shown[:_SHOWN_VALUE]}…"
    if name == "task_type":
        return f"The adapter's task is {shown!r} (task_type); TMDE serves CAUSAL_LM only."
    if name == "init_lora_weights":
        return _told_beginning(shown[:20])
    if name in _KINDS:
        return f"The adapter {_KINDS[name]} ({name} is {shown}); TMDE serves plain LoRA only."
    return (
        f"{_CONFIG} sets {name[:60]!r} to {shown}. TMDE does not know this field, so the adapter may be no plain LoRA."
    )


def _told_beginning(beginning: str) -> str:
    began = f"The adapter began with {beginning!r} (init_lora_weights)"
    known = beginning.casefold()
    if known.startswith(_CONVERTIBLE):
        return (
            f"{began}, which changes the base model. Convert it to plain LoRA first: PEFT's save_pretrained does with "
            "path_initial_model_for_weight_conversion."
        )
    if known.startswith(_CHANGED_BASE):
        return f"{began}, which changes the base model; TMDE serves plain LoRA on the published base model only."
    return f"{began}. TMDE does not know this beginning, which may change the base model."
