"""A run on a machine with several cards uses the freest one that it may use, and the estimate means the same card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tmde_core.finetune.preview.fit import Memory, Wanted, describe_fits
from tmde_core.records.base import from_json
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.resources import read_usable_gpus
from tmde_core.sdk.cards import CardSettings, card_variables, choose_card, find_card, parse_cards, usable_cards
from tmde_core.sdk.environments import Environment, EnvironmentSpec, ProbeReport
from tmde_core.sdk.training import ResourceEstimate, TrainingJob
from tmde_core.testing import times_tables, write_job

GIB = 1024**3
RTX = "NVIDIA GeForce RTX 3090"
THREE = f"{RTX}, 24576, 9000, 3, 0, GPU-aa11\n{RTX}, 24576, 1000, 3, 1, GPU-bb22\nNVIDIA T4, 15360, 0, 0, 2, GPU-cc33\n"
ALIKE = "\n".join(f"{RTX}, 24576, {used}, 3, {index}, GPU-{index}" for index, used in enumerate((9000, 500, 1000)))


@pytest.fixture
def put_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stand in for `nvidia-smi`."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)

    def put(listed: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "listed").write_text(listed)
        tool = folder / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\ncat '{folder / 'listed'}'\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return put


def environment(data_dir: Path, **report: Any) -> Environment:
    spec = EnvironmentSpec(package="mine", probe="mine.probe", builds=())
    made = Environment(data_dir, "mine", spec, python="/env/bin/python")
    values = {"device": "cuda", "device_name": RTX, "memory_bytes": 24 * GIB, **report}
    made.keep_report(ProbeReport(python="3.12", **values))
    return made


def test_the_freest_card_of_the_name_that_was_examined_is_chosen(tmp_path, put_cards):
    put_cards(THREE)
    card = find_card(environment(tmp_path))
    assert card is not None
    assert (card.name, card.index, card.total_bytes) == (RTX, "1", 24576 * 1024**2)
    assert card_variables(card) == {"CUDA_VISIBLE_DEVICES": "GPU-bb22"}


@pytest.mark.parametrize(
    ("own", "chosen"),
    [("0", "0"), ("0,2", "2"), ("1,0", "1"), ("GPU-0,GPU-2", "GPU-2"), ("2,9,1", "2"), (" 0 , 1 ", "1")],
)
def test_a_person_says_which_cards_may_be_used_and_the_freest_of_them_is_chosen(
    tmp_path, put_cards, monkeypatch, own, chosen
):
    put_cards(ALIKE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", own)
    assert card_variables(find_card(environment(tmp_path))) == {"CUDA_VISIBLE_DEVICES": chosen}


@pytest.mark.parametrize("own", ["1,0", "MIG-1234", "-1", "", "NoDevFiles"])
def test_what_a_person_wrote_stays_where_its_meaning_is_not_known_or_no_card_is_left(
    tmp_path, put_cards, monkeypatch, own
):
    put_cards(THREE)  # CUDA numbers unlike cards by their speed
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", own)
    assert card_variables(find_card(environment(tmp_path))) == {}


def test_numbers_of_unlike_cards_have_a_meaning_where_the_order_is_that_of_the_bus(tmp_path, put_cards, monkeypatch):
    put_cards(THREE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert card_variables(find_card(environment(tmp_path))) == {"CUDA_VISIBLE_DEVICES": "0"}


def test_where_nvidia_smi_does_not_know_the_card_cuda_chooses(tmp_path, put_cards):
    put_cards("NVIDIA T4, 15360, 0, 0, 0, GPU-cc33\n")
    card = find_card(environment(tmp_path))
    assert card is not None
    assert (card.name, card.total_bytes, card_variables(card)) == (RTX, 24 * GIB, {})
    put_cards("NVIDIA-SMI has failed\n")
    assert card_variables(find_card(environment(tmp_path))) == {}


def test_without_a_card_none_is_chosen(tmp_path, put_cards):
    put_cards(THREE)
    assert find_card(environment(tmp_path, device="cpu")) is None
    assert card_variables(None) == {}
    assert choose_card(()) is None


@pytest.mark.parametrize("own", [None, "0", "0,2"])
@pytest.mark.parametrize("plugin", ["unsloth", "axolotl"])
def test_the_worker_the_preview_and_the_estimate_mean_the_same_card(
    tmp_path, put_cards, monkeypatch, tiny_model, plugin, own
):
    from tests.tmde_axolotl.support import CARD
    from tests.tmde_axolotl.support import make_backend as axolotl
    from tests.tmde_unsloth.support import make_backend as unsloth

    put_cards(ALIKE)
    if own is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", own)
    backend: Any = {"unsloth": unsloth, "axolotl": axolotl}[plugin](tmp_path, "/env/bin/python", CARD)
    config = FineTuneConfig(base_model=str(tiny_model), backend=plugin)
    job = from_json(write_job(tmp_path, times_tables(range(2, 4)), [], config).read_bytes(), TrainingJob)
    used = {None: "GPU-1", "0": "0", "0,2": "2"}[own]
    assert backend.plan(job).env["CUDA_VISIBLE_DEVICES"] == used
    assert backend.preview(job).env["CUDA_VISIBLE_DEVICES"] == used
    estimate = backend.estimate(job)
    assert estimate.device == RTX
    (fit,) = describe_fits(Wanted(config, estimate), Memory(0, 0, read_usable_gpus()))
    free = {None: 24576 - 500, "0": 24576 - 9000, "0,2": 24576 - 1000}[own]
    assert fit.free_bytes == free * 1024**2


def test_the_cards_that_a_person_hides_do_not_count_as_free(tmp_path, put_cards, monkeypatch):
    put_cards(ALIKE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    estimate = ResourceEstimate(vram_bytes=20 * 10**9, device=RTX)
    (fit,) = describe_fits(Wanted(FineTuneConfig(), estimate), Memory(0, 0, read_usable_gpus()))
    assert fit.verdict == "too-large"


def test_the_beginning_of_a_uuid_names_a_card():
    cards = parse_cards(THREE)
    (one,) = usable_cards(cards, {"CUDA_VISIBLE_DEVICES": "GPU-bb"})
    assert (one.index, one.visible_as) == ("1", "GPU-bb")
    assert usable_cards(cards, {"CUDA_VISIBLE_DEVICES": "GPU-zz,GPU-aa11"}) == ()


def test_a_backend_that_trains_on_a_card_shares_its_settings():
    assert not CardSettings().allow_cpu
