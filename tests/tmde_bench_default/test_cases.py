"""Some 5,000 answers are judged rightly, and no wrong answer is accepted. See `cases/README.md`."""

import asyncio
from collections import Counter
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tmde_bench_default.checks.committed import find_number
from tmde_bench_default.checks.deciding import run_check
from tmde_bench_default.checks.options import find_option
from tmde_bench_default.checks.programs import extract_code
from tmde_bench_default.checks.reading.folding import fold_signs, plain
from tmde_bench_default.checks.reading.numbers import read_numbers
from tmde_bench_default.checks.reading.thoughts import without_thoughts
from tmde_bench_default.checks.statements import find_stated
from tmde_bench_default.judges.verifier import VerifierJudge
from tmde_core.sdk.judges import Check, CodeCheck, JudgeItem


class Case(msgspec.Struct, frozen=True):
    answer: str
    check: Check | str
    right: bool
    reference: str | None = None

    @property
    def kind(self):
        return self.check if isinstance(self.check, str) else type(self.check).__name__


CASES = [
    msgspec.json.decode(line, type=Case)
    for path in sorted(Path(__file__).with_name("cases").glob("*.jsonl"))
    for line in path.read_bytes().splitlines()
]
SLOW = [case for case in CASES if isinstance(case.check, CodeCheck)]
QUICK = [case for case in CASES if not isinstance(case.check, CodeCheck)]


async def accepted(case):
    if isinstance(case.check, str):
        item = JudgeItem(question="q", answer=case.answer, reference=case.reference, check=case.check)
        return (await VerifierJudge().score(item)).score == 10
    return (await run_check(case.check, case.answer)).score == 1


@pytest.mark.parametrize("cases", [QUICK, SLOW], ids=["read", "run"])
async def test_right_answers_are_accepted_and_wrong_ones_are_not(cases):
    two_at_once = asyncio.Semaphore(2)

    async def judged(case):
        async with two_at_once:
            return case, await accepted(case)

    outcomes = await asyncio.gather(*map(judged, cases))
    assert [case for case, passed in outcomes if passed and not case.right] == []
    assert [case for case, passed in outcomes if not passed and case.right] == []


def test_about_half_of_the_cases_are_right():
    right = sum(case.right for case in CASES)
    assert 0.4 < right / len(CASES) < 0.6
    assert set(Counter(case.kind for case in CASES)) >= {"NumberCheck", "ChoiceCheck", "FactsCheck", "CodeCheck"}


# ------------------------------------------------------------------------------------------- numbers in every form

WHOLE = {
    "plain": str,
    "commas": lambda n: f"{n:,}",
    "points": lambda n: f"{n:,}".replace(",", ".") if abs(n) >= 10**6 or abs(n) < 1000 else str(n),
    "no-break blanks": lambda n: f"{n:,}".replace(",", "\u00a0"),
    "narrow blanks": lambda n: f"{n:,}".replace(",", "\u202f"),
    "blanks": lambda n: f"{n:,}".replace(",", " "),
    "apostrophes": lambda n: f"{n:,}".replace(",", "’"),
    "underscores": lambda n: f"{n:_}",
    "LaTeX": lambda n: f"${n:,}$".replace(",", "{,}"),
    "boxed": lambda n: f"\\boxed{{{n:,}}}",
    "minus sign": lambda n: str(n).replace("-", "−"),
    "en dash": lambda n: str(n).replace("-", "–"),
    "sign in words": lambda n: str(n).replace("-", "minus "),
    "full width": lambda n: str(n).translate(str.maketrans("-0123456789", "－０１２３４５６７８９")),
    "Arabic digits": lambda n: str(n).translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")),
    "Devanagari digits": lambda n: str(n).translate(str.maketrans("0123456789", "०१२३४५६७८९")),
    "decimals": lambda n: f"{n}.00",
    "unit": lambda n: f"{n} km",
    "attached unit": lambda n: f"{n}kg",
    "dollars": lambda n: f"${n}".replace("$-", "-$"),
    "sum": lambda n: f"x = {n}",
}
FRAMES = ("{}", "It is {}.", "The answer is {}.", "**Answer:** {}", "#### {}", "So we get {}\n", "答案是{}。")


@given(st.integers(-(10**14), 10**14), st.sampled_from(sorted(WHOLE)), st.sampled_from(FRAMES))
def test_a_whole_number_is_read_back_from_every_form(number, form, frame):
    found, reason = find_number(frame.format(WHOLE[form](number)))
    assert found is not None, reason
    assert found.value == number


@given(
    st.integers(-999, 999),
    st.integers(1, 999),
    st.sampled_from(
        ["{}/{}", "\\frac{{{}}}{{{}}}", "$\\dfrac{{{}}}{{{}}}$", "{} / {}", "\\boxed{{\\tfrac{{{}}}{{{}}}}}"]
    ),
)
def test_a_fraction_is_read_back(above, below, form):
    found, reason = find_number(form.format(above, below))
    assert found is not None, reason
    assert found.value == Fraction(above, below)


