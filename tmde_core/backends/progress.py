"""Records how an installation goes in a file beside the environment, so that every process sees it.

The installing process writes the file while it holds the lock of the environment. A file that says `installing` is
believed only while the lock is held: the process may have been killed.

Another process cancels the installation by a second file, which names the installation by its start. Process ids would
not do, because containers do not share them. The installing process looks for this file while it works.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from tmde_core.backends.building import InstallProgress
from tmde_core.errors import InstallationCancelledError, TmdeError
from tmde_core.plugins.records import describe_error
from tmde_core.records.base import Record, from_json, to_json, utc_now
from tmde_core.storage.durable import TEMPORARY, read_small, write_atomic
from tmde_core.storage.locks import is_locked

__all__ = [
    "Installation",
    "InstallationFile",
    "InstallationState",
    "ask_to_cancel",
    "read_installation",
    "remove_records",
]

LOOK_SECONDS = 0.25
"""The time between two looks for a request to cancel."""

T = TypeVar("T")
InstallationState = Literal["installing", "done", "failed", "cancelled"]


class Installation(Record, frozen=True):
    """An installation of a backend's environment, running or ended."""

    name: str
    """The backend."""
    build: str
    """The name of the packages, such as `cu128`."""
    state: InstallationState
    started_at: datetime
    process: int
    """The id of the process that installs. It means nothing outside the container of this process."""
    step: str = ""
    """What is done now, or was done last."""
    done: int = 0
    """Packages that pip has looked at in this step."""
    total: int = 0
    """Packages of this step; 0: unknown."""
    detail: str = ""
    """The package that is fetched now, with its size."""
    seconds: float = 0.0
    """Time since the start; of an ended installation: how long it took."""
    error: str = ""
    """Why it failed and what to do; empty: it has not failed."""

    @property
    def place(self) -> str:
        """How far it is, for the end of a sentence: `37 of 48 (numpy, 16.4 MB)`, `PyTorch (cpu), putting them in place`."""
        if not self.total:
            return f"{self.step}, {self.detail}" if self.detail else self.step
        return f"{self.done} of {self.total}" + (f" ({self.detail})" if self.detail else "")


class CancelRequest(Record, frozen=True):
    """A person wants an installation to end that another process runs."""

    started_at: datetime
    """When the installation began. A request for an earlier installation counts no more."""


class InstallationFile:
    """Keeps the state of one installation by this process, in memory and in its file."""

    def __init__(self, file: Path, name: str, build: str) -> None:
        self._file = file
        self._begun = time.monotonic()
        self.unwritten = False
        """Whether the file could not be written: the disk is full."""
        self._now = Installation(name, build, "installing", started_at=utc_now(), process=os.getpid())

    @property
    def now(self) -> Installation:
        """The installation as it is now."""
        if self._now.state != "installing":
            return self._now
        return msgspec.structs.replace(self._now, seconds=self._seconds())

    def tell(self, progress: InstallProgress) -> None:
        """Record progress."""
        self._now = msgspec.structs.replace(
            self._now,
            step=progress.step,
            done=progress.done,
            total=progress.total,
            detail=progress.detail,
            seconds=self._seconds(),
        )
        self._write()

    @contextlib.asynccontextmanager
    async def cancellable(self) -> AsyncIterator[None]:
        """Cancel the block when another process asks for it.

        Raises:
            InstallationCancelledError: another process has asked. The detail says so.
        """
        request = _request_of(self._file)
        request.unlink(missing_ok=True)  # it was for an earlier installation
        try:
            async with asyncio.timeout(None) as limit:
                looking = asyncio.create_task(self._cancel_on_request(request, limit))
                try:
                    yield
                finally:
                    looking.cancel()
        except TimeoutError:
            if not limit.expired():
                raise
            raise InstallationCancelledError(
                f"The installation of {self._now.name} was cancelled by a request from another process, such as the page "
                "Plugins. What was fetched is kept: install again, and it goes on from there.",
                name=self._now.name,
            ) from None
        finally:
            request.unlink(missing_ok=True)

    async def _cancel_on_request(self, request: Path, limit: asyncio.Timeout) -> None:
        while True:
            asked = _read(request, CancelRequest)
            if asked is not None and asked.started_at == self._now.started_at:
                break
            await asyncio.sleep(LOOK_SECONDS)
        limit.reschedule(asyncio.get_running_loop().time())

    @contextlib.contextmanager
    def recording_the_end(self) -> Iterator[None]:
        """Record how the block ends. An installation that was refused before its first step is not recorded."""
        try:
            yield
        except (asyncio.CancelledError, KeyboardInterrupt):
            self._end("cancelled")
            raise
        except TmdeError as error:
            self._end("failed", error.detail)
            raise
        except Exception as error:
            self._end("failed", f"The installation failed: {describe_error(error)}.")
            raise
        else:
            self._end("done")

    def _end(self, state: InstallationState, error: str = "") -> None:
        if self._now.step:
            self._now = msgspec.structs.replace(self._now, state=state, detail="", error=error, seconds=self._seconds())
            self._write()

    def _seconds(self) -> float:
        return round(time.monotonic() - self._begun, 1)

    def _write(self) -> None:
        """Replace the file. It is not flushed to the disk: after a crash of the machine nothing is installing."""
        temporary = self._file.with_name(f".{self._file.name}{TEMPORARY}")
        try:
            temporary.write_bytes(to_json(self._now))
            temporary.replace(self._file)
            self.unwritten = False
        except OSError:  # progress that cannot be told must not end the installation
            self.unwritten = True


def read_installation(file: Path, lock: Path) -> Installation | None:
    """Return the last installation that a process recorded; None without one.

    Args:
        file: the file of the installation.
        lock: the lock of the environment.
    """
    found = _read(file, Installation)
    if found is None or found.state != "installing":
        return found
    seconds = max(found.seconds, round((utc_now() - found.started_at).total_seconds(), 1))
    if is_locked(lock):
        return msgspec.structs.replace(found, seconds=seconds)
    found = _read(file, Installation)  # it may have ended between the two looks
    if found is None or found.state != "installing":
        return found
    return msgspec.structs.replace(
        found,
        state="failed",
        detail="",
        error=f"The installation of {found.name} stopped, because its process ended. Install again: it goes on from there.",
    )


def ask_to_cancel(file: Path, installation: Installation) -> None:
    """Ask the process that runs an installation to end it.

    Args:
        file: the file of the installation.
        installation: the installation.

    Raises:
        InsufficientStorageError: the request cannot be written.
    """
    write_atomic(_request_of(file), to_json(CancelRequest(installation.started_at)))


def remove_records(file: Path) -> None:
    """Remove the file of an installation, and a request to cancel it."""
    file.unlink(missing_ok=True)
    _request_of(file).unlink(missing_ok=True)


def _request_of(file: Path) -> Path:
    return file.with_name(f"{file.name.removesuffix('.progress.json')}.cancel.json")


def _read(file: Path, kind: type[T]) -> T | None:
    with contextlib.suppress(OSError, TmdeError):
        return from_json(read_small(file), kind)
    return None
