"""Fetches one file of a pull: continues where the last attempt ended, and checks the hash."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tmde_core.errors import HubUnreachableError, RateLimitedError, TmdeError, UnprocessableError
from tmde_core.models.pulling import hub
from tmde_core.models.pulling.checking import Hasher
from tmde_core.models.pulling.limits import PullLimits
from tmde_core.models.pulling.staging import Staging
from tmde_core.models.pulling.wire import KEPT
from tmde_core.records.pulls import PullFile, PullPlan
from tmde_core.storage.durable import storage_errors, sync_directory

GAIN_BYTES = 64 * 1024
"""An attempt that brings this much counts as a success, and the next failure as the first one."""


class Fetcher:
    """Fetches the files of a pull."""

    def __init__(
        self,
        staging: Staging,
        plan: PullPlan,
        limits: PullLimits,
        moved: Callable[[int], None],
        tell: Callable[[str], None],
    ) -> None:
        """Create a fetcher that fetches nothing yet.

        Args:
            staging: the folder of the pull.
            plan: what is fetched.
            limits: how often it tries.
            moved: is called with the number of bytes that arrived, negative if bytes were dropped.
            tell: is called with what a person should know.
        """
        self._staging = staging
        self._plan = plan
        self._limits = limits
        self._moved = moved
        self._tell = tell

    def fetch(self, file: PullFile) -> str:
        """Fetch a file that is not whole yet, put it into place, and return its hash.

        Raises:
            TmdeError: the hub cannot be reached or refuses, the file is wrong twice, or the disk is full.
        """
        path = self._staging.part(file)
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _Part(path, file, self._moved) as part:
                self._fill(part)
                if not part.hasher.matches():
                    self._tell(f"{file.path} arrived with a wrong hash. It was deleted, and is fetched once more.")
                    part.cut(0)
                    self._fill(part)
                if not part.hasher.matches():
                    digest = part.hasher.digest
                    part.cut(0)
                    raise UnprocessableError(
                        f"{file.path} arrived twice with another hash than the hub names ({digest[:16]}… and not "
                        f"{(file.sha256 or file.git_sha1 or '')[:16]}…), so it was deleted. A proxy or a mirror may "
                        "change it. Try again later, or with another hub (HF_ENDPOINT)."
                    )
                part.sync()
                digest = part.hasher.digest
            path.replace(self._staging.whole(file))
            sync_directory(path.parent)
        return digest

    def _fill(self, part: _Part) -> None:
        """Fetch the rest of a file, over as many connections as it takes.

        Raises:
            TmdeError: the hub refuses, or it failed too often in a row.
        """
        failures = 0
        while part.missing:
            before = part.size
            try:
                self._append(part)
            except hub.TransientError as failure:
                failures = 1 if part.size - before >= GAIN_BYTES else failures + 1
                if failure.restart:
                    part.cut(0)
                if failures >= self._limits.tries:
                    raise _give_up(failure.error) from None
                try:
                    hub.pause(failure, failures, self._limits, self._tell)
                except TmdeError as error:
                    raise _give_up(error) from None

    def _append(self, part: _Part) -> None:
        """Fetch over one connection.

        Raises:
            hub.TransientError: the connection ended before the file.
        """
        file = part.file
        with hub.fetch(self._plan.repository, self._plan.commit, file.path, part.size, self._limits) as transfer:
            part.cut(transfer.offset)  # a server without ranges starts again at the first byte
            for chunk in transfer.chunks:
                part.write(chunk)
                if not part.missing:
                    return
        raise hub.TransientError(
            HubUnreachableError(
                f"The hub {self._plan.endpoint} ended {file.path} after {part.size:,} of {file.size_bytes:,} bytes."
            )
        )


class _Part:
    """The bytes of an unfinished file, with their hash."""

    def __init__(self, path: Path, file: PullFile, moved: Callable[[int], None]) -> None:
        self.file = file
        self.size = 0
        self.hasher = Hasher(file)
        self._path = path
        self._moved = moved
        self._output = path.open("ab")
        self._begin()

    @property
    def missing(self) -> int:
        """The bytes that are still to come."""
        return self.file.size_bytes - self.size

    def write(self, content: bytes) -> None:
        """Append bytes. Those beyond the size of the file are dropped."""
        content = content[: self.missing]
        self._output.write(content)
        self.hasher.update(content)
        self.size += len(content)
        self._moved(len(content))

    def cut(self, size: int) -> None:
        """Keep only the first bytes."""
        if size >= self.size:
            return
        self._moved(size - self.size)
        self._output.truncate(size)
        self._begin()

    def sync(self) -> None:
        """Write the bytes to the disk."""
        self._output.flush()
        os.fsync(self._output.fileno())

    def _begin(self) -> None:
        if self._path.stat().st_size > self.file.size_bytes:  # the bytes of something else
            self._output.truncate(0)
        self.hasher = Hasher(self.file)
        self.size = self.hasher.read(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._output.close()


def _give_up(error: TmdeError) -> TmdeError:
    """Return the error with the sentence that the same command goes on."""
    kind = RateLimitedError if isinstance(error, RateLimitedError) else HubUnreachableError
    again: TmdeError = kind(f"{error.detail} {KEPT}")
    again.context = error.context
    return again
