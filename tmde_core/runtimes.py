"""The model runtimes of this process: made from their plugins when first needed, stopped together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from tmde_core.errors import TmdeError
from tmde_core.plugins import Plugins, context_for
from tmde_core.records.base import Record
from tmde_core.records.runtimes import Availability, ModelInfo, RuntimeStatus
from tmde_core.sdk.runtimes import ModelRuntime
from tmde_core.settings import Settings

log = structlog.get_logger(__name__)


class RuntimeReport(Record):
    """One runtime, as `doctor`, the API and the pages show it."""

    name: str
    summary: str
    plugin: str | None
    availability: Availability
    status: RuntimeStatus


class Runtimes:
    """Hands out started runtimes by name."""

    def __init__(self, plugins: Plugins, settings: Settings) -> None:
        self._plugins = plugins
        self._settings = settings
        self._made: dict[str, ModelRuntime] = {}
        self._started: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}

    def made(self, name: str) -> ModelRuntime:
        """The runtime, started or not.

        Raises:
            PluginUnavailableError: no plugin provides it.
        """
        if name not in self._made:
            descriptor = self._plugins.runtimes.get(name)
            self._made[name] = descriptor.create(context_for(descriptor, self._settings))
        return self._made[name]

    async def get(self, name: str) -> ModelRuntime:
        """The runtime, ready to answer; the first caller starts it, the others wait for that.

        Raises:
            PluginUnavailableError: no plugin provides it.
            WorkerFailedError, InvalidInputError: it does not start; the next call tries again.
        """
        runtime = self.made(name)
        if name not in self._started:
            async with self._locks.setdefault(name, asyncio.Lock()):
                if name not in self._started:
                    await runtime.start()
                    self._started.add(name)
        return runtime

    async def models(self) -> list[ModelInfo]:
        """The models of every runtime that answers; one that does not is left out."""
        found: list[ModelInfo] = []
        for descriptor in self._plugins.runtimes:
            try:
                found.extend(await self.made(descriptor.name).models())
            except (TmdeError, OSError) as error:
                log.info("runtime.models_unavailable", runtime=descriptor.name, error=str(error))
        return found

    async def reports(self) -> Sequence[RuntimeReport]:
        """Every runtime with its availability and state; starts none."""
        reports = []
        for descriptor in self._plugins.runtimes:
            try:
                context = context_for(descriptor, self._settings)
                availability = await asyncio.to_thread(descriptor.availability, context)
                status = await self.made(descriptor.name).status()
            except Exception as error:  # a plugin's own defect must not hide the other runtimes
                told = error.detail if isinstance(error, TmdeError) else f"{type(error).__name__}: {error}"
                availability = Availability(ok=False, reason=told)
                status = RuntimeStatus(state="failed", detail=availability.reason)
            reports.append(
                RuntimeReport(
                    name=descriptor.name,
                    summary=descriptor.summary,
                    plugin=self._plugins.runtimes.provider(descriptor.name),
                    availability=availability,
                    status=status,
                )
            )
        return reports

    async def stop(self) -> None:
        """Stop every runtime that was started."""
        started = [self._made[name] for name in self._started]
        self._started.clear()
        await asyncio.gather(*(runtime.stop() for runtime in started), return_exceptions=True)
