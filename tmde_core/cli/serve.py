"""Implement `tmde serve`: pages and API on one port. The server stops in under a second, even with open streams."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tmde_core.cli.kit.invocation import settings_of
from tmde_core.errors import ConflictError, InvalidInputError, WorkerFailedError

if TYPE_CHECKING:
    from tmde_core.services import Services
    from tmde_core.settings import Settings

UI_GROUP = "tmde.ui"
"""Entry points that offer `create_app(services)` with pages. Without one, only the API is served."""

LAST_SECONDS = 1
"""How long a running request may take after the stop signal, in seconds. After that the request is cut off."""

BACKLOG = 128


def command(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on; else TMDE_HOST, else 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one; else TMDE_PORT, else 8321.")
    ] = None,
    no_ui: Annotated[bool, typer.Option("--no-ui", help="Serve the API only.")] = False,
) -> None:
    """Start the server: pages and API on one port. Ctrl-C ends it."""
    from tmde_core.cli.kit.logs import log_to_stderr

    settings = settings_of(ctx, host=host, port=port)
    log_to_stderr(settings)
    asyncio.run(_serve(settings, with_ui=not no_ui))
    # Everything is closed and on disk. A normal exit would take up to 1.5 s, because Python then unloads a thousand
    # modules.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def _serve(settings: Settings, *, with_ui: bool) -> None:
    from tmde_core.services import open_services

    with _signals() as stopped:
        async with open_services(settings, serving=True) as services:
            listening = _listen(settings)
            with contextlib.closing(listening):
                create_app = (_ui() if with_ui else None) or _api()
                await _run(create_app(services), listening, stopped, services.installations.start_automatic)


async def _run(app: Any, listening: socket.socket, stopped: asyncio.Event, on_answering: Callable[[], None]) -> None:
    """Serve `app` until `stopped` is set. Call `on_answering` as soon as requests are answered."""
    import uvicorn

    class Server(uvicorn.Server):
        """A uvicorn server that prints its address and closes the event streams before it waits for connections."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Start the server and print its address."""
            await super().startup(sockets)
            if self.started:
                typer.echo(f"TMDE is at {_url(listening)} (Ctrl-C ends it)")
                sys.stdout.flush()
                on_answering()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Close the event streams, then shut the server down."""
            # A stream never ends by itself, so uvicorn would wait for the stream until the time limit.
            close: Callable[[], None] | None = getattr(app, "shutdown_streams", None)
            if close is not None:
                close()
            await super().shutdown(sockets)

        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            """Leave the signals to `_signals`."""
            # uvicorn would raise the signals again when it ends, and kill the process before the services close.
            yield

    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=LAST_SECONDS,
            # uvicorn would trust proxy headers only from loopback. TMDE has no proxy, so the peer's address is the
            # client's address.
            proxy_headers=False,
            server_header=False,
        )
    )

    async def stop() -> None:
        await stopped.wait()
        server.should_exit = True

    stopping = asyncio.create_task(stop())
    try:
        await server.serve(sockets=[listening])
    finally:
        stopping.cancel()
    if not server.started and not stopped.is_set():
        raise WorkerFailedError("The server did not start. The lines above say why.")


@contextlib.contextmanager
def _signals() -> Any:
    """Yield an event that SIGINT and SIGTERM set. A second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        loop.call_soon_threadsafe(stopped.set)

    for number in before:
        signal.signal(number, note)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(settings: Settings) -> socket.socket:
    """Return a listening socket on the settings' host and port.

    Raises:
        ConflictError: the port is in use.
        InvalidInputError: this machine does not have the address, or this user may not use the port.
    """
    where = f"{settings.host} port {settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise InvalidInputError(
            f"{settings.host!r} is no address of this machine. Choose another with --host.", field="host"
        ) from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        if isinstance(error, PermissionError):
            raise InvalidInputError(
                f"This user may not listen on {where}. Choose a port above 1023 with --port."
            ) from None
        if error.errno is not None and "in use" in (error.strerror or ""):
            raise ConflictError(
                f"Another program already listens on {where}. Stop it, or choose another port with --port (0 takes a free one)."
            ) from None
        raise InvalidInputError(
            f"It is not possible to listen on {where}: {error.strerror}. Choose another address with --host and --port."
        ) from None
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - shown, not bound
    return f"http://{shown}:{port}"


def _ui() -> Callable[[Services], Any] | None:
    """Return the `create_app` of the installed pages, or None. If pages are broken, only the API is served."""
    for entry_point in importlib.metadata.entry_points(group=UI_GROUP, name="default"):
        try:
            create: Callable[[Services], Any] = entry_point.load()
        except Exception as error:  # a third party's package may fail in any way
            typer.echo(f"The pages ({entry_point.value}) cannot be loaded: {type(error).__name__}: {error}", err=True)
            continue
        return create
    return None


def _api() -> Callable[[Services], Any]:
    from tmde_core.api.app import create_app

    return create_app
