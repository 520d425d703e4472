"""Run untrusted Python code in confinement.

`sandbox` starts this module as a separate process and never imports it. The module uses only the standard library,
because the process starts with `-I -S` and has no other packages. The process reads the job as JSON from stdin and
writes the result as JSON to stdout. Each test runs in its own child, which loads the answer's code and then the test.
The child never receives the expected value: it sends the values that it computed, and the caller compares them.

These layers confine a child, from the outside in. Each layer still works if the ones before it are missing:

- limits: processor time, address space, file size, open files. A child is killed when its time is up.
- no capabilities (Linux): if TMDE runs as root, the child is a root without privileges. For example, it cannot create a
  device to read the disk.
- Landlock (Linux 5.13 and later): the child reads only the standard library and shared libraries, not the installed
  packages. It writes only plain files in its own directory, and it cannot bind or connect a TCP port.
- seccomp (Linux on x86-64 and AArch64): no sockets, no new processes or threads, no signals, no tracing, no change of
  owners, modes or limits, no directories, links or devices.
- an audit hook, on every platform: the same rules through Python's own events, and no ctypes. The hook alone stops
  accidents, not an attacker.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

MEMORY_BYTES = 256 * 1024**2
FILE_BYTES = 1024**2
WRITABLE_FILES = 32
"""How often a child may open a file for writing. Together with `FILE_BYTES`, this limits what it can write to the disk.
"""
OPEN_FILES = 32
REPLY_BYTES = 64 * 1024
"""How many bytes of a child's reply are read."""
DEPTH = 20
"""Values that are nested deeper are not compared."""

PACKAGES = frozenset({"site-packages", "dist-packages"})
"""Directories of installed packages. They may contain TMDE's own questions, with the values that the tests expect."""

READABLE = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/ld.so.cache")
DEVICES = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero")

