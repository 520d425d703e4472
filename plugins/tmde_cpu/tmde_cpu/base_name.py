"""Find the file or directory of a base model by its name.

The server calls this before it starts a worker, so the module is light.
"""

from __future__ import annotations

from pathlib import Path

from tmde_core.sdk.errors import InvalidInputError
from tmde_core.sdk.model_folders import WEIGHTS_FOLDER, find_folder
from tmde_cpu.embedded import EMBEDDED_FILE, verify_embedded

EMBEDDED_ALIASES = (
    Path(EMBEDDED_FILE).stem,
    "SmolLM2-135M-Instruct",
    "HuggingFaceTB/SmolLM2-135M-Instruct",  # its name on the Hugging Face hub, which PEFT writes into adapters
)
"""Further names of the embedded model. Upper and lower case do not matter."""

_EMBEDDED_NAMES = frozenset(name.casefold() for name in (EMBEDDED_FILE, *EMBEDDED_ALIASES))


def is_embedded_name(name: str) -> bool:
    """Return whether a name means the embedded model's file. Training, conversion and serving all ask this function."""
    return name.strip().casefold() in _EMBEDDED_NAMES


def resolve_base_model(data_dir: Path, name_or_path: str) -> Path:
    """Return the GGUF file or the directory of safetensors that a training run starts from.

    Args:
        data_dir: the data directory.
        name_or_path: the embedded model's name or an empty text; a file or directory; or a name in `data_dir/models`.

    Raises:
        InvalidInputError: there is no such model, or it has a format that cannot be trained.
    """
    models = data_dir / "models"
    if not name_or_path or is_embedded_name(name_or_path):
        return verify_embedded(models)
    try:
        return _found(models, name_or_path)
    except (OSError, RuntimeError, ValueError) as error:  # too long, not readable, an unknown user's home, a null byte
        raise InvalidInputError(
            f"The base model {name_or_path[:200]!r} cannot be looked at: {getattr(error, 'strerror', None) or error}.",
            field="baseModel",
        ) from None


def _found(models: Path, name_or_path: str) -> Path:
    path = Path(name_or_path).expanduser()
    if (folder := find_folder(models, name_or_path)) is not None:
        weights = folder.weights or next(iter(folder.gguf_files), None)
        path = weights or folder.path / WEIGHTS_FOLDER
    elif not path.is_absolute() and (models / path).exists():
        path = models / path
    if path.is_file() and path.suffix == ".gguf":
        return path.absolute()
    if not path.is_dir():
        raise InvalidInputError(
            f"There is no base model {name_or_path!r}: name a GGUF file or a directory with config.json and safetensors.",
            field="baseModel",
        )
    lacking = [
        name for name in ("config.json", "tokenizer.json", "tokenizer_config.json") if not (path / name).is_file()
    ]
    if not any(path.glob("*.safetensors")):
        lacking.append("*.safetensors")
    if lacking:
        raise InvalidInputError(
            f"The base model {path} cannot be trained: it lacks {', '.join(lacking)}.", field="baseModel"
        )
    return path.absolute()
