"""Show the live CPU, RAM and VRAM use of this machine. All open pages share one reading."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tmde_core.resources import Resources, read_resources
from tmde_ui.kit.elements import Tag
from tmde_ui.kit.tending import poll, start_task
from tmde_ui.kit.words import count, format_bytes

READ_SECONDS = 2.0


class ResourceReadings:
    """Holds the newest reading. A reading is taken only on request and at most every two seconds."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lock = asyncio.Lock()
        self._last: Resources | None = None
        self._taken = 0.0

    async def now(self) -> Resources:
        """Return the current reading."""
        async with self._lock:
            if self._last is None or time.monotonic() - self._taken >= READ_SECONDS:
                self._last = await read_resources(self._data_dir)
                self._taken = time.monotonic()
        return self._last


class Meters:
    """Shows the three meters in a row."""

    def __init__(self, readings: ResourceReadings) -> None:
        self._readings = readings
        self._shown: dict[str, tuple[Tag, Tag]] = {}
        with Tag("dl", classes="meters", data_testid="meters", aria_label="This machine"):
            for name in ("CPU", "RAM", "VRAM"):
                with Tag("div"):
                    Tag("dt", name)
                    with Tag("dd", classes="bar"):
                        bar = Tag("progress", max="100", value="0", aria_label=name)
                    self._shown[name] = (bar, Tag("dd", "–", data_testid=f"meter-{name.lower()}"))
        start_task(lambda: poll(self._read, "resources", every=READ_SECONDS, at_once=True), "read the resources")

    async def _read(self) -> None:
        self._show(await self._readings.now())

    def _show(self, now: Resources) -> None:
        self._say("CPU", now.cpu.percent, f"{now.cpu.percent:.0f} % of {count(now.cpu.count, 'core')}")
        share = 100 * now.ram.used_bytes / max(1, now.ram.total_bytes)
        self._say("RAM", share, f"{format_bytes(now.ram.used_bytes)} of {format_bytes(now.ram.total_bytes)}")
        if not now.gpus:
            self._say("VRAM", 0, "no NVIDIA card")
            return
        used, total = sum(one.used_bytes for one in now.gpus), sum(one.total_bytes for one in now.gpus)
        self._say("VRAM", 100 * used / max(1, total), f"{format_bytes(used)} of {format_bytes(total)}")

    def _say(self, name: str, share: float, words: str) -> None:
        bar, label = self._shown[name]
        bar.put(value=f"{share:.0f}")
        label.say(words)
