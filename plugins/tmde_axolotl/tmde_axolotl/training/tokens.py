"""Load the tokenizer of a base model. Without Axolotl, because the preview needs nothing else."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tmde_core.sdk.worker import TrainingFailedError


def load_tokenizer(directory: Path) -> Any:
    """Return the tokenizer of a base model.

    Raises:
        TrainingFailedError: the tokenizer has no chat template, so the format of a conversation is unknown.
    """
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    # transformers ignores this setting, but the runtime obeys it.
    with contextlib.suppress(OSError, ValueError):
        settings = json.loads((directory / "tokenizer_config.json").read_bytes())
        tokenizer.init_kwargs["add_bos_token"] = settings.get("add_bos_token")
    if not tokenizer.chat_template:
        raise TrainingFailedError(
            "no-chat-template", f"The base model {directory} has no chat template. Choose another."
        )
    return tokenizer
