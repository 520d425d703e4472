"""Import an adapter from an archive: the dialog, and the address that receives the file.

The file is the body of one request. The service writes the bytes to the disk as they arrive, counts them, and imports
the whole archive or nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from tmde_core.errors import TmdeError
from tmde_core.lora.archive.layout import MAX_ARCHIVE_BYTES
from tmde_core.records.base import to_json
from tmde_core.records.lora import LoRAAdapter
from tmde_ui.kit.dropzone import GONE, DropZone, draw_refusal, make_refusal
from tmde_ui.kit.elements import Modal, Tag
from tmde_ui.kit.shell.site import Site
from tmde_ui.versions.words import ADDRESS, name_of

IMPORT_ADDRESS = f"{ADDRESS}/import"
ENDINGS = ".tar.gz,.tgz,.gz"


def register_upload(site: Site) -> None:
    """Register the address that receives archives."""
    services = site.services

    @site.web.post(IMPORT_ADDRESS, include_in_schema=False)
    async def take(request: Request) -> Response:
        try:
            adapter = await services.archives.import_archive(request.stream(), "user")
        except TmdeError as error:
            return make_refusal(error)
        except ClientDisconnect:
            return Response(status_code=GONE)
        return Response(to_json(adapter), 201, media_type="application/json")


def import_dialog(imported: Callable[[LoRAAdapter], Awaitable[None]]) -> Modal:
    """Build the import dialog. `imported` is called after a successful import."""
    dialog = Modal("Import an adapter", test="import-dialog")

    async def done(answer: dict[str, Any]) -> None:
        report.clear()
        try:
            adapter = msgspec.convert(answer, LoRAAdapter)
        except msgspec.ValidationError:
            with report:
                draw_refusal(answer, "The archive was refused. Nothing was imported.", "the adapter is")
            return
        with report:
            Tag("p", f"Imported as {name_of(adapter.id)}. Activate it to use it.", "notice good")
        await imported(adapter)

    with dialog.body:
        Tag(
            "p",
            "An archive exported by TMDE, or one in PEFT's layout from another tool (.tar.gz). The archive is checked before anything "
            "is kept. No code in it is run.",
            "muted",
        )
        with DropZone(done, IMPORT_ADDRESS, ENDINGS, MAX_ARCHIVE_BYTES, "No adapter is that large."):
            Tag("strong", "Drop an archive here")
        report = Tag("div", classes="stack tight", role="status", data_testid="import-report")
    return dialog
