"""CPU, RAM and VRAM of this machine, live. One reading serves every open page."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import structlog
from nicegui import background_tasks, ui

from tmde_core.resources import Resources, read_resources
from tmde_ui.elements import Tag
from tmde_ui.words import count, size

log = structlog.get_logger(__name__)

READ_SECONDS = 2.0


class Readings:
    """The newest reading, taken at most every two seconds, and only when somebody asks."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lock = asyncio.Lock()
        self._last: Resources | None = None
        self._taken = 0.0

    async def now(self) -> Resources:
        """How things stand."""
        async with self._lock:
            if self._last is None or time.monotonic() - self._taken >= READ_SECONDS:
                self._last = await read_resources(self._data_dir)
                self._taken = time.monotonic()
        return self._last


class Meters:
    """Three meters on a line."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        self._shown: dict[str, tuple[Tag, Tag]] = {}
        with Tag("dl", classes="meters", data_testid="meters", aria_label="This machine"):
            for name in ("CPU", "RAM", "VRAM"):
                with Tag("div"):
                    Tag("dt", name)
                    bar = Tag("progress", max="100", value="0", aria_label=name)
                    self._shown[name] = (bar, Tag("dd", "–", data_testid=f"meter-{name.lower()}"))
        task = background_tasks.create(self._watch(), name="read the machine's resources")
        ui.context.client.on_delete(task.cancel)

    async def _watch(self) -> None:
        while True:
            try:
                self._show(await self._readings.now())
            except Exception as error:  # the next reading may succeed
                log.warning("ui.resources_unread", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(READ_SECONDS)

    def _show(self, now: Resources) -> None:
        self._say("CPU", now.cpu.percent, f"{now.cpu.percent:.0f} % of {count(now.cpu.count, 'core')}")
        share = 100 * now.ram.used_bytes / max(1, now.ram.total_bytes)
        self._say("RAM", share, f"{size(now.ram.used_bytes)} of {size(now.ram.total_bytes)}")
        if not now.gpus:
            self._say("VRAM", 0, "no NVIDIA card")
            return
        used, total = sum(one.used_bytes for one in now.gpus), sum(one.total_bytes for one in now.gpus)
        self._say("VRAM", 100 * used / max(1, total), f"{size(used)} of {size(total)}")

    def _say(self, name: str, share: float, words: str) -> None:
        bar, label = self._shown[name]
        bar.put(value=f"{share:.0f}")
        label.say(words)
