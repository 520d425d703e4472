"""The dialog that tells what an installation would do, before anything is fetched, and starts it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nicegui import events

from tmde_core.backends.service import BackendDetails
from tmde_core.errors import TmdeError
from tmde_core.sdk.hooks import AUTO
from tmde_core.services import Services
from tmde_ui.kit.elements import Modal, Tag, button, choice, close_on_press, facts
from tmde_ui.kit.tending import start_task
from tmde_ui.kit.words import format_bytes, plain, sentence
from tmde_ui.plugins.words import list_plan


class InstallDialog:
    """Shows the plan of an installation, and starts it when a person agrees.

    Args:
        services: plan and install.
        place: the element that owns the dialog.
        name: the backend.
        started: called after the start.
    """

    def __init__(self, services: Services, place: Tag, name: str, started: Callable[[], Awaitable[object]]) -> None:
        self._services = services
        self._name = name
        self._started = started
        self._build = AUTO
        self._offered = False
        self._asking: asyncio.Task[None] | None = None
        with place:
            self._dialog = Modal(f"Install the environment of {name}", test="install-dialog")
        self._dialog.on("close", self._end, args=[])
        with self._dialog.body:
            Tag(
                "p",
                "The packages go into a Python environment of their own. Nothing else on this machine is changed.",
                "muted",
            )
            self._builds = Tag("div", classes="maybe")
            self._box = Tag("div", classes="maybe", data_testid="install-plan")
            self._said = Tag("p", classes="maybe", role="status", data_testid="install-said")
            with Tag("div", classes="line"):
                self._go = button("Install", "primary", test="start-install", disabled=True)
                close_on_press(button("Close"), self._dialog)
        self._go.on("click", self._start, args=[])

    def open(self) -> None:
        """Open the dialog and make the plan."""
        self._dialog.open()
        self._ask()

    def _ask(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._go.put(disabled=True)
        self._say("Looking at the driver and the disk …", "working")
        self._asking = start_task(self._look, "plan an installation")

    def _end(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._dialog.delete()

    async def _look(self) -> None:
        try:
            details = await asyncio.to_thread(self._services.backends.details, self._name, self._build)
        except TmdeError as error:
            self._box.clear()
            self._say(sentence(error), "bad")
            return
        self._offer(details)
        self._box.clear()
        plan = details.plan
        if plan is None:
            self._say(plain(details.refusal), "warm")
            return
        with self._box:
            facts(list_plan(details, plan))
        short = plan.disk_bytes - plan.free_bytes
        if plan.current:
            self._go.say("Examine")
            self._say("Exactly these packages are installed. They are only examined.")
        elif plan.continues:
            self._go.say("Continue")
            self._say("An installation has stopped here. It goes on from there.")
        elif short > 0:
            self._say(f"The disk lacks {format_bytes(short)}. Free some space first.", "bad")
            return
        else:
            self._go.say("Install")
            self._say("")
        self._go.put(disabled=False)

    def _offer(self, details: BackendDetails) -> None:
        """Offer the builds, if there is a choice."""
        if self._offered or len(details.builds) < 2:
            return
        self._offered = True
        options = [(AUTO, "What fits this machine"), *((name, name) for name in details.builds)]
        with self._builds:
            select = choice("Which packages", "build", options, self._build, data_testid="install-build")
        select.on("change", self._choose, js_handler="(event) => emit(event.target.value)")

    def _choose(self, event: events.GenericEventArguments) -> None:
        self._build = str(event.args)
        self._ask()

    async def _start(self) -> None:
        self._go.put(disabled=True)
        self._say("Starting …", "working")
        try:
            await self._services.installations.start(self._name, self._build)
        except TmdeError as error:
            self._say(sentence(error), "bad")
            self._go.put(disabled=False)
            return
        self._dialog.close()
        await self._started()

    def _say(self, words: str, kind: str = "") -> None:
        self._said.say(words).classes(replace=f"notice {kind}" if words else "maybe")
