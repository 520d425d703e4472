"""What a notification offers to do next: a button that does it, or one that leads to the page where it is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from tmde_core.errors import TmdeError
from tmde_core.records.notifications import Notification
from tmde_core.services import Services
from tmde_ui.kit.elements import Tag, button, link
from tmde_ui.kit.words import sentence

Deed = Callable[[Services, UUID], Awaitable[object]]


@dataclass(frozen=True)
class Act:
    """One offer."""

    label: str
    """The text of the button."""
    deed: Callable[[], Awaitable[object]] | None = None
    """Does it; None: the button leads to the notification's page."""


def act_of(one: Notification, services: Services) -> Act | None:
    """Return what a notification offers; None if it only tells something."""
    subject = one.subject_id
    if one.kind in _DEEDS and subject is not None:
        label, deed = _DEEDS[one.kind]
        active = services.lora.get_active_ref()
        is_active = active is not None and active.id == str(subject)
        # Somebody may have activated the adapter, or rolled it back, since the notification was made.
        if not (deed is _activate and is_active) and not (deed is _roll_back and not is_active):
            return Act(label, lambda: deed(services, subject))
    return Act(_LINKS.get(one.kind, "Show")) if one.href else None


def draw_act(one: Notification, services: Services, done: Callable[[], Awaitable[object]]) -> None:
    """Draw the button of a notification, if it offers something.

    Args:
        done: called after the button's deed.
    """
    act = act_of(one, services)
    if act is None:
        return
    if act.deed is None:
        if one.href is not None and is_ours(one.href):
            link(act.label, one.href, "button", data_testid="act", aria_label=f"{act.label}: {one.title}")
        return
    press = button(act.label, test="act", aria_label=f"{act.label}: {one.title}")
    said = Tag("p", classes="small maybe", role="status")
    deed = act.deed

    async def run() -> None:
        press.put(disabled=True)
        try:
            await deed()
        except TmdeError as error:
            press.put(disabled=False)
            said.say(sentence(error))
            return
        await done()

    press.on("click", run, args=[])


def is_ours(address: str) -> bool:
    """Return whether an address is a page of this server. A plugin may have written the notification."""
    return address.startswith("/") and not address.startswith(("//", "/\\"))


async def _resume(services: Services, subject: UUID) -> None:
    await services.finetune.resume(subject)


async def _activate(services: Services, subject: UUID) -> None:
    await services.lora.activate(subject)


async def _roll_back(services: Services, _subject: UUID) -> None:
    await services.lora.rollback()


async def _measure(services: Services, subject: UUID) -> None:
    await services.gate.begin(subject)


async def _measure_fully(services: Services, subject: UUID) -> None:
    await services.gate.begin(subject, full=True)


_DEEDS: Mapping[str, tuple[str, Deed]] = {
    "finetune.cancelled": ("Resume the training", _resume),
    "benchmark.better": ("Activate the adapter", _activate),
    "benchmark.not_activated": ("Activate the adapter", _activate),
    "benchmark.active_worse": ("Roll back", _roll_back),
    "benchmark.inconclusive": ("Run the full benchmark", _measure_fully),
    "benchmark.gate_failed": ("Measure it again", _measure),
}
"""Kind of notification → the button and what it does."""

_LINKS: Mapping[str, str] = {
    "finetune.completed": "Show the adapter",
    "finetune.failed": "Show the run",
    "finetune.cancelled": "Show the run",
    "lora.damaged": "Show the adapter",
    "benchmark.worse": "Compare the answers",
    "benchmark.better": "Compare the answers",
    "benchmark.rolled_back": "Compare the answers",
    "benchmark.schedule_failed": "Show the run",
}
"""Kind of notification → the button that leads to its page."""
