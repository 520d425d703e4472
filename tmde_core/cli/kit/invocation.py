"""What one command line was told, and how a command gets its settings and services from it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import typer

    from tmde_core.services import Services
    from tmde_core.settings import Settings

T = TypeVar("T")


@dataclass
class Invocation:
    """The global options of one command line."""

    data_dir: Path | None = None

    def settings(self, **flags: Any) -> Settings:
        """The settings: `flags` that are not None win over environment over file.

        Raises:
            InvalidInputError, InsufficientStorageError: see `load_settings`.
        """
        from tmde_core.settings import load_settings

        return load_settings(self.data_dir, flags=flags)


def settings_of(ctx: typer.Context, **flags: Any) -> Settings:
    """The settings of the running command."""
    return ctx.ensure_object(Invocation).settings(**flags)


def with_services(ctx: typer.Context, action: Callable[[Services], Awaitable[T]]) -> T:
    """Open the data directory beside whatever server uses it, do `action`, close it again.

    Ctrl-C cancels `action`, closes everything and raises KeyboardInterrupt.
    """
    from tmde_core.cli.kit.logs import log_to_file
    from tmde_core.services import open_services

    settings = settings_of(ctx)
    log_to_file(settings)

    async def opened() -> T:
        async with open_services(settings) as services:
            return await action(services)

    return asyncio.run(opened())
