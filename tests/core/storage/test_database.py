"""The database: one writer, many readers, and nothing acknowledged is ever lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tmde_core.errors import InsufficientStorageError, InvalidInputError
from tmde_core.storage import database as database_module
from tmde_core.storage.database import SCHEMA_DIR, Database, _statements

NOBODY = 65_534


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.open(tmp_path / "tmde.db") as opened:
        await opened.write("CREATE TABLE marks (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE)")
        yield opened


async def count(database: Database) -> int:
    return int(await database.value("SELECT count(*) FROM marks"))


async def add(database: Database, text: str) -> None:
    await database.write("INSERT INTO marks (text) VALUES (?)", (text,))


async def test_a_hundred_writers_and_readers_at_once_get_what_was_committed(database: Database):
    seen: list[int] = []

    async def read() -> None:
        seen.append(await count(database))

    await asyncio.gather(*(add(database, str(number)) for number in range(100)), *(read() for _ in range(100)))
    assert await count(database) == 100
    assert all(0 <= number <= 100 for number in seen)


async def test_a_reader_does_not_see_an_unfinished_transaction(database: Database):
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO marks (text) VALUES ('half')")
        assert await count(database) == 0
    assert await count(database) == 1


async def test_an_exception_undoes_all_of_the_block(database: Database):
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO marks (text) VALUES ('a')")
            raise ZeroDivisionError
    await add(database, "b")
    assert [row["text"] for row in await database.rows("SELECT text FROM marks")] == ["b"]


async def test_a_broken_rule_of_the_schema_undoes_the_block_and_stays_what_it_is(database: Database):
    await add(database, "same")
    with pytest.raises(sqlite3.IntegrityError):
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO marks (text) VALUES ('other')")
            await connection.execute("INSERT INTO marks (text) VALUES ('same')")
    assert await count(database) == 1


async def test_a_commit_that_fails_leaves_no_transaction_open_for_the_next_writer(database: Database):
    await database.write("CREATE TABLE child (mark INTEGER REFERENCES marks (id) DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError):  # a deferred rule is checked at the commit
        await database.write("INSERT INTO child (mark) VALUES (999)")
    await add(database, "next")
    assert (await count(database), await database.value("SELECT count(*) FROM child")) == (1, 0)


async def test_a_cancelled_block_is_undone(database: Database):
    inside = asyncio.Event()

    async def never_ends() -> None:
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO marks (text) VALUES ('half')")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(never_ends())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await add(database, "whole")
    assert await count(database) == 1


async def test_cancelled_at_any_moment_a_write_happens_wholly_or_not_and_the_next_one_works(database: Database):
    async def pair(number: int) -> None:
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO marks (text) VALUES (?)", (f"{number}a",))
            await connection.execute("INSERT INTO marks (text) VALUES (?)", (f"{number}b",))

    for number in range(60):
        task = asyncio.create_task(pair(number))
        for _ in range(number):  # from before BEGIN to after the commit
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert await count(database) % 2 == 0
    await pair(1_000)
    rows = {row["text"] for row in await database.rows("SELECT text FROM marks")}
    assert {"1000a", "1000b"} <= rows
    assert {text[:-1] for text in rows if text.endswith("a")} == {text[:-1] for text in rows if text.endswith("b")}


async def test_a_cancelled_reader_is_given_back(database: Database):
    for _ in range(20):
        task = asyncio.create_task(count(database))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert await asyncio.gather(*(count(database) for _ in range(10))) == [0] * 10


async def test_readers_cannot_write(database: Database):
    with pytest.raises(InsufficientStorageError):
        await database.rows("INSERT INTO marks (text) VALUES ('x') RETURNING id")


async def test_a_transaction_inside_a_transaction_is_a_named_mistake_and_no_deadlock(database: Database):
    async with database.transaction():
        with pytest.raises(RuntimeError, match="inside a transaction"):
            await database.write("DELETE FROM marks")


async def test_a_full_disk_is_named_and_what_was_saved_stays(database: Database):
    await add(database, "saved")
    pages = await database.value("PRAGMA page_count")
    await database._writer.execute(f"PRAGMA max_page_count = {pages + 5}")
    with pytest.raises(InsufficientStorageError, match="full"):
        await add(database, "x" * 1_000_000)
    await database._writer.execute("PRAGMA max_page_count = 1000000")
    await add(database, "afterwards")
    assert {row["text"] for row in await database.rows("SELECT text FROM marks")} == {"saved", "afterwards"}


async def test_a_column_called_full_is_no_full_disk(database: Database):
    with pytest.raises(sqlite3.OperationalError, match="full"):
        await database.rows("SELECT full FROM marks")


async def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "tmde.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 9999")
    with pytest.raises(InvalidInputError, match=r"newer version of TMDE \(schema 9999"):
        async with Database.open(path):
            pass


async def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "tmde.db"
    path.write_bytes(b"these are my holiday pictures" * 100)
    with pytest.raises(InvalidInputError, match="damaged"):
        async with Database.open(path):
            pass
    assert path.read_bytes() == b"these are my holiday pictures" * 100


async def test_a_directory_that_is_no_directory_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InsufficientStorageError, match="cannot be written"):
        async with Database.open(tmp_path / "file" / "tmde.db"):
            pass


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A directory that this process may read but not write: root gives up its powers for the while."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield directory
    finally:
        if root:
            os.seteuid(0)
        directory.chmod(0o755)
        shutil.rmtree(directory)


async def test_a_read_only_directory_is_named(as_nobody: Path):
    with pytest.raises(InsufficientStorageError, match=r"cannot be written: .*Check the permissions"):
        async with Database.open(as_nobody / "tmde.db"):
            pass


def test_the_schema_is_cut_into_whole_statements():
    for file in SCHEMA_DIR.glob("*.sql"):
        text = file.read_text()
        statements = list(_statements(text))
        assert all(sqlite3.complete_statement(statement) for statement in statements if statement.strip())
        assert len(statements) >= text.count("\nCREATE ")


async def test_a_reopened_file_keeps_its_rows_and_is_not_migrated_again(tmp_path: Path):
    async with Database.open(tmp_path / "tmde.db") as database:
        await database.write("CREATE TABLE marks (id INTEGER PRIMARY KEY, text TEXT)")
        await add(database, "kept")
    async with Database.open(tmp_path / "tmde.db") as database:
        assert await count(database) == 1


# -------------------------------------------------------------------------------------- several processes

OPEN = """
import asyncio, sys
from pathlib import Path
from tmde_core.storage.database import Database
async def main():
    async with Database.open(Path(sys.argv[1])) as database:
        print(await database.value("PRAGMA user_version"))
