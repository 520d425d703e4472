"""The filters of the runs (dates, adapter, type, mode), which are part of the page's address."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, time
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import msgspec

from tmde_ui.benchmark.words import MODES, TYPES
from tmde_ui.kit.elements import Tag, button, choice
from tmde_ui.kit.forms import form_fields
from tmde_ui.kit.names import name_of
from tmde_ui.kit.script import call

TYPE_CHOICES = (("", "any type"), *((name, name) for name in TYPES))
MODE_CHOICES = (("", "any mode"), *MODES.items())


class BenchmarkFilters(msgspec.Struct, frozen=True):
    """The values of the filters."""

    start: str = ""
    """First day in UTC, such as `2026-11-24`."""
    end: str = ""
    adapter: str = ""
    type: str = ""
    mode: str = ""

    @classmethod
    def read(cls, fields: dict[str, str]) -> BenchmarkFilters:
        """Read the filters from a form or an address. Ignore invalid values."""
        return cls(
            start=_day(fields.get("start", "")),
            end=_day(fields.get("end", "")),
            adapter=_id(fields.get("adapter", "")),
            type=fields.get("type", "") if fields.get("type") in TYPES else "",
            mode=fields.get("mode", "") if fields.get("mode") in MODES else "",
        )

    def filter(self) -> dict[str, Any]:
        """Return the filters as the service's methods expect them."""
        return {
            "start": self._moment(self.start, time.min),
            "end": self._moment(self.end, time.max),
            "adapter_id": UUID(self.adapter) if self.adapter else None,
            "type": self.type or None,
            "mode": self.mode or None,
        }

    def address(self) -> str:
        """Return the address of the page with these filters."""
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value}
        return f"/benchmark?{urlencode(given)}" if given else "/benchmark"

    def export(self, form: str) -> str:
        """Return the download address of the runs of these dates."""
        given = {"format": form}
        for name, moment in (("from", self._moment(self.start, time.min)), ("to", self._moment(self.end, time.max))):
            if moment is not None:
                given[name] = moment.isoformat().replace("+00:00", "Z")
        return f"/api/benchmark/export?{urlencode(given)}"

    @staticmethod
    def _moment(day: str, at: time) -> datetime | None:
        return datetime.combine(date.fromisoformat(day), at, UTC) if day else None


Changed = Callable[[BenchmarkFilters], Awaitable[None]]


def filters(wanted: BenchmarkFilters, adapters: Sequence[UUID], changed: Changed) -> Tag:
    """Draw the form and return the element for its error message."""
    known = [str(one) for one in adapters]
    if wanted.adapter and wanted.adapter not in known:
        known.append(wanted.adapter)
    with Tag("form", classes="filters benchmark-filters", role="search", data_testid="filters") as form:
        for name, label, value in (("start", "From", wanted.start), ("end", "To", wanted.end)):
            with Tag("div", classes="field"):
                Tag("label", label, for_=f"field-{name}")
                Tag("input", classes="input tabular", id=f"field-{name}", name=name, type="date", defaultValue=value,
                    max="9999-12-31", data_testid=f"filter-{name}")  # fmt: skip
        names = (("", "any adapter"), *((one, name_of(one)) for one in known))
        choice("Adapter", "adapter", names, wanted.adapter, data_testid="filter-adapter")
        choice("Type", "type", TYPE_CHOICES, wanted.type, data_testid="filter-type")
        choice("Mode", "mode", MODE_CHOICES, wanted.mode, data_testid="filter-mode")
        reset = button("Show all", "quiet", test="show-all", disabled=wanted == BenchmarkFilters())
    problem = Tag("p", classes="notice bad", role="alert", data_testid="filter-problem").show(visible=False)

    async def read(fields: dict[str, str]) -> None:
        now = BenchmarkFilters.read(fields)
        reset.put(disabled=now == BenchmarkFilters())
        await changed(now)

    form_fields(form, read)
    reset.on("click", js_handler=f"() => {call('emptyForm', form.id)}")
    return problem


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text[:10]).isoformat()
    except ValueError:
        return ""


def _id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        return ""
