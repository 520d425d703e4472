"""The pulls that run or have ended, with their progress."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from tmde_core.errors import ConflictError, TmdeError
from tmde_core.records.pulls import PULL_ENDED, Pull, PullRequest
from tmde_core.services import Services
from tmde_ui.kit.elements import Tag, button, chip
from tmde_ui.kit.tending import poll, start_task
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import format_bytes, plain, sentence

PULSE_SECONDS = 1.0
"""How often the progress is read."""

_STATES = {
    "queued": ("starting", "accent"),
    "running": ("fetching", "accent"),
    "done": ("done", "good"),
    "failed": ("failed", "critical"),
    "cancelled": ("cancelled", "major"),
    "interrupted": ("interrupted", "major"),
}
"""State of a pull → word and kind of chip."""

Act = Callable[[Pull], Awaitable[object]]


class PullList:
    """A row for every pull. Rows are changed in place, so that nothing jumps and the focus stays.

    Args:
        services: read, cancel and continue pulls.
        arrived: called when a pull is done.
    """

    def __init__(self, services: Services, arrived: Callable[[], Awaitable[object]]) -> None:
        self._services = services
        self._arrived = arrived
        self._rows: dict[str, _Row] = {}
        self._done: set[str] | None = None
        """The pulls that were done at the last look; None: before the first look."""

    def build(self) -> None:
        """Draw the list and keep it up to date."""
        self._box = Tag("ul", classes="rows pulls maybe", data_testid="pulls")
        start_task(lambda: poll(self.look, "pulls", every=PULSE_SECONDS, at_once=True), "look after the pulls")

    def bring_into_view(self) -> None:
        """Scroll the page to the list."""
        self._box.bring_into_view("center")

    async def look(self) -> None:
        """Read all pulls and show them."""
        pulls = await self._services.pulls.list()
        kept = {pull.id for pull in pulls}
        for gone in self._rows.keys() - kept:
            self._rows.pop(gone).delete()
        for pull in reversed(pulls):  # each new row goes above the older ones
            if pull.id not in self._rows:
                with self._box:
                    self._rows[pull.id] = _Row(self._cancel, self._go_on, self._discard)
                    self._rows[pull.id].move_first(self._box)
            self._rows[pull.id].show(pull)
        done = {pull.id for pull in pulls if pull.state == "done"}
        before, self._done = self._done, done
        if before is not None and done - before:
            await self._arrived()

    async def _cancel(self, pull: Pull) -> None:
        with contextlib.suppress(ConflictError):  # it has ended meanwhile, and the next look shows how
            await self._services.pulls.cancel(pull.id)
        await self.look()

    async def _go_on(self, pull: Pull) -> None:
        file = pull.files[0].path if pull.form == "gguf" and pull.files else ""
        await self._services.pulls.start(
            PullRequest(repository=pull.repository, file=file, form=pull.form, revision=pull.commit, name=pull.name)
        )
        await self.look()

    async def _discard(self, pull: Pull) -> None:
        await self._services.pulls.discard(pull.id)
        await self.look()


class _Row:
    """One pull."""

    def __init__(self, cancel: Act, go_on: Act, discard: Act) -> None:
        self._pull: Pull | None = None
        with Tag("li", classes="pull training stack tight", data_testid="pull") as self._line:
            with Tag("div", classes="line spread"):
                with Tag("div", classes="line grow"):
                    self._name = Tag("h3")
                    self._chip = chip("")
                with Tag("div", classes="line"):
                    self._cancel = self._button("Cancel", "", "cancel-pull", cancel)
                    self._go_on = self._button("Continue", "", "continue-pull", go_on)
                    self._discard = self._button("Discard", "quiet", "discard-pull", discard)
            self._bar = Tag("progress", max="1")
            self._words = Tag("p", classes="small muted tabular", data_testid="pull-words")
            self._said = Tag("p", classes="maybe", role="status", data_testid="pull-said")

    def _button(self, text: str, kind: str, test: str, act: Act) -> Tag:
        made = button(text, kind, test=test)

        async def press() -> None:
            if self._pull is None:
                return
            made.put(disabled=True)
            self._say("")
            try:
                await act(self._pull)
            except TmdeError as error:
                self._say(sentence(error))
            finally:
                if not made.is_deleted:
                    made.put(disabled=False)

        made.on("click", press, args=[])
        return made

    def show(self, pull: Pull) -> None:
        """Show how it goes."""
        before, self._pull = self._pull, pull
        if before == pull:
            return
        word, kind = _STATES[pull.state]
        ended = pull.state in PULL_ENDED
        self._name.say(pull.name)
        self._chip.say(word).classes(replace=f"chip {kind}")
        for press, name in ((self._cancel, "Cancel"), (self._go_on, "Continue"), (self._discard, "Discard")):
            press.put(aria_label=f"{name} the pull of {pull.name}")
        self._cancel.show(not ended)
        self._go_on.show(ended and pull.state != "done")
        self._discard.show(ended and pull.state != "done")
        share = pull.bytes_done / pull.bytes_total if pull.bytes_total else 0.0
        self._bar.put(value=f"{share:.4f}", aria_label=f"Fetched of {pull.name}").show(pull.state != "done")
        self._words.say(describe_progress(pull))
        if before is None or before.state != pull.state:
            self._say(plain(pull.error or ""))

    def move_first(self, box: Tag) -> None:
        """Show the row above the others: the list begins with the newest."""
        self._line.move(box, target_index=0)

    def delete(self) -> None:
        """Remove the row."""
        self._line.delete()

    def _say(self, words: str) -> None:
        self._said.say(words).classes(replace="notice bad" if words else "maybe")


def describe_progress(pull: Pull) -> str:
    """Return `34 % · 850 MB of 2.5 GB · 24 MB a second · 1 min 10 s left`."""
    what = "weights" if pull.form == "weights" else "GGUF"
    if pull.state == "done":
        return f"{what} · {format_bytes(pull.bytes_total)} · from {pull.repository}"
    share = int(100 * pull.bytes_done / pull.bytes_total) if pull.bytes_total else 0
    parts = (
        what,
        f"{share} %",
        f"{format_bytes(pull.bytes_done)} of {format_bytes(pull.bytes_total)}",
        f"{format_bytes(int(pull.bytes_per_second))} a second" if pull.bytes_per_second else "",
        f"{format_milliseconds(1000 * pull.eta_seconds)} left" if pull.eta_seconds else "",
        plain(pull.message),
    )
    return " · ".join(filter(None, parts))
