"""The dialog of *Run Now*: the hyperparameters, a preview of the run, and the start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

import msgspec
import structlog

from tmde_core.errors import TmdeError
from tmde_core.finetune.presets import PRESETS
from tmde_core.finetune.service import BackendReport
from tmde_core.records.finetune import FineTuneConfig, FineTuneRun
from tmde_core.services import Services
from tmde_ui.finetune.base import BasePicker
from tmde_ui.finetune.form import ConfigForm
from tmde_ui.finetune.preview import draw_preview
from tmde_ui.kit.elements import Modal, Tag, button, open_on_press
from tmde_ui.kit.forms import form_fields, on_press
from tmde_ui.kit.hyperparameters import figure_of
from tmde_ui.kit.script import call
from tmde_ui.kit.tending import Soon, start_task
from tmde_ui.kit.words import sentence

log = structlog.get_logger(__name__)

QUIET_SECONDS = 0.8
"""The preview is updated this long after the last change."""


class RunDialog:
    """Lets a person choose everything about a run and start it."""

    def __init__(self, services: Services, started: Callable[[FineTuneRun], Awaitable[None]]) -> None:
        self._services = services
        self._started = started
        self._wanted: dict[str, str] | None = None
        self._answered: dict[str, str] | None = None
        """The fields that the message is about."""
        self._working: asyncio.Task[None] | None = None
        self._previewed: FineTuneConfig | None = None
        self._soon = Soon(self._work_on, QUIET_SECONDS)
        self.modal = Modal("Run a training now", test="run-dialog", classes="sheet")

    async def build(self, backends: Sequence[BackendReport], base: str = "") -> None:
        """Draw the dialog without opening it.

        Args:
            backends: the backends to choose from.
            base: the base model to start with; empty: that of the settings.
        """
        config = self._services.finetune.config()
        # A run with a backend that can wait for its packages installs them itself.
        uninstalled = [
            one.name
            for one in self._services.backends.list()
            if one.state in ("absent", "incomplete") and not one.availability.ok
        ]
        self._base = BasePicker(self._services, base or config.base_model)
        self._config = ConfigForm(config, self._base)
        with self.modal.body, Tag("form", classes="run-form", novalidate=True) as self._form:
            with Tag("div", classes="stack"):
                self._presets()
                self._config.draw(backends, uninstalled)
            with Tag("section", classes="preview stack", aria_label="Preview", data_testid="preview") as self._preview:
                with Tag("div", classes="line spread"):
                    Tag("h3", "Preview of the training data")
                    again = button("Preview", test="preview-button")
                self._working_words = Tag(
                    "p", classes="muted small working", role="status", data_testid="preview-status"
                )
                self._box = Tag("div", classes="stack")
        with self.modal.body, Tag("div", classes="sheet-foot"):
            self._said = Tag("p", classes="maybe", role="status", data_testid="run-said")
            with Tag("div", classes="line"):
                keep = button("Save as defaults", test="save-defaults")
                self._start = button("Start training", "primary", test="start-run")
        form_fields(self._form, self._typed)
        on_press(again, self._form, self._now)
        on_press(keep, self._form, self._keep)
        on_press(self._start, self._form, self._go)
        self.modal.on("close", self._end_preview, args=[])  # nobody waits for it any more

    def opens_with(self, control: Tag) -> None:
        """Open the dialog with this button. The first time, and after a run, make the preview at once."""

        async def opened(fields: dict[str, str]) -> None:
            self._say("")
            self._base.ask_again()
            start_task(self._base.fill, "list the base models")
            self._config.tell_waits(await asyncio.to_thread(self._services.finetune.backends))
            await self._now(fields)

        open_on_press(control, self.modal)
        on_press(control, self._form, opened)

    # -------------------------------------------------------------------------------------- preview

    async def _typed(self, fields: dict[str, str]) -> None:
        # The messages are about the values as they are now, also while a preview of earlier values is being made.
        # The last keys may arrive after the button that was pressed, and then the message is about them already.
        if self._config.clear_corrected(fields) and fields != self._answered:
            self._say("")
        self._base.follow(fields.get("baseModel", ""))
        self._wanted = fields
        self._soon.stop()
        self._soon.ask()

    async def _now(self, fields: dict[str, str]) -> None:
        self._wanted = fields
        self._previewed = None
        self._work_on()

    def _work_on(self) -> None:
        """Start a preview. One of older values is ended, because each one loads a model."""
        fields, self._wanted = self._wanted, None
        config = None if fields is None else self._config.read(fields)
        if config is None:
            self._end_preview()
            self._working_words.say("Correct the marked fields to see the preview.")
        elif config != self._previewed:
            self._end_preview()
            self._previewed = config
            self._working = start_task(lambda: self._look(config), "preview a training run")

    def _end_preview(self) -> None:
        """End the preview that is under way, with its process."""
        self._previewed = None
        if self._working is not None:
            self._working.cancel()
            self._working = None
        self._preview.put(aria_busy=None)

    async def _look(self, config: FineTuneConfig) -> None:
        self._preview.put(aria_busy="true")
        self._working_words.say("Counting the examples …")
        words = ""
        try:
            async with aclosing(self._services.previews.parts(config)) as parts:
                async for preview in parts:
                    self._box.clear()
                    with self._box:
                        draw_preview(preview)
                    self._working_words.say("The rest is being measured. You can continue meanwhile.")
            words = "This preview is current for these values."
        except TmdeError as error:
            self._previewed = None
            self._box.clear()
            self._refused(error)
        except Exception as error:
            log.exception("ui.preview_failed")
            self._previewed = None
            self._box.clear()
            words = sentence(error)
        self._working_words.say(words)
        self._preview.put(aria_busy=None)

    def _refused(self, error: TmdeError) -> None:
        """Show the error next to its field if it has one, and always in place of the preview."""
        field = str(error.context.get("field", ""))
        # What is wrong with the base model stands below its field already.
        if field in msgspec.to_builtins(self._services.finetune.config()) and field != "baseModel":
            self._config.complain({field: error.detail})
        with self._box:
            Tag("p", sentence(error), "notice warm", data_testid="refusal")

    # --------------------------------------------------------------------------------- start, defaults

    async def _go(self, fields: dict[str, str]) -> None:
        self._answered = fields
        config = self._config.read(fields)
        if config is None:
            self._say("Correct the marked fields.", "bad")
            return
        self._start.put(disabled=True)
        self._say("Selecting the examples and starting …")
        try:
            self._end_preview()  # two models would share the memory and the processor
            run = await self._services.finetune.start(config)
        except TmdeError as error:
            field = str(error.context.get("field", ""))
            if field:
                self._config.complain({field: error.detail})
            self._say(sentence(error), "bad")
            return
        finally:
            self._start.put(disabled=False)
        self._say("")
        self.modal.close()
        await self._started(run)

    async def _keep(self, fields: dict[str, str]) -> None:
        self._answered = fields
        config = self._config.read(fields)
        if config is None:
            self._say("Correct the marked fields.", "bad")
            return
        try:
            # Somebody else may have changed other values since the form was opened. These stay.
            await self._services.finetune.set_config(self._config.changed(config))
        except TmdeError as error:
            self._say(sentence(error), "bad")
            return
        self._config.restart_from(config)
        self._say("Saved. The schedule and all new runs start with these values.", "good")

    def _say(self, words: str, kind: str = "") -> None:
        self._said.say(words).classes(replace=f"notice {kind}" if words else "maybe")

    # --------------------------------------------------------------------------------------- presets

    def _presets(self) -> None:
        with Tag("fieldset", data_testid="presets"):
            Tag("legend", "Start with", "eyebrow")
            with Tag("div", classes="presets"):
                for preset in PRESETS:
                    with Tag("button", classes="preset", type="button", data_testid="preset") as offer:
                        Tag("strong", preset.name)
                        Tag("span", preset.about)
                    typed = {name: figure_of(value) for name, value in preset.values.items()}
                    offer.on("click", js_handler=f"() => {call('typeIntoForm', self._form.id, typed)}")
