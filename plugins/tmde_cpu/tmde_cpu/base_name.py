"""Find the file or directory of a base model by its name.

The server calls this before it starts a worker, so the module is light.
"""

from __future__ import annotations

from pathlib import Path

from tmde_core.sdk.errors import InvalidInputError
from tmde_cpu.embedded import EMBEDDED_FILE, verify_embedded

EMBEDDED_NAMES = frozenset({"", EMBEDDED_FILE, Path(EMBEDDED_FILE).stem, "SmolLM2-135M-Instruct"})


def resolve_base_model(data_dir: Path, name_or_path: str) -> Path:
    """Return the GGUF file or the directory of safetensors that a training run starts from.

    Args:
        data_dir: the data directory.
        name_or_path: the embedded model's name or an empty text; a file or directory; or a name in `data_dir/models`.

    Raises:
        InvalidInputError: there is no such model, or it has a format that cannot be trained.
    """
    models = data_dir / "models"
    if name_or_path in EMBEDDED_NAMES:
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
    if not path.is_absolute() and (models / path).exists():
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
