"""The played hub: listings, small files, and large files by way of a redirect to a storage server."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from tmde_core.testing.fake_hub.faults import Faults
from tmde_core.testing.fake_hub.repository import Repository
from tmde_core.testing.fake_servers.base import Call, FakeServer, Reply

GRANTED = "granted"
"""The token that has access to gated and private repositories."""
BLOCK_BYTES = 64 * 1024
STORAGE = "/storage"
"""Where the storage server's files lie; another host if the hub has the fault `other-host`."""

_LISTING = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)(?:/revision/(?P<revision>.+))?")
_FILE = re.compile(r"(?P<storage>/storage)?/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_EVIL = ("../escaped.json", "/etc/evil.safetensors", "a/../../b.json", "..\\c.json", "d\x1b[2J.json", ".hidden.json")


class Served(NamedTuple):
    """A request for the content of a file, with what was sent."""

    path: str
    start: int
    """The first byte that was asked for."""
    token: str
    host: str


class FakeHub(FakeServer):
    """A hub over the files of a folder, which may misbehave (see `FAULTS`).

    Attributes:
        served: the requests for the content of files, in order.
        bytes_sent: the bytes that were sent of each file.
    """

    def __init__(self, folder: Path, *faults: str) -> None:
        """Create a hub.

        Args:
            folder: its repositories, `folder/owner/name`.
            faults: what it does wrong: names of `FAULTS`, some with a number, such as `break-after=1000`.

        Raises:
            ValueError: there is no such fault.
        """
        super().__init__()
        self.folder = folder
        self.faults = Faults(*faults)
        self.served: list[Served] = []
        self.bytes_sent: Counter[str] = Counter()
        self.sending = asyncio.Event()
        """Set when bytes of a large file have been sent."""
        self._known: dict[str, Repository] = {}

    async def answer(self, call: Call, reply: Reply) -> None:
        """Answer one request. See `FakeServer.answer`."""
        if "no-hub" in self.faults:
            await _page(reply)
        elif self.faults.first("busy", call.path) or "busy-always" in self.faults:
            wait = self.faults.value("busy-always") or self.faults.value("busy") or 0
            await _refuse(reply, 429, headers={"Retry-After": str(wait)})
        elif self.faults.first("error-once", call.path):
            await _refuse(reply, 500)
        elif "bad-token" in self.faults and _token(call):
            await _refuse(reply, 401, message="Invalid credentials in Authorization header")
        elif found := _LISTING.fullmatch(call.path):
            await self._list(call, reply, found["name"], found["revision"] or "main")
        elif found := _FILE.fullmatch(call.path):
            await self._file(call, reply, found)
        else:
            await _refuse(reply, 404)

    # ------------------------------------------------------------------------------------ listings

    async def _list(self, call: Call, reply: Reply, name: str, revision: str) -> None:
        repository = self._repository(name, revision)
        if repository is None and self._repository(name, "main") is not None:
            await _refuse(reply, 404, "RevisionNotFound")
        elif repository is None or ("private" in self.faults and _token(call) != GRANTED):
            await _refuse(reply, 404 if _token(call) else 401, "RepoNotFound")
        elif "odd-listing" in self.faults:
            await reply.json(["not", "a", "model"])
        else:
            await reply.json(self._listing(repository))

    def _listing(self, repository: Repository) -> dict[str, Any]:
        hidden = "no-metadata" in self.faults
        siblings = repository.siblings(sizes=not hidden, hashes=not hidden and "no-hashes" not in self.faults)
        if "hostile-names" in self.faults:
            siblings += [{"rfilename": path, "size": 3, "blobId": "0" * 40} for path in _EVIL]
        if "many-files" in self.faults:
            siblings += [{"rfilename": f"{number}.json", "size": 2, "blobId": "0" * 40} for number in range(6000)]
        return {
            "_id": "0" * 24,
            "id": repository.name,
            "modelId": repository.name,
            "sha": repository.commit,
            "private": "private" in self.faults,
            "gated": "manual" if "gated" in self.faults else False,
            "disabled": False,
            "tags": repository.tags(),
            "cardData": repository.card(),
            "siblings": siblings,
            "downloads": 1,
            "likes": 0,
        }

    # --------------------------------------------------------------------------------------- files

    async def _file(self, call: Call, reply: Reply, found: re.Match[str]) -> None:
        name, path = found["name"], found["path"]
        repository = self._repository(name, found["revision"])
        if found["storage"]:
            assert repository is not None
            await self._content(call, reply, repository, path)
        elif ("gated" in self.faults or "private" in self.faults) and _token(call) != GRANTED:
            await _refuse(
                reply, 403 if _token(call) else 401, "GatedRepo" if "gated" in self.faults else "RepoNotFound"
            )
        elif "forbidden" in self.faults:
            await _refuse(reply, 403)
        elif repository is None or path not in repository.files or "gone" in self.faults:
            await _refuse(reply, 404, "EntryNotFound")
        elif "error-always" in self.faults:
            await _refuse(reply, 500)
        elif "loop" in self.faults or "file-redirect" in self.faults:
            there = call.path if "loop" in self.faults else "file:///etc/passwd"
            await _redirect(reply, there, {})
        elif repository.is_large(path):
            await self._send_away(call, reply, repository, path)
        else:
            await self._content(call, reply, repository, path)

    async def _send_away(self, call: Call, reply: Reply, repository: Repository, path: str) -> None:
        host = call.headers.get("host", "")
        if "other-host" in self.faults or "expired" in self.faults:  # the same server under another name
            host = f"localhost:{host.rpartition(':')[2]}"
        digest = f'"{repository.hashes[path]}"'
        headers = {
            "X-Repo-Commit": repository.commit,
            "X-Linked-Etag": digest,
            "X-Linked-Size": str(repository.files[path].stat().st_size),
            "ETag": digest,
        }
        await _redirect(reply, f"http://{host}{STORAGE}/{repository.name}/resolve/{repository.commit}/{path}", headers)

    async def _content(self, call: Call, reply: Reply, repository: Repository, path: str) -> None:
        content = repository.files[path].read_bytes()
        start = _start(call.headers.get("range", ""))
        token, host = _token(call), call.headers.get("host", "")
        self.served.append(Served(path, start, token, host))
        if repository.is_large(path) and self.faults.first("expired", path):
            await _refuse(reply, 403)
            return
        if repository.is_large(path) and content:
            if "wrong-hash" in self.faults or self.faults.first("wrong-hash-once", path):
                content = bytes([content[0] ^ 255]) + content[1:]
            if "not-safe" in self.faults:
                content = bytes(len(content))
        if "no-range" in self.faults:
            start = 0
        if start and start >= len(content):
            await _refuse(reply, 416)
            return
        shift = 10 if start and "wrong-range" in self.faults else 0
        headers = {
            "X-Repo-Commit": repository.commit,
            "ETag": f'"{repository.hashes[path]}"',
            "Content-Length": str(len(content) - start - shift),
            "Accept-Ranges": "bytes",
        }
        if start:
            headers["Content-Range"] = f"bytes {start + shift}-{len(content) - 1}/{len(content)}"
        await reply.start(206 if start else 200, "application/octet-stream", headers)
        if call.method == "HEAD":
            await reply.write(b"", last=True)
        else:
            await self._send(reply, path, content[start + shift :])

    async def _send(self, reply: Reply, path: str, content: bytes) -> None:
        limit = self.faults.value("break-after")
        if self.faults.first("break-once", path):
            limit = self.faults.value("break-once")
        stall, drip = self.faults.value("stall"), self.faults.value("drip")
        sent, block = 0, BLOCK_BYTES if drip is None else max(1, drip // 20)
        while sent < len(content):
            ends = [len(content), *(end for end in (limit, stall) if end is not None)]
            piece = content[sent : min(sent + block, *ends)]
            if not piece:
                if limit is not None and sent >= limit:
                    await reply.end_early()
                    return
                await asyncio.Event().wait()
            await reply.write(piece)
            sent += len(piece)
            self.bytes_sent[path] += len(piece)
            self.sending.set()
            if drip is not None:
                await asyncio.sleep(len(piece) / drip)
        await reply.write(b"", last=True)

    def _repository(self, name: str, revision: str) -> Repository | None:
        """Return a repository at a branch, a tag or a commit."""
        for folder in sorted((self.folder / name).parent.glob(f"{name.partition('/')[2]}*")):
            branch = folder.name.partition("@")[2] or "main"
            if folder.name.partition("@")[0] != name.partition("/")[2] or not folder.is_dir():
                continue
            known = self._known.setdefault(str(folder), Repository(folder, name))
            if revision in (branch, known.commit):
                return known
        return None


def _token(call: Call) -> str:
    return call.headers.get("authorization", "").removeprefix("Bearer ")


def _start(header: str) -> int:
    found = re.fullmatch(r"bytes=(\d+)-", header)
    return int(found[1]) if found else 0


async def _redirect(reply: Reply, target: str, headers: dict[str, str]) -> None:
    await reply.start(302, "text/plain", {"Location": target, **headers})
    await reply.write(b"", last=True)


async def _refuse(
    reply: Reply, status: int, code: str = "", *, message: str = "", headers: dict[str, str] | None = None
) -> None:
    told = {"X-Error-Code": code} if code else {}
    told |= {"X-Error-Message": message} if message else {}
    await reply.json({"error": message or code or "refused"}, status, told | (headers or {}))


async def _page(reply: Reply) -> None:
    await reply.start(200, "text/html")
    await reply.write(b"<!doctype html><title>Welcome</title>", last=True)
