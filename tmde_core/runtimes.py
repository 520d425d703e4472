"""Manages the model runtimes of this process: plugins create them on first use, and all stop together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from tmde_core.errors import TmdeError
from tmde_core.plugins import Plugins, context_for, create
from tmde_core.plugins.records import describe_error
from tmde_core.records.base import Record
from tmde_core.records.runtimes import Availability, ModelInfo, RuntimeStatus
from tmde_core.sdk.runtimes import ModelRuntime
from tmde_core.settings import Settings

log = structlog.get_logger(__name__)


class RuntimeReport(Record):
    """The report on one runtime for `doctor`, the API and the pages."""

    name: str
    summary: str
    plugin: str | None
    availability: Availability
    status: RuntimeStatus


class Runtimes:
    """Creates, starts and stops runtimes by name."""

    def __init__(self, plugins: Plugins, settings: Settings) -> None:
        self._plugins = plugins
        self._settings = settings
        self._made: dict[str, ModelRuntime] = {}
        self._started: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}

    def made(self, name: str) -> ModelRuntime:
        """Return the runtime, started or not; create it on the first call.

        Raises:
            PluginUnavailableError: no plugin provides the runtime, or its plugin cannot create it.
        """
        if name not in self._made:
            descriptor = self._plugins.runtimes.get(name)
            self._made[name] = create(descriptor, self._settings)
        return self._made[name]

    def is_started(self, name: str) -> bool:
        """Return whether the runtime is started. Some runtimes know their capabilities only then."""
        return name in self._started

    async def get(self, name: str) -> ModelRuntime:
        """Return the started runtime.

        The first caller starts it, and other callers wait until it has started.

        Raises:
            PluginUnavailableError: no plugin provides the runtime.
            WorkerFailedError, InvalidInputError: the runtime does not start; the next call tries again.
        """
        runtime = self.made(name)
        if name not in self._started:
            async with self._locks.setdefault(name, asyncio.Lock()):
                if name not in self._started:
                    await runtime.start()
                    self._started.add(name)
        return runtime

    async def models(self) -> list[ModelInfo]:
        """Return the models of all runtimes that respond; skip the other runtimes."""
        found: list[ModelInfo] = []
        for descriptor in self._plugins.runtimes:
            try:
                found.extend(await self.made(descriptor.name).models())
            except Exception as error:  # an error in one plugin must not hide the other runtimes
                log.info("runtime.models_unavailable", runtime=descriptor.name, error=describe_error(error))
        return found

    async def reports(self) -> Sequence[RuntimeReport]:
        """Return the availability and state of every runtime, without starting any."""
        reports = []
        for descriptor in self._plugins.runtimes:
            try:
                context = context_for(descriptor, self._settings)
                availability = await asyncio.to_thread(descriptor.availability, context)
                status = await self.made(descriptor.name).status()
            except Exception as error:  # an error in one plugin must not hide the other runtimes
                told = error.detail if isinstance(error, TmdeError) else describe_error(error)
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
        """Stop every runtime that was made. One that was only asked for its models may hold connections."""
        made = list(self._made.values())
        self._started.clear()
        await asyncio.gather(*(runtime.stop() for runtime in made), return_exceptions=True)
