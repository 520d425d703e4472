"""Find out whether the active adapter can answer: the Proposer may use a runtime that serves none, or another model."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tmde_core.errors import TmdeError
from tmde_core.records.lora import LoRAAdapter
from tmde_core.services import Services


async def why_none_serves(services: Services) -> str | None:
    """Return why the base model answers whichever adapter is active, as a sentence; None if an adapter can answer.

    A runtime that may learn its capabilities from its server is started. If the server is away, nothing is known, and
    the answer is None.
    """
    name = services.workspace.settings.roles.proposer.runtime
    try:
        if not services.runtimes.made(name).capabilities.adapters:
            await services.runtimes.get(name)
    except TmdeError:
        return None
    active = services.lora.get_active_ref()
    if active is not None:
        await services.workspace.examine_base(active)
    return services.workspace.find_why_idle(active)


def silence(adapters: Iterable[LoRAAdapter], reason: str | None) -> list[LoRAAdapter]:
    """Return the adapters as they are if none of them can answer for this reason; None: leave them."""
    if reason is None:
        return list(adapters)
    return [msgspec.structs.replace(one, is_answering=False) if one.is_answering else one for one in adapters]
