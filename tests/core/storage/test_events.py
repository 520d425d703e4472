"""Event logs: every follower gets every event once, in order, from wherever it left off."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmde_core.errors import InsufficientStorageError
from tmde_core.storage import events as module
from tmde_core.storage.events import EndedLogs, Event, EventLog, FileLog, MemoryLog


@pytest.fixture(autouse=True)
def _quick_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.001)


async def ids(log: EventLog, after: int = 0) -> list[int]:
    return [event.id async for event in log.follow(after)]


@pytest.fixture(params=["memory", "file"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryLog | FileLog:
    return MemoryLog() if request.param == "memory" else FileLog(tmp_path / "events.jsonl")


async def test_twenty_followers_each_see_every_event_once(log: MemoryLog | FileLog):
    followers = [asyncio.create_task(ids(log)) for _ in range(20)]
    for number in range(100):
        log.append("token", {"number": number})
        if number % 10 == 0:
            await asyncio.sleep(0)
    log.append("complete")
    assert await asyncio.gather(*followers) == [list(range(1, 102))] * 20


async def test_a_follower_that_comes_back_gets_what_it_missed(log: MemoryLog | FileLog):
    for number in range(3):
        log.append("token", {"number": number})
    first = [event async for event in _take(log, 2)]
    log.append("complete")
    second = [event async for event in log.follow(first[-1].id)]
    assert [event.id for event in (*first, *second)] == [1, 2, 3, 4]
    assert second[0].data == {"number": 2}


async def _take(log: EventLog, count: int):
    async for event in log.follow():
        yield event
        count -= 1
        if not count:
            return


async def test_coming_back_after_the_last_event_ends_at_once(log: MemoryLog | FileLog):
    log.append("token")
    log.append("error", {"code": "x"})
    assert await asyncio.wait_for(ids(log, after=2), 60) == []
    assert await asyncio.wait_for(ids(log, after=99), 60) == [2]
    assert await asyncio.wait_for(ids(log, after=-5), 60) == [1, 2]


async def test_an_id_from_another_time_does_not_hide_new_events():
    log = MemoryLog()
    log.append("token")
    follower = asyncio.create_task(ids(log, after=50))
    await asyncio.sleep(0)
    log.append("complete")
    assert await follower == [2]


@given(
    types=st.lists(st.sampled_from(["token", "round_end", "progress"]), max_size=30),
    cuts=st.lists(st.integers(0, 31), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_however_often_a_follower_reconnects_it_sees_each_event_once(
    types: list[str], cuts: list[int], tmp_path_factory
):
    async def scenario() -> None:
        file = FileLog(tmp_path_factory.mktemp("log") / "events.jsonl")
        memory = MemoryLog()
        for log in (file, memory):
            for type_ in types:
                log.append(type_)
            log.append("complete")
            seen: list[int] = []
            for cut in [*cuts, None]:
                async for event in log.follow(seen[-1] if seen else 0):
                    seen.append(event.id)
                    if cut is not None and len(seen) >= cut:
                        break
            assert seen == list(range(1, len(types) + 2))

    asyncio.run(scenario())


async def test_a_file_that_comes_later_is_followed_from_its_first_line(tmp_path: Path):
    log = FileLog(tmp_path / "late.jsonl")
    follower = asyncio.create_task(ids(log))
    await asyncio.sleep(0.01)
    log.append("complete")
    assert await follower == [1]


async def test_a_line_that_is_still_being_written_is_waited_for(tmp_path: Path):
    log = FileLog(tmp_path / "events.jsonl")
    follower = asyncio.create_task(ids(log))
    for byte in b'{"type": "log", "data": {"text": "\xc3\xa9"}}\n{"type": "complete"}\n':
        with log.path.open("ab") as file:
            file.write(bytes([byte]))
        await asyncio.sleep(0)
    assert await follower == [1, 2]
    assert log.read()[0].data == {"text": "é"}


async def test_a_line_torn_by_a_crash_spoils_no_other_and_moves_no_id(tmp_path: Path):
    log = FileLog(tmp_path / "events.jsonl")
    log.append("progress", {"step": 1})
    with log.path.open("ab") as file:
        file.write(b'{"type": "progr')
    assert [event.id for event in log.read()] == [1]
    log.append("progress", {"step": 3})
    log.append("complete")
    assert [(event.id, event.type) for event in log.read()] == [(1, "progress"), (3, "progress"), (4, "complete")]
    assert await ids(log) == [1, 3, 4]


@pytest.mark.parametrize(
    "line", [b"", b"null", b"7", b'"x"', b"[]", b"{}", b'{"type": 1, "data": 5}', b"\xff\xfe", b"{"]
)
def test_a_line_that_is_no_event_is_passed_over(line: bytes, tmp_path: Path):
    log = FileLog(tmp_path / "events.jsonl")
    log.path.write_bytes(line + b"\n")
    log.append("complete")
    assert log.read()[-1] == Event(id=2, type="complete", data={})


async def test_a_run_that_is_resumed_is_followed_past_its_first_end(tmp_path: Path):
    log = FileLog(tmp_path / "events.jsonl")
    for type_ in ("progress", "error", "progress", "complete"):
        log.append(type_)
    assert await ids(log) == [1, 2, 3, 4]


async def test_a_missing_file_has_no_events(tmp_path: Path):
    assert FileLog(tmp_path / "none.jsonl").read() == []


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = FileLog(tmp_path / "events.jsonl")
    log.append("progress")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(InsufficientStorageError, match="full"):
        log.append("progress")
    assert len(log.read()) == 1


async def test_the_end_is_told_when_it_is_on_record_and_not_at_all_when_the_log_goes_on(tmp_path: Path):
    recorded: list[bool] = []

    async def settled() -> bool:
        return bool(recorded)

    log = FileLog(tmp_path / "events.jsonl", settled)
    heard: list[int] = []

    async def hear() -> None:
        heard.extend([event.id async for event in log.follow()])

    log.append("progress")
    log.append("error")
    hearing = asyncio.create_task(hear())
    await asyncio.sleep(0.02)
    assert not hearing.done()
    log.append("log", {"attempt": 2})
    log.append("complete")
    recorded.append(True)
    await asyncio.wait_for(hearing, 60)
    assert heard == [1, 2, 3, 4]
    assert await ids(log, after=4) == []


async def test_a_long_log_is_followed_in_pieces_and_its_last_event_is_found_from_its_end(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 100)
    log = FileLog(tmp_path / "events.jsonl")
    assert log.last() is None
    for number in range(50):
        log.append("token", {"text": "x" * (number % 7 * 10), "number": number})
    log.append("complete", {"number": 50})
    assert [event.data["number"] async for event in log.follow()] == list(range(51))
    last = log.last()
    assert last is not None
    assert (last.type, last.data) == ("complete", {"number": 50})


def test_the_logs_of_what_ended_last_are_kept():
    logs = EndedLogs(2)
    first, second, third = [(uuid4(), MemoryLog()) for _ in range(3)]
    for identity, log in (first, second, first, third):
        logs.keep(identity, log)
    assert [logs.get(identity) for identity, _ in (first, second, third)] == [first[1], None, third[1]]
    logs.forget(first[0])
    logs.forget(first[0])
    assert logs.get(first[0]) is None


@pytest.mark.parametrize("beyond", [4, 1000, 10**15])
async def test_a_follower_with_an_id_beyond_the_end_gets_the_terminal_event(log: MemoryLog | FileLog, beyond: int):
    for _ in range(2):
        log.append("token")
    log.append("error")
    assert await ids(log, beyond) == [3]
    assert await ids(log, 3) == []
    assert await ids(log, -5) == [1, 2, 3]


async def test_a_follower_with_an_id_beyond_the_end_of_a_running_log_gets_what_is_new(
    log: MemoryLog | FileLog, monkeypatch: pytest.MonkeyPatch
):
    placed = asyncio.Event()
    loop = asyncio.get_running_loop()
    find_position = FileLog.find_position

    def find(self: FileLog, after: int) -> int:
        found = find_position(self, after)
        loop.call_soon_threadsafe(placed.set)
        return found

    monkeypatch.setattr(FileLog, "find_position", find)
    log.append("token")
    follower = asyncio.create_task(ids(log, 1000))
    await (placed.wait() if isinstance(log, FileLog) else asyncio.sleep(0))
    log.append("token")
    log.append("complete")
    assert await follower == [2, 3]


async def test_a_shortened_log_is_new_to_everyone():
    log = MemoryLog(shortened=True)
    log.append("complete")
    for seen in (0, 1, 7):
        assert await ids(log, seen) == [1]
