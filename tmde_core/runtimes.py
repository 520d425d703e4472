"""Manages the model runtimes of this process: plugins create them on first use, and all stop together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from tmde_core.errors import TmdeError
from tmde_core.plugins import Plugins, context_for, create
from tmde_core.plugins.records import describe_error
from tmde_core.records.base import Record
from tmde_core.records.runtimes import Availability, ModelInfo, RuntimeCapabilities, RuntimeStatus
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
    capabilities: RuntimeCapabilities
    """What the runtime supports, also with adapters. A runtime for a server knows it once the server has answered."""


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
        """Return the availability, state and capabilities of every runtime, without loading any model.

        A runtime whose server answers is asked for its models. It thereby learns what the server can do.
        """
        reports = []
        for descriptor in self._plugins.runtimes:
            capabilities = RuntimeCapabilities()
            try:
                context = context_for(descriptor, self._settings)
                availability = await asyncio.to_thread(descriptor.availability, context)
                runtime = self.made(descriptor.name)
                if availability.ok:
                    await serves_adapters(runtime)
                status, capabilities = await runtime.status(), runtime.capabilities
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
                    capabilities=capabilities,
                )
            )
        return reports

    async def stop(self) -> None:
        """Stop every runtime that was created. One that was only asked for its models may hold connections."""
        self._started.clear()
        await asyncio.gather(*(runtime.stop() for runtime in self._made.values()), return_exceptions=True)


async def serves_adapters(runtime: ModelRuntime) -> bool:
    """Return whether a runtime can load adapters now.

    A runtime that could not is asked for its models first: it may not know its server yet, or the server may have been
    restarted with other options.
    """
    if not runtime.capabilities.adapters:
        try:
            await runtime.models()
        except Exception as error:  # the server is away: what is known of it stays
            log.info("runtime.models_unavailable", error=describe_error(error))
    return runtime.capabilities.adapters


def describe_lack_of_adapters(name: str, runtime: ModelRuntime, so: str = "") -> str:
    """Return why the Proposer's runtime cannot serve adapters and what to do, in sentences.

    Args:
        name: the runtime's name.
        runtime: the runtime.
        so: what follows from it, such as `so the base model answers`.
    """
    what_to_do = runtime.capabilities.adapters_note or "Choose one that can, under [roles.proposer]."
    return f"The Proposer's runtime {name!r} cannot serve adapters{so and f', {so}'}. {what_to_do}"
