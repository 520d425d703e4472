"""The common part of training and benchmark panels: follow the run's events, cancel, resume, show the result."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar, Generic, Protocol, TypeVar
from uuid import UUID

from tmde_core.errors import TmdeError
from tmde_core.records.benchmark import BenchmarkRun
from tmde_core.records.finetune import FineTuneRun
from tmde_ui.kit.asking import ask_once
from tmde_ui.kit.elements import Tag, button
from tmde_ui.kit.shell.live import ServerStatus
from tmde_ui.kit.tending import Soon, poll, start_task
from tmde_ui.kit.words import sentence

PAINT_SECONDS = 0.5
"""The page changes at most this often, however fast a run reports."""

LOOK_SECONDS = 1.0
"""Interval of reading the run's row. Events do not show a run in another process or the end of a dead worker."""

ANNOUNCED = 10
"""Screen readers announce the progress in steps of this many percent."""

TIME_LEFT = "Time left"
"""The figure that is hidden when the run is over."""

Run = TypeVar("Run", FineTuneRun, BenchmarkRun)
Known_co = TypeVar("Known_co", covariant=True)


class Runs(Protocol[Known_co]):
    """The service that has the run."""

    async def cancel(self, run_id: UUID) -> object:
        """Cancel the run."""

    async def resume(self, run_id: UUID) -> Known_co:
        """Resume the run."""