# ------------------------------------------------------------------------------------------------ the kernel's layers

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 38, 22
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR, _WRITE_FILE, _TRUNCATE = 1 << 2, 1 << 3, 1 << 1, 1 << 14
_REMOVE_FILE, _MAKE_FILE = 1 << 5, 1 << 8
_CAPABILITIES_VERSION = 0x20080522
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Maps a Landlock version to its number of filesystem rights; 16 from version 5 on."""

_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_REFUSED: dict[str, tuple[tuple[int, ...], ...]] = {
    # In this order: sockets; processes and threads; signals; tracing; owners, modes, times and attributes of files;
    # sessions and limits; shared memory and queues; mounts, namespaces, bpf, io_uring; directories, links and devices.
    "x86_64": (
        (*range(41, 51), 53, 54, 55, 288, 299, 307),
        (56, 57, 58, 59, 322, 435),
        (62, 129, 200, 234, 297, 424, 434),
        (101, 310, 311),
        (90, 91, 92, 93, 94, 132, 188, 189, 190, 197, 198, 199, 235, 260, 261, 268, 280, 452),
        (112, 141, 142, 144, 160, 251, 302),
        (29, 30, 64, 68, 240),
        (155, 161, 165, 166, 248, 249, 250, 272, 298, 308, 321, 323, 425, 426, 427),
        (83, 86, 88, 133, 258, 259, 265, 266),
    ),
    "aarch64": (
        (*range(198, 213), 242, 243, 269),
        (220, 221, 281, 435),
        (129, 130, 131, 138, 240, 424, 434),
        (117, 270, 271),
        (5, 6, 7, 14, 15, 16, 52, 53, 54, 55, 88, 452),
        (30, 118, 119, 140, 157, 164, 261),
        (180, 186, 190, 194, 196),
        (39, 40, 41, 51, 97, 217, 218, 219, 241, 268, 280, 282, 425, 426, 427),
        (33, 34, 36, 37),
    ),
}
_EPERM = 1


def _incapable(libc: Any) -> bool:
    """Give up the capabilities of root."""
    header = struct.pack("=Ii", _CAPABILITIES_VERSION, 0)
    return bool(libc.capset(header, bytes(24)) == 0)


def _below(path: str) -> list[tuple[str, int]]:
    """Return the readable parts of a path: everything except installed packages, whose names alone are visible."""
    if not os.path.isdir(path):  # noqa: PTH112 pathlib is not needed for anything else here
        return [(path, _READ_FILE)]
    found = [(path, _READ_DIR)]
    for name in os.listdir(path):  # noqa: PTH208
        inner = os.path.join(path, name)  # noqa: PTH118
        if name.startswith("python"):
            found += _below(inner)
        elif name not in PACKAGES:
            found.append((inner, _READ_FILE | _READ_DIR))
    return found


def _landlock(libc: Any, home: str, readable: Iterable[str]) -> bool:
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return False
    rights = (1 << _FS_BITS.get(version, 16)) - 1
    network, scope = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("=QQQ", rights, network, scope)
    rules = libc.syscall(_LANDLOCK_CREATE, attributes, size, 0)
    if rules < 0:
        return False
    roots = {os.path.realpath(path) for path in readable if os.path.exists(path)}  # noqa: PTH110
    wanted = [rule for path in sorted(roots) for rule in _below(path)]
    wanted += [(path, _READ_FILE | _WRITE_FILE) for path in DEVICES]
    wanted.append((home, _READ_FILE | _READ_DIR | _WRITE_FILE | _TRUNCATE | _REMOVE_FILE | _MAKE_FILE))
    for path, allowed in wanted:
        with contextlib.suppress(OSError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            if not os.path.isdir(path):  # noqa: PTH112 pathlib is not needed for anything else here
                allowed &= _READ_FILE | _WRITE_FILE | _TRUNCATE
            libc.syscall(_LANDLOCK_ADD, rules, 1, struct.pack("=Qi", allowed & rights, place), 0)
            os.close(place)
    done = libc.syscall(_LANDLOCK_RESTRICT, rules, 0) == 0
    os.close(rules)
    return bool(done)


def _seccomp(libc: Any) -> bool:
    machine = platform.machine()
    if machine not in _MACHINES:
        return False
    refused = [number for group in _REFUSED[machine] for number in group]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    kill, allow, refuse = 0x80000000, 0x7FFF0000, 0x00050000 | _EPERM
    code = [
        (load, 0, 0, 4),  # the architecture
        (equal, 1, 0, _MACHINES[machine]),
        (give, 0, 0, kill),
        (load, 0, 0, 0),  # the number of the system call
        (at_least, len(refused) + 1, 0, 0x40000000),  # the other numbering of x86-64
        *((equal, len(refused) - index, 0, number) for index, number in enumerate(refused)),
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
    ]
    program = b"".join(struct.pack("=HBBI", *step) for step in code)
    held = ctypes.create_string_buffer(program)
    filters = struct.pack("HxxxxxxP", len(code), ctypes.addressof(held))
    return bool(libc.prctl(_PR_SET_SECCOMP, 2, filters, 0, 0) == 0)


# --------------------------------------------------------------------------------------------------- the audit hook

_NEVER = (
    "ctypes.", "socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "os.kill",
    "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr", "os.truncate", "pty.", "resource.", "signal.pthread_kill",
    "sqlite3.", "code.__new__", "syslog.", "urllib.", "ftplib.", "smtplib.", "webbrowser.", "_posixsubprocess", "_thread.start",
)  # fmt: skip
_PATHS = (
    "open",
    "os.listdir",
    "os.scandir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.chdir",
)
_MODULES = frozenset({"ctypes", "_ctypes", "_posixsubprocess", "_socket", "_multiprocessing"})


def _audited(home: str, readable: tuple[str, ...]) -> Callable[[str, tuple[Any, ...]], None]:
    real, decode, starts = os.path.realpath, os.fsdecode, str.startswith
    inside = (home + os.sep,)
    below = tuple(path.rstrip(os.sep) + os.sep for path in readable)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
    budget = [WRITABLE_FILES]

    def place(value: object) -> str | None:
        if isinstance(value, int) or value is None:
            return None
        return real(decode(value)) + os.sep  # type: ignore[arg-type]

    def library(path: str) -> bool:
        return starts(path, below) and PACKAGES.isdisjoint(path.split(os.sep))  # noqa: PTH206

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if event == "import":
            if details[0] in _MODULES:
                raise PermissionError(f"{details[0]} is not available here")
        elif starts(event, _NEVER):
            raise PermissionError(f"{event} is not allowed here")
        elif event in _PATHS:
            paths = [found for value in details[:2] if isinstance(value, str | bytes) and (found := place(value))]
            if event == "open":
                paths = paths[:1] if isinstance(details[0], str | bytes) else []
                if details[2] & writing:
                    budget[0] -= 1
                    if budget[0] < 0:
                        raise PermissionError("too many files")
                elif paths and (paths[0].rstrip(os.sep) in DEVICES or library(paths[0])):
                    return
            for path in paths:
                if not starts(path, inside) and not (event in {"os.listdir", "os.scandir"} and starts(path, below)):
                    raise PermissionError(f"{event} outside of the directory is not allowed")

    return hook


# ----------------------------------------------------------------------------------------------------- one child


def _confine(home: str, seconds: float) -> list[str]:
    """Give up every right that a child does not need, and return the layers that are active."""
    libc = ctypes.CDLL(None, use_errno=True)
    readable = tuple(path for path in (*sys.path, *READABLE) if path)
    layers = ["limits"]
    for what, most in (
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))
    if sys.platform == "linux":
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if _incapable(libc):
            layers.append("capabilities")
        if _landlock(libc, home, readable):
            layers.append("landlock")
        if _seccomp(libc):
            layers.append("seccomp")
    sys.addaudithook(_audited(home, readable))
    for name in ("ctypes", "_ctypes"):
        sys.modules.pop(name, None)
    return [*layers, "audit"]


_SEQUENCES: tuple[Any, ...] = (list, tuple, set, frozenset)


def _encoded(value: Any, depth: int = DEPTH) -> Any:
    """Encode a value of built-in types as tagged JSON. For any other value, encode only the name of its type."""
    if depth == 0:
        return ["other", "too deep"]
    if value is None or isinstance(value, bool):
        return ["plain", value]
    if isinstance(value, int):
        return ["int", int.__repr__(value)]
    if isinstance(value, float):
        return ["float", float.hex(value)]
    if isinstance(value, str):
        return ["str", str.__str__(value)]
    for kind in _SEQUENCES:
        if isinstance(value, kind):
            # Iterates as the built-in type does, because a subclass in the answer may iterate differently.
            return [kind.__name__, [_encoded(one, depth - 1) for one in kind.__iter__(value)]]
    if isinstance(value, dict):
        return ["dict", [[_encoded(key, depth - 1), _encoded(one, depth - 1)] for key, one in dict.items(value)]]
    return ["other", type(value).__name__]


def _raises(error: type[BaseException], call: Callable[..., object], *arguments: object) -> bool:
    """Return whether the call raises the error. Tests call this function."""
    try:
        call(*arguments)
    except error:
        return True
    return False


def _child(code: str, test: str, pipe: int, home: str, seconds: float) -> NoReturn:
    write, dumps, leave = os.write, json.dumps, os._exit

    def send(value: object) -> None:
        data = dumps(value).encode() + b"\n"
        while data:
            data = data[write(pipe, data) :]

    try:
        os.mkdir(home)  # noqa: PTH102 pathlib is not needed for anything else here
        os.chdir(home)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        os.closerange(3, pipe)
        os.closerange(pipe + 1, 256)
        send(["layers", _confine(home, seconds)])
        # A real module, because dataclasses and typing look up the module of a class.
        module = sys.modules["answer"] = type(sys)("answer")
        space: dict[str, Any] = module.__dict__
        exec(compile(code, "answer", "exec"), space)  # noqa: S102 this is the purpose of this process
        space |= {"__probe__": lambda value: send(["value", _encoded(value)]), "raises": _raises}
        exec(compile(test, "test", "exec"), space)  # noqa: S102
    except BaseException as error:
        with contextlib.suppress(BaseException):
            send(["error", f"{type(error).__name__}: {error}"[:200]])
    leave(0)


# ------------------------------------------------------------------------------------------------------ the process


def _reply(pipe: int, until: float) -> tuple[bytes, bool]:
    """Return what a child sends until it ends or its time is up, and whether it ended by itself."""
    data = b""
    while len(data) < REPLY_BYTES and (left := until - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left)[0]:
            break
        piece = os.read(pipe, REPLY_BYTES)
        if not piece:
            return data, True
        data += piece
    return data[:REPLY_BYTES], False


def main() -> None:
    """Run the tests of one job, one after the other."""
    job = json.loads(sys.stdin.buffer.read())
    tests, until = job["tests"], time.monotonic() + job["seconds"]
    base = os.path.realpath(os.getcwd())  # noqa: PTH109 pathlib is not needed for anything else here
    replies = []
    for index, test in enumerate(tests):
        now = time.monotonic()
        share = max(0.05, (until - now) / (len(tests) - index))
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _child(job["code"], test, writing, os.path.join(base, str(index)), share)  # noqa: PTH118
        os.close(writing)
        data, ended = _reply(reading, now + share)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        replies.append({"lines": data.decode("utf-8", "replace").splitlines(), "ended": ended})
    sys.stdout.write(json.dumps(replies))


if __name__ == "__main__":
    main()
