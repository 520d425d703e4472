"""Find the weights that a run starts from, and convert those of a GGUF file. Private: import from `tmde_core.sdk.worker`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tmde_core.errors import InvalidInputError
from tmde_core.records.training import TrainingJob
from tmde_core.sdk.worker.kit import TrainingFailedError

__all__ = ["find_weights", "prepare_weights"]

NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
TAIL_CHARS = 500


def find_weights(job: TrainingJob) -> Path:
    """Return the directory of safetensors that a run trains on, or the GGUF file that its worker converts first.

    A backend that trains safetensors only calls this in `plan`, `preview` and `estimate`. It looks at files and loads
    none.

    Args:
        job: its base model is a directory, a GGUF file, or the name of one of both in `data_dir/models`.

    Raises:
        InvalidInputError: there are no such weights, or nothing here can convert the GGUF file.
    """
    if not job.base_model.strip():
        raise _refused("The run names no base model. Set `baseModel` to a base model of `tmde models list`.")
    path = _located(Path(job.data_dir) / "models", job.base_model)
    if path.is_file() and path.suffix.lower() == ".gguf":
        if job.dequantize is None:
            raise _refused(
                f"The base model is the GGUF file {path.name}, and nothing here can convert it for training. Pull the "
                "safetensors of the same model with `tmde models pull`, or install the backend `cpu`, which converts it."
            )
        return path.absolute()
    if not path.is_dir():
        raise _refused(
            f"There is no base model {job.base_model[:200]!r}: name a base model of `tmde models list`, or a directory "
            "with config.json and safetensors."
        )
    lacking = [name for name in NEEDED if not (path / name).is_file()]
    if not any(path.glob("*.safetensors")):
        lacking.append("*.safetensors")
    if lacking:
        raise _refused(f"The base model {path} cannot be trained: it lacks {', '.join(lacking)}.")
    return path.absolute()


def prepare_weights(job: TrainingJob, report_alive: Callable[[], object] = lambda: None) -> Path:
    """Return the directory of safetensors that a run trains on. A GGUF file is converted the first time.

    The conversion runs in a process of the backend that offers it. What it writes goes to the log of this process.

    Args:
        job: the job of this worker.
        report_alive: called for each line that the conversion writes, such as `RunWorker.report_alive`.

    Raises:
        InvalidInputError: see `find_weights`.
        TrainingFailedError: the conversion failed.
        MemoryError: the conversion was killed, so memory is short.
    """
    found = find_weights(job)
    if found.is_dir():
        return found
    assert job.dequantize is not None
    with subprocess.Popen(
        job.dequantize.argv,
        env={**os.environ, **job.dequantize.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        last = "it gave no reason"
        try:
            for line in process.stdout or ():
                sys.stderr.write(line)
                last = line.strip() or last
                report_alive()
            code = process.wait()
        except BaseException:  # a cancelled run must not leave the process behind
            process.kill()
            raise
    if code == 0 and Path(last).is_dir():
        return Path(last)
    if code < 0:
        raise MemoryError(f"The conversion of {found.name} was killed; most likely memory is short.")
    raise TrainingFailedError(
        "bad-base-model", f"The base model {found.name} cannot be converted for training: {last[-TAIL_CHARS:]}"
    )


def _located(models: Path, name_or_path: str) -> Path:
    try:
        path = Path(name_or_path).expanduser()
        if not path.is_absolute() and (models / path).exists():
            path = models / path
        path.exists()  # a name that is too long fails here
    except (OSError, RuntimeError, ValueError) as error:  # too long, an unknown user's home, a null byte
        raise _refused(
            f"The base model {name_or_path[:200]!r} cannot be looked at: {getattr(error, 'strerror', None) or error}."
        ) from None
    return path


def _refused(detail: str) -> InvalidInputError:
    return InvalidInputError(detail, field="baseModel")
