"""The dialog that tells what a pull would fetch, before anything is fetched, and starts it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from nicegui import events

from tmde_core.errors import TmdeError
from tmde_core.records.pulls import GgufChoice, Pull, PullPlan, PullRequest
from tmde_core.services import Services
from tmde_ui.kit.elements import Modal, Tag, button, close_on_press, facts
from tmde_ui.kit.tending import start_task
from tmde_ui.kit.words import count, format_bytes, plain, sentence, snippet

log = structlog.get_logger(__name__)

SMALL_BYTES = 10_000_000
"""Smaller files are counted together."""
MOST_FILES = 12
"""The most files that are named."""


class PlanDialog:
    """Asks the hub, shows the plan, and starts the pull when a person agrees.

    Args:
        services: ask the hub and pull.
        place: the element that owns the dialog.
        started: called after the start.
    """

    def __init__(self, services: Services, place: Tag, started: Callable[[Pull], Awaitable[object]]) -> None:
        self._services = services
        self._place = place
        self._started = started
        self._asking: asyncio.Task[None] | None = None

    def open(self, request: PullRequest) -> None:
        """Open the dialog and ask the hub."""
        with self._place:
            self._dialog = Modal(f"Get {snippet(request.repository, 80)}", test="plan-dialog")
        self._dialog.on("close", self._end, args=[])
        with self._dialog.body:
            self._box = Tag("div", classes="stack", data_testid="plan")
            self._said = Tag("p", classes="maybe", role="status", data_testid="plan-said")
            with Tag("div", classes="line"):
                self._go = button("Fetch", "primary", test="start-pull", disabled=True)
                close_on_press(button("Close"), self._dialog)
        self._go.on("click", self._start, args=[])
        self._dialog.open()
        self._ask(request)

    def _ask(self, request: PullRequest) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._plan: PullPlan | None = None
        self._request = request
        self._go.say("Fetch").put(disabled=True)
        self._say("Asking the hub …", "working")
        self._asking = start_task(self._look, "ask the hub about a model")

    def _end(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._dialog.delete()

    async def _look(self) -> None:
        try:
            plan = await self._services.pulls.plan(self._request)
        except TmdeError as error:
            self._box.clear()
            self._say(sentence(error), "bad")
            return
        self._plan = plan
        self._box.clear()
        with self._box:
            self._draw(plan)
        short = plan.missing_bytes - plan.free_bytes
        if plan.here:
            self._say(f"{plan.name} is here already, with exactly these files.", "good")
        elif short > 0:
            self._say(
                f"The disk lacks {format_bytes(short)}. Free some space, or choose a smaller quantisation.", "bad"
            )
        else:
            self._say("")
            self._go.say(f"Fetch {format_bytes(plan.missing_bytes)}").put(disabled=False)

    async def _start(self) -> None:
        if self._plan is None:
            return
        self._go.put(disabled=True)
        try:
            pull = await self._services.pulls.start(self._plan)
        except TmdeError as error:
            self._say(sentence(error), "bad")
            self._go.put(disabled=False)
            return
        self._dialog.close()
        await self._started(pull)

    # --------------------------------------------------------------------------------------- drawing

    def _draw(self, plan: PullPlan) -> None:
        if len(plan.choices) > 1 and plan.form == "gguf":
            self._draw_choices(plan)
        what = "weights to train from" if plan.form == "weights" else f"a GGUF file to answer with, {plan.quantization}"
        here = f", of which {format_bytes(plan.present_bytes)} are here" if plan.present_bytes else ""
        facts(
            (
                ("Base model", f"{plan.name}, which gets a further form" if plan.merges else plan.name),
                ("Fetches", what.rstrip(", ")),
                ("Licence", plan.license or "the repository names none"),
                ("Size", f"{format_bytes(plan.total_bytes)}{here}"),
                ("Free disk", format_bytes(plan.free_bytes)),
                ("From", f"{plan.repository} at {plan.commit[:12]}, {plan.endpoint}"),
            )
        )
        for note in plan.notes:
            Tag("p", plain(note), "notice")
        with Tag("details"):
            Tag("summary", count(len(plan.files), "file"))
            with Tag("ul", classes="plain-list small"):
                for line in _list_files(plan):
                    Tag("li", line)

    def _draw_choices(self, plan: PullPlan) -> None:
        chosen = plan.files[0].path if plan.files else ""
        with Tag("div", classes="field"):
            Tag("label", "Quantisation", for_="plan-choice")
            with Tag("select", classes="input", id="plan-choice", data_testid="plan-choice") as select:
                for one in plan.choices:
                    Tag("option", _describe_choice(one), value=one.path, selected=one.path == chosen)
        select.on("change", self._choose, js_handler="(event) => emit(event.target.value)")

    def _choose(self, event: events.GenericEventArguments) -> None:
        path = str(event.args)
        if self._plan is not None and any(one.path == path for one in self._plan.choices):
            repository = self._plan.repository
            self._ask(msgspec.structs.replace(self._request, repository=repository, file=path, quantization=""))

    def _say(self, words: str, kind: str = "") -> None:
        self._said.say(words).classes(replace=f"notice {kind}" if words else "maybe")


def _describe_choice(one: GgufChoice) -> str:
    parts = f", {one.parts} parts" if one.parts > 1 else ""
    return f"{one.quantization or one.path} — {format_bytes(one.size_bytes)}{parts}"


def _list_files(plan: PullPlan) -> list[str]:
    large = [file for file in plan.files if file.size_bytes >= SMALL_BYTES] or list(plan.files)
    lines = [f"{file.path} — {format_bytes(file.size_bytes)}" for file in large[:MOST_FILES]]
    if rest := len(plan.files) - len(lines):
        lines.append(count(rest, "further file"))
    reasons = Counter(one.reason for one in plan.left_out)
    lines += [f"left out: {count(number, 'file')}, {reason}" for reason, number in reasons.items()]
    return lines
