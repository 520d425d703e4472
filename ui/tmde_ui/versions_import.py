"""Bringing in an adapter from an archive: the dialog, and the address that takes the file.

The file is the body of one request. The service writes it to the disk as it comes, counts the bytes, and takes it whole or not at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from tmde_core.errors import TmdeError
from tmde_core.lora.archive_layout import MAX_ARCHIVE_BYTES
from tmde_core.lora.records import LoRAAdapter
from tmde_core.record import to_json
from tmde_core.services import Services
from tmde_ui.elements import Modal, Tag
from tmde_ui.imports import DropZone
from tmde_ui.versions_words import ADDRESS, name_of

IMPORT_ADDRESS = f"{ADDRESS}/import"
ENDINGS = ".tar.gz,.tgz,.gz"

MAX_REASONS = 200
"""Of a refusal, so that the answer fits through the page's connection; the rest is counted."""

GONE = 499
"""What nginx logs when a client leaves before it is answered; nobody receives it."""


def register(web: FastAPI, services: Services) -> None:
    """Put the address that takes archives into the app."""

    @web.post(IMPORT_ADDRESS, include_in_schema=False)
    async def take(request: Request) -> Response:
        try:
            adapter = await services.archives.import_archive(request.stream(), "user")
        except TmdeError as error:
            reasons = error.context.get("reasons")
            told = reasons if isinstance(reasons, list) else []
            body = {
                "code": error.code,
                "detail": error.detail,
                "reasons": told[:MAX_REASONS],
                "moreReasons": max(0, len(told) - MAX_REASONS),
            }
            return Response(to_json(body), error.status, media_type="application/problem+json")
        except ClientDisconnect:
            return Response(status_code=GONE)
        return Response(to_json(adapter), 201, media_type="application/json")


def import_dialog(imported: Callable[[LoRAAdapter], Awaitable[None]]) -> Modal:
    """The dialog that takes an archive; `imported` is called once it is an adapter."""
    dialog = Modal("Import an adapter", test="import-dialog")

    async def done(answer: dict[str, Any]) -> None:
        report.clear()
        try:
            adapter = msgspec.convert(answer, LoRAAdapter)
        except msgspec.ValidationError:
            with report:
                _refusal(answer)
            return
        with report:
            Tag("p", f"Imported as {name_of(adapter.id)}. It answers once you activate it.", "notice good")
        await imported(adapter)

    with dialog.body:
        Tag(
            "p",
            "An archive that TMDE has exported, or one of PEFT's layout from another tool (.tar.gz). It is looked through before anything "
            "is kept, and nothing in it is run.",
            "muted",
        )
        with DropZone(done, IMPORT_ADDRESS, ENDINGS, MAX_ARCHIVE_BYTES, "No adapter is that large."):
            Tag("strong", "Drop an archive here")
        report = Tag("div", classes="stack tight", role="status", data_testid="import-report")
    return dialog


def _refusal(answer: dict[str, Any]) -> None:
    reasons = answer.get("reasons")
    told = [str(reason) for reason in reasons] if isinstance(reasons, list) else []
    if not told:
        unread = "The server's answer cannot be read. Reload the page and look whether the adapter is there."
        Tag("p", str(answer.get("detail", unread)), "notice bad")
        return
    Tag("p", "The archive was refused and nothing was kept.", "notice bad")
    with Tag("ul", classes="skipped", data_testid="import-reasons"):
        for reason in told:
            Tag("li", reason)
    more = answer.get("moreReasons")
    if isinstance(more, int) and more > 0:
        Tag("p", f"and {more:,} more reasons", "muted small")
