"""`/traces/{id}`: one trace with all of its details."""

from __future__ import annotations

from nicegui import ui

from tmde_core.errors import TmdeError
from tmde_core.records.chat import describe_cut
from tmde_core.records.traces import Trace, Withdrawal
from tmde_core.services import Services
from tmde_ui.debate.transcript import from_trace
from tmde_ui.debate.view import DebateView
from tmde_ui.kit.asking import ask_once
from tmde_ui.kit.elements import Modal, Tag, button, facts, link, open_on_press
from tmde_ui.kit.forms import clear_on_input, on_submit
from tmde_ui.kit.names import name_of
from tmde_ui.kit.shell.frame import frame
from tmde_ui.kit.shell.problems import page
from tmde_ui.kit.shell.site import Site
from tmde_ui.kit.times import exact, format_milliseconds
from tmde_ui.kit.words import count, sentence, snippet, source
from tmde_ui.traces.deleting import DELETING

_ROLES = ("proposer", "skeptic", "synthesizer", "judge")


def register(site: Site) -> None:
    """Register the page with the app."""
    services, live = site.services, site.live

    @page("/traces/{trace_id}", site)
    async def trace_page(trace_id: str) -> None:
        trace = await services.traces.get(await services.ids.trace(trace_id))
        with frame(site, trace.query[:60], here="/traces"), Tag("div", classes="stack wide"):
            with Tag("div", classes="stack"):
                link("← All traces", "/traces", "small")
                withdrawn = Tag("div", classes="maybe", data_testid="withdrawn")
                with withdrawn:
                    if trace.withdrawn_at is not None:
                        Tag("p", f"Withdrawn on {exact(trace.withdrawn_at)}: {trace.withdrawn_reason}", "notice warm")
                if trace.follows is not None and trace.earlier:
                    with Tag("p", classes="notice", data_testid="follows"):
                        Tag("span", "This follows up: ")
                        link(snippet(trace.earlier[-1].question), f"/traces/{trace.follows}")
            await DebateView(services, live, from_trace(trace), trace).build()
            _record(trace)
            if trace.withdrawn_at is None:
                _withdraw(services, trace, withdrawn)
            _delete(services, trace)


def _record(trace: Trace) -> None:
    with Tag("section", classes="card stack", aria_label="Record", data_testid="record"):
        Tag("h2", "Record")
        tokens = trace.tokens
        read = f"{tokens.prompt:,} read, {tokens.cached:,} of them from the cache; {tokens.completion:,} written"
        facts(
            (
                ("Trace", str(trace.id)),
                ("Created", exact(trace.created_at)),
                ("Source", source(trace.source)),
                ("Domain", trace.domain or ""),
                *((role.capitalize(), _model(trace, role)) for role in _ROLES),
                ("Adapter", trace.adapter_id or "none: the base model"),
                ("Templates", ", ".join(trace.templates_used)),
                ("Rounds", f"{count(len(trace.rounds), 'round')}. {trace.stop_reason}" if trace.rounds else ""),
                ("Answer", describe_cut(trace.finish_reason) or ""),
                ("Time", _times(trace)),
                ("Tokens", read if tokens.prompt or tokens.completion else ""),
            )
        )


def _model(trace: Trace, role: str) -> str:
    model = trace.models.get(role)
    if model is None:
        return ""
    return f"{model.model or 'default model'} on {model.runtime}"


def _times(trace: Trace) -> str:
    times = trace.timings
    parts = (
        ("template search", times.retrieval_ms),
        ("synthesis", times.synthesis_ms),
        ("scoring", times.scoring_ms),
    )
    rest = ", ".join(f"{name} {format_milliseconds(ms)}" for name, ms in parts if ms >= 50)
    if not times.total_ms:
        return ""
    return f"{format_milliseconds(times.total_ms)} in total" + (f"; {rest}" if rest else "")


def _withdraw(services: Services, trace: Trace, shown: Tag) -> None:
    with Tag("section", classes="line spread"):
        Tag(
            "p",
            "Wrong, private or misleading? A withdrawn trace is kept for the record and never used for training again.",
            "muted small",
        )
        start = button("Withdraw", "danger", test="withdraw")
    dialog = Modal("Withdraw this trace", test="withdraw-dialog")
    with dialog.body:
        Tag("p", "This trace will never be used for training again. This cannot be undone.", "muted")
        with Tag("form", classes="stack") as form:
            with Tag("div", classes="field"):
                Tag("label", "Why?", for_="reason")
                Tag(
                    "input",
                    classes="input",
                    id="reason",
                    name="reason",
                    required=True,
                    maxlength="2000",
                    data_testid="reason",
                )
            problem = Tag("p", classes="notice bad", role="alert").show(visible=False)
            button("Withdraw it", "primary", type_="submit", test="confirm-withdraw")

    async def withdraw(fields: dict[str, str]) -> None:
        try:
            done = await services.traces.withdraw(trace.id, fields.get("reason", ""))
        except TmdeError as error:
            problem.say(sentence(error)).show()
            return
        dialog.close()
        start.put(disabled=True)
        with shown:
            Tag("p", _consequences(done), "notice warm", role="status")
        ui.run_javascript("scrollTo(0, 0)")

    open_on_press(start, dialog)
    on_submit(form, withdraw)
    clear_on_input(form, lambda: problem.show(visible=False))


def _delete(services: Services, trace: Trace) -> None:
    with Tag("section", classes="line spread") as place:
        Tag("p", "Delete the trace if it must not stay on this machine.", "muted small")
        start = button("Delete", "danger", test="delete-trace")

    async def delete() -> None:
        await services.traces.delete([trace.id])

    async def leave() -> None:
        ui.navigate.to("/traces")

    start.on(
        "click",
        lambda: ask_once(
            place, "Delete this trace?", DELETING, yes="Delete it", no="Keep it", deed=delete, then=leave, test="delete"
        ),
        args=[],
    )


def _consequences(done: Withdrawal) -> str:
    if done.adapters:
        names = ", ".join(map(name_of, done.adapters))
        learned = f"{count(len(done.adapters), 'adapter has', 'adapters have')} been trained on it: {names}. Consider a new training without it."
    elif done.runs:
        learned = "A training run has used it but has not created an adapter."
    else:
        learned = "No adapter has been trained on it."
    return f"Withdrawn. {learned}"
