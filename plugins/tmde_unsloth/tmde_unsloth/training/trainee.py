"""Load the base model with Unsloth, add the adapter, and check what Unsloth really did.

Unsloth falls back without an error: to the CPU where there is no card, and to 16 bits where it cannot quantise. `check_loaded_model` turns a fallback that nobody allowed into an error.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import unsloth  # before transformers and peft, which it changes
from unsloth import FastLanguageModel

from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.worker import TARGET_MODULES, RunWorker, check_loaded_model, log_no_card
from tmde_unsloth.memory import ON_CPU, Way, peak_bytes
from tmde_unsloth.training.options import Options

PLENTY = 0.8
"""4 bits and checkpointing are left out only if the whole step takes at most this share of the free memory."""


@dataclass
class Trainee:
    """The model that is trained."""

    model: Any
    weights: dict[str, torch.Tensor]
    """The adapter's parameters by name. Only these are trained."""
    device: torch.device
    way: Way
    half: torch.dtype | None
    """The type of activations in mixed precision; None: float32 throughout."""
    padding: int

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which the model computes."""
        enabled = self.half is not None
        context: AbstractContextManager[Any] = torch.autocast(
            self.device.type, dtype=self.half or torch.bfloat16, enabled=enabled
        )
        return context

    def loss(self, part: Any, supervised: int) -> torch.Tensor:
        """Return the sum of a part's losses, divided by `supervised`."""
        with self.precision():
            output = self.model(
                input_ids=part.input_ids,
                attention_mask=part.attention_mask,
                labels=part.labels,
                num_items_in_batch=torch.tensor(supervised, device=self.device),
                use_cache=False,
            )
        return output.loss


def load(worker: RunWorker, directory: Path, options: Options, step_tokens: int, padding: int) -> Trainee:
    """Load the model in 4 bits on the card, or as the options allow.

    Args:
        worker: the run.
        directory: the weights of the base model.
        options: what the settings allow.
        step_tokens: tokens of the largest step, padded.
        padding: the token that fills up short examples.
    """
    config = worker.config
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu":
        log_no_card(worker)
    half = _half(device)
    way = choose_way(Shape.read(directory), config.lora_rank, device, options, step_tokens)
    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(directory),
        max_seq_length=config.max_seq_length,
        dtype=half if half is not None else torch.float32,
        load_in_4bit=way.weight_bits == 4,
        use_gradient_checkpointing="unsloth" if way.checkpointing else False,
        trust_remote_code=False,
        local_files_only=True,
        fix_tokenizer=False,
        use_exact_model_name=True,  # a directory is never another model of the same name
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=list(TARGET_MODULES),
        use_gradient_checkpointing="unsloth" if way.checkpointing else False,
        random_state=config.seed,
        max_seq_length=config.max_seq_length,
        use_rslora=False,
    )
    model.train()
    weights = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    trainee = Trainee(model, weights, device, way, half, padding)
    counted = check_loaded_model(model, "unsloth", device.type, four_bit=way.weight_bits == 4)
    if counted:
        worker.events.log(f"{counted:,} projections of the base model are in 4 bits.", fourBitModules=counted)
    return trainee


def choose_way(shape: Shape | None, rank: int, device: torch.device, options: Options, step_tokens: int) -> Way:
    """Return how the model is held: 4 bits and checkpointing, unless the options allow more and memory is plenty."""
    if device.type == "cpu":
        return ON_CPU
    ways = [
        Way(bits, checkpointing)
        for bits in ((16, 4) if options.allow_16bit else (4,))
        for checkpointing in ((False, True) if options.allow_no_checkpointing else (True,))
    ]
    free, _ = torch.cuda.mem_get_info()
    for way in ways[:-1]:
        if shape is not None and peak_bytes(shape, rank, way, step_tokens) <= PLENTY * free:
            return way
    return ways[-1]


def _half(device: torch.device) -> torch.dtype | None:
    if device.type == "cpu":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def versions() -> dict[str, str]:
    """Return the versions of the libraries."""
    import peft
    import transformers

    return {module.__name__: str(module.__version__) for module in (torch, unsloth, transformers, peft)}
