"""Hold the model with its adapter, and define the two ways to run it forward and backward."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import peft
import psutil
import torch
from transformers import AutoModelForCausalLM

from tmde_core.sdk.training import FineTuneConfig
from tmde_core.sdk.worker import TARGET_MODULES, TrainingFailedError, measure_memory
from tmde_cpu.training import attention, layers
from tmde_cpu.training.packing import Pack


class Passes(Protocol):
    """Runs the model without its head. Both implementations give the same results up to rounding."""

    def forward(self, pack: Pack, recompute: bool = False) -> torch.Tensor:
        """Return the last hidden states at the places that are trained on: [S, width].

        Args:
            pack: the examples.
            recompute: compute activations again in `backward` instead of keeping them. A third more work, the same
                bits.
        """

    def backward(self, gradient: torch.Tensor) -> None:
        """Add to the gradients of the adapter, given the gradient of the result of the last `forward`."""

    def bytes_of(self, size: int, recompute: bool) -> int:
        """Return the memory for a pass of `size` tokens, in addition to the allocated memory."""


@dataclass
class Trainee:
    """The model that is trained, and the parts that the loop calls."""

    peft_model: Any
    passes: Passes
    head: torch.Tensor
    """The matrix [words, width] that turns a hidden state into the logits of all words."""
    weights: dict[str, torch.Tensor]
    """The adapter's parameters by name. Only these are trained."""

    def recomputes(self, size: int) -> bool:
        """Return whether a pass of `size` tokens must compute activations twice because memory is short."""
        return self.passes.bytes_of(size, recompute=False) > available_memory() // 2


class Differentiated:
    """Any model, with gradients by autograd."""

    def __init__(self, peft_model: Any) -> None:
        self._model = peft_model
        self._body = peft_model.get_base_model().model
        self._recomputes = False
        self._hidden = torch.empty(0)
        shape = peft_model.get_base_model().config
        width = shape.num_attention_heads * (
            getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        )
        self._layers = int(shape.num_hidden_layers)
        self._per_layer: int = 4 * (14 * shape.hidden_size + 5 * width + 5 * shape.intermediate_size)
        self._per_input: int = 4 * shape.hidden_size

    def forward(self, pack: Pack, recompute: bool = False) -> torch.Tensor:
        """Run the model forward. See `Passes`."""
        if recompute and not self._recomputes:
            self._model.activation_checkpointing_enable({"use_reentrant": False})
        elif self._recomputes and not recompute:
            self._model.activation_checkpointing_disable()
        self._recomputes = recompute
        output = self._body(
            input_ids=pack.input_ids, position_ids=pack.position_ids, use_cache=False, segments=pack.segments
        )
        self._hidden = output.last_hidden_state[0].index_select(0, pack.predict)
        return self._hidden.detach()

    def backward(self, gradient: torch.Tensor) -> None:
        """Run autograd backward. See `Passes`."""
        hidden, self._hidden = self._hidden, torch.empty(0)
        hidden.backward(gradient)

    def bytes_of(self, size: int, recompute: bool) -> int:
        """Estimate the memory of a pass. See `Passes`."""
        return size * (self._per_layer * (1 if recompute else self._layers) + self._per_input * self._layers)


def load_trainee(directory: Path, config: FineTuneConfig) -> Trainee:
    """Load the base model in float32 and add a new adapter, without dropout, because packing does not allow dropout.

    Raises:
        TrainingFailedError: the model computes something that the packed passes leave out.
    """
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation=attention.NAME, local_files_only=True
    )
    if any(getattr(model.config, name, None) for name in ("attn_logit_softcapping", "final_logit_softcapping")):
        raise TrainingFailedError(
            "bad-base-model",
            f"The base model {directory.name} caps its scores (soft-capping), which this backend does not compute. Train it "
            "with another backend, or choose another base model.",
        )
    lora = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules=list(TARGET_MODULES),
        task_type="CAUSAL_LM",
    )
    # The A matrices are random. They depend on the seed alone, not on what this process has drawn before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        peft_model = peft.get_peft_model(model, lora)
    peft_model.train()
    written_out = layers.supports(model)
    return Trainee(
        peft_model,
        layers.WrittenOut(peft_model) if written_out else Differentiated(peft_model),
        model.lm_head.weight.detach(),
        {name: tensor for name, tensor in peft_model.named_parameters() if tensor.requires_grad},
    )


def available_memory() -> int:
    """Return the bytes that this process may still use, limited by the machine, the control group and `ulimit -v`."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    available = measure_memory()[1]
    if limit == resource.RLIM_INFINITY:
        return available
    return max(0, min(available, limit - psutil.Process().memory_info().vms))
