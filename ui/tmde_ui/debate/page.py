"""`/`: ask a question and list the latest ones. `/debates/{id}`: one debate, live or ended."""

from __future__ import annotations

import contextlib
from typing import Any, Literal, cast

import msgspec
from nicegui import ui

from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError, TmdeError
from tmde_core.records.debate import Debate, DebateConfig
from tmde_core.records.traces import Trace
from tmde_core.services import Services
from tmde_core.settings import MAX_QUERY_BYTES
from tmde_ui.debate.models import draw_choices, offer_models, read_choices
from tmde_ui.debate.toy import ToyHint
from tmde_ui.debate.transcript import from_log
from tmde_ui.debate.view import DebateView
from tmde_ui.kit.elements import Tag, button, choice, field, link
from tmde_ui.kit.forms import TOO_LARGE, on_submit, submit_on_ctrl_enter
from tmde_ui.kit.script import call
from tmde_ui.kit.shell.frame import frame
from tmde_ui.kit.shell.live import ServerStatus
from tmde_ui.kit.shell.problems import page
from tmde_ui.kit.shell.site import Site
from tmde_ui.kit.times import ago, exact
from tmde_ui.kit.words import score, sentence, snippet

RECENT = 8

EXAMPLES = (
    ("Arithmetic", "A train leaves at 14:35 and arrives at 16:20. How many minutes does it take?"),
    ("Judgement", "Is it better to repair an old laptop or to buy a refurbished one?"),
    ("Explanation", "Why does ice float on water, and why does that matter for lakes in winter?"),
)
"""Example questions on the empty page."""


def register(site: Site) -> None:
    """Register the debate pages with the app."""
    services, live = site.services, site.live
    hint = ToyHint(services)

    @page("/", site)
    async def ask(again: str = "", follows: str = "") -> None:
        asked = await _asked_before(services, again)
        followed = await _followed(services, follows)
        with frame(site, "Debate", here="/"):
            content = Tag("div", classes="stack wide lane")
            with content:
                await _ask_page(services, live, hint, content, asked, followed)

    @page("/debates/{debate_id}", site)
    async def watch(debate_id: str) -> None:
        debate = await services.debates.get(await services.ids.debate(debate_id))
        with frame(site, _title(debate), here="/"):
            await _debate(services, live, debate)


async def _debate(services: Services, live: ServerStatus, debate: Debate) -> None:
    try:
        log = await services.debates.events(debate.id)
    except ConflictError as error:
        Tag("h1", debate.query)
        Tag("p", sentence(error), "notice")
        return
    state = from_log(debate, log.events)
    if (followed := debate.config.follows) is not None:
        await _tell_followed(services, str(followed))
    view = DebateView(services, live, state)
    await view.build()
    if state.phase != "ended":
        view.follow(log)


async def _tell_followed(services: Services, identity: str) -> None:
    """Say which question this one follows up. The models see it, so a person must too."""
    earlier = await _followed(services, identity)
    if earlier is not None:
        with Tag("p", classes="notice", style="margin-bottom:16px", data_testid="follows"):
            Tag("span", "This follows up: ")
            link(snippet(earlier.query), f"/traces/{earlier.id}")


async def _asked_before(services: Services, identity: str) -> str:
    """Return the question of the trace or debate with this id, to be edited; empty if there is none."""
    with contextlib.suppress(NotFoundError):
        return (await services.traces.get(await services.ids.trace(identity))).query
    with contextlib.suppress(NotFoundError):
        return (await services.debates.get(await services.ids.debate(identity))).query
    return ""


async def _followed(services: Services, identity: str) -> Trace | None:
    """Return the trace with this id, to be followed up; None if there is none."""
    with contextlib.suppress(NotFoundError):
        return await services.traces.get(await services.ids.trace(identity))
    return None


async def _ask_page(
    services: Services,
    live: ServerStatus,
    hint: ToyHint,
    content: Tag,
    asked: str = "",
    followed: Trace | None = None,
) -> None:
    recent = await services.traces.list(limit=RECENT)
    with Tag("section", classes="hero"):
        Tag("h1", "What is your question?" if followed is None else "What else do you want to know?")
        Tag(
            "p",
            "A Proposer answers, a Skeptic looks for errors, and you get the improved answer. All of it is stored on this machine.",
        )
    await hint.draw()
    if followed is not None:
        with Tag("p", classes="notice", data_testid="followed"):
            Tag("span", "This follows up: ")
            link(snippet(followed.query), f"/traces/{followed.id}")
            Tag("span", " The models see that question and its answer too.")
    form, message, question = _ask_form(services, asked)

    async def start(fields: dict[str, str]) -> None:
        message.show(visible=False)
        try:
            config = _config(fields)
            if followed is not None:
                config = msgspec.structs.replace(config, follows=followed.id)
            debate = await services.debates.start(_question(fields), config, source="ui")
        except TmdeError as error:
            message.say(sentence(error)).show()
            return
        live.nudge()
        ui.run_javascript(call("showAddress", f"/debates/{debate.id}"))
        ui.page_title(f"{_title(debate)} · TMDE")
        content.clear()
        content.classes(remove="lane")
        with content:
            await _debate(services, live, debate)
            ui.run_javascript("scrollTo(0, 0)")

    on_submit(form, start)
    _running(services)
    if recent.items:
        with Tag("section", classes="stack tight", data_testid="recent"):
            with Tag("div", classes="line spread"):
                Tag("h2", "Recent")
                link("All traces", "/traces", "small")
            with Tag("ul", classes="rows"):
                for trace in recent.items:
                    with Tag("li"), Tag("a", classes="row brief", href=f"/traces/{trace.id}"):
                        with Tag("div", classes="lead"):
                            Tag("span", snippet(trace.query), "q")
                            Tag("span", snippet(trace.corrected_answer or trace.final_answer), "a")
                        Tag(
                            "span",
                            _quality(trace.quality_score),
                            "cell score" if trace.quality_score is not None else "cell",
                        )
                        Tag("span", ago(trace.created_at), "cell when", title=exact(trace.created_at))
    else:
        with Tag("section", classes="stack tight", data_testid="examples"):
            Tag("h2", "No questions yet. Start with one of these:", "eyebrow")
            with Tag("div", classes="examples"):
                for kind, example in EXAMPLES:
                    with Tag("button", classes="example", type="button", data_testid="example") as offer:
                        Tag("span", kind, "eyebrow")
                        Tag("span", example)
                    offer.on("click", js_handler=f"() => {call('fillField', question.id, example)}")


