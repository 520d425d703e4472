"""Run a `llama-server` program that ends with TMDE, in whatever way TMDE ends.

    python -m tmde_cpu.serving.binary_launcher

The launcher reads one JSON line from stdin: the command, the key, the adapters, and the process id of its parent. It
writes one JSON line to stdout: the process id of the program, or why it cannot be started. The program logs to stderr.
A second line on stdin says that the program has read its key. When stdin closes, the program and the launcher end. When
the program ends, the launcher ends in the same way.

Only the standard library is imported, because the launcher runs as long as the program.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

_SET_PDEATHSIG = 1
OWNED_ENVIRONMENT = ("LLAMA_ARG_", "LLAMA_API_KEY")
"""Variables that llama-server takes for arguments. Only TMDE's settings decide."""


class Launch:
    """The program, and the private directory with its key."""

    def __init__(self, command: Sequence[str], key: str, adapters: Sequence[str]) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="tmde-serving-"))  # only this user may enter
        key_file = self._directory / "key"
        with os.fdopen(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{key}\n")
        self._command = [*command, "--api-key-file", str(key_file)]
        for number, adapter in enumerate(adapters):
            self._command += ["--lora", self._plain(adapter, number)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Start the program in a process group of its own, and return its process id."""
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=2,
            start_new_session=True,
            preexec_fn=_die_with_parent(),  # noqa: PLW1509 - no other thread runs yet
            env={name: value for name, value in os.environ.items() if not name.startswith(OWNED_ENVIRONMENT)},
        )
        return self.process.pid

    def forget_key(self) -> None:
        """Remove the key from the disk."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def kill(self) -> None:
        """End the program, and whatever it has started in its process group."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.forget_key()

    def _plain(self, adapter: str, number: int) -> str:
        """Return a path without the characters that `--lora` takes for the end of a path."""
        if not set(adapter) & {",", '"'}:
            return adapter
        link = self._directory / f"adapter-{number}.gguf"
        link.symlink_to(adapter)
        return str(link)


def main() -> None:
    """Start the program, and wait until the program or the parent has ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    job = json.loads(sys.stdin.buffer.readline())
    launch = Launch(job["command"], job["key"], job["adapters"])
    _end_with(job["parent"], launch)
    try:
        pid = launch.start()
    except OSError as error:
        launch.forget_key()
        _answer(answers, {"error": error.strerror or str(error)})
        sys.exit(1)
    threading.Thread(target=_hold_life_line, args=(launch,), daemon=True).start()
    _answer(answers, {"pid": pid})
    assert launch.process is not None
    code = launch.process.wait()
    launch.kill()  # a wrapper script may have ended before the program that it started
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler to reset
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _answer(answers, record: dict[str, object]) -> None:  # type: ignore[no-untyped-def]
    answers.write(json.dumps(record) + "\n")
    answers.flush()


def _hold_life_line(launch: Launch) -> None:
    if sys.stdin.buffer.readline():
        launch.forget_key()
    while sys.stdin.buffer.read(4096):
        pass
    launch.kill()
    os._exit(0)


def _end_with(parent: int, launch: Launch) -> None:
    """End when the parent dies, even if some other process holds the other end of stdin open."""

    def end(*_: object) -> None:
        launch.kill()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends in its own order
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        end()


def _die_with_parent() -> Callable[[], None] | None:
    """Return what the child does before it becomes the program: ask the kernel to kill it when the launcher dies."""
    if sys.platform != "linux":
        return None
    library, launcher = ctypes.CDLL(None), os.getpid()

    def prepare() -> None:
        library.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != launcher:
            os._exit(1)

    return prepare


if __name__ == "__main__":
    main()
