"""Supervise one model server: the child process, its address, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec

from tmde_core.sdk.errors import InvalidInputError, WorkerFailedError
from tmde_cpu.serving.loopback import SILENCE_SECONDS
from tmde_cpu.serving.openmp import WAITING
from tmde_cpu.serving.server_log import LastLines, ServerLog
from tmde_cpu.serving.server_worker import ServerJob, ServerReport

SERVER = "the embedded model server"

START_SECONDS = 300.0
"""The time limit for loading. A large model on a slow disk takes long."""
CONNECT_SECONDS = 5.0
END_SECONDS = 0.8
"""How long a child may take to end by itself before it is killed."""
MAX_LOG_LINE = 64 * 1024


class ServerChild:
    """A running llama.cpp server that only this process can send requests to."""

    def __init__(self, process: asyncio.subprocess.Process, log: ServerLog) -> None:
        self._process = process
        self._log = log
        self._lines = LastLines()
        self._logging = asyncio.create_task(self._keep_log())
        self.exited = asyncio.create_task(process.wait())
        """Done as soon as the process has ended."""
        self.client: httpx.AsyncClient
        """The client for all requests except chats."""
        self.address = ""
        self.key = ""

    @classmethod
    async def start(cls, job: ServerJob, log: ServerLog) -> ServerChild:
        """Start the server that `job` describes and wait until it listens. `key` and `parent` are filled in here.

        Raises:
            InvalidInputError: the server cannot load the model. The error contains the server's last log lines.
            WorkerFailedError: the server cannot be started, was killed, or takes too long.
        """
        key = secrets.token_urlsafe(32)
        job = msgspec.structs.replace(job, key=key, parent=os.getpid())
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tmde_cpu.serving.server_worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=child_environment(),
                limit=MAX_LOG_LINE,
            )
        except OSError as error:
            raise WorkerFailedError(f"The embedded model server cannot be started: {error.strerror}.") from None
        child = cls(process, log)
        try:
            await child._begin(job, key)
        except BaseException:
            await child.stop()
            raise
        return child

    async def _begin(self, job: ServerJob, key: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        report = ServerReport()
        with contextlib.suppress(ConnectionError, msgspec.DecodeError):
            try:
                async with asyncio.timeout(START_SECONDS):
                    self._process.stdin.write(msgspec.json.encode(job) + b"\n")
                    await self._process.stdin.drain()
                    report = msgspec.json.decode(await self._process.stdout.readline(), type=ServerReport)
            except TimeoutError:
                raise WorkerFailedError(
                    f"The model {Path(job.model).name} was not loaded within {START_SECONDS:.0f} s."
                ) from None
        if not report.address:
            raise await self._failure(job, report)
        self._connect(report.address, key, job.slots)

    def _connect(self, address: str, key: str, slots: int) -> None:
        self.address, self.key = address, key
        self.client = httpx.AsyncClient(
            base_url=address,
            headers={"authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=slots + 2),
            trust_env=False,  # a proxy in the environment is not meant for loopback
        )

    async def _failure(self, job: ServerJob, report: ServerReport) -> InvalidInputError | WorkerFailedError:
        if not report.error:
            await asyncio.wait([self.exited], timeout=END_SECONDS)
        await self._log_is_read()
        if self.exited.done() and self.exited.result() == -signal.SIGKILL:
            return WorkerFailedError(
                f"The embedded model server was killed while it loaded {job.model}; the machine may be short of memory."
            )
        words = self._lines.first_error() or report.error
        return InvalidInputError(
            f"The model file {job.model} cannot be loaded{f' ({words})' if words else ''}. Replace it with a whole one.",
            field="model",
        )

    async def _keep_log(self) -> None:
        assert self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:  # the line is longer than MAX_LOG_LINE; the part that was read is lost
                continue
            if not line:
                return
            self._lines.add(line)
            self._log.write(line)

    async def _log_is_read(self) -> None:
        await asyncio.wait([self._logging], timeout=END_SECONDS)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return not self.exited.done()

    @property
    def short_of_memory(self) -> bool:
        """Whether the server has logged that memory is lacking."""
        return self._lines.short_of_memory

    @property
    def last_words(self) -> str:
        """The line of the log that most likely says what went wrong."""
        return self._lines.telling()

    async def obituary(self) -> str:
        """Return how the process ended, as a clause. Call this when `exited` is done."""
        await self._log_is_read()
        code = self.exited.result()
        how = f"was ended by signal {-code} ({_signal_name(-code)})" if code < 0 else f"ended with code {code}"
        return f"{how}; its last log line: {self.last_words or 'none'}"

    async def stop(self) -> None:
        """Close the child's stdin, and kill the child if this is not enough. The child ends within a second."""
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
            await asyncio.wait([self.exited], timeout=END_SECONDS)
            if not self.exited.done():
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            await self.exited
            await self._log_is_read()
            self._logging.cancel()
        finally:  # a runtime that is stopped cancels the task that stops a dead child
            if hasattr(self, "client"):
                await self.client.aclose()


def server_job(
    model: Path, adapters: Sequence[Path], *, context: int, slots: int, threads: int, batch: int
) -> ServerJob:
    """Return a job without key and parent, which `ServerChild.start` fills in."""
    return ServerJob(
        model=str(model),
        key="",
        parent=0,
        adapters=[str(path) for path in adapters],
        context=context,
        slots=slots,
        threads=threads,
        batch=batch,
    )


def child_environment() -> dict[str, str]:
    """Return the environment of a model server."""
    return {**os.environ, **WAITING}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
