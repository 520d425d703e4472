"""Read a run of digits with its separators: 1,234,567.89, 1.234.567, 12,34,567, 1 234, 3,5."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 60
"""Longer runs of digits are not read, so that reading stays quick."""

_SEPARATED = re.compile(r"[.,'_ ]")


def read_digits(written: str, *, money: bool = False) -> Fraction | None:
    """Return the number, or None if it can be read in more than one way, or in none.

    One comma separates decimals (3,5) unless three digits follow, which then are thousands (1,234). With two digits
    behind it (12,34), the comma may be a decimal comma, a list or the first part of an Indian number: only an amount of
    money is read then. One point always separates decimals.

    Args:
        written: digits, with separators between them only.
        money: whether it stands beside a currency.
    """
    if len(written) > 2 * MAX_DIGITS:
        return None
    groups = _SEPARATED.split(written)
    if sum(map(len, groups)) > MAX_DIGITS:
        return None
    marks = [character for character in written if not character.isdigit()]
    if not marks:
        return Fraction(int(written))
    if not groups[0]:
        return _decimal("0", groups[1]) if marks == ["."] else None
    if len(set(marks)) == 1:
        return _one_kind(groups, marks[0], money)
    *thousands, last = marks
    if len(set(thousands)) != 1 or last not in ".," or not _grouped(groups[:-1], thousands[0]):
        return None
    return _decimal("".join(groups[:-1]), groups[-1])


def _one_kind(groups: list[str], mark: str, money: bool) -> Fraction | None:
    if len(groups) > 2:
        return Fraction(int("".join(groups))) if _grouped(groups, mark) else None
    whole, rest = groups
    if mark == ".":
        return _decimal(whole, rest)
    if mark != ",":
        return Fraction(int(whole + rest)) if _grouped(groups, mark) else None
    if _grouped(groups, mark):
        return Fraction(int(whole + rest))
    if len(rest) != 2 or whole == "0" or money:
        return _decimal(whole, rest)
    return None


def _grouped(groups: list[str], mark: str) -> bool:
    """Return whether the groups are thousands: three digits each, or two in Indian numbers except for the last."""
    first, *others = groups
    if not others or not 1 <= len(first) <= 3 or first.startswith("0"):
        return False
    if all(len(group) == 3 for group in others):
        return True
    return (
        mark == ","
        and len(first) <= 2
        and len(others) > 1
        and len(others[-1]) == 3
        and all(len(group) == 2 for group in others[:-1])
    )


def _decimal(whole: str, rest: str) -> Fraction:
    return Fraction(int(whole + rest), 10 ** len(rest))
