"""Show when the gate measures, activates and rolls back adapters, and what it decided."""

from __future__ import annotations

from collections.abc import Sequence

from tmde_core.errors import TmdeError
from tmde_core.records.benchmark import GateDecision
from tmde_core.records.notifications import Notification
from tmde_core.records.schedule import ScheduleStatus
from tmde_core.services import Services
from tmde_core.settings import BenchmarkSettings
from tmde_ui.benchmark.words import GATES
from tmde_ui.kit.elements import Tag, button, chip, link
from tmde_ui.kit.names import name_of
from tmde_ui.kit.shell.acts import draw_act
from tmde_ui.kit.times import age, exact, format_next_time
from tmde_ui.kit.words import sentence

SHOWN_DECISIONS = 5
SHOWN_ALERTS = 3

LEVELS = {"error": "bad", "warning": "warm", "success": "good", "info": ""}
"""Level → kind of notice, the most serious first."""


class Alerts:
    """Shows the gate's notifications that nobody has dismissed, the most serious first."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._shown: list[Notification] = []
        self._box = Tag("div", classes="stack tight maybe", role="status", data_testid="alerts")

    async def show(self) -> None:
        """Redraw the notifications if they have changed."""
        newest, _ = await self._services.notifications.list(limit=50)
        ours = [one for one in newest if one.kind.startswith("benchmark.")]
        told = sorted(ours, key=lambda one: list(LEVELS).index(one.level))[:SHOWN_ALERTS]
        if told == self._shown:
            return
        self._shown = told
        self._box.clear()
        with self._box:
            for one in told:
                self._draw(one)

    def _draw(self, one: Notification) -> None:
        async def dismiss() -> None:
            await self._services.notifications.dismiss(one.id)
            await self.show()

        with Tag("div", classes=f"notice alert {LEVELS[one.level]}", data_testid="alert"):
            with Tag("div"):
                Tag("strong", one.title)
                Tag("p", one.detail)
            with Tag("div", classes="line"):
                draw_act(one, self._services, dismiss)
                done = button("Dismiss", "quiet", test="dismiss", aria_label=f"Dismiss: {one.title}")

        done.on("click", dismiss, args=[])


class GatePanel:
    """Shows the gate's rules in sentences, and its last decisions."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._shown: object = None
        with Tag("section", classes="card stack", aria_label="The gate", data_testid="gate"):
            Tag("h2", "Automatic decisions")
            self._words = Tag("ul", classes="plain-list", data_testid="gate-words")
            with Tag("p", classes="muted small"):
                Tag("span", "To change this, edit the settings under ")
                Tag("code", "[benchmark]", "mono")
                Tag("span", " in ")
                Tag("code", "tmde.toml", "mono")
                Tag("span", " (see docs/benchmarks.md). To activate or roll back yourself, go to the ")
                link("adapter versions", "/finetune/versions")
                Tag("span", ".")
            self._box = Tag("div", classes="stack tight")

    async def show(self) -> None:
        """Redraw the panel if it has changed."""
        schedule = await self._services.schedules.status("benchmark")
        decisions = await self._services.gate.decisions(SHOWN_DECISIONS)
        shown = (schedule.expression, schedule.next_runs[:1], decisions)
        if shown == self._shown:
            return
        self._shown = shown
        self._words.clear()
        with self._words:
            for line in in_words(self._services.settings.benchmark, schedule):
                Tag("li", line)
        self._box.clear()
        with self._box:
            self._draw_decisions(decisions)

    def _draw_decisions(self, decisions: Sequence[GateDecision]) -> None:
        Tag("h3", "What the gate decided")
        if not decisions:
            Tag(
                "p",
                "No decision yet. After a training, the decision and its reason will appear here.",
                "muted small",
            )
            return
        with Tag("ul", classes="decisions", data_testid="decisions"):
            for number, one in enumerate(decisions):
                newest = all(other.adapter_id != one.adapter_id for other in decisions[:number])
                with Tag("li", data_testid="decision"):
                    self._decision(one, newest)

    def _decision(self, one: GateDecision, newest: bool) -> None:
        word, kind = GATES[one.gate]
        with Tag("div", classes="line"):
            chip(word, kind)
            Tag("span", name_of(one.adapter_id))
            Tag("span", age(one.at), "muted small", title=exact(one.at))
            if one.activated:
                Tag("span", "activated automatically", "muted small")
            if one.run_id is not None:
                link("benchmark run", f"/benchmark/{one.run_id}", "small")
        Tag("p", one.reason, "small")
        if one.gate == "candidate" and newest:
            more = button(
                "Run the full benchmark", test="gate-full", title="The gate decides again after the full benchmark."
            )
            said = Tag("p", classes="small maybe", role="status")

            async def ask() -> None:
                more.put(disabled=True)
                try:
                    await self._services.gate.begin(one.adapter_id, full=True)
                except TmdeError as error:
                    said.say(sentence(error))
                    return
                said.say("The full benchmark has started. The gate decides again after it.")

            more.on("click", ask, args=[])


def in_words(settings: BenchmarkSettings, schedule: ScheduleStatus) -> list[str]:
    """Return one sentence each on when the gate measures, holds back, activates and rolls back."""
    if settings.after_training:
        measured = "After each training, the quick benchmark measures the new adapter without activating it"
        lines = [
            f"{measured} and compares it with the base model and the active version.",
            "If the adapter is worse, it is held back with an alert. It can then be activated only by force.",
            "If the adapter is better, it is activated automatically (auto_activate is on)."
            if settings.auto_activate
            else "If the adapter is better, it is marked as proven and waits for you to activate it (auto_activate is off).",
            "If the outcome is inconclusive, the adapter stays a candidate, and you can run the full benchmark.",
        ]
    else:
        lines = ["A new adapter is not measured automatically (after_training is off). Run a benchmark for it."]
    back = (
        "is rolled back with an alert (auto_rollback is on)."
        if settings.auto_rollback
        else "stays, with an alert (auto_rollback is off)."
    )
    if schedule.enabled:
        when = schedule.description or schedule.expression
        first = f" Next: {format_next_time(schedule.next_runs[0], schedule.timezone)}." if schedule.next_runs else ""
        lines.append(
            f"The active adapter is measured again {when}. If it is worse than the base model, it {back}{first}"
        )
    else:
        lines.append(
            f"No benchmark is scheduled. With a schedule, an active adapter that is worse than the base model {back}"
        )
    return lines
