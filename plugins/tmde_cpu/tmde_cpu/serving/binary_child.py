"""Supervise a `llama-server` program: the launcher that holds it, its port, its key and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from pathlib import Path

import httpx
import msgspec
import psutil

from tmde_core.sdk.errors import InvalidInputError, WorkerFailedError
from tmde_cpu.serving.child import END_SECONDS, MAX_LOG_LINE, START_SECONDS, ServerChild, child_environment
from tmde_cpu.serving.server_log import ServerLog

HOST = "127.0.0.1"
PORT_TRIES = 3
"""Another program may take a port between its choice and its use."""
POLL_SECONDS = 0.1
"""How often a server that loads is asked whether it is ready."""
HEALTH_SECONDS = 2.0
COULD_NOT_RUN = (126, 127)
"""The exit codes of a program whose libraries are missing."""


class BinaryJob(msgspec.Struct, frozen=True):
    """What to start. Host, port, key and adapters are added to the command."""

    program: Path
    arguments: tuple[str, ...]
    model: str
    adapters: tuple[str, ...]
    slots: int


class CardFullError(WorkerFailedError):
    """The model does not fit the memory beside what is there already."""


class _PortTakenError(Exception):
    """Another program listens on the chosen port."""


class _Hello(msgspec.Struct):
    """The launcher's one line on stdout."""

    pid: int = 0
    error: str = ""


class BinaryChild(ServerChild):
    """A running `llama-server` program that only this process can send requests to."""

    def __init__(self, process: asyncio.subprocess.Process, log: ServerLog) -> None:
        super().__init__(process, log)
        self._server = 0
        """The process id of the program, which is also the id of its process group."""
        self._cleaning: asyncio.Task[None] | None = None

    @classmethod
    async def launch(cls, job: BinaryJob, log: ServerLog) -> BinaryChild:
        """Start the program and wait until it has loaded the model.

        Raises:
            CardFullError: the log says that memory is lacking.
            InvalidInputError: the program refuses the model or an argument. The error contains the log's first error.
            WorkerFailedError: the program cannot be started, was killed, or takes too long.
        """
        for _ in range(PORT_TRIES):
            with contextlib.suppress(_PortTakenError):
                return await cls._launch(job, log)
        raise WorkerFailedError(
            f"{job.program} found no free port in {PORT_TRIES} tries. Something on this machine takes ports quickly."
        )

    @classmethod
    async def _launch(cls, job: BinaryJob, log: ServerLog) -> BinaryChild:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tmde_cpu.serving.binary_launcher"),
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
            async with asyncio.timeout(START_SECONDS):
                await child._serve(job)
        except TimeoutError:
            await child.stop()
            raise WorkerFailedError(
                f"The model {Path(job.model).name} was not loaded within {START_SECONDS:.0f} s."
            ) from None
        except BaseException:
            await child.stop()
            raise
        return child

    async def _serve(self, job: BinaryJob) -> None:
        assert self._process.stdin is not None
        key, port = secrets.token_urlsafe(32), _free_port()
        command = [str(job.program), "--host", HOST, "--port", str(port), *job.arguments]
        await self._say({"command": command, "key": key, "adapters": job.adapters, "parent": os.getpid()})
        self._server = await self._hello(job)
        self._cleaning = asyncio.create_task(self._clean_up())
        self._connect(f"http://{HOST}:{port}", key, job.slots)
        while not await self._ready():
            await asyncio.wait([self.exited], timeout=POLL_SECONDS)
            if self.exited.done():
                raise await self._reason(job)
        if not await asyncio.to_thread(_listens, self._server, port):
            raise _PortTakenError
        self._process.stdin.write(b"ready\n")

    async def _say(self, record: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):  # the launcher has ended, which its missing answer says
            self._process.stdin.write(msgspec.json.encode(record) + b"\n")
            await self._process.stdin.drain()

    async def _hello(self, job: BinaryJob) -> int:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        with contextlib.suppress(msgspec.DecodeError):
            hello = msgspec.json.decode(line, type=_Hello)
            if hello.pid:
                return hello.pid
            raise WorkerFailedError(f"The program {job.program} cannot be started: {hello.error}.")
        raise WorkerFailedError(f"The launcher of {job.program} failed: {self.last_words or 'it said nothing'}.")

    async def _clean_up(self) -> None:
        """End the program's group when the launcher has ended, even if the launcher was killed.

        What a wrapper script started would live on, and hold the log open. Only the launcher holds its stdout.
        """
        assert self._process.stdout is not None
        await self._process.stdout.read()
        self._kill_group()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._server, signal.SIGKILL)

    async def _ready(self) -> bool:
        try:
            response = await self.client.get("/health", timeout=HEALTH_SECONDS)
        except httpx.HTTPError:  # it does not listen yet
            return False
        return response.status_code == 200

    async def _reason(self, job: BinaryJob) -> Exception:
        """Return why the program ended before it was ready."""
        await self._log_is_read()
        if self._lines.port_taken:
            return _PortTakenError()
        code, words = self.exited.result(), self._lines.first_error() or self.last_words
        if self.short_of_memory:
            return CardFullError(f"There is not enough memory to load {job.model}: {words}.")
        if code == -signal.SIGKILL:
            return WorkerFailedError(
                f"{job.program} was killed while it loaded {job.model}; the machine may be short of memory."
            )
        if code in COULD_NOT_RUN:
            return WorkerFailedError(f"The program {job.program} cannot be started: {words}.")
        if "invalid argument" in words or "unknown value" in words or "expected value for argument" in words:
            return InvalidInputError(
                f"The program {job.program} refuses its arguments ({words}). Check extra_args.", field="extra_args"
            )
        return InvalidInputError(
            f"The model file {job.model} cannot be loaded by {job.program} ({words or await self.obituary()}). Replace "
            "it with a whole one, or take a newer llama-server.",
            field="model",
        )

    @property
    def pid(self) -> int:
        """The process id of the program; until it runs, of its launcher."""
        return self._server or self._process.pid

    async def stop(self) -> None:
        """End the program at once."""
        if self._server and not self.exited.done():
            self._kill_group()
            await asyncio.wait([self.exited], timeout=END_SECONDS)
        await super().stop()
        if self._cleaning is not None:
            await self._cleaning


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _listens(pid: int, port: int) -> bool:
    """Return whether the process, or one that it started, listens on the port. A stranger's server must get no request."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        connections = [connection for process in family for connection in process.net_connections("tcp4")]
    except psutil.AccessDenied:  # some systems do not tell; the key is then all that protects
        return True
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)
