"""An import gets its served form from a backend's worker, and whatever that worker does is an answer."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.core.lora.archive.archives import packed, peft_files, pieces
from tmde_core.errors import AdapterInvalidError, InsufficientStorageError
from tmde_core.lora.files import forms
from tmde_core.records.benchmark import BenchmarkPlan
from tmde_core.records.training import WorkerCommand
from tmde_core.sdk.training import BackendDescriptor
from tmde_core.services import open_services
from tmde_core.testing.scripted import ScriptedRuntime, scripted_plugins, scripted_settings

WRITES = "import sys, pathlib; pathlib.Path(sys.argv[1], 'adapter.gguf').write_bytes(b'GGUF'); print('{}')"


class Converting:
    """A backend that converts by a script; it trains nothing."""

    def __init__(self, script: str | Exception | None) -> None:
        self.script = script

    def convert(self, adapter_dir: Path, base_model: str) -> WorkerCommand | None:
        if isinstance(self.script, Exception):
            raise self.script
        if self.script is None:
            return None
        return WorkerCommand(argv=(sys.executable, "-c", self.script, str(adapter_dir), base_model))


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
            return SimpleNamespace(adapter=adapter, event=(await services.lora.list_events(1))[0])

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
        ("import os; os.kill(os.getpid(), 9)", "the worker was killed by signal 9 (SIGKILL)"),
        ("print('nonsense')", "cannot be made"),
        ("pass", "cannot be made"),
        ("import time; time.sleep(60)", "took longer than"),
    ],
)
async def test_whatever_goes_wrong_in_the_worker_refuses_the_archive_with_the_reason(
    importing, data_dir, monkeypatch, script, word
):
    monkeypatch.setattr(forms, "CONVERSION_SECONDS", 5.0 if "sleep" not in script else 0.3)
    with pytest.raises(AdapterInvalidError) as error:
        await importing(script)
    assert word in error.value.detail
    assert not list((data_dir / "lora-adapters").glob(".staging-*"))


async def test_a_disk_that_fills_up_while_the_form_is_written_is_named_as_such(importing, data_dir, monkeypatch):
    free = iter((10**9, 0))
    monkeypatch.setattr(forms.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
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


# ----------------------------------------------------------------------- a base model that comes later


@pytest.fixture
def arriving(data_dir: Path, runtime: ScriptedRuntime):
    """Services whose backend knows no base model until `backend.script` is set."""

    @asynccontextmanager
    async def opened():
        backend, plugins = Converting(None), scripted_plugins(runtime)
        plugins.backends.add(BackendDescriptor(name="late", summary="converts", create=lambda _: backend), "tests")
        async with open_services(scripted_settings(data_dir), plugins) as services:
            adapter = await services.archives.import_archive(pieces(packed(peft_files())))
            assert not (Path(adapter.path) / "adapter.gguf").exists()
            yield services, adapter, backend

    return opened


@pytest.mark.parametrize("use", ["activate", "ask", "benchmark", "export"])
async def test_whatever_first_needs_the_form_makes_it_once_the_base_model_has_come(arriving, use):
    async with arriving() as (services, adapter, backend):
        backend.script = WRITES
        if use == "activate":
            await services.lora.activate(adapter.id)
        elif use == "ask":
            await services.ask.ask("Why?", [adapter.id])
        elif use == "benchmark":
            planner = services.benchmark._planner
            await planner._adapter(BenchmarkPlan(adapter_id=adapter.id), await planner._base())
        else:
            export = await services.archives.export(adapter.id, "gguf")
            assert b"".join([piece async for piece in export.chunks]) == b"GGUF"
        assert (Path(adapter.path) / "adapter.gguf").read_bytes() == b"GGUF"
        now = await services.lora.get(adapter.id)
        assert (now.is_valid, now.size_bytes) == (True, adapter.size_bytes + 4)
        assert (await services.lora.verify(adapter.id)).is_valid
        assert list((await services.lora.get_details(adapter.id)).files) == sorted(
            ["adapter.gguf", *(await services.lora.get_details(adapter.id)).files.keys() - {"adapter.gguf"}]
        )
        backend.script = "raise SystemExit('never again')"
        await services.lora.activate(adapter.id)


async def test_a_form_that_cannot_be_made_later_leaves_the_adapter_as_it_is_and_says_why(arriving, data_dir):
    async with arriving() as (services, adapter, backend):
        for script in ('print(\'{"reasons": ["It does not fit."]}\')', "raise SystemExit('It does not fit.')"):
            backend.script = script
            with pytest.raises(AdapterInvalidError, match=r"cannot be served: .*It does not fit\."):
                await services.lora.activate(adapter.id)
            assert "It does not fit." in ((await services.lora.list_events(1))[0].error_message or "")
        backend.script = None
        with pytest.raises(
            AdapterInvalidError, match=r"has no GGUF form, and its base model 'scripted-1', .* is not here"
        ):
            await services.archives.export(adapter.id, "gguf")
        assert (await services.lora.get(adapter.id)) == adapter
        assert not list((data_dir / "lora-adapters").glob(".staging-*"))


async def test_an_end_between_the_file_and_the_manifest_leaves_a_sound_adapter_that_is_completed_the_next_time(
    arriving, monkeypatch
):
    async with arriving() as (services, adapter, backend):
        backend.script = WRITES
        with monkeypatch.context() as broken:
            broken.setattr(services.stores.adapters, "rewrite", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                services.stores.adapters.add_file(
                    adapter.id, _file(Path(adapter.path).with_name("adapter.gguf"), b"half")
                )
        assert (Path(adapter.path) / "adapter.gguf").read_bytes() == b"half"
        assert await services.lora.get(adapter.id) == adapter
        await services.lora.activate(adapter.id)
        assert (Path(adapter.path) / "adapter.gguf").read_bytes() == b"GGUF"


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
