"""Installs environments of training backends in the background of this process, and follows those of other processes.

    installation = await services.installations.start("unsloth")
    ...
    installation = await services.installations.wait("unsloth")
    if installation.state != "done":
        print(installation.error)

How an installation goes is in a file beside the environment, see `progress`. The pages and the API ask `current` again
and again, as they do for pulls of base models.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec
import structlog

from tmde_core.backends.building import InstallProgress
from tmde_core.backends.progress import Installation
from tmde_core.backends.service import BackendEnvironments
from tmde_core.errors import ConflictError, InstallationCancelledError, TmdeError
from tmde_core.records.base import utc_now
from tmde_core.sdk.environments import ProbeReport

__all__ = ["Installation", "Installations"]

POLL_SECONDS = 0.25
"""The time between two looks at an installation by another process."""

ANSWER_SECONDS = 10.0
"""The longest wait for another process that was asked to end its installation. It looks four times a second."""

NICENESS = 15
"""The priority of installations that nobody asked for: debates and pages go first."""

log = structlog.get_logger(__name__)


class Installations:
    """The installations of one data directory. Those that this process has started end with it, and can be continued."""

    def __init__(self, backends: BackendEnvironments) -> None:
        """Create the service. It starts nothing.

        Args:
            backends: installs the environments.
        """
        self._backends = backends
        self._jobs: dict[str, _Job] = {}
        self._automatic: asyncio.Task[None] | None = None

    def start_automatic(self) -> None:
        """Start to install, with low priority, what TMDE installs by itself and is missing. Return at once.

        An installation that cannot begin or fails is logged. The next run that needs it tries again. What another
        process leaves unfinished, such as a server that was killed, goes on here.
        """
        self._automatic = asyncio.create_task(self._install_automatic(), name="install what is missing")

    async def _install_automatic(self) -> None:
        for name in await asyncio.to_thread(self._backends.list_automatic):
            try:
                while not await self._began(name):
                    pass
            except TmdeError as error:
                self._backends.keep_refusal(name, error.detail)
                log.warning("backends.install_refused", backend=name, error=error.detail)

    async def _began(self, name: str) -> bool:
        """Start an installation. If another process installs, wait for its end, and return whether that is enough."""
        try:
            await self.start(name, niceness=NICENESS)
        except ConflictError:
            if not self._backends.is_busy(name):  # a training run may use the packages
                raise
            while True:
                await asyncio.sleep(POLL_SECONDS)
                if not self._backends.is_busy(name):
                    break
            ended = await asyncio.to_thread(self.current, name)
            return ended is None or ended.state != "failed"
        log.info("backends.install_started", backend=name)
        return True

    async def start(self, name: str, build: str = "auto", *, niceness: int = 0) -> Installation:
        """Start to install the environment of a backend, or return the installation that this process runs already.

        An installation that stopped goes on where it stopped. An environment that is complete and up to date is only
        examined.

        Args:
            name: the backend.
            build: the packages; `auto`: those that fit the driver.
            niceness: how much lower than this process's the priority of pip is, 0–19.

        Raises:
            ConflictError: another process installs or removes the environment, or this one installs another build.
            TmdeError: see `BackendEnvironments.install`.
        """
        job = self._running(name)
        if job is None:
            self._jobs[name] = job = _Job(self._backends, name, build, niceness)
        await job.begun.wait()
        if not job.told:
            await job.raise_refusal()
            if self._backends.is_built_in(name):  # nothing to install: it was examined
                return Installation(name, "", "done", utc_now(), os.getpid())
        found = self.current(name)
        if found is None:
            raise ConflictError(f"The environment of {name} was removed meanwhile.", name=name)
        if build not in ("auto", found.build):
            raise ConflictError(
                f"The build {found.build} of {name} is being installed. Cancel this installation first.", name=name
            )
        return found

    def current(self, name: str) -> Installation | None:
        """Return the installation that runs, in this process or another, or else the last one; None without one.

        Raises:
            PluginUnavailableError: there is no such backend.
        """
        return self._backends.installation(name)

    def is_own(self, installation: Installation) -> bool:
        """Return whether this process runs the installation."""
        return installation.process == os.getpid() and self._running(installation.name) is not None

    async def wait(self, name: str) -> Installation:
        """Wait until the installation of a backend has ended, also if another process runs it, and return it.

        Raises:
            PluginUnavailableError: there is no such backend.
            ConflictError: nothing is or was installed.
        """
        while True:
            job = self._running(name)
            if job is not None:
                await asyncio.wait((job.task,))
            found = await asyncio.to_thread(self.current, name)
            if found is None and self._backends.is_busy(name):  # another process is about to begin
                await asyncio.sleep(POLL_SECONDS)
                continue
            if found is None:
                raise ConflictError(f"The environment of {name} is not being installed.", name=name)
            if found.state != "installing":
                return found
            await asyncio.sleep(POLL_SECONDS)

    async def cancel(self, name: str) -> Installation:
        """End an installation, also if another process runs it. What was fetched is kept, so that it can go on later.

        Raises:
            PluginUnavailableError: there is no such backend.
            ConflictError: nothing is being installed, or the process that installs does not react.
            InsufficientStorageError: another process cannot be asked, because the disk is full.
        """
        job = self._running(name)
        if job is None:
            return await self._cancel_elsewhere(name)
        job.task.cancel()
        await asyncio.wait((job.task,))
        if not job.told:  # nothing was recorded
            return Installation(name, job.build, "cancelled", utc_now(), os.getpid())
        return await self.wait(name)

    async def _cancel_elsewhere(self, name: str) -> Installation:
        """Ask the process that installs to end the installation, and wait until it has done so."""
        found = await asyncio.to_thread(self.current, name)
        if found is None or found.state != "installing":
            raise ConflictError(f"The environment of {name} is not being installed.", name=name)
        await asyncio.to_thread(self._backends.ask_to_cancel, found)
        now: Installation | None = found
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while now is not None and (now.started_at, now.state) == (found.started_at, "installing"):
                    await asyncio.sleep(POLL_SECONDS)
                    now = await asyncio.to_thread(self.current, name)
        except TimeoutError:
            raise ConflictError(
                f"The process that installs the environment of {name} was asked to end it, and has not reacted in "
                f"{ANSWER_SECONDS:.0f} s. It ends the installation when it goes on.",
                name=name,
            ) from None
        if now is None or now.started_at != found.started_at:  # the next installation has begun already
            return msgspec.structs.replace(found, state="cancelled", detail="")
        return now

    async def aclose(self) -> None:
        """End the installations of this process. They can be continued."""
        tasks: list[asyncio.Task[Any]] = [job.task for job in self._jobs.values()]
        if self._automatic is not None:
            tasks.append(self._automatic)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------------------------------- parts

    def _running(self, name: str) -> _Job | None:
        job = self._jobs.get(name)
        return None if job is None or job.task.done() else job


class _Job:
    """An installation that this process has started."""

    def __init__(self, backends: BackendEnvironments, name: str, build: str, niceness: int) -> None:
        self.begun = asyncio.Event()
        """The first step has begun, or the installation was refused."""
        self.told = False
        """Whether the first step has begun."""
        self.build = build
        self._name = name
        self.task = asyncio.create_task(backends.install(name, build, self._tell, niceness), name=f"install {name}")
        self.task.add_done_callback(self._end)

    async def raise_refusal(self) -> None:
        """Raise why the installation ended before its first step."""
        await asyncio.wait((self.task,))
        if self.task.cancelled():
            raise ConflictError(f"The installation of {self._name} was cancelled.", name=self._name)
        self.task.result()

    def _tell(self, _: InstallProgress) -> None:
        self.told = True
        self.begun.set()

    def _end(self, task: asyncio.Task[ProbeReport]) -> None:
        """Log the end. This also retrieves the exception, which the record of the installation tells."""
        self.begun.set()
        if task.cancelled() or isinstance(task.exception(), InstallationCancelledError):
            log.info("backends.install_cancelled", backend=self._name)
        elif (error := task.exception()) is None:
            log.info("backends.installed", backend=self._name)
        elif isinstance(error, TmdeError):
            log.warning("backends.install_failed", backend=self._name, error=error.detail)
        else:
            log.error("backends.install_failed", backend=self._name, exc_info=error)