@given(
    st.integers(1, 999),
    st.integers(-20, 20),
    st.sampled_from(["{}e{}", "{}E{}", "{} × 10^{}", "{}x10^{}", "{}·10^{}", "{} \\times 10^{{{}}}", "{} * 10**{}"]),
)
def test_the_scientific_form_is_read_back(number, exponent, form):
    found, reason = find_number(form.format(number, exponent))
    assert found is not None, reason
    assert found.value == number * Fraction(10) ** exponent


_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(number):
    if number < 20:
        return _SMALL[number]
    if number < 100:
        return _TENS[number // 10 - 2] + (f"-{_SMALL[number % 10]}" if number % 10 else "")
    for size, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred")):
        if number >= size:
            rest = number % size
            joined = " and " if rest < 100 else " "
            return f"{in_words(number // size)} {name}" + (joined + in_words(rest) if rest else "")
    raise AssertionError(number)


@given(st.integers(0, 10**11))
def test_number_words_are_read_back(number):
    found, reason = find_number(f"The answer is {in_words(number)}.")
    assert found is not None, reason
    assert found.value == number


def in_han(number, digits="〇一二三四五六七八九", units=("", "十", "百", "千"), large=("", "万", "億", "兆")):
    said, zero = "", False
    for place in reversed(range(len(str(number)))):
        digit = number // 10**place % 10
        if digit:
            said += ("〇" if zero and said else "") + digits[digit] + units[place % 4]
        zero = not digit
        if place % 4 == 0 and number // 10**place % 10**4:
            said += large[place // 4]
    return said


@given(st.integers(1, 10**16 - 1), st.sampled_from(["{}", "{}です。", "答案是{}。", "答えは{}個です。", "共有{}人"]))
def test_han_numerals_are_read_back(number, frame):
    found, reason = find_number(frame.format(in_han(number)))
    assert found is not None, reason
    assert found.value == number


@given(st.integers(21, 10**8), st.sampled_from(["第{}", "{}月", "{}時", "{}多", "{}分の一", "约{}到九百", "{}或者三"]))
def test_a_han_numeral_that_is_a_part_is_never_the_number(number, form):
    found, _ = find_number(form.format(in_han(number)))
    assert found is None or found.value != number


@given(st.integers(-(10**12), 10**12), st.sampled_from(sorted(WHOLE)), st.sampled_from(FRAMES), st.data())
def test_a_number_with_a_digit_more_or_less_is_never_the_number(number, form, frame, data):
    digits = str(abs(number))
    place = data.draw(st.integers(0, len(digits)))
    if data.draw(st.booleans()) and len(digits) > 1:
        changed = digits[:place] + digits[place + 1 :]
    else:
        changed = digits[:place] + data.draw(st.sampled_from("0123456789")) + digits[place:]
    assume(int(changed) != abs(number))
    other = int(changed) * (-1 if number < 0 else 1)
    found, _ = find_number(frame.format(WHOLE[form](other)))
    assert found is None or found.value != number


@given(
    st.integers(1, 999),
    st.sampled_from(
        ["-{}", "minus {}", "{} million", "{}k", "{}½", "{}^2", "{}²", "{} dozen", "{}/7", "{}e3", "{}:30", "{}x", "{}.5", "{},5", "{}th",
         "{} or 1000", "{}–1000", "{} to 1000", "not {}", "more than {}", "{}?", "{} + 1", "{} ± 1", "{} hundred", "1/{}", "{}万", "{} squared"]
    ),
)  # fmt: skip
def test_a_part_of_a_statement_is_never_the_number(number, form):
    assume(number > 1)
    for frame in FRAMES:
        found, _ = find_number(frame.format(form.format(number)))
        assert found is None or found.value != number, frame


@pytest.mark.parametrize(
    "text",
    ["10^(10^9)", "9^9^9^9", "10^999999999", "1e999999999", "2^100000", "7" * 100_000, "1," * 50_000, "1/" * 50_000, "(" * 100_000, "{" * 100_000,
     "\\frac" * 20_000, "\\boxed{" * 14_000, " " * 100_000, "-" * 100_000, "one " * 25_000, "<code>" * 16_000, "```\n" * 25_000, "²" * 50_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_nothing_is_worked_out_or_searched_without_a_limit(text):
    find_number(text[-50_000:])
    find_option(text[-50_000:], ("A", "B"))
    find_stated(plain(text[-50_000:]), "7")
    extract_code(text[-50_000:])


@given(st.text(alphabet="0123456789.,'-−–^²½/ eExX×*%$()kKM\\{}:…nad onetw", max_size=60))
def test_numbers_never_overlap_and_stay_inside_the_text(text):
    folded = fold_signs(text)
    end = 0
    for one in read_numbers(folded):
        assert end <= one.start < one.end <= len(folded)
        end = one.end


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),
        ("<think>a", ""),
        ("b<think>a", "b"),
        ("<think>a</think>b<think>c</think>d", "bd"),
        ("no thoughts", "no thoughts"),
        ("[THINK]a[/THINK]b", "b"),
    ],
)
def test_thoughts_are_no_part_of_an_answer(answer, shown):
    assert without_thoughts(answer) == shown
