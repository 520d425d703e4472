from __future__ import annotations

import asyncio
import threading

import httpx

from tmde_core.api.web.streams import TOGETHER, Streams, encode
from tmde_core.storage.events import Event, FileLog, MemoryLog


async def collected(stream) -> list[bytes]:
    return [chunk async for chunk in stream]


async def test_a_silent_stream_is_kept_alive_by_comments() -> None:
    log = MemoryLog()
    stream = Streams(heartbeat_seconds=0.01)._sent(log, 0)
    assert await anext(stream) == b"retry: 2000\n\n"
    assert await anext(stream) == b": still here\n\n"
    log.append("token", {"text": "ä\n"})
    chunks = [await anext(stream)]
    while chunks[-1].startswith(b":"):
        chunks.append(await anext(stream))
    assert chunks[-1] == 'id: 1\nevent: token\ndata: {"text":"ä\\n"}\n\n'.encode()
    log.append("complete")
    assert encode(Event(id=2, type="complete", data={})) in await collected(stream)


async def test_a_stream_that_is_left_leaves_nothing_behind() -> None:
    streams, log = Streams(), MemoryLog()
    stream = streams._sent(log, 0)
    await anext(stream)
    log.append("token")
    await anext(stream)
    assert streams.open == 1
    before = len(asyncio.all_tasks())
    await stream.aclose()
    assert streams.open == 0
    assert len(asyncio.all_tasks()) < before


async def test_a_shutdown_ends_every_stream_and_those_that_come_later() -> None:
    streams, log = Streams(), MemoryLog()
    log.append("token")
    running = [asyncio.create_task(collected(streams._sent(log, 0))) for _ in range(20)]
    while streams.open < 20:
        await asyncio.sleep(0)
    streams.shutdown()
    assert all(chunks[0].startswith(b"retry") for chunks in await asyncio.gather(*running))
    assert await collected(streams._sent(log, 0)) == [b"retry: 2000\n\n"]
    assert streams.open == 0


async def test_five_hundred_who_follow_a_file_share_one_reader(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tmde_core.storage.events.POLL_SECONDS", 0.01)
    log = FileLog(tmp_path / "events.jsonl")
    log.append("progress", {"step": 1})
    reads = []
    follow = FileLog.follow

    def counted(self, after=0):
        reads.append(after)
        return follow(self, after)

    monkeypatch.setattr(FileLog, "follow", counted)
    streams = Streams()
    running = [asyncio.create_task(collected(streams._sent(FileLog(log.path), 0))) for _ in range(500)]
    while streams.open < 500:
        await asyncio.sleep(0)
    while not streams.polled:
        await asyncio.sleep(0)
    assert streams.polled == 1
    log.append("progress", {"step": 2})
    log.append("complete", {})
    results = await asyncio.gather(*running)
    assert all([chunk[:5] for chunk in chunks] == [b"retry", b"id: 1", b"id: 2", b"id: 3"] for chunks in results)
    assert reads == [0]
    assert streams.polled == 0
    late = await collected(streams._sent(log, 2))
    assert [chunk[:5] for chunk in late] == [b"retry", b"id: 3"]


async def test_many_who_follow_a_file_are_told_in_turns_so_that_others_are_answered_in_between(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("tmde_core.storage.events.POLL_SECONDS", 0.01)
    monkeypatch.setattr(
        "tmde_core.api.web.streams.TURN_SECONDS", 0.2
    )  # so that a busy machine does not merge two turns
    log = FileLog(tmp_path / "events.jsonl")
    log.append("progress", {"step": 1})
    streams = Streams()
    others = 0
    told = []

    async def watch() -> None:
        told.extend([others async for chunk in streams._sent(FileLog(log.path), 0) if chunk.startswith(b"id: 2")])

    async def ask() -> None:
        nonlocal others
        while True:
            await asyncio.sleep(0.001)
            others += 1

    asking = asyncio.create_task(ask())
    running = [asyncio.create_task(watch()) for _ in range(4 * TOGETHER)]
    while streams.open < len(running):
        await asyncio.sleep(0)
    log.append("complete", {})
    await asyncio.gather(*running)
    asking.cancel()
    assert len(told) == len(running)
    assert max(told.count(moment) for moment in told) <= TOGETHER


async def test_an_event_that_was_torn_by_a_crash_does_not_move_the_ids(tmp_path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"type": "log", "data": {}}\n{"type": "pro\n{"type": "error", "data": {}}\n')
    chunks = await collected(Streams()._sent(FileLog(path), 0))
    assert [chunk[:5] for chunk in chunks] == [b"retry", b"id: 1", b"id: 3"]


def test_one_who_does_not_read_keeps_nobody_waiting_and_a_stop_ends_all(own_live, events) -> None:
    started = own_live.client.post("/api/debates", json={"query": "please wait"}).json()
    url = own_live.url + started["eventsUrl"]
    begun = threading.Barrier(4, timeout=20)
    ended: list[str] = []

    def watch(reads: bool) -> None:
        with httpx.stream("GET", url, timeout=30) as stream:
            lines = stream.iter_lines()
            next(lines)
            begun.wait()
            if reads:
                ended.append("\n".join(lines))
            else:
                stopped.wait(60)

    stopped = threading.Event()
    watchers = [threading.Thread(target=watch, args=(reads,)) for reads in (True, True, False)]
    for watcher in watchers:
        watcher.start()
    begun.wait()
    assert own_live.client.get("/api/health").status_code == 200
    own_live.app.shutdown_streams()
    for watcher in watchers[:2]:
        watcher.join(60)
    assert len(ended) == 2
    assert "event: complete" not in ended[0]
    stopped.set()
    watchers[2].join(60)
    own_live.let_go()


async def test_those_who_share_a_file_get_the_terminal_event_whatever_their_id_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tmde_core.storage.events.POLL_SECONDS", 0.01)
    log = FileLog(tmp_path / "events.jsonl")
    log.append("progress", {"step": 1})
    log.append("cancelled", {})
    streams = Streams()
    for beyond in (3, 10**15):
        assert [chunk[:5] for chunk in await collected(streams._sent(log, beyond))] == [b"retry", b"id: 2"]
    assert len(await collected(streams._sent(log, 2))) == 1
