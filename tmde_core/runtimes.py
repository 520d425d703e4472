"""Manages the model runtimes of this process: plugins create them on first use, and all stop together.

While a training run has the graphics card (`tmde_core.card`), the runtimes that held the card are paused: stopped after
their running answers, refused to new callers, and started again when the run has ended, however it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from tmde_core.card import Loan, Presence, find_loan, read_loan
from tmde_core.errors import RuntimePausedError, RuntimeTimeoutError, TmdeError
from tmde_core.guarded_runtime import GuardedRuntime
from tmde_core.plugins import Plugins, context_for, create
from tmde_core.plugins.records import describe_error
from tmde_core.records.base import Record
from tmde_core.records.runtimes import Availability, ModelInfo, RuntimeCapabilities, RuntimeStatus
from tmde_core.sdk.runtimes import CardLeavingRuntime, ExpectingRuntime, ModelRuntime, RuntimeDescriptor
from tmde_core.settings import Roles, Settings

log = structlog.get_logger(__name__)

SILENT_SECONDS = 30.0
"""How long a server that was waited for in vain is asked for its models only briefly."""
PATIENCE_SECONDS = 1.0
"""How long such a server may take."""
QUICK_SECONDS = 2.0
"""How long a server may take for a list that a person waits for. A server that is well answers in milliseconds."""

LOOK_SECONDS = 0.5
"""The time between two looks for a loan of the graphics card, seconds. A look finds out whether a file exists."""
ANSWER_SECONDS = 60.0
"""The longest time that running answers have before their runtime is paused, seconds."""
LOOKS_WITHOUT_LEASH = 8
"""A run whose leash is free at so many looks has ended. Between two attempts, the leash may be free for a moment."""


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

    def __init__(self, plugins: Plugins, settings: Settings, roles: Callable[[], Roles] | None = None) -> None:
        """Create no runtime yet.

        Args:
            plugins: provide the runtimes.
            settings: the settings at the start, with the runtimes' tables.
            roles: returns the models of the roles now; None: those of `settings`.
        """
        self._plugins = plugins
        self._settings = settings
        self._roles = roles or (lambda: settings.roles)
        self._made: dict[str, ModelRuntime] = {}
        self._started: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}
        self._guarded: dict[str, GuardedRuntime] = {}
        self._data_dir = settings.data_path
        self._presence: Presence | None = None
        self._watch: asyncio.Task[None] | None = None
        self._paused: set[str] = set()
        """The runtimes that this process has paused, and will start again."""
        self._paused_for: Loan | None = None
        self._free_looks = 0
        self._silent_since: dict[str, float] = {}
        """When a runtime's server was last waited for in vain."""
        self._asking: dict[str, tuple[asyncio.Task[Sequence[ModelInfo]], float]] = {}
        """Runtimes that are asked on for their models, although a list was given out without them; and since when."""

    @property
    def plugins(self) -> Plugins:
        """The plugins that provide the runtimes."""
        return self._plugins

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
            RuntimePausedError: the runtime is paused while a training run uses the graphics card.
            WorkerFailedError, InvalidInputError: the runtime does not start; the next call tries again.
        """
        runtime = self.made(name)
        self.require_unpaused(name)
        if name not in self._started:
            async with self._lock(name):
                if name not in self._started:
                    self._attend()  # before the check: from now on, a loan waits for this process
                    self.require_unpaused(name)
                    if isinstance(runtime, ExpectingRuntime):
                        runtime.expect(self._expected(name))
                    await runtime.start()
                    self._started.add(name)
        return self._guard(name)

    def _expected(self, name: str) -> list[str]:
        roles = self._roles()
        every = (roles.proposer, roles.skeptic, roles.synthesizer, roles.judge)
        return [role.model for role in every if role.runtime == name]

    def require_unpaused(self, name: str) -> None:
        """Raise an error if the runtime is paused. This costs one look for a file.

        Raises:
            RuntimePausedError: a training run uses the graphics card; the detail says until when.
        """
        if (loan := self._pausing(name)) is not None:
            raise RuntimePausedError(
                loan.describe(), runtime=name, runId=str(loan.run_id), retryAfter=loan.seconds_left()
            )

    def find_why_paused(self, name: str) -> str | None:
        """Return why the runtime is paused and until when, in sentences; None if it is not paused."""
        loan = self._pausing(name)
        return None if loan is None else loan.describe()

    async def holding_card(self) -> dict[str, int]:
        """Return the runtimes of this process that hold memory of the graphics card, with its size in bytes."""
        held = {}
        for name in sorted(self._started):
            if size := (await self._made[name].status()).vram_bytes:
                held[name] = size
        return held

    async def models(self, *, quick: bool = False) -> list[ModelInfo]:
        """Return the models of all runtimes that respond; skip the other runtimes.

        Args:
            quick: skip also the runtimes that take longer than `QUICK_SECONDS`, for a list that a person waits for.
                They are asked on in the background, and the next list has what they answer.
        """
        names = [descriptor.name for descriptor in self._plugins.runtimes]
        found = await asyncio.gather(*(self._models_of(name, quick) for name in names))
        return [model for models in found for model in models]

    async def _models_of(self, name: str, quick: bool) -> Sequence[ModelInfo]:
        asking, since = self._asking.pop(name, (None, 0.0))
        if asking is None or (asking.done() and (not quick or time.monotonic() - since > SILENT_SECONDS)):
            asking, since = asyncio.create_task(self._ask_models(name), name=f"models of {name}"), time.monotonic()
        patience = PATIENCE_SECONDS if self._is_silent(name) else QUICK_SECONDS if quick else None
        try:
            done, _ = await asyncio.wait((asking,), timeout=patience)
        except asyncio.CancelledError:
            asking.cancel()
            raise
        if done:
            return asking.result()
        log.info("runtime.models_late", runtime=name)
        if not self._is_silent(name):
            self._silent_since[name] = time.monotonic()
        if name in self._asking:  # another list has given up, too
            asking.cancel()
        else:
            self._asking[name] = asking, since
        return ()

    def _is_silent(self, name: str) -> bool:
        return time.monotonic() - self._silent_since.get(name, float("-inf")) < SILENT_SECONDS

    async def _ask_models(self, name: str) -> Sequence[ModelInfo]:
        try:
            found = await self.made(name).models()
        except (RuntimeTimeoutError, TimeoutError) as error:
            if not self._is_silent(name):
                self._silent_since[name] = time.monotonic()
            log.info("runtime.models_unavailable", runtime=name, error=describe_error(error))
            return ()
        except Exception as error:  # an error in one plugin must not hide the other runtimes
            log.info("runtime.models_unavailable", runtime=name, error=describe_error(error))
            return ()
        self._silent_since.pop(name, None)
        return found

    async def reports(self) -> Sequence[RuntimeReport]:
        """Return the availability, state and capabilities of every runtime, without loading any model.

        A runtime whose server answers is asked for its models. It thereby learns what the server can do.
        """
        # A server that is silent delays only itself.
        return await asyncio.gather(*map(self._report, self._plugins.runtimes))

    async def _report(self, descriptor: RuntimeDescriptor) -> RuntimeReport:
        capabilities = RuntimeCapabilities()
        try:
            context = context_for(descriptor, self._settings)
            availability = await asyncio.to_thread(descriptor.availability, context)
            runtime = self.made(descriptor.name)
            if availability.ok:
                await serves_adapters(runtime)
            status, capabilities = await runtime.status(), runtime.capabilities
            if (paused := self.find_why_paused(descriptor.name)) is not None:
                status = RuntimeStatus(state="paused", detail=paused)
        except Exception as error:  # an error in one plugin must not hide the other runtimes
            told = error.detail if isinstance(error, TmdeError) else describe_error(error)
            availability = Availability(ok=False, reason=told)
            status = RuntimeStatus(state="failed", detail=availability.reason)
        return RuntimeReport(
            name=descriptor.name,
            summary=descriptor.summary,
            plugin=self._plugins.runtimes.provider(descriptor.name),
            availability=availability,
            status=status,
            capabilities=capabilities,
        )

    async def stop(self) -> None:
        """Stop every runtime that was created. One that was only asked for its models may hold connections."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        late = [asking for asking, _ in self._asking.values()]
        for asking in late:
            asking.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        self._asking.clear()
        self._started.clear()
        self._paused.clear()
        await asyncio.gather(*(runtime.stop() for runtime in self._made.values()), return_exceptions=True)
        if self._presence is not None:
            self._presence.close()
            self._presence = None

    # ------------------------------------------------------------------------------------ pausing

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _guard(self, name: str) -> GuardedRuntime:
        if name not in self._guarded:
            self._guarded[name] = GuardedRuntime(self._made[name], lambda: self.require_unpaused(name))
        return self._guarded[name]

    def _pausing(self, name: str) -> Loan | None:
        """Return the loan for which a runtime is paused; None if it is not paused."""
        loan = read_loan(self._data_dir)
        if loan is None:
            return None
        if name in self._paused and self._paused_for is not None and self._paused_for.run_id == loan.run_id:
            # Between two attempts of a run, its leash is free for a moment. The watch finds out whether the run has ended.
            return loan
        return loan if name in loan.runtimes and loan.is_in_force(self._data_dir) else None

    def _attend(self) -> None:
        """Show other processes that this one has runtimes, and begin to look for loans of the card."""
        if self._presence is None:
            # On a data directory that cannot be written, no run can be trained either.
            with contextlib.suppress(OSError, TmdeError):
                self._presence = Presence(self._data_dir)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._look_for_loans(), name="loans of the graphics card")

    async def _look_for_loans(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except Exception as error:  # the next look tries again
                log.exception("runtime.pause_failed", error=describe_error(error))

    async def _look(self) -> None:
        loan = read_loan(self._data_dir)
        if loan is not None and not loan.is_in_force(self._data_dir):
            self._free_looks += 1
            if self._free_looks < LOOKS_WITHOUT_LEASH:
                return
            loan = None
        else:
            self._free_looks = 0
        if loan is None:
            await self._bring_back()
            return
        self._paused_for = loan
        await asyncio.gather(*(self._pause(name, loan.run_id) for name in await self.holding_card()))
        if self._presence is not None and self._paused_for is loan:
            self._presence.answer(loan.id, tuple(sorted(self._paused)))

    async def _pause(self, name: str, run_id: UUID) -> None:
        """Stop a runtime after its running answers. From now on, `get` and the callers that hold it are refused."""
        self._paused.add(name)
        log.info("runtime.paused", runtime=name, run=str(run_id))
        guard, waited = self._guard(name), 0.0
        while not guard.is_idle and waited < ANSWER_SECONDS:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await guard.wait_until_idle()
            waited += LOOK_SECONDS
            if find_loan(self._data_dir) is None:
                return  # the run has ended meanwhile
        async with self._lock(name):
            self._started.discard(name)
            runtime = self._made[name]
            if isinstance(runtime, CardLeavingRuntime):
                await runtime.leave_card()
            else:
                await runtime.stop()

    async def _bring_back(self) -> None:
        """Start the runtimes again that this process has paused."""
        names, self._paused, self._paused_for = sorted(self._paused), set(), None
        for name in names:
            try:
                await self.get(name)
                log.info("runtime.back", runtime=name)
            except TmdeError as error:  # the next caller tries again, and is told
                log.warning("runtime.not_back", runtime=name, error=error.detail)


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
