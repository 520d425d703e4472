"""Stores reasoning templates in SQLite, and finds them by full-text search."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

import structlog

from tmde_core.errors import NotFoundError, TmdeError
from tmde_core.records.base import utc_now
from tmde_core.records.templates import ScoredTemplate, Template
from tmde_core.storage.database import Database
from tmde_core.storage.stamps import encode_time
from tmde_core.storage.words import search_terms

if TYPE_CHECKING:
    from tmde_core.templates.front_matter import TemplateFile

log = structlog.get_logger(__name__)

STARTER_NAMESPACE = UUID("6f1d2f5e-6b7a-5c0e-9a53-6d1d0f7c1d3a")
"""The id of a starter template is `uuid5(STARTER_NAMESPACE, name)`, so it is the same on every machine."""

MAX_WORDS = 40
"""Maximum number of words of a question to search for. More words only make the search slower."""

COLUMN_WEIGHTS = (8.0, 3.0, 2.0, 3.0, 8.0, 0.5)
"""BM25 weights of name, description, domain, methodology, keywords and body, in the order of the table's columns."""

_STOP_WORDS = """
a about all also am an and any are as at be been but by can could did do does for from had has have he her him his how i if in into is
it its just let like make me more most must my no not of on one only or other our out over please say see she show so some
such tell than that the their them then there these they this to two up us use was we were what when where which who why will with would
you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that occur in every kind of question, so they do not help to find a template."""


def starter_directory() -> Path | None:
    """Return the directory of the starter templates: in the installed package, else in the checkout, else None."""
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "starter" / "templates", package.parent / "data" / "templates")
    return next((path for path in candidates if path.is_dir()), None)


class TemplateStore:
    """Stores and searches the local templates."""

    def __init__(self, database: Database, starters: Path | None = None) -> None:
        self._database = database
        self._starters = starters or starter_directory()

    async def seed(self) -> None:
        """Insert new starter templates into the table, and update those whose file has changed."""
        files = sorted(self._starters.glob("*.md")) if self._starters else []
        known = {row["id"]: row["sha256"] for row in await self._database.rows("SELECT id, sha256 FROM templates")}
        changed = list(_changed(files, known))
        if not changed:
            return
        now = encode_time(utc_now())
        async with self._database.transaction() as connection:
            for identity, file, digest in changed:
                await connection.execute(
                    "INSERT INTO templates (id, name, description, domain, methodology, keywords, body, source, sha256, "
                    "created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, 'starter', ?, ?, ?) "
                    "ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description, "
                    "domain = excluded.domain, methodology = excluded.methodology, keywords = excluded.keywords, "
                    "body = excluded.body, sha256 = excluded.sha256, updated_at = excluded.updated_at "
                    "WHERE source = 'starter'",
                    (str(identity), *_columns(file), digest, now, now),
                )

    async def search(self, query: str, limit: int) -> list[ScoredTemplate]:
        """Return the templates that fit a question best, best first.

        The list is empty if no template's head contains a word of the question; see `build_match_expression`.
        """
        expression = build_match_expression(query)
        if not expression or limit < 1:
            return []
        weights = ", ".join(str(weight) for weight in COLUMN_WEIGHTS)
        rows = await self._database.rows(
            # bm25() accepts weights only as literals; these are constants of this module.
            f"SELECT t.*, -bm25(templates_fts, {weights}) AS fit FROM templates_fts "  # noqa: S608
            "JOIN templates t ON t.seq = templates_fts.rowid WHERE templates_fts MATCH ? ORDER BY fit DESC, t.name LIMIT ?",
            (expression, limit),
        )
        return [ScoredTemplate(template=_template(row), score=round(float(row["fit"]), 4)) for row in rows]

    async def list(self) -> list[Template]:
        """Return all templates, sorted by name."""
        return [
            _template(row)
            for row in await self._database.rows("SELECT * FROM templates ORDER BY name COLLATE NOCASE, id")
        ]

    async def get(self, template_id: UUID) -> Template:
        """Return one template.

        Raises:
            NotFoundError: no template has this id.
        """
        row = await self._database.row("SELECT * FROM templates WHERE id = ?", (str(template_id),))
        if row is None:
            raise NotFoundError(f"There is no template with the id {template_id}.")
        return _template(row)


def build_match_expression(query: str) -> str:
    """Return an FTS5 expression for the significant words of a question, or an empty text if there are none.

    At least one word must occur in a template's head (name, description, domain, methodology, keywords). A word that
    occurs only in the body, for example in an example, does not show what the method is for; it only improves the rank.
    The words consist of letters and digits and are quoted, so a question cannot inject FTS5 operators.
    """
    words: dict[str, None] = {}
    for term in search_terms(query, MAX_WORDS * 4):  # most are stop words
        for word in term.tokens:
            if len(word) > 1 and word not in STOP_WORDS and not word.isdigit():
                words[word[:40]] = None
    any_word = " OR ".join(f'"{word}"' for word in [*words][:MAX_WORDS])
    return f"({{name description domain methodology keywords}} : ({any_word})) AND ({any_word})" if words else ""


def _changed(files: Iterable[Path], known: dict[str, str]) -> Iterable[tuple[UUID, TemplateFile, str]]:
    from tmde_core.templates.front_matter import parse_template  # imported here, because listing needs no YAML parser

    for path in files:
        try:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            file = parse_template(content)
        except (OSError, TmdeError) as error:
            log.warning("template.unreadable", file=path.name, error=str(error))
            continue
        identity = uuid5(STARTER_NAMESPACE, file.front.name)
        if known.get(str(identity)) != digest:
            yield identity, file, digest


def _columns(file: TemplateFile) -> tuple[str, str, str, str, str, str]:
    front = file.front
    return front.name, front.description, front.domain, front.methodology, _joined(front.keywords), file.body


def _joined(keywords: Iterable[str]) -> str:
    """Join keywords into one text; spaces inside a keyword become underscores, which FTS treats as separators."""
    return " ".join("_".join(keyword.split()) for keyword in keywords)


def _template(row: sqlite3.Row) -> Template:
    return Template(
        id=UUID(row["id"]),
        name=row["name"],
        description=row["description"],
        domain=row["domain"],
        methodology=row["methodology"],
        keywords=tuple(keyword.replace("_", " ") for keyword in row["keywords"].split()),
        body=row["body"],
        source=row["source"],
        sha256=row["sha256"],
        created_at=datetime.fromisoformat(row["created_at"]),
        updated_at=datetime.fromisoformat(row["updated_at"]),
    )
