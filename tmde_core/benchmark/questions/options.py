"""Reads the options of a multiple-choice question and finds the right one.

An answer is compared with the labels first, then with the texts, and then, if it is a number, with the places of the
options. `Counting` says from where these are counted. An answer that could be two different options is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tmde_core.benchmark.questions.fields import CHOICES, Fields, fold_name, is_empty
from tmde_core.benchmark.questions.targets import LETTERS, Parts, letter_parts
from tmde_core.errors import InvalidInputError
from tmde_core.finetune.dataset.same_question import normalise_question

ASK_FOR_LETTER = "Answer with the letter of the right one."

_COLUMN = re.compile(r"(?:option|choice|answerchoice|ending|opt|op|ans|answer|mcanswer)?(?P<label>[a-z]|\d|[1-9]\d)")
_DECORATED = re.compile(r"[(\[]?\s*(?P<label>[A-Za-z]|\d{1,2})\s*[)\].:]?")
_LABELS, _TEXTS = ("label", "key", "letter", "id"), ("text", "content", "value", "option", "choice", "answer")


ENOUGH_NUMBERS = 5
"""So many numbers without a 0 show that a file counts from 1. A single high number may also be a mistake."""


class Counting(NamedTuple):
    """How a file counts options: which numbers its entries of one shape name.

    Data sets count from 0 (MMLU, PIQA) or from 1 (KMMLU), and some come in both forms (MedMCQA). A single line does not
    show which. A 0 shows that the file counts from 0, and the number of the last option that it counts from 1.
    """

    zero: int = 0
    """The number of entries that name 0."""
    last: int = 0
    """The number of entries of n options that name n."""
    between: int = 0
    """The number of entries that name another number of an option."""
    columns: bool = False
    """Whether the options have labels or are fields of their own. Data sets with a plain list count from 0."""

    def place(self, number: int, options: Sequence[Option]) -> int | None:
        """Return the place of the option with this number, counted from 0; None if there is no such option.

        Raises:
            InvalidInputError: The file does not show from where it counts.
        """
        from_one = self.last > 0 and not self.zero and self.last + self.between >= ENOUGH_NUMBERS
        if 0 < number < len(options):
            if self.last and self.zero:
                raise _uncounted(number, "some lines of the file count from 0, and others from 1")
            if self.last and not from_one:
                raise _uncounted(
                    number, "another line has a number as high as its options, so the file may count from 1"
                )
            if self.columns and not self.zero and not self.last:
                raise _uncounted(number, "the file does not show whether it counts from 0 or from 1")
        place = number - from_one
        return place if 0 <= place < len(options) else None


FROM_ZERO = Counting()


class Option(NamedTuple):
    """One option: its text, and the label that the file gives it."""

    text: str
    label: str | None = None
    is_number: bool = False
    """Whether the file writes the option as a number. The same number may then also mean this option by its text."""


def read_options(fields: Fields) -> tuple[Option, ...]:
    """Return the options of an entry; none if the entry has no options.

    Raises:
        InvalidInputError: The options are not readable, or there are too few or too many.
    """
    name = fields.first(CHOICES)
    if name is not None:
        label = fields.label(name)
        options = _listed(fields.get(name), label)
    else:
        label = "options"
        options = _columns(fields)
        if not options:
            return ()
    if not 2 <= len(options) <= len(LETTERS):
        raise InvalidInputError(
            f"{label}: there are {len(options)} options; 2 to {len(LETTERS)} are possible.", field=label
        )
    if not all(option.text for option in options):
        raise InvalidInputError(f"{label}: an option is empty.", field=label)
    labels = [option.label.casefold() for option in options if option.label is not None]
    if len(set(labels)) < len(labels):
        raise InvalidInputError(f"{label}: two options have the same label.", field=label)
    return _without_letters(options)


def _listed(given: Any, label: str) -> tuple[Option, ...]:
    if isinstance(given, Mapping):
        named = {fold_name(str(name)): value for name, value in given.items() if not is_empty(value)}
        texts = named.get("text", named.get("texts"))
        labels = named.get("label", named.get("labels"))
        if isinstance(texts, list):
            if labels is None and len(named) == 1:
                return tuple(Option(_text(one, label)) for one in texts)
            if isinstance(labels, list) and len(labels) == len(texts) and len(named) == 2:
                return tuple(
                    Option(_text(one, label), _text(mark, label)) for one, mark in zip(texts, labels, strict=True)
                )
            raise _unreadable(label)
        if all(len(str(name).strip()) <= 2 for name in given):
            return tuple(Option(_text(one, label), str(name).strip()) for name, one in given.items())
        raise _unreadable(label)
    if not isinstance(given, list):
        raise _unreadable(label)
    if any(isinstance(one, Mapping) for one in given):
        return tuple(_described(one, label) for one in given)
    return tuple(Option(_text(one, label), is_number=isinstance(one, int | float)) for one in given)


def _described(given: Any, label: str) -> Option:
    """Read an option such as `{"label": "A", "text": "…"}`."""
    if not isinstance(given, Mapping):
        raise _unreadable(label)
    named = {fold_name(str(name)): value for name, value in given.items()}
    text = next((name for name in _TEXTS if name in named), None)
    mark = next((name for name in _LABELS if name in named), None)
    if text is None or set(named) - {text, mark}:
        raise _unreadable(label)
    return Option(_text(named[text], label), None if mark is None else _text(named[mark], label))


def _columns(fields: Fields) -> tuple[Option, ...]:
    """Read options from columns `A`, `B`, … or `option1`, `option2`, …, in the order of their labels."""
    found = [(found["label"], name) for name in fields if (found := _COLUMN.fullmatch(name))]
    labels = sorted((label for label, _ in found), key=lambda label: (len(label), label))
    letters = [letter.casefold() for letter in LETTERS[: len(labels)]]
    numbers = [[str(place + first) for place in range(len(labels))] for first in (0, 1)]
    if len(labels) < 2 or labels not in (letters, *numbers):
        return ()
    names = dict(found)
    return tuple(Option(_text(fields.get(names[label]), names[label]), label.upper()) for label in labels)


def _without_letters(options: tuple[Option, ...]) -> tuple[Option, ...]:
    """Return options such as `A) iron`, `B) gold` without the letters in their texts."""
    patterns = [re.compile(rf"\(?{letter}[.):]\s*(?=\S)") for letter in LETTERS[: len(options)]]
    if not all(pattern.match(option.text) for pattern, option in zip(patterns, options, strict=True)):
        return options
    return tuple(
        Option(pattern.sub("", option.text, count=1), option.label)
        for pattern, option in zip(patterns, options, strict=True)
    )


def _text(value: Any, label: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value).strip()
    if value is None:
        return ""
    raise _unreadable(label)


def _unreadable(label: str) -> InvalidInputError:
    return InvalidInputError(f"{label}: a list of texts, or of texts with labels, belongs there.", field=label)


# ----------------------------------------------------------------------------------------------------- the right one


def find_right(
    answer: Any, options: Sequence[Option], *, by_place: bool = False, counting: Counting = FROM_ZERO
) -> int:
    """Return the place of the right option, counted from 0.

    Args:
        by_place: The answer's field holds a place or a label by its name, such as `answer_index`.
        counting: From where the file counts options.

    Raises:
        InvalidInputError: The answer is none of the options, several of them, or could be two different ones.
    """
    if isinstance(answer, list):
        if len(answer) != 1:
            raise InvalidInputError(
                f"target: {len(answer)} options are right. A question of TMDE has one right option.", field="target"
            )
        return find_right(answer[0], options, by_place=by_place, counting=counting)
    if isinstance(answer, bool):
        wanted = ("true", "yes") if answer else ("false", "no")
        places = [place for place, option in enumerate(options) if option.text.casefold() in wanted]
        return _only(places, answer, options)
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if isinstance(answer, int):
        return _numbered(answer, options, counting)
    if not isinstance(answer, str):
        raise _none_of(answer, options)
    return _worded(answer.strip(), options, counting, by_place=by_place)


def _numbered(answer: int, options: Sequence[Option], counting: Counting) -> int:
    labels = [option.label for option in options]
    if str(answer) in labels:
        return labels.index(str(answer))
    if any(label is not None and label.isdigit() for label in labels):
        raise _none_of(answer, options)
    counted = counting.place(answer, options)
    alike = [place for place, option in enumerate(options) if option.text == str(answer)]
    if counted is None:
        return _only(alike, answer, options)
    if alike and alike != [counted] and options[alike[0]].is_number:
        raise _ambiguous(str(answer), options, alike[0], counted)
    return counted


def _worded(answer: str, options: Sequence[Option], counting: Counting, *, by_place: bool) -> int:
    labels = [
        option.label.casefold() if option.label else LETTERS[place].casefold() for place, option in enumerate(options)
    ]
    exact = [place for place, option in enumerate(options) if option.text == answer]
    bare = _DECORATED.fullmatch(answer)
    if bare and bare["label"].casefold() in labels:
        place = labels.index(bare["label"].casefold())
        if bare["label"].islower() and exact and exact != [place] and options[place].label is None:
            raise _ambiguous(answer, options, exact[0], place)
        return place
    for place, option in enumerate(options):  # `B. Hydrogen`, `B) Hydrogen`
        if re.fullmatch(rf"\(?{re.escape(labels[place])}\s*[.):]\s*{re.escape(option.text)}", answer, re.IGNORECASE):
            return place
    alike = exact or [
        place for place, option in enumerate(options) if normalise_question(option.text) == normalise_question(answer)
    ]
    counted = None
    if _is_number(answer) and not any(option.label and option.label.isdigit() for option in options):
        counted = counting.place(int(answer), options)
    if by_place and counted is not None:
        return counted
    if counted is None:
        return _only(alike, answer, options)
    if alike and alike != [counted]:
        raise _ambiguous(answer, options, alike[0], counted)
    return counted


def named_number(answer: Any, options: Sequence[Option]) -> int | None:
    """Return the number by which an answer names an option; None if it names the option otherwise."""
    if isinstance(answer, list) and len(answer) == 1:
        return named_number(answer[0], options)
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if isinstance(answer, bool) or not (
        isinstance(answer, int) or (isinstance(answer, str) and _is_number(answer.strip()))
    ):
        return None
    if any(option.text == str(answer).strip() or (option.label or "").isdigit() for option in options):
        return None
    return int(answer)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 3


def _uncounted(number: int, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"target: {number} is the number of an option, and {why}. Write the letter or the text of the right one.",
        field="target",
    )


def _only(places: Sequence[int], answer: Any, options: Sequence[Option]) -> int:
    if not places:
        raise _none_of(answer, options)
    if len(places) > 1:
        raise InvalidInputError(f"target: {str(answer)[:40]!r} is several of the options.", field="target")
    return places[0]


def _none_of(answer: Any, options: Sequence[Option]) -> InvalidInputError:
    named = str(answer).lower() if isinstance(answer, bool) else str(answer)
    return InvalidInputError(f"target: {named[:40]!r} is none of the {len(options)} choices.", field="target")


def _ambiguous(answer: str, options: Sequence[Option], one: int, other: int) -> InvalidInputError:
    return InvalidInputError(
        f"target: {answer[:40]!r} can be the option {options[one].text[:40]!r} or the option {LETTERS[other]}. Write the "
        "letter of the right one.",
        field="target",
    )


def choice_parts(query: str, options: Sequence[Option], right: int) -> Parts:
    """Return a question that lists its options and asks for the letter of one.

    Raises:
        InvalidInputError: Another option has the same text as the right one.
    """
    if sum(option.text == options[right].text for option in options) > 1:
        raise InvalidInputError(
            f"choices: the right option {options[right].text[:40]!r} stands there twice.", field="choices"
        )
    letters = _letters(options)
    texts = [option.text for option in options]
    if texts == letters:  # the question lists the options itself
        return letter_parts(f"{query}\n\n{ASK_FOR_LETTER}", letters[right], letters)
    listed = "\n".join(f"{letter}) {text}" for letter, text in zip(letters, texts, strict=True))
    return letter_parts(f"{query}\n\n{listed}\n\n{ASK_FOR_LETTER}", letters[right], letters)


def _letters(options: Sequence[Option]) -> list[str]:
    """Return the letters that are asked for: the file's labels if they are letters, else A, B, C and so on."""
    labels = [(option.label or "").upper() for option in options]
    return labels if all(len(label) == 1 and label in LETTERS for label in labels) else list(LETTERS[: len(options)])


def mixed(query: str, right: str, wrong: Iterable[str]) -> tuple[tuple[Option, ...], int]:
    """Return options in an order that depends on the texts only, and the place of the right one.

    Data sets that keep the right answer apart from the wrong ones would always have it first.
    """
    texts = sorted(
        {right, *wrong}, key=lambda text: hashlib.sha256(f"{query}\0{text}".encode("utf-8", "replace")).digest()
    )
    return tuple(Option(text) for text in texts), texts.index(right)
