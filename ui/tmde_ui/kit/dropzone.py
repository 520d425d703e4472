"""Bringing a file in: the drop zone in the browser, and how a refusal travels to it and is shown.

NiceGUI's own upload checks sizes in the browser only and keeps the file in memory; here the server counts the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from nicegui import events
from nicegui.element import Element
from starlette.responses import Response

from tmde_core.errors import TmdeError
from tmde_core.records.base import to_json
from tmde_ui.kit.elements import Tag, outliving

FILE_NAME = "x-file-name"
"""Header with the file's name, percent-encoded; its ending may say what it holds."""


MAX_REASONS = 200
"""Of a refusal, so that the answer fits through the page's connection; the rest is counted."""


GONE = 499
"""What nginx logs when a client leaves before it is answered; nobody receives it."""


class DropZone(Element, component="dropzone.js"):
    """Takes one file at a time; `done` gets the server's answer: a report, or a `detail` that says what is wrong.

    Args:
        done: called with the answer.
        url: where the file goes, as the body of a POST; the server there counts the bytes too.
        accept: endings that the browser's file dialog offers.
        max_bytes: a larger file is not even sent.
        hint: what to do about a file that is too large.
        choices: parameters of the address, and the id of the input that each has its value from.
    """

    def __init__(
        self,
        done: Callable[[dict[str, Any]], Any],
        url: str,
        accept: str,
        max_bytes: int,
        hint: str = "Split it.",
        choices: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self._props["url"] = url
        self._props["accept"] = accept
        self._props["max-bytes"] = max_bytes
        self._props["hint"] = hint
        self._props["choices"] = dict(choices)

        async def handle(event: events.GenericEventArguments) -> None:
            await done(event.args if isinstance(event.args, dict) else {})

        self.on("done", outliving(handle))


def refused(error: TmdeError) -> Response:
    """What the address of an import answers when it took nothing."""
    reasons = error.context.get("reasons")
    told = reasons if isinstance(reasons, list) else []
    body = {
        "code": error.code,
        "detail": error.detail,
        "reasons": told[:MAX_REASONS],
        "moreReasons": max(0, len(told) - MAX_REASONS),
    }
    return Response(to_json(body), error.status, media_type="application/problem+json")


def refusal(answer: dict[str, Any], words: str, what: str) -> None:
    """Draw why nothing was taken: every reason where there are several, else the one sentence.

    Args:
        answer: what came from the address.
        words: said above the reasons.
        what: "the adapter is", for an answer that cannot be read.
    """
    reasons = answer.get("reasons")
    told = [str(reason) for reason in reasons] if isinstance(reasons, list) else []
    if not told:
        unread = f"The server's answer cannot be read. Reload the page and look whether {what} there."
        Tag("p", str(answer.get("detail", unread)), "notice bad")
        return
    Tag("p", words, "notice bad")
    with Tag("ul", classes="skipped", data_testid="import-reasons"):
        for reason in told:
            Tag("li", reason)
    more = answer.get("moreReasons")
    if isinstance(more, int) and more > 0:
        Tag("p", f"and {more:,} more reasons", "muted small")