def _ask_form(services: Services, asked: str) -> tuple[Tag, Tag, Tag]:
    """Draw the form with an earlier question in it; return the form, the element for its errors and its text area."""
    shipped = services.settings.debate
    with Tag("div", classes="stack tight"):
        with Tag("form", classes="card ask", data_testid="ask") as form:
            question = Tag(
                "textarea", asked, "input", name="query", rows="3", autofocus=True, required=True, data_testid="query",
                aria_label="Your question", placeholder="Ask a question that is worth a second thought …",
            )  # fmt: skip
            submit_on_ctrl_enter(question)
            with Tag("div", classes="ask-foot"):
                with Tag("details", data_testid="options") as details:
                    Tag("summary", "Options")
                    with Tag("div", classes="options"):
                        rounds = tuple((str(number), str(number)) for number in range(1, 11))
                        choice("Minimum rounds", "min_rounds", rounds, str(shipped.min_rounds))
                        choice("Maximum rounds", "max_rounds", rounds, str(shipped.max_rounds))
                        templates = (("0", "none"), *((str(number), str(number)) for number in range(1, 6)))
                        choice("Method templates", "templates", templates, str(shipped.templates))
                        choice("Final answer", "synthesis", _SYNTHESIS, shipped.synthesis)
                        field("Domain", "domain", placeholder="detected automatically", maxlength="60")
                        models = draw_choices()
                with button("", "primary", type_="submit", test="ask-button"):
                    Tag("span", "Debate it")
                    Tag("kbd", "Ctrl ↵", aria_hidden="true")
        message = Tag("p", classes="notice bad", role="alert", data_testid="ask-error").show(visible=False)
    offer_models(details, models, services)
    return form, message, question


_SYNTHESIS = (
    ("always", "always rewritten"),
    ("when-disputed", "rewritten when disputed"),
    ("never", "last proposal unchanged"),
)


def _running(services: Services) -> None:
    running = services.debates.running()
    if not running:
        return
    with Tag("section", classes="stack tight", data_testid="running"):
        Tag("h2", "Running now")
        with Tag("ul", classes="rows"):
            for debate in running:
                with Tag("li"), Tag("a", classes="row brief", href=f"/debates/{debate.id}"):
                    with Tag("div", classes="lead"):
                        Tag("span", snippet(debate.query), "q")
                    Tag("span", f"round {len(debate.rounds) + 1}", "cell")
                    Tag("span", ago(debate.created_at), "cell when")


def _question(fields: dict[str, str]) -> str:
    """Return the typed question.

    Raises:
        InvalidInputError: the form was too large to be sent.
    """
    if TOO_LARGE in fields:
        raise InvalidInputError(
            f"The question has {int(float(fields[TOO_LARGE])):,} bytes; at most {MAX_QUERY_BYTES:,} (32 KiB) are allowed. Shorten it."
        )
    return fields.get("query", "")


def _config(fields: dict[str, str]) -> DebateConfig:
    """Return the chosen options.

    Raises:
        InvalidInputError: a value is not among the form's options.
    """
    chosen: dict[str, Any] = {}
    for name in ("min_rounds", "max_rounds", "templates"):
        if fields.get(name, "").isdecimal():
            chosen[name] = int(fields[name])
    if fields.get("synthesis") in {"always", "when-disputed", "never"}:
        chosen["synthesis"] = cast("Literal['always', 'when-disputed', 'never']", fields["synthesis"])
    if (models := read_choices(fields)) is not None:
        chosen["models"] = models
    if fields.get("domain", "").strip():
        chosen["domain"] = fields["domain"].strip()[:60]
    wire = msgspec.to_builtins(DebateConfig(**chosen))
    try:
        return msgspec.convert(wire, DebateConfig)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"An option is out of range: {error}.") from None


def _title(debate: Debate) -> str:
    words = " ".join(debate.query.split())
    return words if len(words) <= 60 else f"{words[:59]}…"


def _quality(value: float | None) -> str:
    return "no verdict" if value is None else f"{score(value)} of 10"
