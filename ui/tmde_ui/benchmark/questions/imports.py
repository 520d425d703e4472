"""Import a person's own questions from a file: the dialog, and the address that receives the file.

An import takes the whole file or nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from tmde_core.benchmark.questions.custom import DIFFICULTIES
from tmde_core.benchmark.questions.imports import MAX_FILE_BYTES, QuestionImport
from tmde_core.errors import InvalidInputError, TmdeError, TooLargeError, UnprocessableError
from tmde_core.records.base import to_json
from tmde_core.records.benchmark import DOMAINS
from tmde_core.services import Services
from tmde_ui.benchmark.words import domain_name
from tmde_ui.kit.dropzone import FILE_NAME, GONE, DropZone, draw_refusal, make_refusal
from tmde_ui.kit.elements import Modal, Tag, choice
from tmde_ui.kit.shell.site import Site
from tmde_ui.kit.words import count

IMPORT_ADDRESS = "/benchmark/questions/import"
ENDINGS = ".jsonl,.ndjson,.json,.yaml,.yml"
YAML = (".yaml", ".yml")


def register_upload(site: Site) -> None:
    """Register the address that receives files of questions."""
    services = site.services

    @site.web.post(IMPORT_ADDRESS, include_in_schema=False)
    async def take(request: Request, domain: str = "reasoning", difficulty: str = "medium") -> Response:
        try:
            name = unquote(request.headers.get(FILE_NAME, ""))
            report = await _take(services, await _body(request), name, domain, difficulty)
        except TmdeError as error:
            return make_refusal(error)
        except ClientDisconnect:
            return Response(status_code=GONE)
        return Response(to_json(report), 201, media_type="application/json")


async def _body(request: Request) -> bytes:
    """Return the body of the request.

    Raises:
        TooLargeError: the body exceeds the size limit of a file of questions.
    """
    content = bytearray()
    async for block in request.stream():
        content += block
        if len(content) > MAX_FILE_BYTES:
            raise TooLargeError(
                f"The file is larger than {MAX_FILE_BYTES // 2**20} MiB. Split it into several files.",
                limit=MAX_FILE_BYTES,
            )
    return bytes(content)


async def _take(services: Services, content: bytes, name: str, domain: str, difficulty: str) -> QuestionImport:
    """Import all questions of the file.

    Raises:
        InvalidInputError: the file is not a list of questions, or it is empty.
        UnprocessableError: an entry is invalid; `reasons` has one line for each invalid entry.
    """
    as_yaml = name.lower().endswith(YAML)
    report = await services.benchmark.import_questions(
        content, as_yaml=as_yaml, domain=domain, difficulty=difficulty, whole=True
    )
    if report.skipped:
        entry = "Entry" if as_yaml else "Line"
        reasons = [f"{entry} {one.line}: {one.reason}" for one in report.skipped]
        raise UnprocessableError("Some entries of the file are invalid, so nothing was imported.", reasons=reasons)
    if not report.imported:
        raise InvalidInputError("The file contains no questions, so there is nothing to import.")
    return report


def import_dialog(imported: Callable[[], Awaitable[None]]) -> Modal:
    """Build the import dialog. `imported` is called after a successful import."""
    dialog = Modal("Import questions", test="import-dialog")

    async def done(answer: dict[str, Any]) -> None:
        report.clear()
        try:
            taken = msgspec.convert(answer, QuestionImport)
        except msgspec.ValidationError:
            with report:
                draw_refusal(answer, "The file was refused. Nothing was imported.", "the questions are")
            return
        with report:
            Tag("p", f"{count(len(taken.imported), 'question')} imported. Custom runs can ask them.", "notice good")
        await imported()

    with dialog.body:
        Tag(
            "p",
            "JSON Lines, JSON or YAML: questions in TMDE's format, logged samples of lm-evaluation-harness, or lines of the usual data "
            "sets. Either the whole file is imported or nothing. docs/benchmarks.md lists the formats.",
            "muted",
        )
        with Tag("div", classes="options"):
            domains = [(one, domain_name(one)) for one in DOMAINS]
            for name, label, options, usual in (
                ("domain", "Default domain", domains, "reasoning"),
                ("difficulty", "Default difficulty", [(one, one) for one in DIFFICULTIES], "medium"),
            ):
                choice(label, f"import-{name}", options, usual, data_testid=f"import-{name}")
        choices = {name: f"field-import-{name}" for name in ("domain", "difficulty")}
        with DropZone(done, IMPORT_ADDRESS, ENDINGS, MAX_FILE_BYTES, choices=choices):
            Tag("strong", "Drop a file here")
        report = Tag("div", classes="stack tight", role="status", data_testid="import-report")
    return dialog
