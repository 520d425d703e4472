"""Hold the global options of a command line, and open the settings and services for a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    import typer

    from tmde_core.services import Services
    from tmde_core.settings import Settings

S = TypeVar("S")
T = TypeVar("T")
Opening: TypeAlias = "Callable[[Settings], AbstractAsyncContextManager[Services]]"


@dataclass
class Invocation:
    """The global options of one command line."""

    data_dir: Path | None = None

    def settings(self, **flags: Any) -> Settings:
        """Load the settings. `flags` that are not None override the environment, which overrides the file.

        Raises:
            InvalidInputError, InsufficientStorageError: see `load_settings`.
        """
        from tmde_core.settings import load_settings

        return load_settings(self.data_dir, flags=flags)


def settings_of(ctx: typer.Context, **flags: Any) -> Settings:
    """Return the settings of the running command."""
    return ctx.ensure_object(Invocation).settings(**flags)


def with_services(ctx: typer.Context, action: Callable[[Services], Awaitable[T]]) -> T:
    """Open the data directory, run `action` with the services, and close the data directory again.

    A server may use the data directory at the same time. Operations that a crash interrupted are settled first. Ctrl-C
    cancels `action`, closes everything and raises KeyboardInterrupt.
    """
    from tmde_core.services import open_services

    return _run(ctx, open_services, action)


def with_reading(ctx: typer.Context, action: Callable[[Services], Awaitable[T]]) -> T:
    """Open the data directory for an `action` that only reads, and close the data directory again.

    Interrupted operations are not settled, and only the parts that `action` uses are loaded, so that a list appears at
    once.
    """
    from tmde_core.services import open_reading

    return _run(ctx, open_reading, action)


async def after(first: Awaitable[S], action: Callable[[S], Awaitable[T]]) -> T:
    """Await `first`, such as the look-up of an id, and then `action` on its result."""
    return await action(await first)


def _run(ctx: typer.Context, opening: Opening, action: Callable[[Services], Awaitable[T]]) -> T:
    from tmde_core.cli.kit.logs import log_to_file

    settings = settings_of(ctx)
    log_to_file(settings)

    async def opened() -> T:
        async with opening(settings) as services:
            return await action(services)

    return asyncio.run(opened())
