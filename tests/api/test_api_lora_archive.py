"""Adapters go out and come in over HTTP: the right headers, every reason of a refusal, nothing left behind, constant memory."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import tarfile
import threading
import time
import tracemalloc
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.lora.archive.archives import RANK, packed, peft_files, safetensors, unpacked, weights
from tests.core.lora.archive.mutations import mutated
from tmde_core.errors import UnprocessableError
from tmde_core.lora.archive import service as archive
from tmde_core.records.base import utc_now
from tmde_core.records.lora import Manifest
from tmde_core.sdk.adapters import publish, staging_directory

PEAK_BYTES = 24 * 1024 * 1024
"""Client and server are in one process here, and what they first import counts too."""
LARGE_BYTES = 48 * 1024 * 1024
NOBODY = "6f1c1d52-3b0c-4f0e-9c64-0a5a5c1c2f37"
"""An id that nothing has."""


def directory_of(live) -> Path:
    return live.services.stores.adapters.directory


def published(live, files: dict[str, bytes] | None = None, **fields) -> str:
    """Publish an adapter whose weights and configuration are what they seem."""
    directory, identity = directory_of(live), uuid4()
    staging = staging_directory(directory, identity)
    staging.mkdir(parents=True)
    for name, content in (peft_files() | {"adapter.gguf": b"GGUF" + identity.bytes} | (files or {})).items():
        (staging / name).write_bytes(content)
    publish(staging, directory, Manifest(id=identity, created_at=utc_now(), base_model="scripted-1", **fields))
    return str(identity)


def sent(live, content: bytes, field: str = "file"):
    return live.client.post("/api/lora/import", files={field: ("adapter.tar.gz", content, "application/gzip")})


def nothing_is_left(live) -> None:
    """No staging directory, nothing half-built, no adapter."""
    directory = directory_of(live)
    assert not directory.exists() or not [path for path in directory.iterdir() if path.suffix != ".lock"]
    assert live.client.get("/api/lora").json()["total"] == 0


# -------------------------------------------------------------------------------------------- export


def test_an_archive_is_streamed_with_its_name_and_type(own_live) -> None:
    identity = published(own_live, tags=("stable",))
    answer = own_live.client.get(f"/api/lora/{identity}/export")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/gzip"
    name = f"tmde-adapter-{identity[:8]}"
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}.tar.gz"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "content-length" not in answer.headers
    assert "content-encoding" not in answer.headers
    found = unpacked(answer.content)
    assert found["adapter_model.safetensors"] == peft_files()["adapter_model.safetensors"]
    assert json.loads(found["manifest.json"])["tags"] == ["stable"]

    with_bin = own_live.client.get(f"/api/lora/{identity}/export", params={"format": "peft-bin"})
    assert with_bin.headers["content-disposition"] == f'attachment; filename="{name}-bin.tar.gz"'
    assert unpacked(with_bin.content).keys() == {*found, "adapter_model.bin"}


def test_a_merged_model_is_a_tar_with_its_name_and_length_and_a_refusal_says_what_else_to_take(
    own_live, monkeypatch
) -> None:
    asked: list[tuple[str, bool]] = []

    async def stream(adapter_id, quantization="base", *, force=False):
        asked.append((quantization, force))
        if not force:
            raise UnprocessableError("It lost much.", flaws=["It lost much."], proposal="Q8_0")
        return "merged.tar", 6, iter((b"abc", b"def"))

    monkeypatch.setattr(own_live.services.archives.merges, "stream", stream)
    path = f"/api/lora/{published(own_live)}/export?format=merged-gguf"
    refused = own_live.client.get(path)
    assert (refused.status_code, refused.json()["proposal"]) == (422, "Q8_0")
    answer = own_live.client.get(f"{path}&quantization=F16&force=true")
    assert answer.content == b"abcdef"
    assert answer.headers["content-type"] == "application/x-tar"
    assert answer.headers["content-length"] == "6"
    assert answer.headers["content-disposition"] == 'attachment; filename="merged.tar"'
    assert own_live.client.get(f"{path}&quantization=Q4_K").status_code == 400
    assert asked == [("base", False), ("F16", True)]


def test_a_client_that_goes_away_ends_the_merge_and_others_are_answered_meanwhile(own_live, monkeypatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def stream(adapter_id, quantization="base", *, force=False):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(own_live.services.archives.merges, "stream", stream)
    path = f"/api/lora/{published(own_live)}/export?format=merged-gguf"
    address = own_live.client.base_url
    with socket.create_connection((address.host, address.port)) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n\r\n".encode())
        assert begun.wait(30)
        assert own_live.client.get("/api/lora").status_code == 200
        assert not ended.is_set()
    assert ended.wait(30)


def test_the_gguf_form_is_the_file_itself_with_its_length(own_live) -> None:
    identity = published(own_live)
    answer = own_live.client.get(f"/api/lora/{identity}/export", params={"format": "gguf"})
    assert answer.content == b"GGUF" + UUID(identity).bytes
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["content-disposition"] == f'attachment; filename="tmde-adapter-{identity[:8]}.gguf"'


def test_what_cannot_be_exported_is_a_problem_and_no_broken_file(own_live, refused) -> None:
    identity = published(own_live)
    refused(own_live.client.get(f"/api/lora/{uuid4()}/export"), 404, "not_found")
    refused(own_live.client.get("/api/lora/nonsense/export"), 404, "not_found")
    refused(own_live.client.get(f"/api/lora/{identity}/export", params={"format": "zip"}), 400, "invalid_input")
    file = directory_of(own_live) / identity / "adapter.gguf"
    file.write_bytes(file.read_bytes()[::-1])
    body = refused(own_live.client.get(f"/api/lora/{identity}/export"), 422, "adapter_invalid")
    assert "adapter.gguf has changed" in body["detail"]
    file.unlink()
    refused(own_live.client.get(f"/api/lora/{identity}/export", params={"format": "gguf"}), 422, "adapter_invalid")


def test_a_large_adapter_goes_out_and_comes_in_with_constant_memory(own_live, tmp_path) -> None:
    side = LARGE_BYTES // (2 * 4 * RANK * 4)
    big = safetensors(weights(size=side))
    assert len(big) > LARGE_BYTES * 0.9
    identity = published(own_live, {"adapter_model.safetensors": big})
    del big
    carried = tmp_path / "carried.tar.gz"
    tracemalloc.start()
    try:
        with own_live.client.stream("GET", f"/api/lora/{identity}/export") as answer, carried.open("wb") as file:
            for piece in answer.iter_bytes():
                file.write(piece)
        out = tracemalloc.get_traced_memory()[1]
        assert own_live.client.delete(f"/api/lora/{identity}").status_code == 200
        tracemalloc.reset_peak()
        with carried.open("rb") as file:
            answer = own_live.client.post("/api/lora/import", files={"file": file})
        came_in = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (answer.status_code, answer.json()["id"]) == (201, identity), answer.text
    assert carried.stat().st_size > LARGE_BYTES / 2
    assert out < PEAK_BYTES
    assert came_in < PEAK_BYTES


def test_who_leaves_in_the_middle_of_an_export_ends_it(own_live) -> None:
    # The kernel would keep tens of MB for a client that does not read; this one allows it little.
    small = httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)])
    identity = published(own_live, {"adapter.gguf": os.urandom(LARGE_BYTES)})

    def open_files() -> list[Path]:
        return [
            path for path in Path("/proc/self/fd").iterdir() if path.is_symlink() and identity in str(path.readlink())
        ]

    with (
        httpx.Client(base_url=own_live.url, transport=small, timeout=30) as client,
        client.stream("GET", f"/api/lora/{identity}/export", params={"format": "gguf"}) as answer,
    ):
        pieces = answer.iter_bytes(1000)  # httpx hangs up as soon as nothing holds them
        next(pieces)
        assert open_files()
    give_up = time.monotonic() + 60
    while open_files() and time.monotonic() < give_up:
        time.sleep(0.01)
    assert open_files() == []


# -------------------------------------------------------------------------------------------- import


def test_an_exported_adapter_comes_back_as_it_was(own_live) -> None:
    identity = published(own_live, tags=("stable", "v1"), metrics={"finalTrainLoss": 0.5})
    before = own_live.client.get(f"/api/lora/{identity}").json()
    carried = own_live.client.get(f"/api/lora/{identity}/export").content
    own_live.client.post(f"/api/lora/{identity}/tag", json={"remove": ["stable"]})
    own_live.client.delete(f"/api/lora/{identity}")
    answer = sent(own_live, carried)
    assert answer.status_code == 201
    again = answer.json()
    for name in ("id", "createdAt", "tags", "metrics", "baseModel", "sha256"):
        assert again[name] == before[name]
    twin = sent(own_live, carried).json()
    assert twin["id"] != identity
    trail = own_live.client.get("/api/lora/events").json()["items"]
    assert [(event["operation"], event["adapterId"], event["triggeredBy"]) for event in trail[:2]] == [
        ("import", twin["id"], "api"),
        ("import", identity, "api"),
    ]
    assert f"its id {identity} was taken" in trail[0]["note"]


def test_what_is_refused_is_refused_with_its_status_and_leaves_nothing(own_live, refused, monkeypatch) -> None:
    client = own_live.client
    refused(sent(own_live, b"hello"), 400, "invalid_input")
    refused(sent(own_live, b""), 400, "invalid_input")
    refused(sent(own_live, packed(peft_files()), field="archive"), 400, "invalid_input")
    twice = [("file", ("a", packed(peft_files()))), ("file", ("b", packed(peft_files())))]
    assert "twice" in refused(client.post("/api/lora/import", files=twice), 400, "invalid_input")["detail"]
    many = [(f"f{number}", ("a", b"x")) for number in range(20)]
    refused(client.post("/api/lora/import", files=many), 400, "invalid_input")
    for content_type in ("application/gzip", "application/json", "multipart/form-data", "multipart/mixed; boundary=x"):
        answer = client.post("/api/lora/import", content=packed(peft_files()), headers={"content-type": content_type})
        assert refused(answer, 415, "unsupported_media_type")["wanted"] == "multipart/form-data"
    refused(client.post("/api/lora/import"), 415, "unsupported_media_type")

    spoilt = weights()
    next(iter(spoilt.values()))[0, 0] = np.inf
    hostile = {"evil.pkl": b"", "adapter_model.safetensors": safetensors(spoilt)}
    for files, words in (
        (peft_files() | hostile, ("pickle", "NaN or infinity")),
        (peft_files(use_dora=True) | hostile, ("pickle", "use_dora")),  # of another kind, nothing more is looked at
    ):
        body = refused(sent(own_live, packed(files)), 422, "adapter_invalid")
        assert len(body["reasons"]) == len(words)
        for word in words:
            assert any(word in reason for reason in body["reasons"])
        nothing_is_left(own_live)

    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", 1000)
    assert refused(sent(own_live, packed(peft_files())), 413, "too_large")["limit"] == 1000
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tmde_core.lora.archive.unpack.os.fdopen", full)
    refused(sent(own_live, packed(peft_files())), 507, "insufficient_storage")
    monkeypatch.undo()
    nothing_is_left(own_live)
    assert sent(own_live, packed(peft_files())).status_code == 201


def test_an_upload_that_breaks_off_leaves_nothing_and_is_no_defect(own_live, capsys) -> None:
    port = int(own_live.url.rsplit(":", 1)[1])
    head = (
        b"POST /api/lora/import HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head + packed(peft_files())[:500])
        give_up = time.monotonic() + 60
        while not list(directory_of(own_live).glob(".staging-*")) and time.monotonic() < give_up:
            time.sleep(0.005)
        assert list(directory_of(own_live).glob(".staging-*"))
    while list(directory_of(own_live).glob(".staging-*")) and time.monotonic() < give_up:
        time.sleep(0.005)
    nothing_is_left(own_live)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "api.unexpected" not in said.out


def test_mutated_archives_are_refused_or_taken_in_whole_over_http(own_live) -> None:
    statuses = set()
    for content in mutated(seed=8, count=120):
        answer = sent(own_live, content)
        assert answer.status_code in (201, 400, 413, 422), answer.text
        statuses.add(answer.status_code)
        if answer.status_code == 201:
            assert own_live.client.delete(f"/api/lora/{answer.json()['id']}").status_code == 200
    assert statuses == {201, 400, 422}
    nothing_is_left(own_live)


BOUNDARIES = st.sampled_from(["x", "--", "----WebKitFormBoundary", "'():+_,-./=?", "x" * 70, "x" * 71, "", '"', "\xe9"])
PIECES = st.sampled_from(
    [
        *(b"\r\n", b"\n", b"--", b"--x", b"\r\n--x", b"--x--", b"\r\n--x--\r\n", b"\r\n\r\n", b"\0", b"\xff", b":"),
        *(b"Content-Disposition: form-data; name=file", b'Content-Disposition: form-data; name="file"; filename="a"'),
        *(b"Content-Disposition: attachment", b"Content-Length: 5", b"Content-Length: -1", b"Content-Type: text/plain"),
        *(b"Content-Transfer-Encoding: base64", b"x" * 5000, b"\x1f\x8b\x08", packed(peft_files())),
    ]
) | st.binary(max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(boundary=BOUNDARIES, pieces=st.lists(PIECES, max_size=12), kind=st.sampled_from(["form-data", "mixed", ""]))
def test_no_form_whatsoever_is_a_defect_of_the_server(live, boundary, pieces, kind) -> None:
    declared = f"multipart/{kind}; boundary={boundary}".encode("latin-1")
    answer = live.client.post("/api/lora/import", content=b"".join(pieces), headers={b"content-type": declared})
    assert 400 <= answer.status_code < 500 or answer.status_code == 201, answer.text
    assert answer.status_code == 201 or answer.headers["content-type"] == "application/problem+json"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(data=st.data())
def test_a_sound_form_with_a_few_wrong_bytes_is_refused_or_read(live, data) -> None:
    sound = bytearray(
        b'--x\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.tar.gz"\r\nContent-Type: application/gzip\r\n\r\n'
        + packed(peft_files())
        + b"\r\n--x--\r\n"
    )
    for place in data.draw(st.lists(st.integers(0, len(sound) - 1), max_size=4)):
        sound[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(sound)))
    body = bytes(sound if data.draw(st.booleans()) else sound[:cut])
    answer = live.client.post(
        "/api/lora/import", content=body, headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code in (201, 400, 422), answer.text


def test_a_plain_tar_of_another_tool_comes_in(own_live, tmp_path) -> None:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:gz") as opened:
        for name, content in peft_files().items():
            (tmp_path / name).write_bytes(content)
            opened.add(tmp_path / name, f"my-adapter/{name}")
    answer = sent(own_live, output.getvalue())
    assert answer.status_code == 201
    assert (answer.json()["gate"], answer.json()["baseModel"]) == ("candidate", "scripted-1")


# ----------------------------------------------------------------------------------------------- ask


def test_base_and_adapters_answer_side_by_side_as_events(own_live, events, refused) -> None:
    client, a, b = own_live.client, published(own_live), published(own_live)
    answer = client.post("/api/lora/ask", json={"question": "Why?", "adapterIds": [None, a, b], "maxTokens": 20})
    assert answer.status_code == 202
    asked = answer.json()
    assert asked["eventsUrl"] == f"/api/lora/ask/{asked['askId']}/events"
    stream = client.get(asked["eventsUrl"])
    assert stream.headers["content-type"].startswith("text/event-stream")
    heard = events(stream.text)
    assert [number for number, _, _ in heard] == list(range(1, len(heard) + 1))
    assert heard[0][1:] == ("start", {"question": "Why?", "versions": [None, a, b]})
    assert heard[-1][1] == "complete"
    answers = {data["version"]: data for _, kind, data in heard if kind == "answer"}
    assert answers.keys() == {None, a, b}
    assert {data["text"] for data in answers.values()} == {"The answer is 42."}
    assert all(data["tokens"] > 0 and data["ms"] > 0 for data in answers.values())
    again = events(client.get(asked["eventsUrl"], headers={"Last-Event-ID": str(heard[-1][0] - 1)}).text)
    assert again == heard[-1:]
    assert client.get("/api/lora/active").json() is None


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"question": ""}, 400, "invalid_input"),
        ({"question": "Why?", "adapterIds": []}, 400, "invalid_input"),
        ({"question": "Why?", "adapterIds": [None, None]}, 400, "invalid_input"),
        ({"question": "Why?", "adapterIds": [None] * 5}, 400, "invalid_input"),
        ({"question": "Why?", "maxTokens": 0}, 400, "invalid_input"),
        ({"question": "Why?", "temperature": 3}, 400, "invalid_input"),
        ({"question": "Why?", "seed": -1}, 400, "invalid_input"),
        ({"question": "Why?", "unknown": 1}, 400, "invalid_input"),
        ({"adapterIds": [None]}, 400, "invalid_input"),
        ({"question": "Why?", "adapterIds": [NOBODY]}, 404, "not_found"),
        ({"question": "Why?", "adapterIds": ["nonsense"]}, 404, "not_found"),
    ],
)
def test_what_cannot_be_asked_is_refused(live, refused, body, status, code) -> None:
    refused(live.client.post("/api/lora/ask", json=body), status, code)


def test_an_adapter_of_another_base_and_a_damaged_one_cannot_be_asked(own_live, refused) -> None:
    damaged = published(own_live)
    (directory_of(own_live) / damaged / "adapter_config.json").unlink()
    refused(
        own_live.client.post("/api/lora/ask", json={"question": "?", "adapterIds": [damaged]}), 422, "adapter_invalid"
    )
    refused(own_live.client.get(f"/api/lora/ask/{uuid4()}/events"), 404, "not_found")
    refused(own_live.client.get("/api/lora/ask/nonsense/events"), 404, "not_found")


def test_an_adapter_that_answers_a_question_is_not_deleted_until_it_has(own_live, refused) -> None:
    identity = published(own_live)
    asked = own_live.client.post("/api/lora/ask", json={"question": "wait", "adapterIds": [identity]}).json()
    assert "has not ended" in refused(own_live.client.delete(f"/api/lora/{identity}"), 409, "conflict")["detail"]
    own_live.let_go()
    own_live.client.get(asked["eventsUrl"])
    assert own_live.client.delete(f"/api/lora/{identity}").status_code == 200


# ------------------------------------------------------------------------------------------- at once


def test_of_two_switches_at_once_one_wins_and_the_other_is_told(own_live, refused) -> None:
    a, b = published(own_live), published(own_live)

    async def held() -> int:
        async with own_live.services.lora._switch.lock():
            return (await asyncio.to_thread(own_live.client.post, f"/api/lora/{b}/activate")).status_code

    assert own_live.run(held()) == 409
    assert own_live.client.post(f"/api/lora/{a}/activate").status_code == 200
    assert own_live.client.get("/api/lora/active").json()["id"] == a
