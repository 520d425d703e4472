from __future__ import annotations

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tmde_core.api.web.origin import OriginGuard, host_name
from tmde_core.settings import Settings

JSON = {"Content-Type": "application/json"}


def test_paths_that_do_not_exist_are_problems(live, refused) -> None:
    for path in ("/api", "/api/nothing", "/", "/schema/nothing", "/api/traces/a/b/c", "/api/../etc/passwd"):
        refused(live.client.get(path), 404, "not_found")


def test_methods_that_are_not_offered_are_problems_that_name_those_that_are(live, refused) -> None:
    response = live.client.put("/api/traces")
    refused(response, 405, "method_not_allowed")
    assert "GET" in response.headers["allow"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/api/finetune", "GET, HEAD, OPTIONS, POST"),
        ("/api/settings", "GET, HEAD, OPTIONS, PUT"),
        ("/api/debates", "OPTIONS, POST"),
        ("/api/lora/x", "DELETE, GET, HEAD, OPTIONS"),
    ],
)
def test_a_path_names_all_of_its_methods(live, path, methods) -> None:
    asked = live.client.options(path)
    assert (asked.status_code, asked.headers["allow"], asked.content) == (204, methods, b"")
    refused = live.client.patch(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, methods)


def test_the_head_of_an_answer_is_that_of_get(live, refused) -> None:
    for path in ("/api/templates", "/api/finetune", "/schema/openapi.json", "/api/traces/nothing", "/api/debates"):
        got, head = live.client.get(path), live.client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        for name in ("content-type", "content-length", "allow", "x-content-type-options"):
            assert head.headers.get(name) == got.headers.get(name)
    refused(live.client.options("/api/nothing"), 404, "not_found")


def test_the_head_of_a_stream_does_not_wait_for_its_end(live) -> None:
    head = live.client.head("/api/events", timeout=5)
    assert (head.status_code, head.headers["content-type"].split(";")[0]) == (200, "text/event-stream")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b"[]", b"null", b'"text"', b'{"query": "\xff"}', b"[" * 200_000, b'{"query":' * 50_000],
)
def test_bodies_that_are_no_json_object_are_problems(live, refused, body) -> None:
    refused(live.client.post("/api/debates", content=body, headers=JSON), 400, "invalid_input")


def test_other_kinds_of_bodies_are_refused(live, refused) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/xml", ""):
        response = live.client.post("/api/debates", content=b'{"query": "q"}', headers={"Content-Type": kind})
        refused(response, 415, "unsupported_media_type")


def test_an_enormous_body_is_refused(live, refused) -> None:
    refused(live.client.post("/api/debates", content=b" " * 1_100_000, headers=JSON), 413, "too_large")

    def chunks():
        for _ in range(40):
            yield b" " * 50_000

    refused(live.client.post("/api/debates", content=chunks(), headers=JSON), 413, "too_large")


def test_a_defect_of_ours_tells_nothing_of_the_inside(live, refused, monkeypatch) -> None:
    async def broken(*_args, **_named):
        raise RuntimeError("secret path /home/someone")

    monkeypatch.setattr(type(live.services.traces), "stats", broken)
    body = refused(live.client.get("/api/traces/stats"), 500, "internal")
    assert "secret" not in str(body)
    assert body["reference"] in body["detail"]


def test_every_answer_carries_the_security_headers(live) -> None:
    for response in (live.client.get("/api/health"), live.client.get("/nothing"), live.client.get("/schema")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert response.headers["referrer-policy"] == "no-referrer"


# ------------------------------------------------------------------------------------------- Host and Origin


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "LOCALHOST", "[::1]", "[::1]:8321", "127.0.0.1:99"])
def test_loopback_names_are_answered(live, host) -> None:
    assert live.client.get("/api/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8321", "10.0.0.1", "a b", "[::2]"]
)
def test_other_hosts_are_refused(live, refused, host) -> None:
    refused(live.client.get("/api/health", headers={"Host": host}), 403, "forbidden")


def test_a_request_names_exactly_one_host(live, raw) -> None:
    assert raw(live, b"GET /api/health HTTP/1.0", host=None)["status"] == 400
    assert raw(live, b"GET /api/health HTTP/1.1", host=b"")["status"] == 400
    assert raw(live, b"GET /api/health HTTP/1.1", b"Host: localhost")["status"] == 400


@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1:5173", "http://localhost", "https://localhost:8321", "http://[::1]:1"]
)
def test_pages_of_this_machine_may_ask(live, origin) -> None:
    assert live.client.get("/api/health", headers={"Origin": origin}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "file://localhost",
        "http://localhost.evil.example",
        "http://[::1",
        "localhost",
        "",
    ],
)
def test_pages_of_other_sites_may_not(live, refused, origin) -> None:
    refused(live.client.get("/api/health", headers={"Origin": origin}), 403, "forbidden")
    response = live.client.post("/api/debates", json={"query": "q"}, headers={"Origin": origin})
    refused(response, 403, "forbidden")


def test_a_web_socket_of_another_site_is_closed_before_it_opens(live) -> None:
    url = live.url.replace("http", "ws") + "/anything"
    with pytest.raises(InvalidStatus) as closed, connect(url, origin="http://evil.example", proxy=None):
        pass
    assert closed.value.response.status_code == 403


async def test_a_web_socket_is_judged_like_a_request() -> None:
    reached = []

    async def inside(scope, _receive, _send) -> None:
        reached.append(scope["path"])

    guard = OriginGuard(inside, Settings(host="192.168.1.5", allowed_hosts=("lab.example", "fe80::1")))

    async def ask(kind: str, **headers: str) -> list[dict]:
        sent: list[dict] = []

        async def receive() -> dict:
            return {"type": f"{kind}.connect"}

        async def send(message) -> None:
            sent.append(message)

        scope = {"type": kind, "path": "/x", "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
        await guard(scope, receive, send)
        return sent

    for host in ("192.168.1.5:8321", "lab.example", "LAB.example.:80", "[fe80::1]:80"):
        for kind in ("http", "websocket"):
            assert await ask(kind, host=host, origin=f"http://{host}") == []
    assert len(reached) == 8
    assert await ask("websocket", host="localhost", origin="http://evil.example") == [
        {"type": "websocket.close", "code": 1008, "reason": ""}
    ]
    assert (await ask("websocket", host="evil.example"))[0]["code"] == 1008
    assert (await ask("http", host="evil.example"))[0]["status"] == 403
    assert len(reached) == 8


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a:80", "a"),
        ("A.b.", "a.b"),
        ("[::1]:80", "[::1]"),
        ("", None),
        ("a:b", None),
        ("a@b", None),
        ("a:1:2", None),
        ("a/b", None),
    ],
)
def test_a_host_is_read_without_its_port(host, name) -> None:
    assert host_name(host) == name
