from __future__ import annotations

from pathlib import Path

import pytest

from tmde_core.resources import Gpu, parse_gpus, read_gpus, read_resources

MIB = 1024**2


async def test_a_reading_is_plausible(tmp_path: Path) -> None:
    reading = await read_resources(tmp_path)
    assert reading.cpu.count >= 1
    assert 0 <= reading.cpu.percent <= 100
    assert 0 < reading.ram.used_bytes < reading.ram.total_bytes
    assert reading.disk.total_bytes > 0


def test_cards_are_read_and_unreadable_lines_left_out() -> None:
    text = "NVIDIA H100, 81559, 1024, 37\nNVIDIA A100, 40960, 0, [N/A]\nOdd, [N/A], [N/A], 0\n\nbroken\n"
    assert parse_gpus(text) == (
        Gpu(name="NVIDIA H100", total_bytes=81559 * MIB, used_bytes=1024 * MIB, utilization_percent=37),
        Gpu(name="NVIDIA A100", total_bytes=40960 * MIB, used_bytes=0),
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
    tool.write_text("#!/bin/sh\necho 'NVIDIA T4, 15360, 512, 3'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert read_gpus()[0].used_bytes == 512 * MIB
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert read_gpus() == ()
