"""Find the weights of a base model. The server calls this before it starts a worker, so the module is light."""

from __future__ import annotations

from pathlib import Path

from tmde_core.sdk.errors import InvalidInputError
from tmde_core.sdk.worker import SOURCE_FILE

NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")


def find_weights(data_dir: Path, name_or_path: str) -> Path:
    """Return the directory of safetensors that a run trains on.

    Args:
        data_dir: the data directory.
        name_or_path: a directory, or the name of one in `data_dir/models`. A GGUF file stands for the weights that were
            converted from it.

    Raises:
        InvalidInputError: there are no such weights; the detail says what to do.
    """
    if not name_or_path.strip():
        raise InvalidInputError(
            "Axolotl needs the weights of a base model, and the run names none. Set `baseModel` to a directory with "
            "config.json and safetensors.",
            field="baseModel",
        )
    path = _located(data_dir / "models", name_or_path)
    if path.is_file() and path.suffix.lower() == ".gguf":
        raise InvalidInputError(
            f"Axolotl cannot train on the GGUF file {path.name}: it holds weights for answering. Set `baseModel` to the "
            "directory of safetensors of the same model.",
            field="baseModel",
        )
    if not path.is_dir():
        raise InvalidInputError(
            f"There is no base model {name_or_path[:200]!r}: name a directory with config.json and safetensors.",
            field="baseModel",
        )
    lacking = [name for name in NEEDED if not (path / name).is_file()]
    if not any(path.glob("*.safetensors")):
        lacking.append("*.safetensors")
    if lacking:
        raise InvalidInputError(
            f"The base model {path} cannot be trained: it lacks {', '.join(lacking)}.", field="baseModel"
        )
    return path.absolute()


def _located(models: Path, name_or_path: str) -> Path:
    try:
        path = Path(name_or_path).expanduser()
        if not path.is_absolute() and (models / path).exists():
            path = models / path
        converted = path.with_name(f"{path.stem}-f32") if path.suffix.lower() == ".gguf" else path
        return converted if (converted / SOURCE_FILE).is_file() else path
    except (OSError, RuntimeError, ValueError) as error:  # too long, an unknown user's home, a null byte
        raise InvalidInputError(
            f"The base model {name_or_path[:200]!r} cannot be looked at: {getattr(error, 'strerror', None) or error}.",
            field="baseModel",
        ) from None
