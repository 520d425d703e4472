"""Locks between processes."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tmde_core.errors import InsufficientStorageError
from tmde_core.storage.locks import FileLock, is_locked

HOLDER = """
import sys
from pathlib import Path
from tmde_core.storage.locks import FileLock
with FileLock.acquire(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
WAITS_FOR_THE_END = "import sys; print('begun', flush=True); sys.stdin.read()"


def child(*arguments: object, pass_fds: tuple[int, ...] = (), close_fds: bool = True) -> subprocess.Popen[str]:
    """A Python process that has said its first line, and ends with its input."""
    process = subprocess.Popen(
        [sys.executable, "-c", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
        close_fds=close_fds,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() in ("held", "begun")
    return process


def descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_an_exclusive_lock_has_one_holder(tmp_path: Path):
    path = tmp_path / "lock"
    with FileLock.acquire(path):
        assert is_locked(path)
        assert FileLock.try_acquire(path) is None
        assert FileLock.try_acquire(path, shared=True) is None
    assert path.is_file()
    assert not is_locked(path)
    lock = FileLock.try_acquire(path)
    assert lock is not None
    lock.release()
    lock.release()
    with pytest.raises(ValueError, match="was released"):
        lock.fileno()


def test_shared_locks_stand_beside_each_other_and_keep_the_exclusive_one_out(tmp_path: Path):
    path = tmp_path / "lock"
    with FileLock.acquire(path, shared=True), FileLock.acquire(path, shared=True):
        assert FileLock.try_acquire(path) is None
        assert not is_locked(path)


def test_a_lock_is_free_when_its_holder_is_killed(tmp_path: Path):
    path = tmp_path / "lock"
    with child(HOLDER, path) as holder:
        assert is_locked(path)
        holder.kill()
        with FileLock.acquire(path):  # waits for the end
            pass


def test_a_child_keeps_the_lock_that_it_was_handed(tmp_path: Path):
    path = tmp_path / "lock"
    lock = FileLock.acquire(path)
    with child(WAITS_FOR_THE_END, pass_fds=(lock.fileno(),)) as heir:
        lock.release()
        assert is_locked(path)
        heir.kill()
        with FileLock.acquire(path):
            pass


def test_no_other_child_gets_the_lock(tmp_path: Path):
    path = tmp_path / "lock"
    with FileLock.acquire(path) as lock, child(WAITS_FOR_THE_END, close_fds=False):
        lock.release()
        assert not is_locked(path)


def test_a_directory_is_locked_itself(tmp_path: Path):
    directory = tmp_path / "adapter"
    directory.mkdir()
    lock = FileLock.try_acquire(directory, create=False)
    assert lock is not None
    with lock:
        assert is_locked(directory)
        assert lock.is_current()
        directory.rmdir()
        assert not lock.is_current()
        directory.mkdir()
        assert not lock.is_current()


def test_what_is_missing_or_a_link_is_not_locked_and_not_created(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        FileLock.acquire(tmp_path / "link", create=False)
    with pytest.raises(FileNotFoundError):
        FileLock.try_acquire(tmp_path / "nowhere", create=False)
    assert not is_locked(tmp_path / "link")
    assert not is_locked(tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_named_pipe_keeps_nobody_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    assert not is_locked(tmp_path / "pipe")


def test_the_holder_says_who_it_is(tmp_path: Path):
    path = tmp_path / "lock"
    path.write_text("a longer text of an earlier holder")
    with FileLock.acquire(path) as lock:
        lock.write(b"7")
        assert path.read_text() == "7"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_a_file_system_without_locks_is_named_and_no_descriptor_is_left(tmp_path: Path, monkeypatch, number: int):
    def lacking(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", lacking)
    before = descriptors()
    for attempt in (FileLock.acquire, FileLock.try_acquire, is_locked):
        (tmp_path / "lock").touch()
        with pytest.raises(InsufficientStorageError, match=r"has no file locks .* on a local disk") as caught:
            attempt(tmp_path / "lock")
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.strerror == os.strerror(number)
    assert descriptors() == before
