"""Describes reasoning templates: methods of thinking about a kind of question."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from tmde_core.records.base import Record

TemplateSource = Literal["starter", "local", "community"]


class Template(Record, frozen=True):
    """One stored template."""

    id: UUID
    name: str
    description: str
    domain: str
    methodology: str
    keywords: tuple[str, ...]
    body: str
    """Markdown, without the front matter."""
    source: TemplateSource
    sha256: str
    """SHA-256 of the original file, hexadecimal."""
    created_at: datetime
    updated_at: datetime


class ScoredTemplate(Record, frozen=True):
    """A template that was found for a question, with its BM25 score; higher is better."""

    template: Template
    score: float
