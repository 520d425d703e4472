"""The words for adapters: their gate state, their figures and their events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec

from tmde_core.errors import NotFoundError
from tmde_core.records.base import parse_id
from tmde_core.records.lora import AdapterBenchmark, LoRAActivationEvent, LoRAAdapter
from tmde_ui.kit.hyperparameters import NAMES, figure_of, loss
from tmde_ui.kit.names import name_of
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import short_id

ADDRESS = "/finetune/versions"

GATES: Mapping[str, tuple[str, str, str]] = {
    "candidate": ("candidate", "", "No benchmark has shown yet whether the adapter is better."),
    "proven": ("proven", "good", "The adapter was better in a benchmark."),
    "held-back": ("held back", "critical", "The adapter was worse in a benchmark. It can be activated only by force."),
    "forced": ("forced", "major", "A person activated the adapter by force although the gate held it back."),
}
"""Gate state → word, kind of chip, explanation."""

METRICS: Mapping[str, str] = {
    "finalTrainLoss": "Final loss",
    "finalValLoss": "Final loss, held out",
    "bestValLoss": "Best loss, held out",
    "totalSteps": "Steps",
    "trainingTimeSeconds": "Training time, s",
    "peakVramGb": "Peak VRAM, GB",
    "peakRamGb": "Peak memory, GB",
    "perplexity": "Perplexity",
    "tokensPerSecond": "Tokens per second",
    "leftOut": "Examples left out",
    "device": "Computed on",
    "quantisation": "Base model held in",
    "microBatch": "Examples at once",
}
"""JSON name of a metric → its name on the page. A missing one is shown by its JSON name."""

BY: Mapping[str, str] = {"user": "by you", "api": "through the API", "rollback": "", "gate": "by the benchmark's gate"}

_DONE = {"activate": "Activated", "rollback": "Rolled back to", "import": "Imported", "delete": "Deleted"}
_FAILED = {"activate": "activate", "rollback": "roll back to", "import": "import", "delete": "delete"}
LONGEST_FIGURE = 200
BEYOND = 1e15
"""No metric of a training is this large. An imported manifest may contain larger values or integers of 400 digits."""


def format_value(value: object) -> str:
    """Return a metric or hyperparameter of any origin, shortened to fit into a table."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _plain(value)
    if isinstance(value, int):
        text = f"{value:,}"
    else:
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= LONGEST_FIGURE else f"{text[:LONGEST_FIGURE]} …"


def losses(metrics: Mapping[str, Any]) -> str:
    """Return `loss 0.874, held out 1.016`, or `no losses known`."""
    trained = number(metrics.get("finalTrainLoss"))
    best = number(metrics.get("bestValLoss"))
    held_out = best if best is not None else number(metrics.get("finalValLoss"))
    parts = (
        f"loss {loss(trained)}" if trained is not None else "",
        f"held out {loss(held_out)}" if held_out is not None else "",
    )
    return ", ".join(part for part in parts if part) or "no losses known"


def score_words(found: AdapterBenchmark) -> str:
    """Return `TMDE score 68.6`, or how far the measurement is."""
    if found.status == "running":
        return f"being measured, {found.completed_questions:,} of {found.question_count:,}"
    return "no verdict" if found.tmde_score is None else f"TMDE score {found.tmde_score:.1f}"


def measured(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the name and value of every metric that has a value."""
    return [_measured(name, value) for name, value in metrics.items() if value is not None]


def _measured(name: str, value: object) -> tuple[str, str]:
    seconds = number(value) if name == "trainingTimeSeconds" else None
    if seconds is not None and seconds >= 0:
        return "Training time", format_milliseconds(seconds * 1000)
    return METRICS.get(name, name), format_value(value)


def hyperparameter(name: str) -> str:
    """Return the name of a hyperparameter on the page."""
    return NAMES.get(name, name)


def describe_event(event: LoRAActivationEvent) -> str:
    """Return `Activated adapter Fractions (1a2b3c4d)` or `Could not import adapter 1a2b3c4d`."""
    what = name_of(event.adapter_id)
    if event.operation == "deactivate":
        return {True: "Deactivated", False: "Could not deactivate", None: "Began to deactivate"}[event.success]
    if event.success is None:
        return f"Began to {_FAILED[event.operation]} {what}"
    return f"{_DONE[event.operation]} {what}" if event.success else f"Could not {_FAILED[event.operation]} {what}"


def option(adapter: LoRAAdapter) -> str:
    """Return an adapter as one line of a select."""
    made = adapter.created_at
    parts = (adapter.name, short_id(adapter.id), f"{made.day} {made:%b %Y, %H:%M}", _state(adapter))
    return " · ".join((*(part for part in parts if part), *adapter.tags[:3]))


def _state(adapter: LoRAAdapter) -> str:
    if adapter.is_active:
        return "active" if adapter.is_answering else "not answering" if adapter.is_valid else "damaged"
    return f"copy of {short_id(adapter.twin_of)}" if adapter.twin_of else ""


def identity(text: object) -> UUID | None:
    """Return the id in a manifest or an address, or None if it is not a valid id."""
    try:
        return parse_id(text, "adapter") if isinstance(text, str) else None
    except NotFoundError:
        return None


def number(value: object) -> float | None:
    """Return a number for calculations, or None if it is not a number or larger than any metric."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < BEYOND:
        return None
    return float(value)


def _plain(value: float) -> str:
    if 0.001 <= abs(value) < 1e9:
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return figure_of(value) if 1e-9 <= abs(value) < 0.001 else f"{value:g}"
