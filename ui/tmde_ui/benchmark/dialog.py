"""The dialog of *Run Benchmark*: choose the questions, the version and the settings, then start the run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from uuid import UUID

import structlog
from nicegui import ui

from tmde_core.benchmark.questions.bank import QUICK
from tmde_core.benchmark.running.planning import DEFAULT_REPEATS
from tmde_core.errors import TmdeError
from tmde_core.records.benchmark import BenchmarkPlan, BenchmarkQuestion, BenchmarkRun
from tmde_core.records.lora import LoRAAdapter
from tmde_core.services import Services
from tmde_ui.benchmark.words import domain_name, domain_place
from tmde_ui.kit.elements import Modal, Tag, button, choice, field, open_on_press
from tmde_ui.kit.forms import on_press, on_submit
from tmde_ui.kit.names import name_of
from tmde_ui.kit.script import call
from tmde_ui.kit.tending import start_task
from tmde_ui.kit.words import count, sentence, snippet

log = structlog.get_logger(__name__)

PREFIX = "question:"
"""Prefix of the names of the fields that choose a question."""

BASE, ACTIVE = "base", "active"

MODES = (
    ("debate", "whole debates: the usual way to answer"),
    ("proposer", "the Proposer alone: shows whether the weights improved"),
)

Started = Callable[[BenchmarkRun], Awaitable[None]]


class BenchmarkDialog:
    """Lets a person choose everything about a run and start it."""

    def __init__(self, services: Services, started: Started) -> None:
        self._services = services
        self._started = started
        self._listed: object = None
        self.modal = Modal("Run a benchmark", test="benchmark-dialog", classes="sheet benchmark-sheet")
        with self.modal.body:
            with Tag("form", classes="stack", novalidate=True) as self._form:
                self._types()
                with Tag("div", classes="options"):
                    self._who = choice("Who answers", "who", (), "", data_testid="who")
                    choice("How", "how", MODES, "debate", data_testid="how")
                with Tag("details", data_testid="further"):
                    Tag("summary", "Further settings")
                    with Tag("div", classes="options"):
                        self._suite = choice("Suite", "suite", (), "", data_testid="suite")
                        field("Repeats per question", "repeats", inputmode="numeric", autocomplete="off",
                              placeholder="quick: 1, otherwise: 2", maxlength="10")  # fmt: skip
                        field("Seed", "seed", inputmode="numeric", autocomplete="off", placeholder="42", maxlength="10")
                        self._judge = choice("Judge", "judge", (), "", data_testid="judge")
                self._picker = Tag("div")
            with Tag("div", classes="sheet-foot"):
                self._said = Tag("p", classes="maybe", role="alert", data_testid="benchmark-said")
                self._start = button("Start the benchmark", "primary", test="start-benchmark", disabled=True)
        on_submit(self._form, self._go)
        on_press(self._start, self._form, self._go)

    def opens_with(self, control: Tag) -> None:
        """Open the dialog with this button. The choices are loaded each time."""
        open_on_press(control, self.modal)
        control.on("click", self._opened, args=[])

    async def offer_base(self, type_: str, mode: str) -> None:
        """Open the dialog with the base model selected."""
        await self._opened()
        with self.modal:
            ui.run_javascript(call("fillForm", self._form.id, {"who": BASE, "type": type_, "how": mode}))
        self.modal.open()

    async def _opened(self) -> None:
        self._say("")
        questions = await self._services.benchmark.questions()
        adapters = await self._services.lora.list(valid=True)
        listed = ([one.id for one in questions], [(one.id, one.is_active, one.gate) for one in adapters])
        if listed != self._listed:
            self._listed = listed
            self._fill(questions, adapters)
        self._start.put(disabled=False)  # the select has options only now

    # -------------------------------------------------------------------------------------- drawing

    def _types(self) -> None:
        few, whole = self._sizes()
        with Tag("fieldset", data_testid="types"):
            Tag("legend", "Type", "eyebrow")
            with Tag("div", classes="presets"):
                for name, about in (
                    ("quick", f"{count(few, 'question')}, once each. Shows only large differences."),
                    (
                        "full",
                        f"{count(whole, 'question')}, twice each. Also shows smaller differences, but takes longer.",
                    ),
                    ("custom", "The questions that you choose below, including your own."),
                ):
                    with Tag("label", classes="backend"):
                        Tag("input", type="radio", name="type", value=name, defaultChecked=name == "quick",
                            data_testid=f"type-{name}")  # fmt: skip
                        with Tag("span", classes="stack tight"):
                            Tag("strong", name.capitalize())
                            Tag("span", about, "muted small")

    def _sizes(self) -> tuple[int, int]:
        """Return the numbers of questions of a quick and a full run; nothing if the suite's plugin is broken.

        Starting a run then reports the broken plugin.
        """
        suites = self._services.benchmark.suites()
        try:
            whole = len(tuple(suites[0].questions())) if suites else 0
        except Exception as error:
            log.warning("ui.suite_unreadable", suite=suites[0].name, error=f"{type(error).__name__}: {error}")
            return 0, 0
        return min(len(suites[0].quick) or QUICK, whole) if suites else 0, whole

    def _fill(self, questions: Sequence[BenchmarkQuestion], adapters: Sequence[LoRAAdapter]) -> None:
        active = next((one for one in adapters if one.is_active), None)
        now = f"the active version: {name_of(active.id if active else None)}"
        who = [(ACTIVE, now), (BASE, "the base model")]
        who += [(str(one.id), name_of(one.id)) for one in adapters if not one.is_active]
        _offer(self._who, who, ACTIVE)
        suites = self._services.benchmark.suites()
        _offer(self._suite, [("" if one.default else one.name, f"{one.name}: {one.summary}") for one in suites], "")
        judges = [(one.name, f"{one.name}: {one.summary}") for one in self._services.plugins.judges]
        _offer(self._judge, [("", f"default: {self._services.settings.benchmark.judge}"), *judges], "")
        self._picker.clear()
        with self._picker:
            _pick(questions)

    # ---------------------------------------------------------------------------------------- start

    async def _go(self, fields: dict[str, str]) -> None:
        self._say("")
        plan = self._plan(fields)
        if plan is None:
            return
        self._start.put(disabled=True)
        try:
            run = await self._services.benchmark.start(plan)
        except TmdeError as error:
            self._say(sentence(error))
            return
        finally:
            self._start.put(disabled=False)
        self.modal.close()
        # A task of its own: showing the run redraws the page and deletes this handler's element.
        start_task(lambda: self._started(run), "show a new benchmark")

    def _plan(self, fields: dict[str, str]) -> BenchmarkPlan | None:
        """Return the chosen plan, or None after showing what is wrong with it."""
        repeats, seed = _whole(fields.get("repeats", ""), 1, 10), _whole(fields.get("seed", ""), 0, 2**31 - 1)
        if isinstance(repeats, str) or isinstance(seed, str):
            self._say(f"Repeats per question: {repeats}" if isinstance(repeats, str) else f"Seed: {seed}")
            return None
        run_type = fields.get("type", "quick")
        chosen = tuple(name.removeprefix(PREFIX) for name in fields if name.startswith(PREFIX))
        if run_type == "custom" and not chosen:
            self._say("Choose at least one question below. A custom run asks only these questions.")
            return None
        who = fields.get("who", ACTIVE)
        return BenchmarkPlan(
            type=run_type if run_type in DEFAULT_REPEATS else "quick",  # type: ignore[arg-type]  # checked just here
            suite="" if run_type == "custom" else fields.get("suite", ""),
            question_ids=chosen if run_type == "custom" else (),
            mode="proposer" if fields.get("how") == "proposer" else "debate",
            adapter_id=None if who in (ACTIVE, BASE) else UUID(who),
            base=who == BASE,
            repeats=repeats,
            seed=42 if seed is None else seed,
            judge=fields.get("judge", ""),
        )

    def _say(self, words: str) -> None:
        self._said.say(words).classes(replace="notice bad" if words else "maybe")


def _pick(questions: Sequence[BenchmarkQuestion]) -> None:
    """Draw a checkbox for every question, the person's own questions first. Only a custom run shows them."""
    own = [one for one in questions if not one.is_built_in]
    with Tag("fieldset", classes="stack tight picker", data_testid="picker"):
        Tag("legend", "Questions", "eyebrow")
        if own:
            _group("Your own", own, ticked=True)
        builtin = [one for one in questions if one.is_built_in]
        ordered = sorted(builtin, key=lambda one: domain_place(one.domain))
        for domain, group in groupby(ordered, key=lambda one: one.domain):
            _group(domain_name(domain), list(group), ticked=False)


def _group(title: str, questions: Sequence[BenchmarkQuestion], *, ticked: bool) -> None:
    with Tag("details", open=ticked):
        Tag("summary", f"{title}: {count(len(questions), 'question')}")
        for one in questions:
            with Tag("label", classes="check pick"):
                Tag("input", type="checkbox", name=f"{PREFIX}{one.id}", defaultChecked=ticked)
                Tag("span", f"{snippet(one.question, 140)} ({one.difficulty})")


def _offer(select: Tag, options: Sequence[tuple[str, str]], chosen: str) -> None:
    select.clear()
    with select:
        for value, text in options:
            Tag("option", text, value=value, selected=value == chosen)


def _whole(text: str, least: int, most: int) -> int | str | None:
    """Return a whole number within its bounds, a sentence about what is wrong, or None for an empty text."""
    text = text.strip()
    if not text:
        return None
    if text.isascii() and text.isdigit() and len(text) < 12 and least <= int(text) <= most:
        return int(text)
    return f"{text!r} is not a whole number from {least:,} to {most:,}."
