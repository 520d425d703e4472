"""Which model answers for each role: a choice and a test for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from nicegui import events

from tmde_core.errors import TmdeError
from tmde_core.records.debate import ChosenModel
from tmde_core.records.models import BaseModel
from tmde_core.services import Services
from tmde_core.settings import RoleSettings
from tmde_ui.kit.base_models import ROLES, draw_forms, find_chosen, list_forms, read_form, write_form
from tmde_ui.kit.elements import Tag
from tmde_ui.kit.names import capital, name_of
from tmde_ui.kit.serving import why_active_is_idle
from tmde_ui.kit.tending import start_task
from tmde_ui.kit.words import sentence
from tmde_ui.models.trying import Trial
from tmde_ui.models.words import name_form

_ABOUT = {
    "proposer": "answers the question",
    "skeptic": "looks for errors",
    "synthesizer": "writes the final answer",
    "judge": "gives the score",
}


class RolePickers:
    """The choices for all roles. They work before the list of models is there: then each offers only its own model."""

    def __init__(self, services: Services, changed: Callable[[], Awaitable[object]]) -> None:
        """Prepare the choices.

        Args:
            services: hold the settings.
            changed: called after a choice.
        """
        self._services = services
        self._changed = changed
        self._bases: Sequence[BaseModel] | None = None
        self._selects: dict[str, Tag] = {}
        self._trials: dict[str, Trial] = {}
        self._said: dict[str, Tag] = {}
        self._drawn: dict[str, object] = {}

    def build(self) -> None:
        """Draw the choices."""
        with Tag("div", classes="card stack roles", data_testid="roles"):
            for role, name in ROLES.items():
                self._row(role, name)
            self._adapter = Tag("p", classes="notice warm maybe", role="status", data_testid="adapter-idle")

    def fill(self, bases: Sequence[BaseModel]) -> None:
        """Offer all served forms."""
        self._bases = bases
        for role in ROLES:
            self._draw(role)

    async def tell_adapter(self) -> None:
        """Say why the active adapter does not answer, if it does not."""
        idle = await why_active_is_idle(self._services)
        active = self._services.lora.get_active_ref()
        if idle is None or active is None:
            self._show_idle("")
        else:
            self._show_idle(f"{capital(name_of(active.id))} is active, but does not answer. {idle}")

    def _show_idle(self, words: str) -> None:
        self._adapter.say(words)

    # --------------------------------------------------------------------------------------- drawing

    def _row(self, role: str, name: str) -> None:
        with Tag("div", classes="role", data_testid=f"role-{role}"):
            with Tag("div", classes="role-name"):
                Tag("label", name, for_=f"model-{role}")
                Tag("span", _ABOUT[role], "muted small")
            fixed = self._find_variable(role)
            self._selects[role] = Tag(
                "select", classes="input", id=f"model-{role}", data_testid=f"model-{role}", disabled=fixed is not None
            )
            self._selects[role].on(
                "change",
                lambda event: self._choose(role, event),
                js_handler="(event) => emit(event.target.value)",
            )
            self._trials[role] = Trial(self._services, lambda: self._form(role), f"the model of the {name}")
            self._trials[role].draw_button()
            with Tag("div", classes="role-said"):
                self._said[role] = Tag("p", classes="small maybe", role="status", data_testid=f"said-{role}")
                self._trials[role].draw_result()
                if fixed is not None:
                    Tag("p", f"The environment variable {fixed} sets this. Change it there.", "muted small")
            self._draw(role)

    def _draw(self, role: str, *, anew: bool = False) -> None:
        """Draw the options of a role if they have changed. Drawing would close a select that a person has open.

        Args:
            role: the role.
            anew: draw them in any case, because the browser may show a choice that was refused.
        """
        settings = self._settings(role)
        found = find_chosen(self._bases or (), role, settings.runtime, settings.model)
        chosen = write_form(found[1].runtime, found[1].model) if found else ""
        away = ", which does not offer it now" if self._bases is not None and found is None else ""
        wanted = f"{settings.model or 'Default model'} — {settings.runtime}{away}"
        content = (chosen or wanted, list_forms(self._bases or ()))
        if content == self._drawn.get(role) and not anew:
            return
        self._drawn[role] = content
        select = self._selects[role]
        select.clear()
        if found is None:
            with select:
                Tag("option", wanted, value=write_form(settings.runtime, settings.model), selected=True)
        draw_forms(select, self._bases or (), chosen)

    # -------------------------------------------------------------------------------------- choosing

    async def _choose(self, role: str, event: events.GenericEventArguments) -> None:
        chosen = read_form(event.args) if isinstance(event.args, str) else None
        if chosen is not None:
            await self.use({role: chosen})

    async def use(self, chosen: Mapping[str, ChosenModel]) -> None:
        """Let models answer for roles from the next debate on."""
        said, kind = "", "good-words"
        try:
            await store_roles(self._services, chosen)
        except TmdeError as error:
            said, kind = sentence(error), "wrong"
        for role in chosen:
            self._draw(role, anew=True)
            self._trials[role].forget()
            self._said[role].say(said or self._tell(role)).classes(replace=f"small maybe {kind}")
        if not said:
            if "proposer" in chosen:
                self._show_idle("")
                start_task(self.tell_adapter, "see whether the adapter belongs to the Proposer's model")
            await self._changed()

    def _tell(self, role: str) -> str:
        settings = self._settings(role)
        found = find_chosen(self._bases or (), role, settings.runtime, settings.model)
        name = name_form(*found) if found else f"{settings.model or 'the default model'} ({settings.runtime})"
        return f"From the next debate on: {name}."

    def _form(self, role: str) -> tuple[str, str]:
        settings = self._settings(role)
        return settings.runtime, settings.model

    def _settings(self, role: str) -> RoleSettings:
        found: RoleSettings = getattr(self._services.workspace.settings.roles, role)
        return found

    def _find_variable(self, role: str) -> str | None:
        names = (self._services.live.find_variable("roles", role, name) for name in ("runtime", "model"))
        return next(filter(None, names), None)


async def store_roles(services: Services, chosen: Mapping[str, ChosenModel]) -> None:
    """Change the models of roles in the settings.

    Raises:
        TmdeError: the settings cannot be changed.
    """
    roles = {role: {"runtime": one.runtime, "model": one.model} for role, one in chosen.items()}
    await services.live.change({"roles": roles})
