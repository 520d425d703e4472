"""The training backends: the environment of each, and the installations that run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from tmde_core.backends.progress import Installation
from tmde_core.backends.service import BackendEnvironment
from tmde_core.errors import ConflictError, TmdeError
from tmde_core.services import Services
from tmde_ui.kit.asking import ask_once
from tmde_ui.kit.elements import Tag, button, chip, facts
from tmde_ui.kit.tending import poll, start_task
from tmde_ui.kit.words import plain, sentence
from tmde_ui.plugins.installing import InstallDialog
from tmde_ui.plugins.words import (
    describe_end,
    describe_hindrance,
    describe_lack,
    describe_progress,
    describe_state,
    list_facts,
)

PULSE_SECONDS = 1.0
"""How often the backends are read. Reading takes a millisecond."""


class BackendCards:
    """A card for every backend. Cards are changed in place, so that nothing jumps and the focus stays."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._cards: dict[str, _Card] = {}

    def build(self) -> None:
        """Draw the cards and keep them up to date."""
        with Tag("section", classes="stack", id="backends", aria_label="Training backends", tabindex="-1"):
            Tag("h2", "Training backends")
            self._auto = Tag("p", classes="muted maybe", data_testid="auto-backend")
            self._box = Tag("div", classes="backend-cards", data_testid="training-backends")
            self._dialogs = Tag("div", classes="maybe")
        self._show(self._services.backends.list())
        start_task(lambda: poll(self.look, "backends", every=PULSE_SECONDS), "look after the training backends")

    async def look(self) -> None:
        """Read all backends and show them."""
        self._show(await asyncio.to_thread(self._services.backends.list))

    def _show(self, backends: list[BackendEnvironment]) -> None:
        choice = self._services.backends.choice()
        if choice is not None:
            self._auto.say(f"Training uses {choice.name} unless you choose another one. {plain(choice.why)}")
        else:
            self._auto.say(
                "No plugin provides a training backend. Install the package tmde-cpu and restart the server."
            )
        for backend in backends:
            if backend.name not in self._cards:
                with self._box:
                    self._cards[backend.name] = _Card(self._services, self._dialogs, self.look)
            self._cards[backend.name].show(backend)


