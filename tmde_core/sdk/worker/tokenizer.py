"""Load the tokenizer of a base model, and name the base model. Private: import from `tmde_core.sdk.worker`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from tmde_core.records.training import TrainingJob
from tmde_core.sdk.worker.base_identity import SOURCE_FILE
from tmde_core.sdk.worker.kit import TrainingFailedError

__all__ = ["load_tokenizer", "name_base_model"]


def load_tokenizer(directory: Path) -> Any:
    """Return the tokenizer of a base model, for `ConversationEncoder`. Needs transformers and nothing else.

    Args:
        directory: the directory of the base model. Nothing is fetched, and no code in it is run.

    Raises:
        TrainingFailedError: the tokenizer has no chat template, so the format of a conversation is unknown.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    # transformers ignores this setting, but the runtime obeys it.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        settings = json.loads((directory / "tokenizer_config.json").read_bytes())
        tokenizer.init_kwargs["add_bos_token"] = settings.get("add_bos_token")
    if not tokenizer.chat_template:
        raise TrainingFailedError(
            "no-chat-template", f"The base model {directory} has no chat template. Choose another."
        )
    return tokenizer


def name_base_model(job: TrainingJob, directory: Path) -> str:
    """Return the name of a job's base model for `identify_base_model`; empty if the files of the model name it."""
    named = job.base_model_name
    if named or Path(job.base_model).is_absolute() or (directory / SOURCE_FILE).is_file():
        return named
    return job.base_model
