"""Base models on the pages: their sizes and forms as a person reads them, and the choice of a form in a select."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext

from tmde_core.records.debate import ChosenModel
from tmde_core.records.models import BaseModel, ServedForm
from tmde_ui.kit.elements import Tag
from tmde_ui.kit.words import format_bytes

ROLES = {
    "proposer": "Proposer",
    "skeptic": "Skeptic",
    "synthesizer": "Synthesizer",
    "judge": "Judge",
}
"""Role → its name on the pages."""


def format_weights(number: int) -> str:
    """Return a number of weights as `27 thousand`, `135 million` or `1.7 billion`."""
    if number >= 950_000_000:
        return f"{number / 1e9:.2g} billion" if number < 99.5e9 else f"{number / 1e9:.0f} billion"
    return f"{max(1, number / 1e6):.0f} million" if number >= 950_000 else f"{max(1, number / 1e3):.0f} thousand"


def describe_form(form: ServedForm) -> str:
    """Return how a form is served, such as `ollama, Q4_K_M`."""
    return ", ".join(filter(None, (form.runtime, form.quantization)))


def describe_trainable(base: BaseModel) -> str:
    """Return what training starts from, such as `its weights (2.7 GB)`; empty if there is nothing."""
    form = base.trainable
    if form is None:
        return ""
    size = f" ({format_bytes(form.size_bytes)})" if form.size_bytes else ""
    return f"its weights{size}" if form.kind == "safetensors" else f"its GGUF file{size}"


def write_form(runtime: str, model: str) -> str:
    """Return the value of an option. No runtime has a space in its name."""
    return f"{runtime} {model}"


def read_form(value: str) -> ChosenModel | None:
    """Return what the value of an option means; None: no model was chosen."""
    runtime, _, model = value.partition(" ")
    return ChosenModel(runtime=runtime, model=model) if runtime else None


def find_chosen(bases: Sequence[BaseModel], role: str, runtime: str, model: str) -> tuple[BaseModel, ServedForm] | None:
    """Return the form that a role uses; None if its runtime does not respond or has no such model.

    Args:
        bases: all base models.
        role: the role.
        runtime: the runtime in the role's settings.
        model: the model in the role's settings; empty: the runtime's default.
    """
    forms = [(base, form) for base in bases for form in base.served if form.runtime == runtime]
    for base, form in forms:
        if form.model == model if model else form.default:
            return base, form
    # The settings may name the model by an alias. The list of base models knows which one that is.
    return next(((base, form) for base, form in forms if role in base.roles), None)


def list_forms(bases: Sequence[BaseModel]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the name of each served base model with the options for its forms: their values and texts."""
    found = []
    for base in bases:
        named = Counter(describe_form(form) for form in base.served)
        options = []
        for form in base.served:
            told = describe_form(form)
            same = f", {form.model}" if named[told] > 1 else ""
            options.append((write_form(form.runtime, form.model), f"{base.name} — {told}{same}"))
        if options:
            found.append((base.name, options))
    return found


def draw_forms(select: Tag, bases: Sequence[BaseModel], chosen: str) -> None:
    """Draw an option for every served form into a select. Several forms of one base model are a group.

    Args:
        select: the select; its other options stay.
        bases: all base models.
        chosen: the value of the selected option, from `write_form`.
    """
    with select:
        for name, options in list_forms(bases):
            with Tag("optgroup", label=name) if len(options) > 1 else nullcontext():
                for value, text in options:
                    Tag("option", text, value=value, selected=value == chosen)
