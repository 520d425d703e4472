"""Reads the five fields of a cron expression, as Vixie's cron does.

- `*`, a number, a range `a-b`, or a list of these with commas
- `*/n` and `a-b/n`: every n-th value of the range; `a/n`: every n-th value from `a` to the end of the field
- `JAN`–`DEC` and `SUN`–`SAT` in any case, also in ranges and lists; 7 is Sunday too
- `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly` and `@annually`

A range that runs backwards is refused, as are the signs of other schedulers: `?`, `L`, `W`, `#`, seconds and years.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SHORTHANDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
SUNDAY = 7
"""The second number of Sunday. A range may end with it."""

_PART = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\w+))?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,4}", re.ASCII)


class Field(NamedTuple):
    """One field: its name, its lowest and highest value, and the names of its values."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def read(self, text: str) -> frozenset[int]:
        """Return the values that a field's text allows.

        Raises:
            ValueError: the text is not a field; the message is a sentence's beginning without its end.
        """
        values: set[int] = set()
        for part in text.split(","):
            values |= self._read_part(part)
        return frozenset(value % SUNDAY if self.names is DAYS else value for value in values)

    def _read_part(self, part: str) -> set[int]:
        found = _PART.fullmatch(part)
        if found is None:
            raise ValueError(self._describe_problem(part))
        first, last, step = found["first"], found["last"], found["step"]
        if first == "*":
            if last is not None:
                raise ValueError(f"{part!r} is no {self.name}: `*` has no range")
            low, high = self.low, self.high
        else:
            low = self._value(first)
            if last is not None:
                high = self._value(last)
                if self.names is DAYS and low == SUNDAY != high:
                    low = 0  # 7-2
                elif self.names is DAYS and low and not high:
                    high = SUNDAY  # SAT-SUN
            else:
                high = self.high if step is not None else low
        if low > high and not (last is None and low == SUNDAY):
            raise ValueError(
                f"the {self.name} {part!r} runs backwards. Write two ranges with a comma between them: "
                f"{low}-{self.high},{self.low}-{high}"
            )
        return set(range(low, max(low, high) + 1, 1 if step is None else self._step(step, part)))

    def _step(self, text: str, part: str) -> int:
        if not _NUMBER.fullmatch(text) or not int(text):
            raise ValueError(f"the {self.name} {part!r} has no step; a step is a number from 1")
        return int(text)

    def _value(self, text: str) -> int:
        if text.upper() in self.names:
            return self.names.index(text.upper()) + self.low
        highest = SUNDAY if self.names is DAYS else self.high
        if _NUMBER.fullmatch(text) and self.low <= int(text) <= highest:
            return int(text)
        raise ValueError(self._describe_problem(text))

    def _describe_problem(self, text: str) -> str:
        names = f" or {self.names[0]} to {self.names[-1]}" if self.names else ""
        if text == "?":
            return f"the {self.name} '?' belongs to another scheduler; write `*`"
        if re.fullmatch(r"(?:\w*[LW]|\w+#\w+)", text, re.ASCII | re.IGNORECASE) and text.upper() not in self.names:
            return f"the {self.name} {text[:20]!r} belongs to another scheduler; only numbers, names, `*`, `-`, `,` and `/` are known"
        return f"{text[:20]!r} is no {self.name}; that is a number from {self.low} to {self.high}{names}"


FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day of the month", 1, 31),
    Field("month", 1, 12, MONTHS),
    Field("weekday", 0, 6, DAYS),
)


def split(expression: str) -> list[str]:
    """Return the texts of the five fields.

    Raises:
        ValueError: the expression does not have five fields.
    """
    parts = expression.split()
    if len(parts) == 1 and parts[0].startswith("@"):
        if (known := SHORTHANDS.get(parts[0].lower())) is None:
            raise ValueError(f"{parts[0][:20]!r} is not known; there are {', '.join(SHORTHANDS)}")
        return known.split()
    if len(parts) != len(FIELDS):
        more = ". Seconds and years are not supported" if len(parts) in (6, 7) else ""
        raise ValueError(f"it has {len(parts)} field{'s' * (len(parts) != 1)} instead of five{more}")
    return parts
