"""The active version, and the button to roll back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from tmde_core.errors import ConflictError, TmdeError
from tmde_core.records.base import Record, utc_now
from tmde_core.records.lora import LiveAt, LoRAAdapter
from tmde_core.services import Services
from tmde_ui.kit.elements import Tag, button
from tmde_ui.kit.names import capital, name_of
from tmde_ui.kit.times import age, exact
from tmde_ui.kit.words import sentence
from tmde_ui.versions.words import losses

Changed = Callable[[], Awaitable[None]]


class Standing(Record):
    """The active version and the target of a rollback."""

    active: LoRAAdapter | None
    live: LiveAt
    can_go_back: bool
    target: UUID | None = None
    """None for the base model."""


async def read_standing(services: Services) -> Standing:
    """Return the current state."""
    active = await services.lora.get_active()
    live = await services.lora.find_active_at(utc_now())
    try:
        target = await services.lora.find_rollback_target()
        return Standing(active=active, live=live, can_go_back=True, target=target)
    except ConflictError:
        return Standing(active=active, live=live, can_go_back=False)


class NowPanel:
    """The card at the top of the page."""

    def __init__(self, services: Services, changed: Changed) -> None:
        self._services = services
        self._changed = changed
        self._shown: Standing | None = None
        with Tag("section", classes="card now", aria_label="Active", data_testid="now"):
            with Tag("div", classes="stack tight grow"):
                Tag("h2", "Active", "eyebrow")
                self._name = Tag("p", classes="now-name", data_testid="now-name")
                self._words = Tag("p", classes="muted small")
            with Tag("div", classes="line"):
                self._back = button("Roll back", test="rollback").show(visible=False)
                self._off = button("Deactivate", test="deactivate").show(visible=False)
            self._said = Tag("p", classes="notice bad now-said", role="alert", data_testid="now-problem").show(
                visible=False
            )
        self._back.on("click", self._go_back, args=[])
        self._off.on("click", self._deactivate, args=[])

    def show(self, now: Standing, idle: str | None = None) -> None:
        """Update the card. `idle`: why no adapter can answer; None if one can."""
        self._shown = now
        active = now.active
        damaged = active is not None and not active.is_valid
        name = name_of(active.id if active and not damaged and not idle else None)
        self._name.say(capital(name)).put(title=str(active.id) if active else None)
        since = f"since {age(now.live.since)}" if now.live.since and now.live.adapter_id == _id(active) else ""
        about = losses(active.metrics) if active else "The model without an adapter."
        if active is not None and damaged:
            since = ""
            about = (
                f"{capital(name_of(active.id))} was activated, but it is damaged: {active.invalid_reason} Roll back, activate "
                "another one, or import it again."
            )
        elif active is not None and idle:
            since, about = "", f"{capital(name_of(active.id))} is active. {idle}"
        self._words.say(" · ".join(part for part in (since, about) if part))
        self._words.put(title=exact(now.live.since) if since and now.live.since else None)
        self._back.say(f"Roll back to {name_of(now.target)}").show(now.can_go_back)
        self._off.show(active is not None)

    async def _go_back(self) -> None:
        shown = self._shown
        if shown is None:
            return

        async def back() -> None:
            now = await read_standing(self._services)
            if (now.can_go_back, now.target) != (shown.can_go_back, shown.target):
                self.show(now)
                where = f"The target is now {name_of(now.target)}" if now.can_go_back else "There is no target any more"
                raise ConflictError(f"The target of the rollback has changed. {where}. Nothing was switched.")
            await self._services.lora.rollback()

        await self._do(self._back, f"Rolling back to {name_of(shown.target)} …", back)

    async def _deactivate(self) -> None:
        await self._do(self._off, "Deactivating …", self._services.lora.deactivate)

    async def _do(self, control: Tag, words: str, work: Callable[[], Awaitable[None]]) -> None:
        before = control.text
        self._said.show(visible=False)
        control.say(words)
        for each in (self._back, self._off):
            each.put(disabled=True)
        try:
            await work()
        except TmdeError as error:
            self._said.say(sentence(error)).show()
        finally:
            if control.text == words:
                control.say(before)
            for each in (self._back, self._off):
                each.put(disabled=False)
        await self._changed()


def _id(adapter: LoRAAdapter | None) -> UUID | None:
    return adapter.id if adapter else None
