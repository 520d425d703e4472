"""Convert the weights of a GGUF file for other backends: `python -m tmde_cpu.dequantize DATA_DIR GGUF`.

The last line of standard output is the directory of safetensors. It is kept, so a second call only compares a hash.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.worker import TrainingFailedError
from tmde_cpu.base_model import ensure_base_model


def main(arguments: list[str]) -> int:
    """Convert, and return the exit code. On failure, print one sentence to stderr."""
    data_dir, gguf = arguments
    sys.stdout.write(f"Preparing the weights of {Path(gguf).name} for training.\n")
    sys.stdout.flush()
    try:
        directory = ensure_base_model(Path(data_dir), gguf)
    except (TrainingFailedError, TmdeError) as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    except (MemoryError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{directory}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