asyncio.run(main())
"""


async def test_a_process_waits_as_long_as_another_one_migrates_the_file(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_MS", 1)
    path = tmp_path / "tmde.db"
    async with Database.open(path):
        pass
    other = sqlite3.connect(path, isolation_level=None)
    newest = other.execute("PRAGMA user_version").fetchone()[0]
    other.execute(f"PRAGMA user_version = {newest - 1}")
    other.execute("BEGIN IMMEDIATE")
    began = asyncio.Event()
    real = database_module._version

    async def version(connection):
        found = await real(connection)
        began.set()
        return found

    async def open_it():
        async with Database.open(path) as database:
            return await database.value("PRAGMA user_version"), await database.value("SELECT 1")

    monkeypatch.setattr(database_module, "_version", version)
    opening = asyncio.ensure_future(open_it())
    await began.wait()
    done, _ = await asyncio.wait([opening], timeout=0.3)  # with the timeout of other writes it would give up at once
    assert not done
    other.execute(f"PRAGMA user_version = {newest}")
    other.execute("COMMIT")
    other.close()
    assert await opening == (newest, 1)


WRITE = """
import asyncio, sys
from pathlib import Path
from tmde_core.storage.database import Database
async def main():
    async with Database.open(Path(sys.argv[1])) as database:
        await database.write("CREATE TABLE marks (id INTEGER PRIMARY KEY, text TEXT)")
        number = 0
        while True:
            number += 1
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO marks (text) VALUES (?)", (f"{number}a",))
                await connection.execute("INSERT INTO marks (text) VALUES (?)", (f"{number}b",))
            print(number, flush=True)
asyncio.run(main())
"""


async def test_processes_that_create_one_database_at_the_same_time_all_get_it(tmp_path: Path):
    path = tmp_path / "tmde.db"
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", OPEN, path, stdout=asyncio.subprocess.PIPE)
        for _ in range(5)
    ]
    answers = [await process.communicate() for process in processes]
    newest = max(int(file.name.split("_")[0]) for file in SCHEMA_DIR.glob("[0-9]*.sql"))
    # A process that meets a database that another one has half created logs that it migrates it.
    assert [out.split()[-1] for out, _ in answers] == [str(newest).encode()] * 5


async def test_killed_in_the_middle_no_acknowledged_row_is_lost_and_none_is_half_there(tmp_path: Path):
    path = tmp_path / "tmde.db"
    with subprocess.Popen([sys.executable, "-c", WRITE, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = 0
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged == 50:
                process.send_signal(signal.SIGKILL)
    async with Database.open(path) as database:
        rows = {row["text"] for row in await database.rows("SELECT text FROM marks")}
        assert await database.value("PRAGMA integrity_check") == "ok"
    assert acknowledged >= 50
    assert {f"{number}{half}" for number in range(1, acknowledged + 1) for half in "ab"} <= rows
    assert len(rows) % 2 == 0


async def test_a_query_that_is_cancelled_while_its_connection_is_opened_leaves_no_thread_behind(tmp_path, monkeypatch):
    before = set(threading.enumerate())
    begun = asyncio.Event()
    connect = database_module._connect

    async def slow(path):
        begun.set()
        return await connect(path)

    async with Database.open(tmp_path / "tmde.db") as database:
        monkeypatch.setattr(database_module, "_connect", slow)
        query = asyncio.create_task(database.value("SELECT 1"))
        await begun.wait()
        query.cancel()
        await asyncio.gather(query, return_exceptions=True)
    threads = [one for one in set(threading.enumerate()) - before if "_connection_worker" in one.name]
    for thread in threads:  # one that was closed is just ending
        await asyncio.to_thread(thread.join, 60)
    assert not any(thread.is_alive() for thread in threads)


async def test_a_connection_whose_query_was_cancelled_serves_the_next_query(tmp_path, monkeypatch):
    begun, opened = asyncio.Event(), []
    connect = database_module._connect

    async def counted(path):
        begun.set()
        opened.append(path)
        return await connect(path)

    async with Database.open(tmp_path / "tmde.db") as database:
        monkeypatch.setattr(database_module, "_connect", counted)
        query = asyncio.create_task(database.value("SELECT 1"))
        await begun.wait()
        query.cancel()
        await asyncio.gather(query, return_exceptions=True)
        while database._opening:
            await asyncio.sleep(0)
        assert await database.value("SELECT 2") == 2
    assert len(opened) == 1
