"""Native forms: what a person typed travels once, when they submit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import events

from tmde_ui.kit.elements import Tag
from tmde_ui.kit.script import call

MAX_FORM_BYTES = 512 * 1024
"""More is not sent: the browser's connection to the server carries messages of up to a megabyte."""

TOO_LARGE = "too_large"
"""The one field of a form that was not sent."""

Submitted = Callable[[dict[str, str]], Awaitable[None]]


def on_submit(form: Tag, handler: Submitted) -> None:
    """Call `handler` with the form's fields. A form of over half a megabyte arrives as the one field `too_large`."""

    async def handle(event: events.GenericEventArguments) -> None:
        await handler(_fields(event.args))

    form.on("submit", handle, js_handler=f"(event) => emit(tmde.submittedFields(event, {MAX_FORM_BYTES}))")


def submit_on_ctrl_enter(field: Tag) -> None:
    """Let Ctrl and Enter in a field submit its form."""
    field.on("keydown", js_handler="(event) => tmde.submitOnCtrlEnter(event)")


def on_press(control: Tag, form: Tag, handler: Submitted) -> None:
    """Call `handler` with the form's fields when a button that does not submit the form is pressed."""

    async def handle(event: events.GenericEventArguments) -> None:
        await handler(_fields(event.args))

    control.on("click", handle, js_handler=f"() => emit({call('formFields', form.id)})")


def _fields(args: Any) -> dict[str, str]:
    """What came from a browser may be anything."""
    return {str(name): str(value) for name, value in args.items()} if isinstance(args, dict) else {}


TYPING_SECONDS = 0.25
"""While a person types, the server is asked at most this often, and always after the last key."""


def form_fields(form: Tag, handler: Submitted) -> None:
    """Call `handler` with the form's fields whenever one of them changes. Submitting (Enter) does nothing further."""

    async def handle(event: events.GenericEventArguments) -> None:
        await handler(_fields(event.args))

    script = "(event) => event.target.form && emit(tmde.formFields(event.target.form))"
    form.on("input", handle, js_handler=script, throttle=TYPING_SECONDS, leading_events=False)
    form.on("submit", js_handler="(event) => event.preventDefault()")
