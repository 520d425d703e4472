from __future__ import annotations

from pathlib import Path

import pytest

from tmde_core.resources import read_gpus, read_resources
from tmde_core.sdk.cards import Card, parse_cards

MIB = 1024**2


async def test_a_reading_is_plausible(tmp_path: Path) -> None:
    reading = await read_resources(tmp_path)
    assert reading.cpu.count >= 1
    assert 0 <= reading.cpu.percent <= 100
    assert 0 < reading.ram.used_bytes < reading.ram.total_bytes
    assert reading.disk.total_bytes > 0


def test_cards_are_read_and_unreadable_lines_left_out() -> None:
    text = (
        "NVIDIA H100, 81559, 1024, 37, 0, GPU-1\nNVIDIA A100, 40960, 0, [N/A], 1, GPU-2\n"
        "Odd, [N/A], [N/A], 0, 2, GPU-3\n\nbroken\n"
    )
    assert parse_cards(text) == (
        Card("NVIDIA H100", 81559 * MIB, 1024 * MIB, 37, "0", "GPU-1"),
        Card("NVIDIA A100", 40960 * MIB, 0, None, "1", "GPU-2"),
    )


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 9\n", "#!/bin/sh\necho 'No devices were found'\n", "no program"])
def test_a_driver_that_does_not_answer_is_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(script)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert read_gpus() == ()


def test_a_card_is_read_through_the_drivers_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA T4, 15360, 512, 3, 0, GPU-1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert read_gpus()[0].used_bytes == 512 * MIB
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert read_gpus() == ()
