"""Draw the differences between two adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tmde_core.benchmark.results.report import chance_words
from tmde_core.records.benchmark import PairedComparison, RunComparison
from tmde_core.records.lora import AdapterComparison, FieldDifference
from tmde_ui.kit.elements import Tag, chip, link
from tmde_ui.kit.names import full_name
from tmde_ui.kit.words import count
from tmde_ui.versions.lineage import Named, draw_named
from tmde_ui.versions.words import METRICS, format_value, hyperparameter, number

OUTCOMES = {
    "better": ("B is better", "good"),
    "worse": ("B is worse", "critical"),
    "inconclusive": ("not distinguishable", ""),
}


def draw(found: AdapterComparison, added: Named, removed: Named) -> None:
    """Draw the whole comparison.

    Args:
        found: the comparison.
        added: the first of the traces that only B was trained on.
        removed: the first of the traces that only A was trained on.
    """
    _table("Metrics", found, found.metrics, METRICS.get, "metrics")
    _table("Configuration", found, found.config, hyperparameter, "configuration")
    _data(found, added, removed)
    _benchmark(found.benchmark)


def _table(
    title: str,
    found: AdapterComparison,
    fields: Sequence[FieldDifference],
    named: Callable[[str], str | None],
    test: str,
) -> None:
    with Tag("div", classes="stack tight", data_testid=f"compare-{test}"):
        Tag("h3", title)
        if not fields:
            same = "Both have the same configuration." if test == "configuration" else "Neither has metrics."
            Tag("p", same, "muted small")
            return
        with (
            Tag("div", classes="scroll", tabindex="0", role="region", aria_label=title),
            Tag("table", classes="differences"),
        ):
            with Tag("thead"), Tag("tr"):
                for heading in ("", f"A: {full_name(found.a.id)}", f"B: {full_name(found.b.id)}", "B − A"):
                    Tag("th", heading, scope="col")
            with Tag("tbody"):
                for field in fields:
                    with Tag("tr"):
                        Tag("th", named(field.name) or field.name, scope="row")
                        Tag("td", format_value(field.a))
                        Tag("td", format_value(field.b))
                        Tag("td", _change(field.a, field.b))


def _change(a: object, b: object) -> str:
    before, after = number(a), number(b)
    if before is None or after is None:
        return ""
    difference = after - before
    return "0" if not difference else f"{'+' if difference > 0 else '−'}{format_value(abs(difference))}"


def _data(found: AdapterComparison, added: Named, removed: Named) -> None:
    with Tag("div", classes="stack tight", data_testid="compare-data"):
        Tag("h3", "Data")
        if found.same_dataset:
            Tag("p", "Both were trained on the same dataset.")
        words = (
            f"{count(found.traces_shared, 'trace')} in both, {len(found.traces_added):,} only in B, "
            f"{len(found.traces_removed):,} only in A."
        )
        known = found.traces_shared or found.traces_added or found.traces_removed
        Tag("p", words if known else "Neither lists the traces that it was trained on.", "small")
        for title, named, total in (
            ("Only in B", added, len(found.traces_added)),
            ("Only in A", removed, len(found.traces_removed)),
        ):
            if named:
                with Tag("details"):
                    Tag("summary", f"{title} ({total:,})")
                    draw_named(named, total)


def _benchmark(found: object) -> None:
    with Tag("div", classes="stack tight", data_testid="compare-benchmark"):
        Tag("h3", "Benchmark")
        if not isinstance(found, RunComparison):
            with Tag("p", classes="small"):
                Tag("span", "No benchmark has asked both the same questions in the same way. ")
                link("Run a benchmark for each of them", "/benchmark")
            return
        if not found.comparable:
            Tag("p", f"Their runs cannot be compared: {', '.join(found.differs)}.", "small")
            return
        with Tag("div", classes="line"):
            chip(*OUTCOMES.get(found.quality.outcome, (found.quality.outcome, "")))
            Tag("span", _quality(found.quality))
        if found.domains:
            with Tag("ul", classes="lineage"):
                for domain in found.domains:
                    Tag("li", f"{domain.domain}: {_quality(domain.quality)}")


def _quality(one: PairedComparison) -> str:
    """Return `quality 6.2 → 7.1, +0.9 (95 %: −0.2 to +2.0, p 0.13) over 10 questions`."""
    if one.a is None or one.b is None or one.difference is None:
        return f"not measured in both, {count(one.n, 'question')}"
    words = f"quality {one.a:.1f} → {one.b:.1f}, {one.difference:+.1f}"
    if one.low is not None and one.high is not None:
        words += f" (95 %: {one.low:+.1f} to {one.high:+.1f}{chance_words(one)})"
    return f"{words} over {count(one.n, 'question')}".replace("-", "−")
