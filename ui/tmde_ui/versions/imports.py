"""Import an adapter from an archive: the dialog, and the address that receives the file.

The file is the body of one request. The service writes the bytes to the disk as they arrive, counts them, and imports
the whole archive or nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from tmde_core.errors import TmdeError
from tmde_core.lora.archive.layout import MAX_ARCHIVE_BYTES
from tmde_core.records.base import to_json
from tmde_core.records.lora import LoRAAdapter
from tmde_ui.kit.dropzone import GONE, DropZone, draw_refusal, make_refusal
from tmde_ui.kit.elements import Modal, Tag, button
from tmde_ui.kit.names import name_of, remember_names
from tmde_ui.kit.shell.site import Site
from tmde_ui.versions.words import ADDRESS, identity

IMPORT_ADDRESS = f"{ADDRESS}/import"
ENDINGS = ".tar.gz,.tgz,.gz"


def register_upload(site: Site) -> None:
    """Register the address that receives archives."""
    services = site.services

    @site.web.post(IMPORT_ADDRESS, include_in_schema=False)
    async def take(request: Request) -> Response:
        try:
            again = request.query_params.get("again") == "true"
            adapter = await services.archives.import_archive(request.stream(), "user", again=again)
        except TmdeError as error:
            return make_refusal(error, "twinOf")
        except ClientDisconnect:
            return Response(status_code=GONE)
        return Response(to_json(adapter), 201, media_type="application/json")


def import_dialog(
    imported: Callable[[LoRAAdapter], Awaitable[None]], opened: Callable[[UUID], Awaitable[object]]
) -> Modal:
    """Build the import dialog.

    Args:
        imported: called after a successful import.
        opened: called with the adapter that a person wants to see instead.
    """
    dialog = Modal("Import an adapter", test="import-dialog")

    async def done(answer: dict[str, Any]) -> None:
        report.clear()
        try:
            adapter = msgspec.convert(answer, LoRAAdapter)
        except msgspec.ValidationError:
            with report:
                if (twin := identity(answer.get("twinOf"))) is not None:
                    offer(twin)
                else:
                    draw_refusal(answer, "The archive was refused. Nothing was imported.", "the adapter is")
            return
        remember_names([adapter])
        copy = f" It is a copy of {name_of(adapter.twin_of)}." if adapter.twin_of else ""
        with report:
            Tag("p", f"Imported as {name_of(adapter.id)}. Activate it to use it.{copy}", "notice good")
        await imported(adapter)

    def offer(twin: UUID) -> None:
        """Say that the adapter is here already, and offer what a person may want."""

        async def open_twin() -> None:
            dialog.close()
            await opened(twin)

        Tag(
            "p",
            f"This adapter is here already as {name_of(twin)}, with the same weights and configuration. Nothing was imported.",
            "notice warm",
            data_testid="import-twin",
        )
        with Tag("div", classes="line"):
            button("Open the existing one", test="open-twin").on("click", open_twin, args=[])
            button("Import a copy", "quiet", test="import-copy").on("click", lambda: zone.resend(again="true"), args=[])

    with dialog.body:
        Tag(
            "p",
            "An archive exported by TMDE, or one in PEFT's layout from another tool (.tar.gz). The archive is checked before anything "
            "is kept. No code in it is run.",
            "muted",
        )
        with DropZone(done, IMPORT_ADDRESS, ENDINGS, MAX_ARCHIVE_BYTES, "No adapter is that large.") as zone:
            Tag("strong", "Drop an archive here")
        report = Tag("div", classes="stack tight", role="status", data_testid="import-report")
    return dialog
