"""Finds what a person or a program means by an id: the whole id, its first digits, or in commands also a name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Sequence
from uuid import UUID

from tmde_core.errors import InvalidInputError, NotFoundError
from tmde_core.records.benchmark import BenchmarkQuestion
from tmde_core.records.lora import LoRAAdapter
from tmde_core.storage.database import Database

LEAST_DIGITS = 4
"""A shorter beginning would soon fit several ids."""
SHOWN = 5
"""How many candidates an error names."""
_HEX = re.compile(r"[0-9a-f]+")
_ALL_DIGITS = 32
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
        whole, prefix = _whole(text), _prefix(text)
        if whole is not None and not named:
            return whole
        known = [(str(one.id), one.name) for one in await self._adapters()]
        begins = [one for one in known if prefix is not None and one[0].startswith(prefix)]
        return _decide(text, "adapter", whole, begins, known if named else None)

    async def question(self, text: str) -> str:
        """Return the id of the question that `text` means: the whole id, or its first four or more characters.

        Upper and lower case are the same, and so are the dashed and the undashed form of a UUID.
        """
        known = [one.id for one in await self._questions()]
        wanted = text.strip().casefold()
        whole = _whole(wanted)
        exact = [one for one in known if one == text] or [
            one for one in known if one.casefold() in (wanted, str(whole))
        ]
        if len(exact) == 1:
            return exact[0]
        prefixes = tuple(one for one in (wanted, _prefix(wanted)) if one is not None and len(one) >= LEAST_DIGITS)
        fits = [(one, "") for one in known if prefixes and one.casefold().startswith(prefixes)]
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
        whole, prefix = _whole(text), _prefix(text)
        if whole is not None and not named:
            return whole
        begins: list[Named] = []
        if prefix is not None:
            rows = await self._database.rows(
                f"{select} WHERE id >= ? AND id < ? ORDER BY id LIMIT {SHOWN + 1}", (prefix, prefix + _AFTER_LAST)
            )
            begins = [(row["id"], row["name"]) for row in rows]
        known = [(row["id"], row["name"]) for row in await self._database.rows(select)] if named else None
        return _decide(text, what, whole, begins, known)


def _whole(text: str) -> UUID | None:
    """Return a whole id, in upper or lower case, with or without dashes; None: `text` is no whole id."""
    wanted = text.strip().lower()
    dashed = _prefix(wanted) if len(wanted.replace("-", "")) == _ALL_DIGITS else None
    return UUID(dashed) if dashed is not None else None


def _prefix(text: str) -> str | None:
    """Return `text` as the beginning of an id, or None if no id begins so or `text` is too short."""
    wanted = text.strip().lower()
    digits = wanted.replace("-", "")
    if len(digits) < LEAST_DIGITS or len(digits) > _ALL_DIGITS or _HEX.fullmatch(digits) is None:
        return None
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    canonical = "-".join(part for part in parts if part)
    if "-" in wanted and wanted.rstrip("-") != canonical:
        return None
    return canonical


def _decide(text: str, what: str, whole: UUID | None, begins: Sequence[Named], known: Iterable[Named] | None) -> UUID:
    """Return the one id that `text` means.

    Args:
        text: what was given.
        what: the kind of thing, for errors.
        whole: the id that `text` spells out.
        begins: the things whose ids begin with `text`.
        known: all things, if a name is allowed.
    """
    named = [one for one in known if _same_name(one[1], text)] if known is not None else []
    if whole is not None and (begins or not named):
        return whole
    if not named:
        if not begins:
            raise NotFoundError(_unknown(text, what, named=known is not None))
        return UUID(_only(begins, text, what))
    if not begins:
        if len(named) > 1:
            raise NotFoundError(f"Several {what}s are called {text[:60]!r}: {_listed(named)}. Give the id.")
        return UUID(named[0][0])
    meant = list(dict.fromkeys((*begins, *named)))
    if len(meant) > 1:
        raise NotFoundError(
            f"{text[:60]!r} is a name and the beginning of another {what}'s id: {_listed(meant)}. Give more of the id."
        )
    return UUID(meant[0][0])


def _same_name(name: str, text: str) -> bool:
    wanted = _folded(text)
    return wanted != "" and _folded(name) == wanted


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


def _unknown(text: str, what: str, *, named: bool) -> str:
    wanted = text.strip()
    if wanted and len(wanted) < LEAST_DIGITS and _HEX.fullmatch(wanted.lower()):
        return (
            f"{wanted!r} is too short to be part of an id of a {what}: give at least its first {LEAST_DIGITS} digits."
        )
    return f"There is no {what} with the {'id or name' if named else 'id'} {text[:60]!r}."


def _only(fits: Sequence[Named], text: str, what: str) -> str:
    if len(fits) > 1:
        raise NotFoundError(f"Several {what}s begin with {text[:60]!r}: {_listed(fits)}. Give more of the id.")
    return fits[0][0]


def _listed(fits: Sequence[Named]) -> str:
    more = ", and more" if len(fits) > SHOWN else ""
    return ", ".join(f"{identity} ({name})" if name else identity for identity, name in fits[:SHOWN]) + more
