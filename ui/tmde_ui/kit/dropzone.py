"""The file upload: the drop zone in the browser, and how a refused file is reported and shown.

NiceGUI's own upload checks sizes in the browser only and keeps the file in memory. Here the server counts the bytes.
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
from tmde_ui.kit.elements import Tag, run_to_completion
from tmde_ui.kit.words import plain

FILE_NAME = "x-file-name"
"""Header with the percent-encoded file name. The extension may indicate the format."""


MAX_REASONS = 200
"""A refusal lists at most this many reasons, so that it fits into one message to the page. The others are counted."""


GONE = 499
"""The status that nginx logs when a client disconnects before the response. No client receives it."""


class DropZone(Element, component="dropzone.js"):
    """Takes one file at a time and passes the server's answer to `done`: a report, or a `detail` with the error.

    Args:
        done: called with the answer.
        url: receives the file as the body of a POST; the server there counts the bytes too.
        accept: file extensions that the browser's file dialog offers.
        max_bytes: a larger file is not sent.
        hint: advice for a file that is too large.
        choices: query parameters of the URL, each with the id of the input that holds its value.
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

        self.on("done", run_to_completion(handle))

    def resend(self, **more: str) -> None:
        """Send the last file once more, with further query parameters."""
        self.run_method("resend", more)


def make_refusal(error: TmdeError, *members: str) -> Response:
    """Return the response of an import that was refused.

    Args:
        error: why it was refused.
        members: names of what the page also needs from the error's context.
    """
    reasons = error.context.get("reasons")
    told = reasons if isinstance(reasons, list) else []
    body = {
        "code": error.code,
        "detail": error.detail,
        "reasons": told[:MAX_REASONS],
        "moreReasons": max(0, len(told) - MAX_REASONS),
        **{name: error.context[name] for name in members if name in error.context},
    }
    return Response(to_json(body), error.status, media_type="application/problem+json")


def draw_refusal(answer: dict[str, Any], words: str, what: str) -> None:
    """Draw why an import was refused: all reasons if there is a list, else the one sentence.

    Args:
        answer: the response to the upload.
        words: shown above the reasons.
        what: the text "the adapter is", used if the answer cannot be read.
    """
    reasons = answer.get("reasons")
    told = [str(reason) for reason in reasons] if isinstance(reasons, list) else []
    if not told:
        unread = f"The server's answer cannot be read. Reload the page and check whether {what} there."
        Tag("p", plain(str(answer.get("detail", unread))), "notice bad")
        return
    Tag("p", words, "notice bad")
    with Tag("ul", classes="skipped", data_testid="import-reasons"):
        for reason in told:
            Tag("li", plain(reason))
    more = answer.get("moreReasons")
    if isinstance(more, int) and more > 0:
        Tag("p", f"and {more:,} more reasons", "muted small")
