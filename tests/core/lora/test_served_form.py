"""An import gets its served form from a backend's worker, and whatever that worker does is an answer."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.core.lora.archives import packed, peft_files, pieces
from tmde_core.errors import AdapterInvalidError, InsufficientStorageError
from tmde_core.lora import archive
from tmde_core.ports import BackendDescriptor, WorkerCommand
from tmde_core.services import open_services
from tmde_core.testing.scripted import ScriptedRuntime, scripted_plugins, scripted_settings

WRITES = "import sys, pathlib; pathlib.Path(sys.argv[1], 'adapter.gguf').write_bytes(b'GGUF'); print('{}')"


class Converting:
    """A backend that converts by a script; it trains nothing."""

    def __init__(self, script: str | Exception | None) -> None:
        self._script = script

    def convert(self, adapter_dir: Path, base_model: str) -> WorkerCommand | None:
        if isinstance(self._script, Exception):
            raise self._script
        if self._script is None:
            return None
        return WorkerCommand(argv=(sys.executable, "-c", self._script, str(adapter_dir), base_model))


@pytest.fixture
def importing(data_dir: Path):
    """Import a sound archive where these backends are."""

    async def run(*scripts: str | Exception | None):
        plugins = scripted_plugins(ScriptedRuntime())
        for number, script in enumerate(scripts):
            made = Converting(script)
            descriptor = BackendDescriptor(name=f"b{number}", summary="converts", create=lambda _, made=made: made)
            plugins.backends.add(descriptor, "tests")
        async with open_services(scripted_settings(data_dir), plugins) as services:
            adapter = await services.archives.import_archive(pieces(packed(peft_files())))
            return SimpleNamespace(adapter=adapter, event=(await services.lora.events(1))[0])

    return run


async def test_the_form_that_a_worker_writes_is_part_of_the_adapter(importing):
    found = await importing(WRITES)
    manifest = (Path(found.adapter.path) / "manifest.json").read_text()
    assert "adapter.gguf" in manifest
    assert found.event.note == "from an archive of another tool"


async def test_the_first_backend_that_knows_the_base_model_is_asked_and_a_broken_one_is_passed_over(importing):
    found = await importing(RuntimeError("broken"), None, WRITES, "raise SystemExit('never')")
    assert (Path(found.adapter.path) / "adapter.gguf").read_bytes() == b"GGUF"


async def test_without_a_form_the_adapter_is_kept_and_the_trail_says_why(importing):
    found = await importing('print(\'{"note": "There is no such form."}\')')
    assert not (Path(found.adapter.path) / "adapter.gguf").exists()
    assert found.event.note == "from an archive of another tool; without GGUF form: There is no such form."
    assert "its base model 'scripted-1' is not here" in (await importing(None)).event.note


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ('print(\'{"reasons": ["It does not fit.", "Nor does this."]}\')', "It does not fit. Nor does this."),
        ("raise SystemExit('Out of luck.')", "Its served form cannot be made: Out of luck."),
        ("import os; os.kill(os.getpid(), 9)", "the worker ended with -9"),
        ("print('nonsense')", "cannot be made"),
        ("pass", "cannot be made"),
        ("import time; time.sleep(60)", "took longer than"),
    ],
)
async def test_whatever_goes_wrong_in_the_worker_refuses_the_archive_with_the_reason(
    importing, data_dir, monkeypatch, script, word
):
    monkeypatch.setattr(archive, "CONVERSION_SECONDS", 5.0 if "sleep" not in script else 0.3)
    with pytest.raises(AdapterInvalidError) as error:
        await importing(script)
    assert word in error.value.detail
    assert not list((data_dir / "lora-adapters").glob(".staging-*"))


async def test_a_disk_that_fills_up_while_the_form_is_written_is_named_as_such(importing, data_dir, monkeypatch):
    free = iter((10**9, 0))
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    with pytest.raises(InsufficientStorageError, match="almost full"):
        await importing("raise SystemExit('OSError: [Errno 28] No space left on device')")
    assert not list((data_dir / "lora-adapters").glob(".staging-*"))


async def test_a_cancelled_import_ends_the_worker(importing, data_dir):
    pid = data_dir / "pid"
    script = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)"
    task = asyncio.create_task(importing(script))
    while not pid.exists() or not pid.read_text():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert not list((data_dir / "lora-adapters").glob(".staging-*"))
