"""Offer the models of all runtimes for one question."""

from __future__ import annotations

from tmde_core.services import Services
from tmde_ui.kit.elements import Tag


def offer_models(details: Tag, select: Tag, services: Services) -> None:
    """Fill the choice when the options are opened, because servers elsewhere may answer slowly."""
    filled: list[bool] = []

    async def fill() -> None:
        if filled:
            return
        filled.append(True)
        found = await services.runtimes.models()
        with select:
            for model in found:
                Tag("option", f"{model.name} ({model.runtime})", value=f"{model.runtime} {model.name}")

    details.on("toggle", fill, js_handler="(event) => event.target.open && emit()")
