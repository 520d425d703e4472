"""The button that asks a model one thing, and shows its answer and its speed."""

from __future__ import annotations

from collections.abc import Callable

from tmde_core.errors import TmdeError
from tmde_core.models.service import ModelTest
from tmde_core.services import Services
from tmde_ui.kit.elements import Tag, button
from tmde_ui.kit.words import sentence
from tmde_ui.models.words import describe_test, quote_answer


class Trial:
    """A button that tests a model, and the place for its result.

    Args:
        services: try the model.
        form: returns the runtime and the model.
        label: what the button tests, for screen readers.
    """

    def __init__(self, services: Services, form: Callable[[], tuple[str, str]], label: str) -> None:
        self._services = services
        self._form = form
        self._label = label

    def draw_button(self) -> None:
        """Draw the button."""
        self._button = button("Test", test="test-model", aria_label=f"Test {self._label}")
        self._button.on("click", self._run, args=[])

    def draw_result(self) -> None:
        """Draw the place for the result."""
        self._said = Tag("div", classes="trial maybe", role="status", data_testid="trial")

    def forget(self) -> None:
        """Remove the result: it is about another model."""
        self._said.clear()

    async def _run(self) -> None:
        self._button.say("Testing …").put(disabled=True)
        self._put("Asking it one thing. A model that is not in memory is loaded first.")
        try:
            runtime, model = self._form()
            self._show(await self._services.models.try_model(runtime, model))
        except TmdeError as error:
            self._put(sentence(error), "notice bad")
        except Exception as error:
            self._put(sentence(error), "notice bad")
            raise
        finally:
            self._button.say("Test").put(disabled=False)

    def _put(self, words: str, classes: str = "small muted") -> None:
        self._said.clear()
        with self._said:
            Tag("p", words, classes)

    def _show(self, test: ModelTest) -> None:
        self._said.clear()
        with self._said, Tag("p", classes="small"):
            Tag("span", f"{quote_answer(test)} ", data_testid="trial-answer")
            Tag("span", describe_test(test), "muted tabular", data_testid="trial-speed")
