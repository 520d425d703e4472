"""The embedded runtime's parts that need no model: settings, the gate, the GGUF header, the log."""

import asyncio
import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.errors import InvalidInputError, NotFoundError
from tmde_core.sdk.gguf_header import read_header
from tmde_core.testing import make_context
from tmde_cpu.serving import server_log
from tmde_cpu.serving.catalog import Catalog
from tmde_cpu.serving.gate import SlotQueue
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_cpu.serving.runtime import EmbeddedRuntime, availability
from tmde_cpu.serving.server_log import LastLines, ServerLog


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"slots": 0}, "slots: must be a whole number of at least 1"),
        ({"contxt": 1}, "contxt: there is no such setting"),
        ({"models": "one.gguf"}, "models: must be a list"),
    ],
)
def test_a_wrong_setting_is_named(table: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"runtimes\.embedded\.{told}"):
        make_context(EmbeddedSettings, table="runtimes.embedded", **table)


async def holder(gate: SlotQueue, background: bool, order: list[str], name: str, leave: asyncio.Event) -> None:
    async with gate.permit(background):
        order.append(name)
        await leave.wait()


async def until_idle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_gate_lets_foreground_in_first_and_keeps_a_slot_for_it() -> None:
    gate, order, leave = SlotQueue(2), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(holder(gate, True, order, f"back-{n}", leave)) for n in range(3)]
    await until_idle()
    assert order == ["back-0"]  # the last slot is kept
    tasks += [asyncio.create_task(holder(gate, False, order, f"fore-{n}", leave)) for n in range(3)]
    await until_idle()
    assert order == ["back-0", "fore-0"]
    leave.set()
    await asyncio.gather(*tasks)
    assert order == ["back-0", "fore-0", "fore-1", "fore-2", "back-1", "back-2"]


async def test_a_cancelled_wait_loses_no_slot() -> None:
    gate, order, leave = SlotQueue(1), list[str](), asyncio.Event()
    first = asyncio.create_task(holder(gate, False, order, "first", leave))
    await until_idle()
    waiting = [asyncio.create_task(holder(gate, False, order, f"waiting-{n}", leave)) for n in range(2)]
    await until_idle()
    leave.set()
    await asyncio.sleep(0)  # first leaves, waiting-0's turn comes, and in this moment it is cancelled
    waiting[0].cancel()
    await asyncio.gather(first, *waiting, return_exceptions=True)
    async with asyncio.timeout(5), gate.permit(True):
        pass
    assert "waiting-1" in order


@given(st.binary(max_size=400))
def test_no_bytes_crash_the_header_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("gguf") / "x.gguf"
    file.write_bytes(b"GGUF\x03\x00\x00\x00" + content)
    with contextlib.suppress(InvalidInputError):  # any other exception is the defect
        read_header(file)
    file.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"x\.gguf"):
        read_header(file)


def test_the_embedded_models_header_is_read(embedded_model: Path) -> None:
    header = read_header(embedded_model)
    assert (header.kind, header.architecture, header.context_length) == ("model", "llama", 8192)
    assert header.chat_template


def test_only_listed_models_can_be_named(tmp_path: Path, embedded_model: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "here.gguf").symlink_to(embedded_model)
    (models / ".staged.gguf").symlink_to(embedded_model)
    catalog = Catalog(models, EmbeddedSettings(models=(str(embedded_model),), context=100_000))
    assert catalog.context(catalog.find("here.gguf")) == 8192
    assert catalog.find(embedded_model.name).path == embedded_model
    for name in (".staged.gguf", str(models / "here.gguf"), "../models/here.gguf"):
        with pytest.raises(NotFoundError, match="there are: SmolLM2"):
            catalog.find(name)


async def test_status_and_models_start_nothing(tmp_path: Path) -> None:
    runtime = EmbeddedRuntime(make_context(EmbeddedSettings, str(tmp_path)))
    assert (await runtime.status()).state == "stopped"
    models = await runtime.models()
    assert [(model.default, model.loaded) for model in models] == [(True, False)]
    assert "Run ./run setup" in availability(make_context(EmbeddedSettings, str(tmp_path))).reason
    await runtime.stop()


def test_the_log_is_rotated_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_log, "MAX_BYTES", 100)
    log = ServerLog(tmp_path / "logs" / "embedded.log")
    for number in range(30):
        log.write(f"line {number}\n".encode())
    files = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert files == ["embedded.log", "embedded.log.1"]
    assert "line 29" in (tmp_path / "logs" / "embedded.log").read_text()


def test_the_telling_line_is_an_error_if_there_is_one() -> None:
    lines = LastLines()
    for line in (
        b"0.00.001.002 I srv  init: fine",
        b"0.00.001.003 E gguf  open: no magic",
        b"0.00.001.004 E srv  init: failed",
    ):
        lines.add(line)
    lines.add(b"0.00.001.005 I srv  end: bye")
    assert lines.first_error() == "gguf open: no magic"
    assert lines.telling() == "srv init: failed"
