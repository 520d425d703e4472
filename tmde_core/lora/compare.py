"""Compares two adapters: their training configuration, their training data and their metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tmde_core.records.lora import AdapterComparison, FieldDifference, LoRAAdapter, Manifest

ARGUMENTS_FILE = "training_args.json"
MAX_ARGUMENTS_BYTES = 1024 * 1024


def read_training_args(directory: Path) -> dict[str, Any]:
    """Return the content of `training_args.json`, or an empty dictionary if the file is missing or unreadable."""
    try:
        with (directory / ARGUMENTS_FILE).open("rb") as file:
            content = file.read(MAX_ARGUMENTS_BYTES + 1)
        found = msgspec.json.decode(content) if len(content) <= MAX_ARGUMENTS_BYTES else {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def compare_adapters(
    a: LoRAAdapter,
    b: LoRAAdapter,
    of_a: Manifest,
    of_b: Manifest,
    trained_a: Mapping[str, Any],
    trained_b: Mapping[str, Any],
) -> AdapterComparison:
    """Return what changed from adapter A to adapter B.

    Args:
        a: the first adapter.
        b: the second adapter.
        of_a: the manifest of A.
        of_b: the manifest of B.
        trained_a: the training arguments of A; see `read_training_args`.
        trained_b: the training arguments of B.
    """
    before, after = _traces(of_a), _traces(of_b)
    return AdapterComparison(
        a=a,
        b=b,
        config=_differences(
            {"baseModel": of_a.base_model, **_flat(trained_a)}, {"baseModel": of_b.base_model, **_flat(trained_b)}
        ),
        metrics=tuple(
            FieldDifference(name=name, a=of_a.metrics.get(name), b=of_b.metrics.get(name))
            for name in dict.fromkeys((*of_a.metrics, *of_b.metrics))
            if of_a.metrics.get(name) is not None or of_b.metrics.get(name) is not None
        ),
        same_dataset=of_a.dataset_sha256 is not None and of_a.dataset_sha256 == of_b.dataset_sha256,
        traces_added=tuple(trace for trace in after if trace not in before),
        traces_removed=tuple(trace for trace in before if trace not in after),
        traces_shared=sum(trace in before for trace in after),
    )


def _traces(manifest: Manifest) -> dict[str, None]:
    """Return the ids of the traces that an adapter was trained on, in the order of the manifest."""
    listed = manifest.lineage.get("traceIds")
    return dict.fromkeys(map(str, listed)) if isinstance(listed, list) else {}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables.

    The top-level table `config` loses its name: `{"config": {"epochs": 3}}` becomes `{"epochs": 3}`. Other tables keep
    their name as a prefix: `{"data": {"size": 3}}` becomes `{"data.size": 3}`.
    """
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, "" if name == "config" and not prefix else f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[FieldDifference, ...]:
    return tuple(
        FieldDifference(name=name, a=a.get(name), b=b.get(name))
        for name in dict.fromkeys((*a, *b))
        if a.get(name) != b.get(name)
    )
