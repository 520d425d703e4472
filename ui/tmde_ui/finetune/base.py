"""The choice of the base model of a run: which ones can be trained, and what to do about those that cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tmde_core.errors import TmdeError
from tmde_core.models.names import make_bare
from tmde_core.records.models import BaseModel
from tmde_core.services import Services
from tmde_ui.kit.base_models import describe_trainable
from tmde_ui.kit.elements import Tag, link
from tmde_ui.kit.serving import why_new_adapter_is_idle
from tmde_ui.kit.tending import start_task
from tmde_ui.kit.words import plain, sentence


class BasePicker:
    """A select of all base models that can be trained, and a sentence about the chosen one.

    Args:
        services: know the base models.
        chosen: the name, alias or path that the form starts with; empty: the Proposer's model.
    """

    def __init__(self, services: Services, chosen: str) -> None:
        self._services = services
        self._chosen = self._initial = chosen
        self._options: dict[str, Tag] = {}
        self._told: str | None = None
        self._bases: Sequence[BaseModel] = ()
        self._telling: asyncio.Task[None] | None = None

    def draw(self) -> Tag:
        """Draw the choice into the open fieldset and return the select."""
        self.select = Tag(
            "select", classes="input", id="field-baseModel", name="baseModel", data_testid="field-baseModel",
            aria_label="Base model", aria_describedby="base-said wrong-baseModel",
        )  # fmt: skip
        self._draw_options()
        return self.select

    def draw_words(self) -> None:
        """Draw the place for the sentence about the chosen model."""
        with Tag("div", id="base-said", role="status", data_testid="base-said", classes="stack tight") as self._said:
            Tag("p", "Looking for its weights …", "about")
        with Tag("p", classes="about"):
            if (variable := self._services.live.find_variable("finetune", "base_model")) is not None:
                Tag("span", f"{variable} sets the default. ")
            link("Get or add a model", "/models#get", "small")

    def follow(self, chosen: str) -> None:
        """Tell about the model that the form names now."""
        if chosen != self._told:
            self._chosen = self._told = chosen
            if self._telling is not None:
                self._telling.cancel()
            self._telling = start_task(self._tell, "look for the weights of a base model")

    async def fill(self) -> None:
        """Offer the base models that are here now. Runtimes on other machines may take a while."""
        self._bases = await self._services.models.list()
        self._draw_options()

    def ask_again(self) -> None:
        """Tell again about the chosen model, because the models may have changed."""
        self._told = None
        self.follow(self._chosen)

    # ---------------------------------------------------------------------------------------- inside

    def _draw_options(self) -> None:
        """Draw the options. Those that are there stay, so that a choice that was just made is not lost."""
        wanted = self._list_options()
        for gone in self._options.keys() - wanted.keys():
            self._options.pop(gone).delete()
        for value, (text, disabled) in wanted.items():
            if value not in self._options:
                with self.select:
                    self._options[value] = Tag("option", value=value, selected=value == self._initial)
            self._options[value].say(text).put(disabled=disabled)

    def _list_options(self) -> dict[str, tuple[str, bool]]:
        """Return the text of each option by its value, and whether it cannot be chosen."""
        proposer = next((base for base in self._bases if "proposer" in base.roles), None)
        found = {"": (f"The Proposer's model: {proposer.name}" if proposer else "The Proposer's model", False)}
        if self._initial:
            found[self._initial] = (self._initial, False)
        for base in self._bases:
            told = describe_trainable(base)
            is_initial = bool(self._initial) and _is_called(base, self._initial)
            text = f"{base.name} — {f'from {told}' if told else 'no weights here'}"
            found[self._initial if is_initial else base.name] = (text, not told and not is_initial)
        return found

    async def _tell(self) -> None:
        warnings: list[str] = []
        try:
            base = await self._services.models.resolve_training_base(self._chosen)
        except TmdeError as error:
            self._draw("", [sentence(error)])
            return
        if base.why_not:
            warnings.append(f"{plain(base.why_not)} Or choose another base model.")
            self._draw(f"{base.name} cannot be trained now.", warnings)
            return
        bases = await self._services.models.list()
        found = next((one for one in bases if one.name == base.name), None)
        source = describe_trainable(found) if found else ""
        if idle := await why_new_adapter_is_idle(self._services):
            warnings.append(idle)
        elif found is not None and "proposer" not in found.roles:
            usual = next((one.name for one in bases if "proposer" in one.roles), "another model")
            warnings.append(
                f"The Proposer's model is {usual}. The adapter answers only while {base.name} is the Proposer's model."
            )
        self._draw(f"Trains {base.name}{f' from {source}' if source else ''}.", warnings)

    def _draw(self, words: str, warnings: Sequence[str]) -> None:
        self._said.clear()
        with self._said:
            if words:
                Tag("p", words, "small")
            for warning in warnings:
                Tag("p", warning, "notice warm", data_testid="base-warning")


def _is_called(base: BaseModel, name: str) -> bool:
    return name.casefold() in {one.casefold() for one in (base.name, *base.aliases)} or (
        not name.startswith(("/", "~", ".")) and make_bare(name) == make_bare(base.name)
    )
