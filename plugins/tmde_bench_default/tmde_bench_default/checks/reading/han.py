"""Read Chinese and Japanese numerals, and numbers of one character: 四十二, 一万二千, 1万2千, 三分之一, Ⅻ, ⑫.

A Han numeral is read only where it stands for a number: what stands beside it is no other Han character, or a counter,
or a word such as 是. So neither 三角形 nor 一定 holds a number.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

_DIGITS = {
    **{character: value for value, character in enumerate("〇一二三四五六七八九")},
    **{character: value for value, character in enumerate("零壹贰叁肆伍陆柒捌玖")},
    **dict(zip("壱弐参貳參陸兩两", (1, 2, 3, 2, 3, 6, 2, 2), strict=True)),
}
_UNITS = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
_LARGE = {"万": 10**4, "萬": 10**4, "億": 10**8, "亿": 10**8, "兆": 10**12}
_CHARACTERS = "".join([*_DIGITS, *_UNITS, *_LARGE])

RUN = re.compile(rf"[\d{_CHARACTERS}]+")
START = rf"[{_CHARACTERS}]"
_ONE = re.compile(r"[\u2160-\u2188]+|[\u2460-\u249b\u24ea-\u24ff\u2776-\u2793\u3251-\u325f\u32b1-\u32bf]")
_PIECE = re.compile(rf"\d+(?:[.]\d+)?|[{_CHARACTERS}]")
_DECIMALS = re.compile(rf"[点點]([{''.join(one for one in _DIGITS)}]+)(?![{_CHARACTERS}])")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\u3005\u3007\uf900-\ufaff]")
_MAY_STAND_BEFORE = frozenset(
    "是为為于於得有共约約出即也就才只仅僅计計达達值案果和与與或者到至第等差商积積数數解答负負"
)
_MAY_STAND_AFTER = frozenset(
    "个個箇只本人枚匹冊册歳岁才天元円圆块塊米克公斤厘千秒回次位名种種度倍通階层層台杯件口家头頭条條张張页頁章题題道股斤両年分小以毫升平立到至或和与與的"
)
_APPROXIMATE = re.compile(r"[多余餘几幾数數来來强強弱半點点時时月日号號成割折世代級级番第]")
MAX_NUMERAL = 40


class HanNumber(NamedTuple):
    """A numeral."""

    start: int
    end: int
    value: Fraction | None
    """None: it cannot be read for sure."""
    is_number: bool
    """Whether it stands for a number, and not for a part of a word."""
    weak: bool = False
    percent: bool = False


def read_one(text: str, begin: int) -> HanNumber | None:
    """Read a Roman numeral made of its own characters, or a circled number, that begins at `begin`."""
    found = _ONE.match(text, begin)
    if found is None:
        return None
    around = (text[begin - 1 : begin], text[found.end() : found.end() + 1])
    alone = not any(character and (character.isalnum() or _ONE.match(character)) for character in around)
    is_mark = (
        found[0][0] >= "\u2460"
        and not text[text.rfind("\n", 0, begin) + 1 : begin].strip()
        and bool(text[found.end() :].split("\n", 1)[0].strip(" .。"))
    )
    value = _roman(unicodedata.normalize("NFKC", found[0])) if found[0][0] < "\u2460" else _numeric(found[0])
    return HanNumber(begin, found.end(), value if alone else None, not is_mark)


def _numeric(character: str) -> Fraction | None:
    value = unicodedata.numeric(character, None)
    return None if value is None else Fraction(int(value))


_ROMAN = re.compile(r"M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


def _roman(letters: str) -> Fraction | None:
    letters = letters.upper()
    if not letters or not _ROMAN.fullmatch(letters):
        return None
    values = [_ROMAN_VALUES[letter] for letter in letters]
    return Fraction(sum(-one if one < max(values[index:]) else one for index, one in enumerate(values)))


def read_han(text: str, begin: int) -> HanNumber | None:
    """Read the numeral that begins at `begin`, or return None if none does."""
    run = RUN.match(text, begin, begin + MAX_NUMERAL)
    if run is None:
        return None
    written, end = run[0], run.end()
    value = value_of(written)
    before = text[begin - 1 : begin]
    is_number = not _HAN.match(before) or before in _MAY_STAND_BEFORE
    if fraction := re.compile(rf"分[之の]([\d{_CHARACTERS}]+)").match(text, end):
        above = value_of(fraction[1])
        percent = written == "百"
        share = None if value is None or above is None or not value else above if percent else above / value
        return HanNumber(begin, fraction.end(), share, is_number, percent=percent)
    if decimals := _DECIMALS.match(text, end):
        digits = "".join(str(_DIGITS[one]) for one in decimals[1])
        value = (
            None
            if value is None or text[decimals.end() : decimals.end() + 1] == "分"
            else value + Fraction(int(digits), 10 ** len(digits))
        )
        return HanNumber(begin, decimals.end(), value, is_number)
    after = text[end : end + 1]
    if (
        before == "第"
        or _APPROXIMATE.match(after)
        or text[end : end + 2] in {"年代", "分の", "分之"}
        or (after == "年" and _is_positional(written))
    ):
        value = None
    elif _HAN.match(after) and after not in _MAY_STAND_AFTER:
        is_number = False
    if written[0] in _LARGE or (len(written) == 1 and written in "千百十" and after and _HAN.match(after)):
        is_number = False
    return HanNumber(
        begin,
        end,
        value,
        is_number,
        weak=len(written) == 1 and value is not None and value <= 10 and bool(text.strip(" .,!。") != written),
    )


def _is_positional(written: str) -> bool:
    return len(written) > 1 and all(character in _DIGITS for character in written)


def value_of(written: str) -> Fraction | None:
    """Return the number, or None if the characters are none that is sure.

    一万二 may be 12,000 or 10,002, 三四 may be "three or four", and 二三十 is "twenty or thirty".
    """
    if _is_positional(written):
        return _positional(written)
    total, section, digit = Fraction(0), Fraction(0), None
    last_unit, last_large = 10**4, 10**16
    after_zero = False
    for piece in _PIECE.findall(written):
        if piece[0].isascii() or piece in _DIGITS:
            value = Fraction(piece) if piece[0].isascii() else Fraction(_DIGITS[piece])
            if digit is not None:
                return None
            if value == 0 and piece in _DIGITS:
                after_zero = True
            else:
                digit = value
        elif piece in _UNITS:
            unit = _UNITS[piece]
            if unit >= last_unit or (digit is not None and digit >= 10):
                return None
            section += (1 if digit is None else digit) * unit
            digit, last_unit, after_zero = None, unit, False
        else:
            large = _LARGE[piece]
            section += digit or 0
            if not section or large >= last_large:
                return None
            total += section * large
            section, digit, last_unit, last_large, after_zero = Fraction(0), None, 10**4, large, False
    if digit is not None:
        smallest = last_unit if last_unit < 10**4 else last_large if last_large < 10**16 else 1
        is_short = smallest > 10 and not after_zero and digit < smallest / 10 and not written[-2:].isdecimal()
        if is_short or (digit >= 10 and digit >= smallest):
            return None
        section += digit
    return total + section


def _positional(written: str) -> Fraction | None:
    digits = [_DIGITS[character] for character in written]
    if len(digits) == 2 and 0 not in digits and 0 < digits[1] - digits[0] <= 2:
        return None
    if digits[0] == 0 or any(character in "两兩" for character in written):
        return None
    return Fraction(int("".join(map(str, digits))))