class RunPanel(ABC, Generic[Run]):
    """Draws a run, then follows it while the page is open or until `stop`."""

    TITLE: ClassVar[str]
    KIND: ClassVar[str]
    """Prefix of the test ids."""
    FIGURES: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        runs: Runs[Run],
        live: ServerStatus,
        run: Run,
        resumed: Callable[[Run], Awaitable[None]],
        ended: Callable[[], Awaitable[None]] | None,
    ) -> None:
        """Prepare the panel. `resumed` and `ended` are called when the run is resumed and when it has ended."""
        self.run: Run = run
        self._runs: Runs[Run] = runs
        self._live = live
        self._resumed: Callable[[Run], Awaitable[None]] = resumed
        self._ended = ended
        self._soon = Soon(self._paint, PAINT_SECONDS)
        self._tasks: list[asyncio.Task[None]] = []
        self._finished = False

    # ----------------------------------------------------------------------------- what each has its own

    @property
    @abstractmethod
    def over(self) -> bool:
        """Return whether the run has ended."""

    @property
    @abstractmethod
    def resumable(self) -> bool:
        """Return whether a run that has ended can be resumed."""

    @abstractmethod
    async def _look(self) -> None:
        """Read the run's row."""

    @abstractmethod
    async def _follow(self) -> None:
        """Apply the run's events as they arrive."""

    async def _catch_up(self) -> None:
        """Apply the events that are left when the run has ended."""

    @abstractmethod
    def _draw_more(self) -> None:
        """Draw the parts below the result."""

    @abstractmethod
    def _paint_state(self) -> None:
        """Update everything except the result."""

    @abstractmethod
    def _draw_result(self) -> None:
        """Draw the result."""

    @abstractmethod
    def _ask(self) -> None:
        """Ask the person whether to cancel the run."""

    # ------------------------------------------------------------------------------------------ following

    async def build(self) -> None:
        """Draw the current state of the run and follow the run if it is in progress."""
        self._draw()
        await self._look()
        self._paint()
        if not self.over:
            name = self.TITLE.lower()
            self._tasks = [start_task(self._follow, f"follow a {name}"), start_task(self._watch, f"look at a {name}")]

    def enter(self) -> None:
        """Scroll to the panel and give it the focus, because the button that started the run is disabled now."""
        self._card.bring_into_view()
        self._card.run_method("focus")

    def stop(self) -> None:
        """Stop following the run."""
        for task in self._tasks:
            # The current task may be one of them: it reports the end to a page that at once shows the next run.
            if task is not asyncio.current_task():
                task.cancel()
        self._soon.stop()

    async def _watch(self) -> None:
        await poll(self._look_and_paint, self.TITLE.lower(), every=LOOK_SECONDS, until=lambda: self.over)
        await self._catch_up()
        self._live.nudge()
        self._paint()
        if self._ended is not None:
            await self._ended()

    async def _look_and_paint(self) -> None:
        await self._look()
        self._soon.ask()

    # -------------------------------------------------------------------------------------------- drawing

    def _draw(self) -> None:
        kind, label = self.KIND, f"{self.TITLE} run"
        with Tag("section", classes="card stack training", tabindex="-1", aria_label=label, data_testid=f"{self.TITLE.lower()}-progress") as self._card:  # fmt: skip
            with Tag("div", classes="line spread"):
                with Tag("div", classes="line"):
                    Tag("h2", self.TITLE)
                    self._chip = Tag("span", classes="chip", data_testid=f"{kind}-status")
                    self._about = Tag("span", classes="muted small")
                self._actions = Tag("div", classes="line")
            self._bar = Tag("progress", max="100", aria_label=f"How much of the {self.TITLE.lower()} is done")
            self._words = Tag("p", classes="muted small tabular", data_testid=f"{kind}-words")
            self._spoken = Tag("p", classes="visually-hidden", role="status", aria_live="polite")
            self._figures: dict[str, tuple[Tag, Tag]] = {}
            with Tag("dl", classes="figures", data_testid=f"{kind}-figures"):
                for name in self.FIGURES:
                    with Tag("div") as pair:
                        Tag("dt", name)
                        self._figures[name] = (pair, Tag("dd", "–"))
            self._result = Tag("div", classes="stack tight maybe", role="status", data_testid=f"{kind}-result")
            self._draw_more()
        self._draw_actions()

    def _paint(self) -> None:
        self._soon.stop()
        self._paint_state()
        if self.over and not self._finished:
            self._finished = True  # only once: redrawing a button while a person presses it would lose the press
            self._draw_actions()
            self._result.clear()
            with self._result:
                self._draw_result()

    def _paint_share(self, share: float | None, words: str, status: str) -> None:
        """Update the bar and the words. A share of None means that the progress is not known yet."""
        self._bar.put(value=None if share is None else f"{100 * share:.1f}").show(not self.over)
        self._words.say(words)
        if self.over:
            self._spoken.say(f"{self.TITLE} {status}.")
        elif share is not None:
            self._spoken.say(f"{self.TITLE} {int(100 * share) // ANNOUNCED * ANNOUNCED} % done.")

    def _paint_figures(self, figures: Mapping[str, str]) -> None:
        for name, words in figures.items():
            self._figures[name][1].say(words)
        self._figures[TIME_LEFT][0].show(not self.over)

    # ------------------------------------------------------------------------------------- cancel, resume

    def _draw_actions(self) -> None:
        self._actions.clear()
        with self._actions:
            if not self.over:
                button("Cancel", "danger", test=f"cancel-{self.KIND}").on("click", self._ask, args=[])
            elif self.resumable:
                again = button("Resume", test=f"resume-{self.KIND}")
                again.on("click", lambda: self._resume(again), args=[])

    def _ask_cancel(self, words: str, no: str, doing: str = "") -> None:
        async def cancel() -> None:
            await self._runs.cancel(self.run.id)

        name = self.KIND
        ask_once(
            self._card, f"Cancel this {name}?", words,
            yes=f"Cancel the {name}", no=no, doing=doing, deed=cancel, test="cancel",
        )  # fmt: skip

    async def _resume(self, control: Tag) -> None:
        control.put(disabled=True)
        try:
            run = await self._runs.resume(self.run.id)
        except TmdeError as error:
            control.put(disabled=False)
            with self._result:
                Tag("p", sentence(error), "notice bad", role="alert")
            return
        self._live.nudge()
        await self._resumed(run)
