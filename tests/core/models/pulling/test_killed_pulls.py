"""A pull whose process is killed loses nothing, and no half model is ever seen."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.core.models.pulling.conftest import Opening, Place
from tests.core.models.pulling.hub_files import gguf, write
from tmde_core.models.pulling import publishing
from tmde_core.models.pulling.planning import read_notes
from tmde_core.models.pulling.staging import Staging
from tmde_core.records.pulls import PullRequest

GGUF = "Tiny-Q4_K_M.gguf"


def worker_of(here: Place, pull_id: str) -> int:
    return here.service._processes[pull_id].pid


async def test_after_kill_9_the_next_pull_goes_on_by_range_and_the_result_is_whole(opened: Opening) -> None:
    async with opened("drip=50000") as here:
        pull = await here.service.start(PullRequest(repository="acme/Tiny-GGUF"))
        await here.until_bytes_are_here(pull.id, 30_000)
        os.kill(worker_of(here, pull.id), signal.SIGKILL)
        ended = await here.service.wait(pull.id)
        assert ended.state == "interrupted"
        assert not (here.models / "Tiny").exists()
        kept = (here.models / ".pull-Tiny/files" / f"{GGUF}.part").stat().st_size
        assert kept >= 30_000
        here.hub.faults.replace()
        here.hub.bytes_sent.clear()
        assert (await here.pull("acme/Tiny-GGUF")).state == "done"
        original = (here.hub.folder / "acme/Tiny-GGUF" / GGUF).read_bytes()
        assert (here.models / "Tiny" / GGUF).read_bytes() == original
        assert here.hub.served[-1].start == kept
        # The first connection may still have counted a last piece.
        assert len(original) - kept <= here.hub.bytes_sent[GGUF] < len(original)


async def test_files_that_were_whole_are_not_fetched_again(opened: Opening) -> None:
    async with opened("drip=50000") as here:
        pull = await here.service.start(PullRequest(repository="acme/Tiny"))
        await here.until_bytes_are_here(pull.id, 30_000)  # the small files come first
        os.kill(worker_of(here, pull.id), signal.SIGKILL)
        await here.service.wait(pull.id)
        here.hub.faults.replace()
        here.hub.bytes_sent.clear()
        assert (await here.pull("acme/Tiny")).state == "done"
        assert set(here.hub.bytes_sent) == {"model.safetensors"}


async def test_bytes_that_were_damaged_meanwhile_are_noticed_and_fetched_again(opened: Opening) -> None:
    async with opened("drip=50000") as here:
        pull = await here.service.start(PullRequest(repository="acme/Tiny-GGUF"))
        await here.until_bytes_are_here(pull.id, 30_000)
        os.kill(worker_of(here, pull.id), signal.SIGKILL)
        await here.service.wait(pull.id)
        with (here.models / ".pull-Tiny/files" / f"{GGUF}.part").open("r+b") as part:
            part.write(bytes(1000))
        here.hub.faults.replace()
        assert (await here.pull("acme/Tiny-GGUF")).state == "done"
        original = (here.hub.folder / "acme/Tiny-GGUF" / GGUF).read_bytes()
        assert (here.models / "Tiny" / GGUF).read_bytes() == original


async def test_bytes_of_an_older_revision_are_not_continued(opened: Opening) -> None:
    async with opened("drip=50000") as here:
        pull = await here.service.start(PullRequest(repository="acme/Tiny-GGUF"))
        await here.until_bytes_are_here(pull.id, 30_000)
        await here.service.cancel(pull.id)
        newer = write(here.hub.folder / "acme/Tiny-GGUF@v2", {GGUF: gguf(seed=42)})
        here.hub.faults.replace()
        assert (await here.pull("acme/Tiny-GGUF", revision="v2")).state == "done"
        assert here.hub.served[-1].start == 0
        assert (here.models / "Tiny" / GGUF).read_bytes() == (newer / GGUF).read_bytes()


async def test_a_worker_ends_with_the_process_that_started_it(opened: Opening) -> None:
    async with opened("drip=20000") as here:
        pull = await here.service.start(PullRequest(repository="acme/Tiny-GGUF"))
        await here.until_bytes_are_here(pull.id)
        worker = psutil.Process(worker_of(here, pull.id))
        pipe = here.service._processes[pull.id].stdin
        assert pipe is not None
        pipe.close()  # as the kernel does when the process ends
        assert (await here.service.wait(pull.id)).state == "interrupted"
        worker.wait(10)


async def test_a_weights_folder_is_replaced_whole_or_not_at_all(
    opened: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as here:
        plan = await here.service.plan(PullRequest(repository="acme/Tiny"))
        await here.pull("acme/Tiny")
        staging = Staging(here.models, "Tiny")
        (staging.files / "weights").mkdir(parents=True)
        for file in plan.files:
            staging.whole(file).write_bytes((here.models / "Tiny" / file.target).read_bytes())
        rename = Path.rename

        def fail(path: Path, target: Path) -> Path:
            if path == staging.files / "weights":
                raise OSError(5, "Input/output error")
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="Input/output error"):
            publishing.publish(staging, plan, {})
        assert len(here.files("Tiny/weights")) == len(plan.files)


async def test_a_folder_whose_notes_are_broken_is_no_obstacle(opened: Opening) -> None:
    async with opened() as here:
        folder = here.models / ".pull-Tiny"
        folder.mkdir(parents=True)
        (folder / "job.json").write_text("{broken")
        (folder / "files").mkdir()
        (folder / "files/old.part").write_bytes(bytes(10))
        (left,) = await here.service.find_partial_pulls()
        assert (left.name, left.bytes_done) == ("Tiny", 10)
        assert (await here.pull("acme/Tiny-GGUF")).state == "done"
        assert read_notes(here.models / "Tiny") is not None


async def test_a_link_in_the_place_of_the_staging_folder_is_not_followed(opened: Opening, tmp_path: Path) -> None:
    async with opened() as here:
        here.models.mkdir(parents=True)
        (tmp_path / "elsewhere/files").mkdir(parents=True)
        (here.models / ".pull-Tiny").symlink_to(tmp_path / "elsewhere")
        assert await here.service.find_partial_pulls() == []
        assert await here.service.list() == []
