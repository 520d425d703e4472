"""Choose the models of the roles for one question."""

from __future__ import annotations

from collections.abc import Mapping

from tmde_core.records.debate import ChosenModels
from tmde_core.services import Services
from tmde_ui.kit.base_models import ROLES, draw_forms, read_form
from tmde_ui.kit.elements import Tag, choice


def draw_choices() -> dict[str, Tag]:
    """Draw a choice for each role and return the selects by role. Each keeps the settings until another is chosen."""
    usual = (("", "as in the settings"),)
    with Tag("fieldset", classes="wide-field"):
        Tag("legend", "Models for this question", "eyebrow")
        with Tag("div", classes="options"):
            return {
                role: choice(name, _field(role), usual, data_testid=f"model-{role}") for role, name in ROLES.items()
            }


def offer_models(details: Tag, selects: Mapping[str, Tag], services: Services) -> None:
    """Fill the choices when the options are opened, because servers elsewhere may answer slowly."""
    filled: list[bool] = []

    async def fill() -> None:
        if filled:
            return
        filled.append(True)
        bases = await services.models.list()
        for select in selects.values():
            draw_forms(select, bases, "")

    details.on("toggle", fill, js_handler="(event) => event.target.open && emit()")


def read_choices(fields: Mapping[str, str]) -> ChosenModels | None:
    """Return the models that a form chooses; None if it leaves all to the settings."""
    chosen = {role: read_form(fields.get(_field(role), "")) for role in ROLES}
    return ChosenModels(**chosen) if any(chosen.values()) else None


def _field(role: str) -> str:
    return f"model-{role}"
