"""What the probe of a backend says of its environment and of the card. The card is a stand-in."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tmde_core.records.base import from_json
from tmde_core.sdk import probing
from tmde_core.sdk.environments import ProbeReport
from tmde_core.sdk.probing import examine_card, examine_packages, find_arithmetic_problem, print_report

REPORT = ProbeReport(python="3.12")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stand in for a card, and for what PyTorch and bitsandbytes compute on it."""

    def put(capability: tuple[int, int], arithmetic: str | None = None, four_bit: str | None = None) -> None:
        properties = SimpleNamespace(name="RTX 3090", total_memory=24)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        monkeypatch.setattr(probing, "find_arithmetic_problem", lambda _: arithmetic)
        monkeypatch.setattr(probing, "find_four_bit_problem", lambda: four_bit)

    return put


def test_versions_are_told_and_what_is_missing_is_a_fatal_lack():
    report = examine_packages("mine", ("msgspec", "no-such-package", "neither"), ("psutil", "no-such-extra"))
    assert set(report.versions) == {"msgspec", "psutil"}
    assert not report.ok
    (lack,) = report.lacks
    assert lack.what == "The environment lacks no-such-package, neither."
    assert lack.remedy == "Install it anew: `tmde backends remove mine`, then `tmde backends install mine`."


def test_without_pytorch_no_card_is_looked_for(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert examine_card(REPORT, "Mine", (7, 0)) == REPORT


def test_a_machine_without_a_card_can_still_train(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    report = examine_card(REPORT, "Mine", (7, 0))
    assert (report.ok, report.device, report.four_bit) == (True, "cpu", False)
    assert report.lacks[0].what.startswith("PyTorch finds no NVIDIA card (it is built ")
    assert report.lacks[1].what == "Base models cannot be held in 4 bits without a card."


def test_a_card_is_described(card):
    card((8, 6))
    report = examine_card(REPORT, "Mine", (7, 0))
    assert (report.device, report.device_name, report.compute_capability) == ("cuda", "RTX 3090", "8.6")
    assert (report.memory_bytes, report.four_bit, report.lacks) == (24, True, ())


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (((6, 1),), "RTX 3090 has compute capability 6.1; Mine needs 7.0 or newer."),
        (((8, 6), "it burns."), "PyTorch cannot compute on RTX 3090: it burns."),
        (((8, 6), None, "no kernel."), "bitsandbytes cannot hold weights in 4 bits: no kernel."),
    ],
)
def test_a_card_that_cannot_train_says_why_and_what_to_do(card, values, told):
    card(*values)
    report = examine_card(REPORT, "Mine", (7, 0))
    (lack,) = report.lacks
    assert lack.what == told
    assert lack.remedy
    assert not report.ok


def test_pytorch_computes_here_and_a_device_that_is_not_there_is_a_problem():
    assert find_arithmetic_problem("cpu") is None
    assert find_arithmetic_problem("nowhere") is not None


def test_the_report_is_a_line_of_its_own(capsys):
    print_report(REPORT)
    before, line, after = capsys.readouterr().out.split("\n")
    assert (before, after) == ("", "")
    assert from_json(line.encode(), ProbeReport) == REPORT
