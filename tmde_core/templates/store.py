"""Reasoning templates in SQLite, found by full-text search."""

from __future__ import annotations

import hashlib
import re
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
from tmde_core.storage.stamps import stamp

if TYPE_CHECKING:
    from tmde_core.templates.front_matter import TemplateFile

log = structlog.get_logger(__name__)

STARTER_NAMESPACE = UUID("6f1d2f5e-6b7a-5c0e-9a53-6d1d0f7c1d3a")
"""Starter templates are `uuid5(this, name)`: the same on every machine."""

MAX_WORDS = 40
"""Words of a question that are searched for; more only slows the search down."""

COLUMN_WEIGHTS = (8.0, 3.0, 2.0, 3.0, 8.0, 0.5)
"""BM25 weights of name, description, domain, methodology, keywords and body, in the order of the table's columns."""

_STOP_WORDS = """
a about all also am an and any are as at be been but by can could did do does for from had has have he her him his how i if in into is
it its just let like make me more most must my no not of on one only or other our out over please say see she show so some
such tell than that the their them then there these they this to two up us use was we were what when where which who why will with would
you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that say nothing about which method fits; every question is full of them."""


def starter_directory() -> Path | None:
    """Where the starter templates lie: inside the installed package, else in the checkout."""
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "starter" / "templates", package.parent / "data" / "templates")
    return next((path for path in candidates if path.is_dir()), None)


class TemplateStore:
    """The local templates."""

    def __init__(self, database: Database, starters: Path | None = None) -> None:
        self._database = database
        self._starters = starters or starter_directory()

    async def seed(self) -> None:
        """Bring the starter templates into the table; files that have not changed are left alone."""
        files = sorted(self._starters.glob("*.md")) if self._starters else []
        known = {row["id"]: row["sha256"] for row in await self._database.rows("SELECT id, sha256 FROM templates")}
        changed = list(_changed(files, known))
        if not changed:
            return
        now = stamp(utc_now())
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
        """The templates that fit a question best, best first; none when no telling word of it stands in the head of any."""
        expression = match_expression(query)
        if not expression or limit < 1:
            return []
        weights = ", ".join(str(weight) for weight in COLUMN_WEIGHTS)
        rows = await self._database.rows(
            # bm25() takes its weights as literals only; these are numbers of this module.
            f"SELECT t.*, -bm25(templates_fts, {weights}) AS fit FROM templates_fts "  # noqa: S608
            "JOIN templates t ON t.seq = templates_fts.rowid WHERE templates_fts MATCH ? ORDER BY fit DESC, t.name LIMIT ?",
            (expression, limit),
        )
        return [ScoredTemplate(template=_template(row), score=round(float(row["fit"]), 4)) for row in rows]

    async def list(self) -> list[Template]:
        """All templates, by name."""
        return [
            _template(row)
            for row in await self._database.rows("SELECT * FROM templates ORDER BY name COLLATE NOCASE, id")
        ]

    async def get(self, template_id: UUID) -> Template:
        """One template.

        Raises:
            NotFoundError: there is none with that id.
        """
        row = await self._database.row("SELECT * FROM templates WHERE id = ?", (str(template_id),))
        if row is None:
            raise NotFoundError(f"There is no template with the id {template_id}.")
        return _template(row)


def match_expression(query: str) -> str:
    """An FTS5 expression for the telling words of a question. Empty when there are none.

    At least one word must stand in a template's head; a word that only occurs in the text, in an example, says
    nothing about what the method is for, but adds a little to the rank. Only letters and digits get through, inside quotes,
    so that no FTS5 operator can come in from outside.
    """
    words: dict[str, None] = {}
    for word in re.findall(r"[^\W_]+", query.lower()):
        if len(word) > 1 and word not in STOP_WORDS and not word.isdigit():
            words[word[:40]] = None
            if len(words) == MAX_WORDS:
                break
    any_word = " OR ".join(f'"{word}"' for word in words)
    return f"({{name description domain methodology keywords}} : ({any_word})) AND ({any_word})" if words else ""


def _changed(files: Iterable[Path], known: dict[str, str]) -> Iterable[tuple[UUID, TemplateFile, str]]:
    from tmde_core.templates.front_matter import parse_template  # loads a YAML reader, which listing does not need

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
    """Keywords are words or word-groups; a group's blanks become underscores, which FTS reads as separators again."""
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
