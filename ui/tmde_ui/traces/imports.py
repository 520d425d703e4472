"""The address that receives files of traces, and its answer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response

from tmde_core.errors import InsufficientStorageError, InvalidInputError, TmdeError, TooLargeError
from tmde_core.records.base import to_json
from tmde_core.records.traces import ImportReport
from tmde_core.services import Services
from tmde_core.storage.text_files import split_file_lines
from tmde_ui.kit.dropzone import make_refusal
from tmde_ui.kit.shell.site import Site

ADDRESS = "/traces/import"
ENDINGS = ".jsonl,.ndjson,.json,.db,.sqlite,.sqlite3"
MAX_IMPORT_BYTES = 500_000_000
"""About 100,000 traces of the usual length."""

SQLITE_MAGIC = b"SQLite format 3\x00"


def register_upload(site: Site) -> None:
    """Register the address that receives the files."""
    services = site.services

    @site.web.post(ADDRESS, include_in_schema=False)
    async def take(request: Request, again: bool = False) -> Response:
        try:
            report = await _take(request, services, copies=again)
        except TmdeError as error:
            return make_refusal(error)
        return Response(to_json(report), media_type="application/json")


async def _take(request: Request, services: Services, *, copies: bool) -> ImportReport:
    """Store the body in a temporary file of the data directory and import the file.

    Args:
        copies: Store copies of traces that are already here.

    Raises:
        TooLargeError: the body exceeds MAX_IMPORT_BYTES.
        InvalidInputError: the file is empty, or neither JSON Lines nor the SQLite file of the original project.
        InsufficientStorageError: the disk is full.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=services.settings.data_path, prefix=".import-", suffix=".tmp") as file:
            total = 0
            async for block in request.stream():
                total += len(block)
                if total > MAX_IMPORT_BYTES:
                    raise TooLargeError(
                        f"The file is too large: at most {MAX_IMPORT_BYTES // 1_000_000} MB can be imported at once. Split it.",
                        limit=MAX_IMPORT_BYTES,
                    )
                file.write(block)
            file.flush()
            if not total:
                raise InvalidInputError("The file is empty, so there is nothing to import.")
            path = Path(file.name)
            if _begins_with(path, SQLITE_MAGIC):
                return await services.traces.import_sqlite(path, copies=copies)
            return await services.traces.import_jsonl(_lines(path), copies=copies)
    except OSError as error:
        raise InsufficientStorageError(
            f"The file cannot be stored for the import: {error.strerror}. Free some space."
        ) from None


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from split_file_lines(file)


def report_of(answer: dict[str, Any]) -> ImportReport | str:
    """Return the report in the server's answer, or a sentence with the error."""
    if "detail" in answer:
        return str(answer["detail"])
    try:
        return msgspec.convert(answer, ImportReport)
    except msgspec.ValidationError:
        return "The server's answer cannot be read. Reload the page and check whether the traces are there."
