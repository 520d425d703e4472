"""Native forms: what a person typed travels once, when they submit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import events

from tmde_ui.kit.elements import Tag

MAX_FORM_BYTES = 512 * 1024
"""More is not sent: the browser's connection to the server carries messages of up to a megabyte."""

_SUBMIT = f"""(event) => {{
  event.preventDefault();
  const fields = Object.fromEntries(new FormData(event.target));
  const bytes = new Blob(Object.values(fields)).size;
  emit(bytes > {MAX_FORM_BYTES} ? {{ too_large: bytes }} : fields);
}}"""

TOO_LARGE = "too_large"

CTRL_ENTER = """(event) => {
  if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
    event.preventDefault();
    event.target.form.requestSubmit();
  }
}"""

Submitted = Callable[[dict[str, str]], Awaitable[None]]


def on_submit(form: Tag, handler: Submitted) -> None:
    """Call `handler` with the form's fields. A form of over half a megabyte arrives as the one field `too_large`."""

    async def handle(event: events.GenericEventArguments) -> None:
        await handler(_fields(event.args))

    form.on("submit", handle, js_handler=_SUBMIT)


def on_press(control: Tag, form: Tag, handler: Submitted) -> None:
    """Call `handler` with the form's fields when a button that does not submit the form is pressed."""

    async def handle(event: events.GenericEventArguments) -> None:
        await handler(_fields(event.args))

    fields = f"Object.fromEntries(new FormData(getHtmlElement({form.id})))"
    control.on("click", handle, js_handler=f"() => emit({fields})")


def _fields(args: Any) -> dict[str, str]:
    """What came from a browser may be anything."""
    return {str(name): str(value) for name, value in args.items()} if isinstance(args, dict) else {}


_FIELDS = """(event) => {
  const form = event.target.form;
  if (form) emit(Object.fromEntries(new FormData(form)));
}"""

TYPING_SECONDS = 0.25
"""While a person types, the server is asked at most this often, and always after the last key."""


def form_fields(form: Tag, handler: Submitted) -> None:
    """Call `handler` with the form's fields whenever one of them changes. Submitting (Enter) does nothing further."""

    async def handle(event: events.GenericEventArguments) -> None:
        await handler(_fields(event.args))

    form.on("input", handle, js_handler=_FIELDS, throttle=TYPING_SECONDS, leading_events=False)
    form.on("submit", js_handler="(event) => event.preventDefault()")
