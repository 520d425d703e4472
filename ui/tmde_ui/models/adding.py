"""The form that adds a model that is on this machine or on a server already."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tmde_core.errors import TmdeError
from tmde_core.services import Services
from tmde_ui.kit.base_models import describe_trainable
from tmde_ui.kit.elements import Tag, button, field
from tmde_ui.kit.forms import clear_on_input, on_submit
from tmde_ui.kit.words import plain, sentence

MAX_PATH = 4096


class AddForm:
    """Adds a form of a base model. Nothing is copied.

    Args:
        services: add the model.
        added: called after a model was added.
    """

    def __init__(self, services: Services, added: Callable[[], Awaitable[object]]) -> None:
        self._services = services
        self._added = added

    def build(self) -> None:
        """Draw the form."""
        with Tag("details", data_testid="add-model"):
            Tag("summary", "Add a model that you have already")
            with Tag("form", classes="stack add-form", data_testid="add-form") as form:
                with Tag("div", classes="add-line"):
                    field(
                        "Path of a GGUF file or a directory of weights, or RUNTIME:MODEL", "target", required=True,
                        placeholder="/models/qwen3-4b.gguf or ollama:qwen3:4b", autocomplete="off", spellcheck="false",
                        maxlength=str(MAX_PATH), data_testid="add-target",
                    )  # fmt: skip
                    field(
                        "Base model", "name", placeholder="named after it", autocomplete="off", spellcheck="false",
                        maxlength="96", data_testid="add-name",
                    )  # fmt: skip
                    self._button = button("Add", type_="submit", test="add-button")
                Tag(
                    "p",
                    "Nothing is copied. With the name of a base model that is here, it becomes a further form of that one.",
                    "muted small",
                )
        self._said = Tag("p", classes="maybe", role="status", data_testid="add-said")
        on_submit(form, self._add)
        clear_on_input(form, lambda: self._say(""))

    async def _add(self, fields: dict[str, str]) -> None:
        self._button.put(disabled=True)
        try:
            base = await self._services.models.add(
                fields.get("target", "").strip(), fields.get("name", "").strip() or None
            )
        except TmdeError as error:
            self._say(sentence(error), "bad")
            return
        finally:
            self._button.put(disabled=False)
        trained = (
            f"It can be trained from {describe_trainable(base)}." if base.trainable else plain(base.why_not_trainable)
        )
        self._say(f"Added {base.name}. {trained}", "good")
        await self._added()

    def _say(self, words: str, kind: str = "") -> None:
        self._said.say(words).classes(replace=f"notice {kind}" if words else "maybe")
