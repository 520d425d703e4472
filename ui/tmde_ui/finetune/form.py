"""The form of the hyperparameters: each with its range, a short explanation, and its error next to the field."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from tmde_core.errors import InvalidInputError
from tmde_core.finetune.ranges import decode_config, ranges
from tmde_core.finetune.service import BackendReport
from tmde_core.records.fields import Field, by_group
from tmde_core.records.finetune import GROUPS, FineTuneConfig
from tmde_core.sdk.hooks import AUTO
from tmde_ui.finetune.base import BasePicker
from tmde_ui.kit.elements import Tag, link
from tmde_ui.kit.hyperparameters import figure_of, labelled
from tmde_ui.kit.words import plain

MAX_TYPED = 400
INSTALLING = "/plugins#backends"
"""Where environments of backends are installed."""


class ConfigForm:
    """The fields of a configuration."""

    def __init__(self, config: FineTuneConfig, base: BasePicker) -> None:
        self._config = config
        self._base = base
        self._ranges = ranges(type(config))
        apart = ("backend", "base_model")
        self.groups = by_group((field for field in self._ranges.values() if field.name not in apart), GROUPS)
        """The typed fields by group."""
        self._errors: dict[str, Tag] = {}
        self._inputs: dict[str, Tag] = {}
        self._waits: dict[str, Tag] = {}
        """Backend → what a run with it waits for."""

    def draw(self, backends: Sequence[BackendReport], uninstalled: Collection[str] = ()) -> None:
        """Draw the fields into the open form.

        Args:
            backends: the backends to choose from.
            uninstalled: the names of those that cannot train because their environment is not installed.
        """
        values = msgspec.to_builtins(self._config)
        self._draw_base()
        self._backends(backends, str(values["backend"]), uninstalled)
        for title, fields in self.groups.items():
            with Tag("fieldset", classes="parameters"):
                Tag("legend", title or "Other", "eyebrow")
                for field in fields:
                    self._field(field, values[field.wire_name])

    def read(self, fields: Mapping[str, str]) -> FineTuneConfig | None:
        """Return the typed configuration, or None after showing each error next to its field."""
        values, wrong = self._check(fields)
        self.complain(wrong)
        return None if wrong else decode_config(values, self._config)

    def clear_corrected(self, fields: Mapping[str, str]) -> bool:
        """Remove the errors of the fields that are right now. Return whether all fields are right."""
        _, wrong = self._check(fields)
        for name in self._errors.keys() - wrong.keys():
            self._complain(name, "")
        return not wrong

    def _check(self, fields: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the typed values, and the errors by field."""
        wrong: dict[str, str] = {}
        values = {name: self._typed(name, fields[name]) for name in self._ranges if name in fields}
        for name, value in values.items():
            try:
                decode_config({name: value})
            except InvalidInputError as error:
                wrong[name] = error.detail
        return values, wrong

    def changed(self, config: FineTuneConfig) -> dict[str, Any]:
        """Return the values of `config`, by JSON name, that differ from those the form started with."""
        before = msgspec.to_builtins(self._config)
        return {name: value for name, value in msgspec.to_builtins(config).items() if value != before[name]}

    def restart_from(self, config: FineTuneConfig) -> None:
        """Compare later changes with `config`."""
        self._config = config

    def complain(self, wrong: Mapping[str, str]) -> None:
        """Show each error next to its field and clear the others."""
        for name in self._errors:
            self._complain(name, wrong.get(name, ""))

    def _complain(self, name: str, error: str) -> None:
        sentence = error.removeprefix(f"{name}: ")
        self._errors[name].say(sentence[:1].upper() + sentence[1:])
        self._inputs[name].put(aria_invalid="true" if sentence else None)

    def _typed(self, name: str, text: str) -> Any:
        """Return the text converted to the type of its field. Invalid numbers stay text and fail the check later."""
        text = text.strip()[:MAX_TYPED]
        if not self._ranges[name].is_number:
            return text
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
        return text

    def _field(self, one: Field, value: object) -> None:
        name = one.wire_name
        described = f"about-{name} wrong-{name}"
        with Tag("div", classes="field parameter"):
            with Tag("div", classes="line spread"):
                Tag("label", labelled(one), for_=f"field-{name}")
                Tag("span", _range(one), "range tabular")
            if one.choices:
                with Tag(
                    "select", classes="input", id=f"field-{name}", name=name, aria_describedby=described
                ) as control:
                    for option in one.choices:
                        Tag("option", option, value=option, selected=option == value)
            else:
                control = Tag(
                    "input", classes="input tabular", id=f"field-{name}", name=name, autocomplete="off", spellcheck="false",
                    inputmode="text" if not one.is_number else "decimal", defaultValue=figure_of(value),
                    aria_describedby=described, data_testid=f"field-{name}", maxlength=str(MAX_TYPED),
                )  # fmt: skip
            Tag("p", plain(one.help), "about", id=f"about-{name}")
            self._errors[name] = Tag(
                "p", classes="wrong", id=f"wrong-{name}", role="alert", data_testid=f"wrong-{name}"
            )
            self._inputs[name] = control

    def _draw_base(self) -> None:
        with Tag("fieldset", classes="stack tight", data_testid="base"):
            Tag("legend", "Base model", "eyebrow")
            self._inputs["baseModel"] = self._base.draw()
            self._base.draw_words()
            self._errors["baseModel"] = Tag(
                "p", classes="wrong", id="wrong-baseModel", role="alert", data_testid="wrong-baseModel"
            )

    def _backends(self, backends: Sequence[BackendReport], chosen: str, uninstalled: Collection[str]) -> None:
        with Tag("fieldset", classes="backends", data_testid="backends") as group:
            Tag("legend", "Backend", "eyebrow")
            for backend in (*_automatic(backends), *backends):
                with Tag("label", classes="backend"):
                    Tag(
                        "input",
                        type="radio",
                        name="backend",
                        value=backend.name,
                        defaultChecked=backend.name == chosen,
                        disabled=not backend.availability.ok,
                        data_testid=f"backend-{backend.name}",
                    )
                    with Tag("span", classes="stack tight"):
                        Tag("strong", backend.name)
                        Tag("span", backend.summary, "muted small")
                        if not backend.availability.ok:
                            Tag("span", f"Not available: {plain(backend.availability.reason)}", "small unavailable")
                        else:
                            self._waits[backend.name] = Tag(
                                "span", classes="muted small", data_testid=f"waits-{backend.name}"
                            )
                        if backend.name in uninstalled:
                            link(f"Install {backend.name}", INSTALLING, "small", data_testid=f"install-{backend.name}")
            if chosen in uninstalled:
                with Tag("p", classes="notice warm", data_testid="backend-uninstalled"):
                    Tag("span", f"The environment of {chosen}, the default backend, is not installed. ")
                    link("Install it", INSTALLING)
                    Tag("span", ", or choose another backend.")
            if not backends:
                Tag("p", "No plugin provides a training backend. Install tmde-cpu and restart the server.", "muted")
            self._errors["backend"] = Tag("p", classes="wrong", role="alert", data_testid="wrong-backend")
            self._inputs["backend"] = group
        self.tell_waits(backends)

    def tell_waits(self, backends: Sequence[BackendReport]) -> None:
        """Say of the backends that can work whether a run waits for their packages now."""
        for backend in (*_automatic(backends), *backends):
            if (words := self._waits.get(backend.name)) is not None:
                words.say(plain(backend.availability.reason)).show(bool(backend.availability.reason))


def _range(one: Field) -> str:
    if one.minimum is None or one.maximum is None:
        return ""
    return f"{_bound(one.minimum)} – {_bound(one.maximum)}"


def _bound(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else figure_of(value)


def _automatic(backends: Sequence[BackendReport]) -> list[BackendReport]:
    """Return the choice that leaves the backend to TMDE; empty if no backend is the default one."""
    return [
        msgspec.structs.replace(backend, name=AUTO, summary=f"uses {backend.name}")
        for backend in backends
        if backend.default
    ]
