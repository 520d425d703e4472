"""Asking once before something is done that cannot be taken back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tmde_core.errors import TmdeError
from tmde_ui.kit.elements import Modal, Tag, button, close_on_press
from tmde_ui.kit.words import sentence


def ask_once(
    place: Tag,
    question: str,
    *words: str,
    yes: str,
    no: str,
    deed: Callable[[], Awaitable[object]],
    then: Callable[[], Awaitable[object]] | None = None,
    doing: str = "",
    test: str,
) -> None:
    """Open a dialog that does the deed when the person agrees; why it could not be done is said there.

    Args:
        place: what the dialog belongs to and goes with.
        words: what follows from it, a paragraph each.
        yes, no: on the buttons.
        then: called when it is done and the dialog closed.
        doing: on the button while it is being done.
        test: `x` for the test ids `x-dialog` and `confirm-x`.
    """
    with place:
        dialog = Modal(question, test=f"{test}-dialog")
    dialog.on("close", dialog.delete, args=[])
    with dialog.body:
        for paragraph in words:
            Tag("p", paragraph, "muted")
        complaint = Tag("p", classes="notice bad", role="alert").show(visible=False)
        with Tag("div", classes="line"):
            confirm = button(yes, "primary", test=f"confirm-{test}")
            close_on_press(button(no), dialog)

    async def agreed() -> None:
        confirm.say(doing or yes).put(disabled=True)
        try:
            await deed()
        except TmdeError as error:
            confirm.say(yes)
            complaint.say(sentence(error)).show()
            return
        dialog.close()
        if then is not None:
            await then()

    confirm.on("click", agreed, args=[])
    dialog.open()
