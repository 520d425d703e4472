"""Ask a person to confirm an action that cannot be undone."""

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
    """Open a dialog that runs the action after the person confirms. The dialog shows the error if the action fails.

    Args:
        place: the element that owns the dialog; deleting the element deletes the dialog.
        words: the consequences, one paragraph each.
        yes, no: the texts of the buttons.
        then: called after the action, when the dialog is closed.
        doing: the text of the button while the action runs.
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
