"""An adapter that answers something in any process is not deleted; a holder that dies holds nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tmde_core.errors import ConflictError, InsufficientStorageError, NotFoundError
from tmde_core.lora.files.lease import acquire_lease, is_leased, lock_for_deletion
from tmde_core.lora.service import LoraService

HOLDER = """
import sys
from pathlib import Path
from tmde_core.lora.files.lease import acquire_lease
lease = acquire_lease(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(services):
    """Another process that answers by an adapter, until it is killed."""
    begun = []

    def hold(identity) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(services.stores.adapters.path(identity))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        begun.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in begun:
        process.kill()
        process.communicate()


async def test_what_another_process_answers_by_is_neither_deleted_nor_pruned_until_that_is_killed(
    services, data_dir, published, holder
):
    identity = published(data_dir)
    process = holder(identity)
    with pytest.raises(ConflictError, match="not ended yet, here or in another process"):
        await services.lora.delete(identity)
    assert await services.lora.prune(0) == []
    assert (await services.lora.get(identity)).is_valid
    process.kill()
    process.wait()
    await services.lora.delete(identity)
    assert not services.stores.adapters.path(identity).exists()


async def test_what_is_just_being_deleted_is_waited_for_and_then_gone(services, data_dir, published):
    identity = published(data_dir)
    await services.lora.activate(identity)
    reference = services.lora.get_active_ref()
    path = services.stores.adapters.path(identity)
    with lock_for_deletion(path):
        assert acquire_lease(path) is None
        await services.lora.deactivate()
        services.stores.adapters.take_away(identity)
    with pytest.raises(NotFoundError):
        await services.lora.acquire_lease(reference)
    pinned, _ = await services.lora.acquire_active()
    assert pinned is None


async def test_what_was_deleted_between_the_look_and_the_lease_is_not_begun_with(
    services, data_dir, published, monkeypatch
):
    gone, there = published(data_dir), published(data_dir)
    await services.lora.activate(gone)
    look, looks = LoraService.get_active_ref, []

    def late(lora: LoraService):
        reference = look(lora)
        if not looks:
            store = services.stores.adapters
            store.point_at(store.read_pointer().__class__(there, gone, store.read_pointer().since))
            store.take_away(gone)
        looks.append(reference)
        return reference

    monkeypatch.setattr(LoraService, "get_active_ref", late)
    pinned, lease = await services.lora.acquire_active()
    with lease:
        assert pinned is not None
        assert pinned.id == str(there)
        assert is_leased(services.stores.adapters.path(there))
    assert not is_leased(services.stores.adapters.path(there))


async def test_without_flock_answers_go_on_and_deletion_says_what_is_lacking(
    services, data_dir, published, monkeypatch
):
    identity = published(data_dir)
    path = services.stores.adapters.path(identity)
    directory = path.stat()
    flock = fcntl.flock

    def lacking(descriptor, operation):
        if os.path.samestat(os.fstat(getattr(descriptor, "fileno", lambda: descriptor)()), directory):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lacking)
    lease = acquire_lease(path)
    assert lease is not None
    lease.release()
    with pytest.raises(ConflictError, match=r"has no locks .* remove .* by hand"):
        await services.lora.delete(identity)
    assert path.is_dir()


def test_a_lease_on_what_is_no_directory_hurts_nobody(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path)
    lease = acquire_lease(tmp_path / "link")
    assert lease is not None
    lease.release()
    lease.release()
    with lock_for_deletion(tmp_path / "link"), lock_for_deletion(tmp_path / "nowhere"):
        pass


async def test_a_file_system_without_locks_is_named_by_the_server_and_by_whoever_switches(
    services, opened, tmp_path, data_dir, published, monkeypatch
):
    identity = published(data_dir)

    def lacking(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", lacking)
    with pytest.raises(InsufficientStorageError, match=r"has no file locks .* on a local disk"):
        await services.lora.activate(identity)
    (tmp_path / "other").mkdir()
    with pytest.raises(InsufficientStorageError, match=r"has no file locks .* on a local disk"):
        async with opened(tmp_path / "other", serving=True):
            pass
