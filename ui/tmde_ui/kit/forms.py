"""Native forms: the typed values are sent once, on submit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import events

from tmde_ui.kit.elements import Tag
from tmde_ui.kit.script import call

MAX_FORM_BYTES = 512 * 1024
"""A larger form is not sent, because the connection carries messages of at most one megabyte."""

TOO_LARGE = "too_large"
"""The only field of a form that was too large to be sent."""

Submitted = Callable[[dict[str, str]], Awaitable[None]]


def on_submit(form: Tag, handler: Submitted) -> None:
    """Call `handler` with the form's fields on submit. Above half a megabyte, the only field is `too_large`."""

    async def handle(event: events.GenericEventArguments) -> None:
        await handler(_fields(event.args))

    form.on("submit", handle, js_handler=f"(event) => emit(tmde.submittedFields(event, {MAX_FORM_BYTES}))")


def submit_on_ctrl_enter(field: Tag) -> None:
    """Make Ctrl and Enter in a field submit its form."""
    field.on("keydown", js_handler="(event) => tmde.submitOnCtrlEnter(event)")


def on_press(control: Tag, form: Tag, handler: Submitted) -> None:
    """Call `handler` with the form's fields when a button that does not submit the form is pressed."""

    async def handle(event: events.GenericEventArguments) -> None:
        await handler(_fields(event.args))

    control.on("click", handle, js_handler=f"() => emit({call('formFields', form.id)})")


def clear_on_input(form: Tag, clear: Callable[[], object]) -> None:
    """Call `clear` when a person changes a field of the form, because a message about the old values is then stale."""
    form.on("input", clear, args=[], throttle=TYPING_SECONDS, trailing_events=False)


def _fields(args: Any) -> dict[str, str]:
    """Return the form's fields, ignoring everything else that a browser may send."""
    return {str(name): str(value) for name, value in args.items()} if isinstance(args, dict) else {}


TYPING_SECONDS = 0.25
"""While a person types, the server is asked at most this often, and always after the last key."""


def form_fields(form: Tag, handler: Submitted) -> None:
    """Call `handler` with the form's fields whenever one of them changes. Submitting (Enter) does nothing else."""

    async def handle(event: events.GenericEventArguments) -> None:
        await handler(_fields(event.args))

    script = "(event) => event.target.form && emit(tmde.formFields(event.target.form))"
    form.on("input", handle, js_handler=script, throttle=TYPING_SECONDS, leading_events=False)
    form.on("submit", js_handler="(event) => event.preventDefault()")
