"""Convert a directory of safetensors to GGUF once, and use the result only if it passes a quality check."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import structlog

from tmde_core.sdk.errors import InsufficientStorageError, InvalidInputError
from tmde_core.sdk.last_words import describe_status, find_reason
from tmde_cpu.serving.simple_questions import QualityReport

log = structlog.get_logger(__name__)

LEAST_RIGHT = 12
"""The required right answers, of 24. The embedded model gives 22 in every valid format, and gave 1 in a broken one."""
CONVERSION = 1
"""The version of the conversion. Raise it when a conversion gives a different file, so that old files are converted
again."""

QualityCheck = Callable[[Path], Awaitable[QualityReport]]


async def ensure_gguf(directory: Path, converted_dir: Path, check: QualityCheck) -> Path:
    """Return the GGUF file for `directory`, which is converted and checked the first time.

    Raises:
        InvalidInputError: the conversion failed, or the result answers too few questions of the quality check.
        InsufficientStorageError: the file cannot be written.
    """
    target = converted_dir / f"{await asyncio.to_thread(_fingerprint, directory)}.gguf"
    if target.is_file():
        return target
    staged = target.with_name(f".{target.stem}-{uuid4().hex}.gguf")
    try:
        converted_dir.mkdir(parents=True, exist_ok=True)
        await _convert(directory, staged)
        report = await check(staged)
        log.info("embedded.converted", source=str(directory), right=report.right, asked=report.asked)
        if report.right < LEAST_RIGHT:
            raise InvalidInputError(
                f"The model {directory} was converted to GGUF, but then answered only {report.right} of {report.asked} simple "
                f"questions ({LEAST_RIGHT} are needed), so it is not used. Name a GGUF file of the model instead.",
                field="model",
            )
        staged.rename(target)
    except OSError as error:
        raise InsufficientStorageError(
            f"The GGUF form of {directory} cannot be written to {converted_dir}: {error.strerror or error}."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
    return target


async def _convert(directory: Path, target: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *("-m", "tmde_cpu.gguf.convert", str(directory), str(target)), stderr=asyncio.subprocess.PIPE
    )
    try:
        _, told = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        reason = find_reason(told.decode("utf-8", "replace").splitlines()) if (process.returncode or 0) > 0 else ""
        reason = reason or f"The converter {describe_status(process.returncode)}."
        raise InvalidInputError(f"The model {directory} cannot be served. {reason}", field="model")


def _fingerprint(directory: Path) -> str:
    """Return a hash of the small files' content, and of size and time of the large files.

    Reading the large files would take minutes.
    """
    digest = hashlib.sha256(f"{CONVERSION}".encode())
    for file in sorted(directory.iterdir()):
        found = file.stat()
        if file.suffix == ".safetensors":
            digest.update(f"{file.name} {found.st_size} {found.st_mtime_ns}\n".encode())
        elif file.name in {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}:
            digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:32]
