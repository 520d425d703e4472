"""`tmde finetune preview` and `tmde traces lineage`."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.core.finetune.conftest import stand_in_plugins
from tests.core.finetune.preview.looking import Looking, looking_plugins
from tmde_core.finetune.preview.service import PreviewService
from tmde_core.plugins import Plugins

OWN = ("--backend", "looking", "--set", "minTraces=5")


@pytest.fixture
def cli(tmde, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`tmde …` in this process, with twelve good traces, one poor one, and one that nearly equals a benchmark question."""
    load = Plugins.load
    monkeypatch.setattr(Plugins, "load", lambda: looking_plugins(stand_in_plugins(load())))
    asked = [f"What is {n} plus {n}?" for n in range(12)] + ["Poor?", "Now then, why is the sea salt?"]
    lines = tmp_path / "traces.jsonl"
    lines.write_text(
        "".join(
            json.dumps({"query": query, "finalAnswer": f"Well, {query}", "qualityScore": 2 if query == "Poor?" else 9}) + "\n"
            for query in asked
        )
    )  # fmt: skip
    assert tmde("traces", "import", lines).code == 0
    return tmde


def test_a_preview_tells_a_person_what_would_be_learned_and_what_not(cli) -> None:
    ran = cli("finetune", "preview", *OWN)
    assert ran.code == 0, ran.err
    said = " ".join(ran.out.split())
    for words in (
        "would begin yes", "examples 12 (5 needed)", "left out 1 leak, 1 low-score", "longest 40 tokens", "takes about 12.5 s",
        "tokens 90 of 400 are learned from", "to train on 10", "to validate on 2",
        "It nearly equals the benchmark question suite/seas", "low-score: Its score is 2; 8 is the least.", "Q⟦A⟧",
    ):  # fmt: skip
        assert words in said, said
    assert cli("finetune", "list", "--json").json["total"] == 0


def test_the_same_as_json_with_every_field(cli) -> None:
    found = cli("finetune", "preview", *OWN, "--set", "epochs=1", "--json").json
    assert (found["config"]["epochs"], found["examples"], found["leftOutByReason"]) == (
        1,
        12,
        {"leak": 1, "low-score": 1},
    )


def test_what_start_would_be_refused_for_is_told_and_no_failure(cli) -> None:
    ran = cli("finetune", "preview", "--backend", "looking")
    assert ran.code == 0
    assert "no: Training needs 50 different questions" in " ".join(ran.out.split())


def test_whether_it_fits_and_what_is_only_computed_is_told(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    told = (
        '{"calibrated": false, "basis": "No run was measured.", "estimate": {"ramBytes": 9000000000000, "seconds": 9}}'
    )
    monkeypatch.setattr(Looking, "told", told)
    said = " ".join(cli("finetune", "preview", *OWN).out.split())
    for words in (
        "takes about 9.0 s (computed)",
        "Does not fit: it needs about 9000.0 GB",
        "No run was measured.",
        "Lower maxSeqLength",
    ):
        assert words in said, said
    (fit,) = cli("finetune", "preview", *OWN, "--json").json["fits"]
    assert (fit["place"], fit["verdict"], fit["neededBytes"]) == ("ram", "too-large", 9_000_000_000_000)


def test_text_of_traces_cannot_command_the_terminal(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Looking, "told", '{"fail": "\\u001b[2J[bold]gone[/bold]"}')
    ran = cli("finetune", "preview", *OWN)
    assert "\x1b" not in ran.out
    assert "[bold]gone[/bold]" in ran.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "loraRank=3"), "loraRank: 3 is out of range; it must be from 4 to 128."),
        (("--set", "nonsense=3"), "nonsense: there is no such hyperparameter"),
        (("--backend", "nowhere"), "nowhere"),
        (("--backend", "cpu", "--set", "baseModel=/no/such"), "/no/such"),
    ],
)
def test_what_cannot_be_looked_at_is_one_sentence(cli, arguments, words) -> None:
    ran = cli("finetune", "preview", *arguments)
    assert ran.code != 0
    assert words in " ".join(ran.err.split())


def test_the_lineage_of_a_trace_names_runs_and_adapters(cli) -> None:
    trace = cli("traces", "list", "--q", "plus", "--json").json["items"][0]["id"]
    assert "Nothing has learned from this trace." in cli("traces", "lineage", trace).err
    assert (
        cli(
            "finetune", "start", "--backend", "stand-in", "--set", "baseModel=quick", "--set", "minTraces=5", "--watch"
        ).code
        == 0
    )
    found = cli("traces", "lineage", trace, "--json").json
    assert len(found["runs"]) == 1
    assert found == {"traceId": trace, "runs": found["runs"], "adapters": found["runs"]}
    rows = [line.split() for line in cli("traces", "lineage", trace).out.splitlines()]
    assert [kind for kind, *_ in rows if kind in ("run", "adapter")] == ["run", "adapter"]
    assert cli("traces", "lineage", "nonsense").code == 1


def test_a_preview_says_what_it_waits_for(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = ["Waiting for the packages of training: 3 of 9.", "Waiting for the packages of training: 4 of 9."]

    async def packages(_self: object, _backend: str) -> AsyncGenerator[str]:
        for note in notes:
            yield note

    monkeypatch.setattr(PreviewService, "_packages", packages)
    ran = cli("finetune", "preview", *OWN)
    assert ran.code == 0, ran.err
    said = " ".join(ran.err.split())
    assert "Waiting for the packages of training: 3 of 9. The preview goes on after that." in said
    assert "4 of 9" not in said, "it is said once"
    assert "Waiting" not in cli("finetune", "preview", *OWN, "--json").err
