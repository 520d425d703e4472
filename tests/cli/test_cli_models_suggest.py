"""`tmde models suggest`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core.models.test_suggestions import machine
from tmde_core.models import service
from tmde_core.resources import Resources

Tmde = Callable[..., Any]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Resources], None]:
    """Let the command believe that it runs on another machine."""

    def played(resources: Resources) -> None:
        async def read(_: Path) -> Resources:
            return resources

        monkeypatch.setattr(service, "read_resources", read)
        monkeypatch.setattr(service, "count_cores", lambda: resources.cpu.count)

    return played


def test_the_table_says_what_fits_where_and_what_to_type(tmde: Tmde, play: Callable[[Resources], None]) -> None:
    play(machine(16, [(24, 1)]))
    ran = tmde("models", "suggest")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "model\tlicence\tdownload\tanswering\ttraining"
    assert "Qwen3-8B\tapache-2.0\t5.0 GB\tcard, Q4_K_M, 30+ tokens/s\tcard, 4-bit, 8.3 GB" in lines
    assert any(line.startswith("Llama-3.2-1B-Instruct\tllama3.2 (terms)\t") for line in lines)
    assert lines[-4:] == [
        "To answer: Qwen3-8B. It is the largest without terms to accept that leaves 15% of the card free.",
        "    tmde models pull Qwen/Qwen3-8B-GGUF:Qwen3-8B-Q4_K_M.gguf",
        "To train: Qwen3-8B. It is the largest without terms to accept that answers well and can be trained on the card, in 4 bits.",
        "    tmde models pull Qwen/Qwen3-8B --weights",
    ]
    assert "computed" in ran.err
    assert "Training on the card needs packages that are not here yet: `tmde backends install unsloth`." in ran.err
    assert "(terms): the publisher wants its licence to be accepted" in ran.err


def test_what_does_not_fit_is_counted_and_shown_on_request(tmde: Tmde, play: Callable[[Resources], None]) -> None:
    play(machine(2))
    ran = tmde("models", "suggest")
    assert "Qwen3-8B" not in ran.out
    assert "more do not fit; --all shows them with the reason." in ran.err
    everything = tmde("models", "suggest", "--all")
    assert "Qwen3-8B\tapache-2.0\t5.0 GB\tno\tno" in everything.out
    assert "Qwen3-8B: Does not fit in memory: it needs 7.6 GB, and 2.0 GB are free." in everything.err
    assert "do not fit" not in everything.err


def test_a_machine_on_which_nothing_fits_is_told_so(tmde: Tmde, play: Callable[[Resources], None]) -> None:
    play(machine(0.1))
    ran = tmde("models", "suggest")
    assert ran.code == 0
    assert "None of the known models fits this machine." in ran.err
    assert "To answer: none of these fits; the embedded model that TMDE brings does." in ran.out


def test_programs_get_all_models_as_json(tmde: Tmde, play: Callable[[Resources], None]) -> None:
    play(machine(2))
    found = tmde("models", "suggest", "--json").json
    assert len(found["items"]) >= 10
    assert found["items"][-1]["answering"]["verdict"] == "no"
    assert found["bestForAnswering"]["command"].startswith("tmde models pull ")
    assert found["card"] is None


def test_this_machine_is_read(tmde: Tmde) -> None:
    found = tmde("models", "suggest", "--json").json
    assert found["ramAvailableBytes"] > 0
    assert found["cores"] >= 1
