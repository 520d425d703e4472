"""The origin of an adapter: its run, the debates it was trained on, its files and its history."""

from __future__ import annotations

from collections.abc import Sequence

from tmde_core.errors import NotFoundError
from tmde_core.records.lora import AdapterDetails
from tmde_core.services import Services
from tmde_ui.kit.elements import Tag, facts, link
from tmde_ui.kit.times import age, exact
from tmde_ui.kit.words import short_id, snippet
from tmde_ui.versions.words import GATES, describe_event, format_value, hyperparameter, identity

SHOWN_EVENTS = 10

Named = list[tuple[str, str | None]]
"""The question of each debate, and the address of its trace if the trace exists here."""


def traces_of(details: AdapterDetails) -> Sequence[object]:
    """Return the ids of the traces that the adapter was trained on, from its manifest."""
    listed = details.lineage.get("traceIds")
    return listed if isinstance(listed, list) else ()


async def load_trace_names(services: Services, traces: Sequence[object], most: int) -> Named:
    """Return the questions of the first `most` traces. A trace that does not exist here is listed by its id."""
    found: Named = []
    for one in traces[:most]:
        trace_id = identity(one)
        try:
            if trace_id is None:
                raise NotFoundError("It has no valid id.")
            trace = await services.traces.get(trace_id)
            found.append((snippet(trace.query, 90), f"/traces/{trace_id}"))
        except NotFoundError:
            found.append((f"{short_id(one)} (not on this machine)", None))
    return found


async def find_run_name(services: Services, details: AdapterDetails) -> str | None:
    """Return the name of the adapter's training run; None if it is not here, as for an imported adapter."""
    run = identity(details.lineage.get("runId"))
    try:
        return (await services.finetune.get(run)).name if run is not None else None
    except NotFoundError:
        return None


def draw_named(found: Named, total: int) -> None:
    """Draw a list of traces, with links to those that exist here."""
    with Tag("ul", classes="lineage"):
        for words, address in found:
            with Tag("li"):
                if address is None:
                    Tag("span", words, "muted")
                else:
                    link(words, address)
        if total > len(found):
            Tag("li", f"and {total - len(found):,} more", "muted")


def draw_lineage(details: AdapterDetails, taught: Named, run_name: str | None) -> None:
    """Draw the whole lineage.

    Args:
        details: the adapter.
        taught: the first of the traces that the adapter was trained on.
        run_name: the name of the training run; None if it is not here.
    """
    with Tag("dl", classes="facts", data_testid="lineage"):
        _fact("Adapter", str(details.id))
        _fact("Created", exact(details.created_at))
        if details.is_valid:
            _fact("Gate", GATES[details.gate][2])
            _fact("Base model", details.base_model)
        run = identity(details.lineage.get("runId"))
        if run is not None:
            Tag("dt", "Created by")
            with Tag("dd"):
                if run_name is not None:
                    link(f"training run {run_name}", f"/finetune/{run}", data_testid="to-run")
                else:
                    Tag("span", f"training run {short_id(run)} (not on this machine)")
        origin = details.lineage.get("originId")
        _fact("Original id", origin[:80] if isinstance(origin, str) else "")
        if taught:
            Tag("dt", "Trained on")
            with Tag("dd"):
                draw_named(taught, len(traces_of(details)))
        _fact("Dataset, SHA-256", details.dataset_sha256 or "")
        _fact("Weights, SHA-256", details.sha256)
        _fact("Directory", details.path)
    with Tag("div", classes="stack tight"):
        _more("Configuration", [(hyperparameter(name), value) for name, value in _flat(details.training)])
        _more("Files and their SHA-256", sorted(details.files.items()))
    _history(details)


def _fact(name: str, value: str) -> None:
    if value:
        Tag("dt", name)
        Tag("dd", value)


def _more(title: str, pairs: list[tuple[str, str]]) -> None:
    if pairs:
        with Tag("details"):
            Tag("summary", title)
            with Tag("div", style="padding-top:12px"):
                facts(pairs)


def _flat(tree: dict[str, object]) -> list[tuple[str, str]]:
    """Return the values of training_args.json with nested tables flattened."""
    found: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, dict):
            found += _flat(value)
        else:
            found.append((name, format_value(value)))
    return found


def _history(details: AdapterDetails) -> None:
    if not details.history:
        return
    with Tag("div", classes="stack tight"):
        Tag("h3", "History")
        with Tag("ul", classes="lineage", data_testid="adapter-history"):
            for event in details.history[:SHOWN_EVENTS]:
                words = f"{describe_event(event)}, {age(event.timestamp)}"
                told = f"{words}: {event.error_message}" if event.error_message else words
                Tag("li", told, title=exact(event.timestamp))
