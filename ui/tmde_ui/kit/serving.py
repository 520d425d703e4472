"""Find out which model answers: not every runtime serves adapters, and not every adapter belongs to the Proposer's model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import msgspec

from tmde_core.errors import TmdeError
from tmde_core.models.service import find_served_model
from tmde_core.records.lora import LoRAAdapter
from tmde_core.services import Services
from tmde_ui.kit.words import plain


async def why_new_adapter_is_idle(services: Services) -> str | None:
    """Return why an adapter that is trained now would not answer, and what to do; None if it can answer.

    The reason is that of the runtime, if the runtime gives one. It is told once.
    """
    if not await _learn_capabilities(services) or services.workspace.find_why_idle() is None:
        return None
    name = services.workspace.settings.roles.proposer.runtime
    why = services.runtimes.made(name).capabilities.adapters_note or (
        f"The Proposer's runtime {name!r} cannot serve adapters. Choose another model for the Proposer first."
    )
    return f"The adapter will not answer. {plain(why)}"


async def why_none_serves(services: Services) -> str | None:
    """Return why the base model answers whichever adapter is active, as a sentence; None if an adapter can answer.

    A runtime that may learn its capabilities from its server is started. If the server is away, nothing is known, and
    the answer is None.
    """
    if not await _learn_capabilities(services):
        return None
    active = services.lora.get_active_ref()
    if active is not None:
        await services.workspace.examine_base(active)
    return services.workspace.find_why_idle(active)


async def _learn_capabilities(services: Services) -> bool:
    """Start the Proposer's runtime if it may learn from its server what it can do. Return whether it is there."""
    name = services.workspace.settings.roles.proposer.runtime
    try:
        if not services.runtimes.made(name).capabilities.adapters:
            await services.runtimes.get(name)
    except TmdeError:
        return False
    return True


async def why_active_is_idle(services: Services) -> str | None:
    """Return why the base model answers although an adapter is active, in sentences; None if the adapter can answer.

    The answer is None if no adapter is active, or if the Proposer's runtime does not respond.
    """
    active = services.lora.get_active_ref()
    if active is None:
        return None
    if (idle := await why_none_serves(services)) is not None:
        return idle
    role = services.workspace.settings.roles.proposer
    try:
        manifest = await services.lora.manifest(UUID(active.id))
        models = await services.runtimes.made(role.runtime).models()
        served = find_served_model(models, role.model, role.runtime)
        found = await services.models.explain_belonging(Path(active.directory), manifest, served)
    except TmdeError:
        return None
    if found.same:
        return None
    return (
        f"It was trained on {manifest.base_model}, and the Proposer's model is {served.name}, so the base model answers. "
        f"{plain(found.why)}"
    )


def silence(adapters: Iterable[LoRAAdapter], reason: str | None) -> list[LoRAAdapter]:
    """Return the adapters as they are if none of them can answer for this reason; None: leave them."""
    if reason is None:
        return list(adapters)
    return [msgspec.structs.replace(one, is_answering=False) if one.is_answering else one for one in adapters]
