"""What the cards of a training run and of a benchmark share: following it at a bearable pace, cancelling, resuming, the end."""

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
from tmde_ui.kit.shell.live import Live
from tmde_ui.kit.tending import Soon, begin, look_again
from tmde_ui.kit.words import sentence

PAINT_SECONDS = 0.5
"""However fast a run reports, the page changes at most this often."""

LOOK_SECONDS = 1.0
"""How often the run's row is looked at, which tells what its events do not: a run in another process, a dead worker's end."""

ANNOUNCED = 10
"""A screen reader hears of every so many percent."""

TIME_LEFT = "Time left"
"""The figure that is of no use once the run is over."""

Run = TypeVar("Run", FineTuneRun, BenchmarkRun)
Known_co = TypeVar("Known_co", covariant=True)


class Runs(Protocol[Known_co]):
    """The service that knows the run."""

    async def cancel(self, run_id: UUID) -> object:
        """End it."""

    async def resume(self, run_id: UUID) -> Known_co:
        """Go on with it."""


class RunPanel(ABC, Generic[Run]):
    """Draws itself, then follows the run for as long as the page is open or until it is told to stop."""

    TITLE: ClassVar[str]
    KIND: ClassVar[str]
    """Begins the test ids of its parts."""
    FIGURES: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        runs: Runs[Run],
        live: Live,
        run: Run,
        resumed: Callable[[Run], Awaitable[None]],
        ended: Callable[[], Awaitable[None]] | None,
    ) -> None:
        """Ready to be built; `resumed` and `ended` are told when the run goes on, and when it has ended."""
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
        """Whether the run has ended."""

    @property
    @abstractmethod
    def resumable(self) -> bool:
        """Whether a run that has ended can go on."""

    @abstractmethod
    async def _look(self) -> None:
        """Read the run's row."""

    @abstractmethod
    async def _follow(self) -> None:
        """Take in its events as they come."""

    async def _catch_up(self) -> None:
        """Take in what its events still had to say when it ended."""

    @abstractmethod
    def _draw_more(self) -> None:
        """The parts below the result."""

    @abstractmethod
    def _paint_state(self) -> None:
        """Make everything true but the result."""

    @abstractmethod
    def _draw_result(self) -> None:
        """How it ended."""

    @abstractmethod
    def _ask(self) -> None:
        """Ask whether it is to be cancelled."""

    # ------------------------------------------------------------------------------------------ following

    async def build(self) -> None:
        """Draw the run as it stands, and follow it if it goes on."""
        self._draw()
        await self._look()
        self._paint()
        if not self.over:
            name = self.TITLE.lower()
            self._tasks = [begin(self._follow, f"follow a {name}"), begin(self._watch, f"look at a {name}")]

    def stop(self) -> None:
        """Follow no further."""
        for task in self._tasks:
            # One of them may be here, telling of the end to a page that shows the next run at once.
            if task is not asyncio.current_task():
                task.cancel()
        self._soon.stop()

    async def _watch(self) -> None:
        await look_again(self._look_and_paint, self.TITLE.lower(), every=LOOK_SECONDS, until=lambda: self.over)
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
        with Tag("section", classes="card stack training", aria_label=label, data_testid=f"{self.TITLE.lower()}-progress") as self._card:  # fmt: skip
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
            self._finished = True  # once: a button that is drawn again while somebody presses it is not pressed
            self._draw_actions()
            self._result.clear()
            with self._result:
                self._draw_result()

    def _paint_share(self, share: float | None, words: str, status: str) -> None:
        """The bar and what is said of it; a share of None means that nobody can tell yet."""
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
            with self._result:
                Tag("p", sentence(error), "notice bad", role="alert")
            return
        self._live.nudge()
        await self._resumed(run)
