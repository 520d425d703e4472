"""Simulates how often chance alone decides an outcome, and how often a real change does.

Three rules are tried on synthetic comparisons: the interval excludes zero; the permutation test gives p below 0.05; or
both, which is the rule that TMDE uses. Then the gate's whole decision is tried on adapters that are as good as the base
model and the active adapter. The computation is that of `tmde_core.benchmark.results.statistics`, but for thousands of
comparisons at a time; some results are compared with those of that module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from tmde_core.benchmark.gate import REPEATS
from tmde_core.benchmark.results.statistics import RESAMPLES, SIGNIFICANT, expanded_confidence, paired_difference
from tmde_core.records.benchmark import DOMAINS

Array = Any
World = Callable[[np.random.Generator, int, int], Array]
"""Draws changes of score as an array of comparisons × questions, in points of 10."""

QUESTIONS = (6, 10, 20, 50)
COMPARISONS = 2_000
AT_ONCE = 1_000
MARGIN = 3 * (SIGNIFICANT * (1 - SIGNIFICANT) / COMPARISONS) ** 0.5
"""Three standard deviations of a share of 5 % among this many comparisons."""
TINY = 1e-9


def answered(repeats: int, steps: int, a: float, b: float, harm: float = 0.0) -> World:
    """Return a world in which each question has its own chance of a right answer.

    The chance is drawn from Beta(a, b), and both runs answer each question `repeats` times.

    Args:
        repeats: The number of answers to each question in each run.
        steps: The number of steps of a score between 0 and 10.
        a, b: The parameters of the Beta distribution.
        harm: The log odds that the second run loses.
    """

    def draw(random: np.random.Generator, comparisons: int, questions: int) -> Array:
        before = random.beta(a, b, (comparisons, questions))
        odds = np.clip(before, TINY, 1 - TINY)
        after = 1 / (1 + (1 - odds) / odds * np.exp(harm))
        tries = steps * repeats
        return (random.binomial(tries, after) - random.binomial(tries, before)) * 10 / tries

    return draw


def normal(harm: float = 0.0) -> World:
    """Return a world with normally distributed changes around −harm with a spread of two points."""
    return lambda random, comparisons, questions: random.normal(-harm, 2.0, (comparisons, questions))


def drawn_from(changes: Sequence[float], chances: Sequence[float]) -> World:
    """Return a world with changes of only a few sizes."""
    return lambda random, comparisons, questions: random.choice(changes, (comparisons, questions), p=chances)


CHANCE: dict[str, World] = {
    "normal": normal(),
    "heavy tails (t with 3)": lambda random, comparisons, questions: random.standard_t(3, (comparisons, questions)),
    "right or wrong, asked once": answered(1, 1, 0.5, 0.5),
    "right or wrong, mean of 3": answered(3, 1, 0.5, 0.5),
    "the same, most questions settled": answered(3, 1, 0.1, 0.1),
    "the same, seldom right": answered(3, 1, 0.2, 0.8),
    "in quarters, mean of 3": answered(3, 4, 0.5, 0.5),
    "8 of 10 unchanged, else ±10": drawn_from((-10.0, 0.0, 10.0), (0.1, 0.8, 0.1)),
    "some small, few large": drawn_from((-10.0, -1.0, 0.0, 1.0, 10.0), (0.1, 0.25, 0.3, 0.25, 0.1)),
}
"""Worlds with nothing but chance: both runs are equally good, so changes are symmetric about 0."""

LOPSIDED: dict[str, World] = {
    "many small losses, few gains (exponential)": lambda random, comparisons, questions: (
        random.exponential(2.0, (comparisons, questions)) - 2.0
    ),
    "6 of 10 unchanged, 3 lose 1, 1 gains 3": drawn_from((0.0, -1.0, 3.0), (0.6, 0.3, 0.1)),
    "5 of 10 unchanged, 4 lose 2.5, 1 gains 10": drawn_from((0.0, -2.5, 10.0), (0.5, 0.4, 0.1)),
}
"""Worlds with real changes whose gains and losses cancel out over all possible questions."""

REAL: dict[str, World] = {
    "normal, −1 point": normal(1.0),
    "normal, −2 points": normal(2.0),
    "right or wrong, mean of 3, log odds −2": answered(3, 1, 0.5, 0.5, 2.0),
    "the same, most settled, log odds −6": answered(3, 1, 0.1, 0.1, 6.0),
    "in quarters, mean of 3, log odds −2": answered(3, 4, 0.5, 0.5, 2.0),
}
"""Worlds with a real loss."""


class Draws(NamedTuple):
    """The resamples and exchanges that all comparisons with the same number of questions share.

    TMDE shares them too, because its seed is fixed.
    """

    weights: Array
    signs: Array
    exact: bool


def draws(questions: int, random: np.random.Generator) -> Draws:
    """Return the random draws for this number of questions.

    For the bootstrap, these are how often each question is drawn. For the permutation test, these are all exchanges, or
    `RESAMPLES` random ones if there are more.
    """
    weights = random.multinomial(questions, np.full(questions, 1 / questions), RESAMPLES) / questions
    exact = 2**questions <= RESAMPLES
    if exact:
        signs = 1 - 2 * ((np.arange(2**questions)[:, None] >> np.arange(questions)) & 1)
    else:
        signs = random.choice((-1, 1), (RESAMPLES, questions))
    return Draws(weights, signs, exact)


def p_values(changes: Array, drawn: Draws) -> Array:
    """Return the two-sided p-values of the paired permutation test."""
    means = np.abs(changes @ drawn.signs.T) / changes.shape[1]
    as_large = (means >= np.abs(changes.mean(axis=1))[:, None] - TINY).sum(axis=1)
    return as_large / len(drawn.signs) if drawn.exact else (as_large + 1) / (len(drawn.signs) + 1)


def sides(changes: Array, drawn: Draws) -> Array:
    """Return on which side of zero the expanded BCa interval lies: −1, 0 (the interval includes zero) or 1."""
    questions, means = changes.shape[1], changes.mean(axis=1)
    resampled = changes @ drawn.weights.T
    below = (resampled < means[:, None] - TINY).mean(axis=1) + (resampled <= means[:, None] + TINY).mean(axis=1)
    bias = stats.norm.ppf(below / 2)
    left_out = (changes.sum(axis=1)[:, None] - changes) / (questions - 1)
    spread = left_out.mean(axis=1)[:, None] - left_out
    skew = (spread**3).sum(axis=1) / (6 * (spread**2).sum(axis=1) ** 1.5 + np.finfo(float).tiny)
    tail = (1 - expanded_confidence(questions)) / 2
    shifted = bias[:, None] + stats.norm.ppf([tail, 1 - tail])
    with np.errstate(invalid="ignore"):  # equal changes are handled below
        levels = np.nan_to_num(stats.norm.cdf(bias[:, None] + shifted / (1 - skew[:, None] * shifted)), nan=0.5)
    resampled.sort(axis=1)
    low, high = (_quantile(resampled, levels[:, end]) for end in (0, 1))
    side = (low > TINY).astype(int) - (high < -TINY)
    equal = np.ptp(changes, axis=1) < TINY
    return np.where(equal, np.sign(means), side).astype(int)


def _quantile(rows: Array, levels: Array) -> Array:
    at = levels * (rows.shape[1] - 1)
    lower = np.clip(at.astype(int), 0, rows.shape[1] - 2)
    row = np.arange(len(rows))
    return rows[row, lower] + (at - lower) * (rows[row, lower + 1] - rows[row, lower])


class Shares(NamedTuple):
    """The shares of comparisons that each rule decides."""

    interval: float
    p: float
    both: float

    def __str__(self) -> str:
        return f"{self.interval:.1%} / {self.p:.1%} / **{self.both:.1%}**".replace("%", "")


def shares(world: World, questions: int) -> Shares:
    """Return how often each rule decides an outcome."""
    random = np.random.default_rng(11)
    drawn = draws(questions, random)
    found = np.zeros(3)
    for _ in range(COMPARISONS // AT_ONCE):
        changes = world(random, AT_ONCE, questions)
        side, significant = sides(changes, drawn) != 0, p_values(changes, drawn) < SIGNIFICANT
        found += [side.sum(), significant.sum(), (side & significant).sum()]
    return Shares(*(found / COMPARISONS))


def table(worlds: dict[str, World]) -> tuple[list[str], float]:
    """Return one row for each world, and the largest share that the rule of both decides in any world."""
    rows, most = [], 0.0
    for name, world in worlds.items():
        found = [shares(world, questions) for questions in QUESTIONS]
        most = max(most, *(one.both for one in found))
        rows.append(f"| {name} | " + " | ".join(map(str, found)) + " |")
        print(rows[-1], flush=True)
    return rows, most


def agreement() -> float:
    """Return the share of sample comparisons of ten questions that get the same outcome from TMDE itself."""
    random = np.random.default_rng(5)
    drawn = draws(10, random)
    same = []
    for world in (CHANCE | REAL).values():
        changes = world(random, 8, 10)
        verdicts = sides(changes, drawn) * (p_values(changes, drawn) < SIGNIFICANT)
        for change, verdict in zip(changes, verdicts, strict=True):
            told = paired_difference([0.0] * 10, [float(one) for one in change])
            same.append({"better": 1, "worse": -1, "inconclusive": 0}[told.outcome] == verdict)
    return float(np.mean(same))


# ------------------------------------------------------------------------------------------------------ the gate

SCORES: dict[str, Callable[[np.random.Generator, Array, int], Array]] = {
    "normal": lambda random, chance, repeats: random.normal(5.0, 2.0, chance.shape),  # noqa: ARG005
    "right or wrong": lambda random, chance, repeats: random.binomial(repeats, chance) * 10 / repeats,
    "in quarters": lambda random, chance, repeats: random.binomial(4 * repeats, chance) * 2.5 / repeats,
}


def gate(score: Callable[[np.random.Generator, Array, int], Array], full: bool, active: bool) -> tuple[float, float]:
    """Return how often an adapter as good as its rivals is held back, and how often it is called proven."""
    random = np.random.default_rng(3)
    of_domain = 10 if full else 2
    questions, repeats = of_domain * len(DOMAINS), 2 if full else REPEATS
    whole, part = draws(questions, random), draws(of_domain, random)
    held_back = proven = 0
    for _ in range(COMPARISONS // AT_ONCE):
        chance = random.beta(0.5, 0.5, (AT_ONCE, questions))
        new, *rivals = (score(random, chance, repeats) for _ in range(3 if active else 2))
        verdicts, domains, domain_p = [], [], []
        for rival in rivals:
            changes = new - rival
            verdicts.append(sides(changes, whole) * (p_values(changes, whole) < SIGNIFICANT))
            for first in range(0, questions, of_domain):
                changed = changes[:, first : first + of_domain]
                domains.append(sides(changed, part))
                domain_p.append(p_values(changed, part))
        fallen = (np.stack(domains) < 0) & (_holm(np.stack(domain_p)) < SIGNIFICANT)
        held = (np.stack(verdicts) < 0).any(axis=0) | fallen.any(axis=0)
        held_back += held.sum()
        proven += ((verdicts[-1] > 0) & ~held).sum()
    return held_back / COMPARISONS, proven / COMPARISONS


def _holm(values: Array) -> Array:
    """Apply `statistics.holm` to each column."""
    order = values.argsort(axis=0)
    ranked = np.take_along_axis(values, order, axis=0) * np.arange(len(values), 0, -1)[:, None]
    adjusted = np.empty_like(values)
    np.put_along_axis(adjusted, order, np.minimum(1, np.maximum.accumulate(ranked, axis=0)), axis=0)
    return adjusted


def gate_rows() -> list[str]:
    """Return the table rows with the gate's false alarms."""
    rows = []
    for name, score in SCORES.items():
        cells = []
        for full in (False, True):
            for active in (False, True):
                held_back, proven = gate(score, full, active)
                cells.append(f"{100 * held_back:.1f} / {100 * proven:.1f}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
        print(rows[-1], flush=True)
    return rows


def main() -> str:
    """Run the simulation and return a Markdown section.

    Raises:
        AssertionError: Chance alone decides more than 5 % of comparisons, or the simulation disagrees with TMDE.
    """
    same = agreement()
    assert same >= 0.98, f"Only {same:.1%} of the verdicts are those of TMDE."
    chance, most = table(CHANCE)
    assert most <= SIGNIFICANT + MARGIN, f"Chance alone gets a verdict in {most:.1%} of comparisons."
    lopsided, _ = table(LOPSIDED)
    real, _ = table(REAL)
    head = "".join(f" {questions} questions |" for questions in QUESTIONS)
    lines = "---:|" * len(QUESTIONS)

    def section(title: str, rows: Sequence[str]) -> str:
        return f"| {title} |{head}\n|---|{lines}\n" + "\n".join(rows) + "\n\n"

    return (
        f"{COMPARISONS:,} synthetic comparisons for each figure: percentage that gets a verdict, where the interval alone / p alone / "
        f"**both** decide. Chance alone gets one from the deciding rule in at most {100 * most:.1f} %.\n\n"
        + section("Nothing but chance", chance)
        + section("Gains and losses that cancel out", lopsided)
        + section("A real loss", real)
        + "The gate, for an adapter as good as its rivals: percentage held back / called proven.\n\n"
        "| scores | quick, base only | quick, base and active | full, base only | full, base and active |\n"
        "|---|---:|---:|---:|---:|\n" + "\n".join(gate_rows()) + "\n"
    )
