"""Bringing traces in from a file: the drop zone in the browser, and the address that takes the file.

NiceGUI's own upload checks sizes in the browser only and keeps the file in memory; here the server counts the bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from nicegui import events
from nicegui.element import Element
from starlette.responses import Response

from tmde_core.errors import InsufficientStorageError, InvalidInputError, TmdeError, TooLargeError
from tmde_core.record import to_json
from tmde_core.services import Services
from tmde_core.traces.records import ImportReport
from tmde_ui.kit.elements import Tag, outliving

ADDRESS = "/traces/import"
MAX_IMPORT_BYTES = 500_000_000
"""Some 100,000 traces of the usual length."""

SQLITE_MAGIC = b"SQLite format 3\x00"

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
        url: str = ADDRESS,
        accept: str = ".jsonl,.ndjson,.json,.db,.sqlite,.sqlite3",
        max_bytes: int = MAX_IMPORT_BYTES,
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


def register(web: FastAPI, services: Services) -> None:
    """Put the address that takes files into the app."""

    @web.post(ADDRESS, include_in_schema=False)
    async def take(request: Request) -> Response:
        try:
            report = await _take(request, services)
        except TmdeError as error:
            return refused(error)
        return Response(to_json(report), media_type="application/json")


async def _take(request: Request, services: Services) -> ImportReport:
    """Keep the body in a temporary file of the data directory, then import that.

    Raises:
        TooLargeError: more than MAX_IMPORT_BYTES.
        InvalidInputError: an empty file, or one that is neither JSON Lines nor the original project's SQLite.
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
                return await services.traces.import_sqlite(path)
            return await services.traces.import_jsonl(_lines(path))
    except OSError as error:
        raise InsufficientStorageError(
            f"The file cannot be kept while it is read: {error.strerror}. Free some space."
        ) from None


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


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


def report_of(answer: dict[str, Any]) -> ImportReport | str:
    """The report in the server's answer, or the sentence that says what went wrong."""
    if "detail" in answer:
        return str(answer["detail"])
    try:
        return msgspec.convert(answer, ImportReport)
    except msgspec.ValidationError:
        return "The server's answer cannot be read. Reload the page and look whether the traces are there."
