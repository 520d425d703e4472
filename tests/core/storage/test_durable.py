"""A file that is replaced is whole for whoever reads it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tmde_core.storage.durable import write_atomic


def test_threads_that_replace_one_file_at_the_same_time_leave_it_whole(tmp_path: Path):
    file, contents = (
        tmp_path / "file.json",
        [bytes([letter]) * size for letter, size in zip(b"abcd", (1, 9_000, 70_000, 3), strict=True)],
    )

    def write(number: int) -> None:
        write_atomic(file, contents[number % 4])
        assert file.read_bytes() in contents

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(60)))
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]
