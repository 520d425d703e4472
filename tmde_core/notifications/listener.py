"""Turns events into notifications."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple
from uuid import UUID

from tmde_core.notifications.service import NotificationService
from tmde_core.records.lora import full_name
from tmde_core.records.notifications import Level
from tmde_core.sdk.events import AdapterDamaged, BenchmarkDecided, Event, RunFinished

RUN_PAGE = "/finetune/{}"
ADAPTER_PAGE = "/finetune/versions?adapter={}"
BENCHMARK_PAGE = "/benchmark?adapter={}"
DAMAGED = "lora.damaged"
FindName = Callable[[UUID], Awaitable[str | None]]
KNOWN = 200
"""The newest notifications among which the same damage is looked for."""


class Words(NamedTuple):
    """The text of a notification before it is stored; see `NotificationService.notify`."""

    kind: str
    level: Level
    title: str
    detail: str
    href: str
    subject_id: UUID


class EventNotifier:
    """Listens to events, and creates notifications for those that people should know about."""

    def __init__(self, notifications: NotificationService, find_name: FindName | None = None) -> None:
        """Create the listener.

        Args:
            notifications: stores the notifications.
            find_name: returns the name of an adapter or a training run, or None if it has none. Without it, the short
                id is the name.
        """
        self._notifications = notifications
        self._find_name = find_name

    async def hear(self, event: Event) -> None:
        """Create a notification for an event, if people should know about the event."""
        words = describe_event(event, await self._name(event))
        if words is not None and not await self._is_known(words):
            await self._notifications.notify(*words)

    async def _name(self, event: Event) -> str:
        identity = _subject(event)
        if identity is None or self._find_name is None:
            return ""
        return full_name(identity, await self._find_name(identity))

    async def _is_known(self, words: Words) -> bool:
        """Return whether damage was told before and nobody has dismissed it: each start of TMDE finds it again."""
        if words.kind != DAMAGED:
            return False
        waiting, _ = await self._notifications.list(KNOWN)
        return any((one.title, one.detail) == (words.title, words.detail) for one in waiting)


def _subject(event: Event) -> UUID | None:
    """Return the id of the run or adapter that the event is about. An adapter has the id of its run."""
    if isinstance(event, RunFinished):
        return event.run_id
    return event.adapter_id if isinstance(event, AdapterDamaged | BenchmarkDecided) else None


def describe_event(event: Event, name: str = "") -> Words | None:
    """Return the notification for an event, or None if the event needs no notification.

    Args:
        event: what happened.
        name: what people call the run or the adapter; empty: its short id.
    """
    name = name or str(_subject(event))[:8]
    if isinstance(event, RunFinished):
        return _describe_run(event, name)
    if isinstance(event, AdapterDamaged):
        return _describe_damage(event, name)
    if isinstance(event, BenchmarkDecided):
        return _describe_decision(event, name)
    return None


def _describe_run(event: RunFinished, name: str) -> Words:
    kind = f"finetune.{event.status}"
    if event.status == "completed":
        figures = [f"{event.traces_used:,} trace{'s' * (event.traces_used != 1)}"]
        if event.metrics is not None and event.metrics.best_val_loss is not None:
            figures.append(f"validation loss {event.metrics.best_val_loss:.3f}")
        elif event.metrics is not None and event.metrics.final_train_loss is not None:
            figures.append(f"training loss {event.metrics.final_train_loss:.3f}")
        title, detail = f"Training is done: adapter {name}", ", ".join(figures) + "."
        return Words(kind, "success", title, detail, ADAPTER_PAGE.format(event.run_id), event.run_id)
    if event.status == "cancelled":
        detail = f"Run {name} made no adapter. If it has a checkpoint, it can be resumed."
        return Words(kind, "info", "Training was cancelled", detail, RUN_PAGE.format(event.run_id), event.run_id)
    detail = event.error_message or f"Run {name} gave no reason."
    return Words(kind, "error", "Training failed", detail, RUN_PAGE.format(event.run_id), event.run_id)


def _describe_damage(event: AdapterDamaged, name: str) -> Words:
    what = "is damaged, so the base model answers" if event.is_active else "is damaged"
    do = "Roll back or activate another one. To use it again," if event.is_active else "To use it,"
    detail = f"{event.reason} {do} restore its files, import it again or train again."
    level: Level = "error" if event.is_active else "warning"
    return Words(
        DAMAGED, level, f"Adapter {name} {what}", detail, ADAPTER_PAGE.format(event.adapter_id), event.adapter_id
    )


def _describe_decision(event: BenchmarkDecided, name: str) -> Words:
    page = BENCHMARK_PAGE.format(event.adapter_id)
    if event.gate == "held-back":
        title = f"Adapter {name} is worse and held back"
        return Words("benchmark.worse", "error", title, event.reason, page, event.adapter_id)
    if event.gate == "proven":
        title = f"Adapter {name} is better" + (" and answers now" if event.activated else "")
        return Words("benchmark.better", "success", title, event.reason, page, event.adapter_id)
    title = f"Adapter {name}: no difference that can be told from noise"
    detail = f"{event.reason} The full benchmark can tell more."
    return Words("benchmark.inconclusive", "info", title, detail, page, event.adapter_id)
