"""Show and change the schedule of training or of benchmarks: its times, its next run and its decisions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from tmde_core.errors import NotFoundError, TmdeError
from tmde_core.records.schedule import ScheduleDecision, ScheduleName, ScheduleStatus
from tmde_core.services import Services
from tmde_ui.kit.elements import Tag, button, chip, link
from tmde_ui.kit.forms import clear_on_input, on_submit
from tmde_ui.kit.names import name_of
from tmde_ui.kit.times import format_next_time, on_the_clock
from tmde_ui.kit.words import plain, sentence

_WHAT = {"finetune": "training", "benchmark": "a benchmark"}
"""What a schedule starts. The pages of its runs are below its own name."""

_ACTIONS = {"started": ("started", "good"), "skipped": ("skipped", ""), "failed": ("failed", "critical")}


class SchedulePanel:
    """Shows a schedule and lets a person change it."""

    def __init__(
        self, services: Services, changed: Callable[[], Awaitable[None]], name: ScheduleName = "finetune"
    ) -> None:
        self._services = services
        self._changed = changed
        self._name: ScheduleName = name
        self.shown: ScheduleStatus | None = None
        """The drawn schedule; None while it is unknown."""

    async def build(self) -> None:
        """Draw the panel."""
        status = await self._services.schedules.status(self._name)
        with Tag("section", classes="card stack", aria_label="Schedule", data_testid="schedule"):
            Tag("h2", "Schedule")
            self._facts = Tag("div", classes="stack tight")
            self._form(status)
            self._decisions = Tag("div", classes="stack tight")
        await self._draw(status)

    async def look(self) -> None:
        """Redraw the schedule if it has changed."""
        if self.shown is not None:
            await self._draw(await self._services.schedules.status(self._name))

    async def _draw(self, status: ScheduleStatus) -> None:
        if status == self.shown:
            return
        self.shown = status
        runs = await self._name_runs(status)
        self._facts.clear()
        with self._facts:
            Tag("p", _words(status), data_testid="schedule-words")
            if status.problem:
                Tag("p", plain(status.problem), "notice bad", data_testid="schedule-unusable")
            if status.enabled and status.next_runs:
                first = status.next_runs[0]
                Tag(
                    "p",
                    f"Next: {format_next_time(first, status.timezone)} ({on_the_clock(first, status.timezone)}, {status.timezone})",
                    "muted small tabular",
                    data_testid="schedule-next",
                )
        self._decisions.clear()
        with self._decisions:
            Tag("h3", "Decisions")
            if not status.decisions:
                Tag("p", "No scheduled run yet. Decisions will appear here.", "muted small")
                return
            with Tag("ul", classes="decisions", data_testid="decisions"):
                for decision in status.decisions:
                    _decision(decision, status.timezone, runs.get(decision.run_id or ""))

    async def _name_runs(self, status: ScheduleStatus) -> dict[str, str]:
        """Return the names of the runs that the decisions started, by id. A deleted run has none."""
        names = {}
        for identity in {one.run_id for one in status.decisions if one.run_id}:
            try:
                if self._name == "finetune":
                    names[identity] = (await self._services.finetune.get(UUID(identity))).name
                else:
                    run = await self._services.benchmark.get(UUID(identity))
                    names[identity] = f"benchmark of {name_of(run.adapter_id)}"
            except NotFoundError:
                continue
        return names

    def _form(self, status: ScheduleStatus) -> None:
        with Tag("details", data_testid="edit-schedule"):
            Tag("summary", "Change")
            with Tag("form", classes="schedule-form", novalidate=True) as form:
                with Tag("div", classes="field"):
                    Tag("label", "Cron expression", for_="schedule-expression")
                    Tag(
                        "input", classes="input mono", id="schedule-expression", name="expression", maxlength="120",
                        defaultValue=status.expression, autocomplete="off", spellcheck="false", aria_describedby="schedule-help",
                    )  # fmt: skip
                with Tag("div", classes="field"):
                    Tag("label", "Time zone", for_="schedule-zone")
                    Tag(
                        "input", classes="input", id="schedule-zone", name="timezone", maxlength="80", autocomplete="off",
                        defaultValue=status.timezone, spellcheck="false", placeholder="Europe/Berlin",
                    )  # fmt: skip
                save = button("Save", type_="submit", test="save-schedule")
            Tag(
                "p",
                "Five fields: minute, hour, day of the month, month, weekday. 0 2 * * 0 means every Sunday at 02:00. off switches the schedule off.",
                "muted small",
                id="schedule-help",
            )
            said = Tag("p", classes="maybe small", role="status", data_testid="schedule-said")
            problem = Tag("p", classes="notice bad", role="alert", data_testid="schedule-problem").show(visible=False)

        async def keep(fields: dict[str, str]) -> None:
            problem.show(visible=False)
            said.say("")
            save.put(disabled=True)
            try:
                expression = fields.get("expression", "").strip() or "off"
                changed = await self._services.schedules.set(self._name, expression, fields.get("timezone", "").strip())
            except TmdeError as error:
                problem.say(sentence(error)).show()
                return
            finally:
                save.put(disabled=False)
            await self._draw(changed)
            said.say(f"Saved. {_words(changed)}")
            await self._changed()

        on_submit(form, keep)
        clear_on_input(form, lambda: problem.show(visible=False))


def _words(status: ScheduleStatus) -> str:
    if status.problem:
        return (
            f"Off, because the setting cannot be used. Until it is corrected, start {_WHAT[status.schedule]} yourself."
        )
    if not status.enabled:
        return f"Switched off. Start {_WHAT[status.schedule]} yourself."
    words = plain(status.description or status.expression)
    return f"{words[:1].upper()}{words[1:]} (time zone {status.timezone})."


def _decision(decision: ScheduleDecision, zone: str, run: str | None) -> None:
    word, kind = _ACTIONS.get(decision.action, (decision.action, ""))
    with Tag("li", data_testid="decision"):
        with Tag("div", classes="line"):
            chip(word, kind)
            Tag("span", on_the_clock(decision.due_at, zone), "muted small tabular")
            if run:
                link(run, f"/{decision.schedule}/{decision.run_id}", "small", data_testid="decision-run")
        Tag("p", decision.reason, "small")
