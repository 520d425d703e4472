"""Measures the way from a clone to the first answer: `git clone`, `./run serve`, one question.

The same is measured with `./run setup` before the server, which installs at once what the server otherwise installs in
the background.

The clones are of the committed state of this repository. Nothing is installed before, and pip's cache is empty.
Packages come from where pip looks on this machine, so the figures depend on the network.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
LIMIT_S = 75.0
"""On a machine where all packages, PyTorch among them, take three minutes."""
GIVE_UP_S = 900.0
ANSWERED = "clone to the first answer"
QUESTION = "What is the capital of France?"


def main() -> str:
    """Run the benchmark and return a Markdown section; raise SystemExit if the limit is missed."""
    tables = []
    for words in ((), ("setup",)):
        with tempfile.TemporaryDirectory() as directory:
            tables.append(dict(first_start(REPOSITORY, Path(directory), words)))
    plain, whole = tables
    answered = plain[ANSWERED]
    text = (
        "From an empty directory, with an empty cache of pip, each way once.\n\n"
        "| seconds | `./run serve` | `./run setup`, then `./run serve` |\n|---|---:|---:|\n"
    )
    text += "".join(
        f"| {name} | {_number(plain.get(name))} | {_number(whole.get(name))} |\n"
        for name in sorted({**whole, **plain}, key=list(whole).index)
    )
    text += f"\nThe first answer comes after {answered / whole[ANSWERED]:.2f} of the time of a full set-up.\n"
    if answered > LIMIT_S:
        print(text)
        raise SystemExit(f"The first answer took {answered:.0f} s; the limit is {LIMIT_S:.0f} s.")
    return text


def first_start(repository: Path, directory: Path, words: tuple[str, ...] = ()) -> list[tuple[str, float]]:
    """Clone, start, ask, and end the server. Return each step with its seconds.

    Args:
        repository: what is cloned.
        directory: an empty directory.
        words: words of `./run` that are done before `serve`.
    """
    began = time.monotonic()
    clone, log = directory / "clone", directory / "log"
    subprocess.run(["git", "clone", "--quiet", str(repository), str(clone)], check=True)
    port = _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TMDE_", "PYTHON"))}
    environment |= {"PIP_CACHE_DIR": str(directory / "cache"), "TMDE_LOG_LEVEL": "warning"}
    with log.open("wb") as output:
        for word in words:
            subprocess.run([str(clone / "run"), word], stdout=output, stderr=output, env=environment, check=True)
        command = [str(clone / "run"), "serve", "--port", str(port)]
        server = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)
    try:
        address = f"http://127.0.0.1:{port}"
        _until(lambda: _get(f"{address}/api/health") is not None, server, log)
        listening = time.monotonic() - began
        answer = _ask(address, server, log)
        answered = time.monotonic() - began
        print(f"{QUESTION} {answer[:80]}", file=sys.stderr)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    steps = [(name, float(seconds)) for name, seconds in _steps(log)]
    return [
        *steps,
        ("clone to the server's start", listening),
        (ANSWERED, answered),
    ]


def _ask(address: str, server: subprocess.Popen[bytes], log: Path) -> str:
    body = {"query": QUESTION, "config": {"maxRounds": 1}}
    request = urllib.request.Request(
        f"{address}/api/debates", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        identity = json.load(response)["debateId"]
    found: dict[str, Any] = {}

    def ended() -> bool:
        found.update(_get(f"{address}/api/debates/{identity}") or {})
        return found.get("status") not in {None, "running", "queued", "pending"}

    _until(ended, server, log)
    return str(found.get("finalAnswer") or found)


def _until(done: Any, server: subprocess.Popen[bytes], log: Path) -> None:
    began = time.monotonic()
    while not done():
        if server.poll() is not None or time.monotonic() - began > GIVE_UP_S:
            raise SystemExit(f"The server ended or did not answer.\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)


def _get(url: str) -> dict[str, Any] | None:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def _steps(log: Path) -> list[tuple[str, str]]:
    """Return what `run` wrote: each step of the set-up and its seconds."""
    found: list[tuple[str, str]] = []
    for line in log.read_text(errors="replace").splitlines():
        if begun := re.match(r"^ {2}(\S.*?) … (.*)$", line):
            found.append((begun[1], ""))
            line = begun[2]
        if found and (ended := re.search(r"(?:^|\s)(\d+) s ?$", line)):
            found[-1] = (found[-1][0], ended[1])
    return [(name, seconds) for name, seconds in found if seconds]


def _number(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.0f}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
