"""Finds what a person or a program means by an id: the whole id, its first digits, or in commands also a name."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from uuid import UUID

from tmde_core.errors import InvalidInputError, NotFoundError
from tmde_core.records.base import parse_id
from tmde_core.records.benchmark import BenchmarkQuestion
from tmde_core.records.lora import LoRAAdapter
from tmde_core.storage.database import Database

LEAST_DIGITS = 4
"""A shorter beginning would soon fit several ids."""
SHOWN = 5
"""How many candidates an error names."""
_HEX = re.compile(r"[0-9a-f]+")
_AFTER_LAST = "g"
"""Sorts after every character of an id."""

Named = tuple[str, str]
"""An id and a name."""


class IdLookup:
    """Finds ids in one data directory.

    Every method raises NotFoundError if nothing fits, or if several things fit; the error names them.
    """

    def __init__(
        self,
        database: Database,
        adapters: Callable[[], Awaitable[Sequence[LoRAAdapter]]],
        questions: Callable[[], Awaitable[Sequence[BenchmarkQuestion]]],
    ) -> None:
        """Create the lookup.

        Args:
            database: the database, for everything except adapters and built-in questions.
            adapters: returns all adapters.
            questions: returns all questions of benchmarks.
        """
        self._database = database
        self._adapters = adapters
        self._questions = questions

    async def trace(self, text: str) -> UUID:
        """Return the id of the trace that `text` means."""
        return await self._row("SELECT id, '' AS name FROM traces", text, "trace")

    async def debate(self, text: str) -> UUID:
        """Return the id of the debate that `text` means."""
        return await self._row("SELECT id, '' AS name FROM debates", text, "debate")

    async def benchmark(self, text: str) -> UUID:
        """Return the id of the benchmark run that `text` means."""
        return await self._row("SELECT id, '' AS name FROM benchmark_runs", text, "benchmark run")

    async def notification(self, text: str) -> UUID:
        """Return the id of the notification that `text` means."""
        return await self._row("SELECT id, '' AS name FROM notifications", text, "notification")

    async def template(self, text: str, *, named: bool = False) -> UUID:
        """Return the id of the template that `text` means; with `named`, a name is allowed too."""
        return await self._row("SELECT id, name FROM templates", text, "template", named=named)

    async def run(self, text: str, *, named: bool = False) -> UUID:
        """Return the id of the training run that `text` means; with `named`, a name is allowed too."""
        return await self._row("SELECT id, name FROM finetune_runs", text, "training run", named=named)

    async def adapter(self, text: str, *, named: bool = False) -> UUID:
        """Return the id of the adapter that `text` means; with `named`, a name is allowed too."""
        if (whole := _whole(text)) is not None:
            return whole
        known = [(str(one.id), one.name) for one in await self._adapters()]
        prefix = _prefix(text)
        if prefix is not None and (fits := [one for one in known if one[0].startswith(prefix)]):
            return UUID(_only(fits, text, "adapter"))
        return UUID(_by_name(known if named else (), text, "adapter"))

    async def question(self, text: str) -> str:
        """Return the id of the question that `text` means: the whole id, or its first four or more characters."""
        known = [one.id for one in await self._questions()]
        if text in known:
            return text
        fits = [(one, "") for one in known if len(text) >= LEAST_DIGITS and one.startswith(text)]
        if not fits:
            raise NotFoundError(f"There is no question called {text[:60]!r}.")
        return _only(fits, text, "question")

    async def list_questions(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Return the ids of the questions that a plan names.

        Raises:
            InvalidInputError: a text means no question, or several.
        """
        try:
            return tuple([await self.question(one) for one in texts])
        except NotFoundError as error:
            detail = error.detail[:1].lower() + error.detail[1:]
            raise InvalidInputError(f"questionIds: {detail}", field="questionIds") from None

    async def _row(self, select: str, text: str, what: str, *, named: bool = False) -> UUID:
        if (whole := _whole(text)) is not None:
            return whole
        if (prefix := _prefix(text)) is not None:
            rows = await self._database.rows(
                f"{select} WHERE id >= ? AND id < ? ORDER BY id LIMIT {SHOWN + 1}", (prefix, prefix + _AFTER_LAST)
            )
            if rows:
                return UUID(_only([(row["id"], row["name"]) for row in rows], text, what))
        known = [(row["id"], row["name"]) for row in await self._database.rows(select)] if named else []
        return UUID(_by_name(known, text, what))


def _whole(text: str) -> UUID | None:
    try:
        return parse_id(text, "thing")
    except NotFoundError:
        return None


def _prefix(text: str) -> str | None:
    """Return `text` as the beginning of an id, or None if no id begins so or `text` is too short."""
    wanted = text.lower()
    digits = wanted.replace("-", "")
    if len(digits) < LEAST_DIGITS or len(digits) > 32 or _HEX.fullmatch(digits) is None:
        return None
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    canonical = "-".join(part for part in parts if part)
    if "-" in wanted and wanted.rstrip("-") != canonical:
        return None
    return canonical


def _by_name(known: Iterable[Named], text: str, what: str) -> str:
    wanted = text.strip().casefold()
    fits = [one for one in known if wanted and one[1].casefold() == wanted]
    if not fits:
        raise NotFoundError(f"There is no {what} with the id {text[:60]!r}.")
    if len(fits) > 1:
        raise NotFoundError(f"Several {what}s are called {text[:60]!r}: {_listed(fits)}. Give the id.")
    return fits[0][0]


def _only(fits: Sequence[Named], text: str, what: str) -> str:
    if len(fits) > 1:
        raise NotFoundError(f"Several {what}s begin with {text[:60]!r}: {_listed(fits)}. Give more of the id.")
    return fits[0][0]


def _listed(fits: Sequence[Named]) -> str:
    more = ", and more" if len(fits) > SHOWN else ""
    return ", ".join(f"{identity} ({name})" if name else identity for identity, name in fits[:SHOWN]) + more
