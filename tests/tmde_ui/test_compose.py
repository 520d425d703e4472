"""API and pages on one port: who gets which request, who is let in, how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys

import httpx
import pytest
from playwright.sync_api import expect

SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"


def test_api_pages_and_schema_share_the_port(server):
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/api/health").headers["content-type"].startswith("application/json")
        assert client.get("/schema/openapi.json").json()["openapi"]
        assert client.get("/").headers["content-type"].startswith("text/html")
        assert client.get("/apiary").status_code == 404
        problem = client.get("/api/nowhere")
        assert problem.status_code == 404
        assert problem.headers["content-type"].startswith("application/problem+json")


def test_a_debate_started_through_the_api_is_a_page(server):
    with httpx.Client(base_url=server.url) as client:
        started = client.post("/api/debates", json={"query": "Something easy"})
        assert started.status_code == 202
        page = client.get(f"/debates/{started.json()['debateId']}")
        assert page.status_code == 200
        assert "Something easy" in page.text
    server.do("settled")


def test_an_address_takes_the_first_digits_of_an_id_and_says_what_several_may_mean(server):
    twins = [f"abcd1234-0000-4000-8000-00000000000{number}" for number in (1, 2)]
    with httpx.Client(base_url=server.url) as client:
        lines = [f'{{"id": "{one}", "query": "Question {one[-1]}?", "finalAnswer": "So."}}' for one in twins]
        told = client.post(
            "/api/traces/import", content="\n".join(lines), headers={"Content-Type": "application/x-ndjson"}
        )
        assert told.json()["imported"] == 2
        trace = twins[0]
        for text in (trace, trace[:-1] + "1", trace.upper(), trace.replace("-", "")):
            page = client.get(f"/traces/{text}")
            assert page.status_code == 200
            assert "Question 1?" in page.text
        for text in ("abcd1234", "ABCD1234", "abcd1234-0000", "abcd"):
            page = client.get(f"/traces/{text}")
            assert page.status_code == 404
            assert "Several traces begin with" in page.text
            assert all(one in page.text for one in twins)
        assert "Question 1?" in client.get("/", params={"follows": trace.upper()}).text
        debate = client.post("/api/debates", json={"query": "Something else"}).json()["debateId"]
        assert "Something else" in client.get(f"/debates/{debate[:8]}").text
        for path in ("/finetune/0000", "/benchmark/0000", "/traces/0000", "/debates/0000"):
            answer = client.get(path)
            assert answer.status_code == 404
            assert "with the id &#x27;0000&#x27;" in answer.text or "with the id '0000'" in answer.text, path
        assert client.get("/finetune/versions", params={"adapter": "0000", "a": "x", "b": ""}).status_code == 200
    server.do("settled")


@pytest.mark.parametrize("path", ["/", "/api/health", "/assets/tmde.css", "/traces/import"])
@pytest.mark.parametrize("header", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}])
def test_foreign_hosts_and_origins_are_refused_everywhere(server, path, header):
    assert httpx.get(server.url + path, headers=header).status_code == 403


def test_a_foreign_page_cannot_import(server):
    answer = httpx.post(f"{server.url}/traces/import", content=b"{}", headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403


async def _handshake(url: str, header: str) -> str:
    """The status line that a WebSocket handshake is answered with."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [
        f"GET {SOCKET} HTTP/1.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ]
    if not header.startswith("Host"):
        lines.append(f"Host: {host}:{port}")
    lines.append(header)
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await writer.drain()
    status = (await reader.readline()).decode()
    writer.close()
    await writer.wait_closed()
    return status


async def test_foreign_pages_cannot_open_the_pages_socket(server):
    assert " 101 " in await _handshake(server.url, f"Origin: {server.url}")
    assert " 403 " in await _handshake(server.url, "Origin: http://evil.example")
    assert " 403 " in await _handshake(server.url, "Host: evil.example")


def test_pages_may_load_nothing_from_elsewhere_and_set_no_cookie(server):
    answer = httpx.get(server.url)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers
    assert not [
        found
        for found in re.findall(r"https?://[^\s\"'<>\\]+", answer.text)
        if "127.0.0.1" not in found and "w3.org" not in found
    ]


@pytest.mark.parametrize("name", ["tmde.css", "tmde.js"])
def test_style_and_script_may_be_kept_and_change_their_address_with_their_content(server, name):
    address = re.search(rf"/assets/{re.escape(name)}\?v=[0-9a-f]{{12}}", httpx.get(server.url).text)
    assert address is not None
    answer = httpx.get(server.url + address[0])
    assert answer.status_code == 200
    assert "max-age=31536000" in answer.headers["cache-control"]


def test_an_import_that_is_too_large_is_refused(server):
    def endless():
        for _ in range(600):
            yield b" " * 1_000_000

    answer = httpx.post(f"{server.url}/traces/import", content=endless(), timeout=120)
    assert answer.status_code == 413
    assert "500 MB" in answer.json()["detail"]


def test_importing_the_pages_loads_no_machine_learning():
    code = (
        "import sys, tmde_ui.compose\n"
        "print([name for name in ('torch', 'transformers', 'peft', 'trl', 'datasets', 'xllamacpp', 'gguf', 'scipy', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_server_ends_at_once_while_a_page_is_open(browser, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "tmde_core.cli", "--data-dir", str(tmp_path / "data"), "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        url = re.search(r"http://\S+", process.stdout.readline())
        assert url is not None
        context = browser.new_context()
        page = context.new_page()
        page.goto(url[0])
        expect(page.get_by_test_id("query")).to_be_visible()
        page.wait_for_function("window.socket?.connected ?? true")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        context.close()
    finally:
        process.kill()
        _, errors = process.communicate()
    assert "Traceback" not in errors