class _Card:
    """One backend."""

    def __init__(self, services: Services, dialogs: Tag, changed: Callable[[], Awaitable[object]]) -> None:
        self._services = services
        self._dialogs = dialogs
        self._changed = changed
        self._name = ""
        self._shown: BackendEnvironment | None = None
        with Tag("article", classes="card plugin training") as self._box:
            with Tag("div", classes="line spread"):
                self._title = Tag("h3")
                with Tag("div", classes="line"):
                    self._taken = chip("taken by auto", "accent").show(visible=False)
                    self._state = chip("")
            self._summary = Tag("p", classes="muted small")
            self._why = Tag("p", classes="maybe", data_testid="hindrance")
            with Tag("div", classes="stack tight maybe", data_testid="installation") as self._installation:
                self._bar = Tag("progress", max="1")
                self._words = Tag("p", classes="small muted tabular")
                self._elsewhere = Tag("p", classes="small muted maybe")
            self._end = Tag("p", classes="maybe", data_testid="installation-end")
            self._body = Tag("div", classes="stack tight maybe")
            self._said = Tag("p", classes="maybe", role="status", data_testid="backend-said")
            with Tag("div", classes="line") as self._buttons:
                self._install = self._button("Install", "primary", "install", self._ask_install)
                self._examine = self._button("Examine", "", "examine", self._look_into)
                self._cancel = self._button("Cancel", "", "cancel-install", self._end_installation)
                self._remove = self._button("Remove", "quiet", "remove", self._ask_removal)

    def _button(self, text: str, kind: str, test: str, act: Callable[[], Awaitable[object]]) -> Tag:
        made = button(text, kind, test=test)

        async def press() -> None:
            made.put(disabled=True)
            self._say("")
            try:
                await act()
            except TmdeError as error:
                self._say(sentence(error), "bad")
            finally:
                if not made.is_deleted:
                    made.put(disabled=False)

        made.on("click", press, args=[])
        return made

    # ------------------------------------------------------------------------------------------ showing

    def show(self, backend: BackendEnvironment) -> None:
        """Show a backend as it is now."""
        installation, before = backend.installation, self._shown
        self._shown = backend
        running = installation is not None and installation.state == "installing"
        self._show_progress(installation if running else None)
        if before is not None and _without_progress(before) == _without_progress(backend):
            return
        if before is not None and before.state != backend.state:
            self._say("")  # it was about the state before
        self._name = backend.name
        self._box.put(data_testid=f"backend-{backend.name}", id=f"backend-{backend.name}")
        self._title.say(backend.name)
        self._taken.show(backend.chosen)
        word, kind = describe_state(backend)
        self._state.say(word).classes(replace=f"chip {kind}")
        self._summary.say(backend.summary)
        hindrance = describe_hindrance(backend)
        serious = backend.state in ("built-in", "foreign")
        self._why.say(hindrance).classes(replace=("notice warm" if serious else "small") if hindrance else "maybe")
        ending, kind = describe_end(backend)
        self._end.say(ending).classes(replace=(f"notice {kind}" if kind else "small muted") if ending else "maybe")
        self._draw_body(backend, running)
        self._show_buttons(backend, running)

    def _draw_body(self, backend: BackendEnvironment, running: bool) -> None:
        self._body.clear()
        if running:
            return
        with self._body:
            for lack in backend.report.lacks if backend.report is not None else ():
                Tag("p", describe_lack(lack), "notice bad" if lack.fatal else "notice", data_testid="lack")
            found = list_facts(backend)
            if any(value for _, value in found):
                facts(found)

    def _show_buttons(self, backend: BackendEnvironment, running: bool) -> None:
        own = backend.state not in ("built-in", "foreign")
        complete = backend.state == "installed"
        self._install.say("Continue" if backend.state == "incomplete" else "Install again" if complete else "Install")
        self._install.classes(replace="button" if complete else "button primary").show(own and not running)
        self._examine.show(backend.state in ("installed", "foreign") and not running)
        self._remove.show(backend.state in ("installed", "incomplete") and not running)
        self._buttons.show(backend.state != "built-in")
        for press in (self._install, self._examine, self._remove):
            press.put(aria_label=f"{press.text}: {backend.name}")
        self._cancel.put(aria_label=f"Cancel the installation of {backend.name}")

    def _show_progress(self, running: Installation | None) -> None:
        self._installation.show(running is not None)
        own = running is not None and self._services.installations.is_own(running)
        self._cancel.show(running is not None)
        if running is None:
            return
        share = f"{running.done / running.total:.4f}" if running.total else None
        self._bar.put(value=share, aria_label=f"Installed of {running.name}")
        self._words.say(describe_progress(running))
        self._elsewhere.say("" if own else "Another process installs it: a terminal, a server or a training run.")

    def _say(self, words: str, kind: str = "") -> None:
        self._said.say(words).classes(replace=f"notice {kind}" if words else "maybe")

    # ------------------------------------------------------------------------------------------- acting

    async def _ask_install(self) -> None:
        InstallDialog(self._services, self._dialogs, self._name, self._changed).open()

    async def _look_into(self) -> None:
        self._say("Examining the environment …")
        report = await self._services.backends.doctor(self._name)
        await self._changed()
        self._say(
            "It works." if report.ok else "It cannot train here. The reasons are above.", "good" if report.ok else ""
        )

    async def _end_installation(self) -> None:
        try:
            await self._services.installations.cancel(self._name)
        except ConflictError:
            now = await asyncio.to_thread(self._services.installations.current, self._name)
            if now is not None and now.state == "installing":
                raise  # otherwise it has ended meanwhile, and the next look shows how
        await self._changed()

    async def _ask_removal(self) -> None:
        ask_once(
            self._dialogs,
            f"Remove the environment of {self._name}?",
            "Its packages are deleted from the disk. Adapters and training runs stay. To train with it again, install it "
            "again.",
            yes="Remove",
            no="Keep it",
            doing="Removing …",
            deed=lambda: self._services.backends.remove(self._name),
            then=self._changed,
            test="remove-environment",
        )


def _without_progress(backend: BackendEnvironment) -> tuple[object, ...]:
    """Return what is drawn anew when it changes."""
    ended = backend.installation and (backend.installation.state, backend.installation.error)
    able = msgspec.structs.replace(backend.availability, reason="") if backend.availability.ok else backend.availability
    return msgspec.structs.replace(backend, installation=None, availability=able), ended
