"""The passes that are written out give the losses and gradients that PEFT and autograd give, for every kind of model they claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config

from tmde_core.records.finetune import FineTuneConfig
from tmde_core.sdk.worker import EncodedExample
from tmde_cpu.training import layers, trainee
from tmde_cpu.training.packing import pack, pack_all
from tmde_cpu.training.step import mean_loss, optimizer_step
from tmde_cpu.training.trainee import Differentiated, Trainee, load_trainee

# Raised inside peft.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
MODELS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama with biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "llama with wide heads": LlamaConfig(**SHAPE, head_dim=32),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": Qwen2Config(**SHAPE),
}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def examples() -> list[EncodedExample]:
    """Some that share beginnings, at two depths, some that are alone, and one that another continues."""
    draws = torch.Generator().manual_seed(5)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, 97, (count,), generator=draws).tolist())

    shared, deeper = tokens(20), tokens(12)
    parts = [shared + tokens(9), shared + deeper + tokens(6), shared + deeper + tokens(11), tokens(30), tokens(5)]
    parts.append(parts[0] + tokens(4))
    return [EncodedExample(part, len(part) - 4, str(number)) for number, part in enumerate(parts)]


def load(directory: Path, monkeypatch: pytest.MonkeyPatch, written_out: bool) -> Trainee:
    """The model with an adapter that does something."""
    with monkeypatch.context() as patch:
        if not written_out:
            patch.setattr(layers, "supports", lambda _: False)
        torch.manual_seed(1)
        loaded = load_trainee(directory, FineTuneConfig(lora_rank=4, lora_alpha=12))
    draws = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, tensor in loaded.weights.items():
            if "lora_B" in name:
                tensor.normal_(0, 0.3, generator=draws)
    return loaded


def learned(loaded: Trainee, limit: int, recompute: bool = False) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and the gradients of all examples in packs of `limit` tokens."""
    loaded.recomputes = lambda _: recompute  # type: ignore[method-assign]
    kept: dict[str, torch.Tensor] = {}

    class Keep(torch.optim.SGD):
        def step(self, *_: Any) -> None:
            kept.update({name: tensor.grad.clone() for name, tensor in loaded.weights.items()})

    packs = pack_all(examples(), limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.utils.clip_grad_norm_", lambda *_: None)
        loss, _ = optimizer_step(loaded, Keep(loaded.weights.values(), lr=1.0), packs, 1.0)
    return loss, kept


@pytest.fixture(params=MODELS)
def model(request, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(MODELS[request.param])
    for name, tensor in made.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(tensor, 0.8, 0.3)
    made.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_losses_and_gradients_are_those_of_autograd(model, monkeypatch):
    ours, theirs = load(model, monkeypatch, True), load(model, monkeypatch, False)
    assert isinstance(ours.passes, layers.WrittenOut)
    assert isinstance(theirs.passes, Differentiated)
    for limit in (500, 40, 8):
        loss, gradients = learned(ours, limit)
        expected, wanted = learned(theirs, limit)
        assert loss == pytest.approx(expected, rel=1e-5)
        for name, gradient in wanted.items():
            assert gradient.abs().max() > 1e-6, f"{name} is not tested"
            assert (gradients[name] - gradient).norm() < 1e-4 * gradient.norm(), name


def test_computing_activations_twice_gives_the_same_bits(model, monkeypatch):
    loaded = load(model, monkeypatch, True)
    loss, kept = learned(loaded, 60)
    again, recomputed = learned(loaded, 60, recompute=True)
    assert loss == again
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)
    assert loaded.passes.bytes_of(10_000, recompute=True) < loaded.passes.bytes_of(10_000, recompute=False)


def test_autograd_may_compute_activations_twice_too(model, monkeypatch):
    loaded = load(model, monkeypatch, False)
    loss, kept = learned(loaded, 60)
    again, recomputed = learned(loaded, 60, recompute=True)
    assert loss == pytest.approx(again, rel=1e-6)
    for name, gradient in kept.items():
        torch.testing.assert_close(recomputed[name], gradient)


def test_the_loss_is_the_same_with_and_without_learning_and_for_peft_itself(model, monkeypatch, tmp_path):
    loaded = load(model, monkeypatch, True)
    packs = pack_all(examples(), 60)
    loss, _ = learned(loaded, 60)
    assert mean_loss(loaded, packs) == pytest.approx(loss, rel=1e-6)
    loaded.peft_model.save_pretrained(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    peft_model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    total, count = 0.0, 0
    for example in examples():
        labels = torch.tensor([[-100] * example.answer_start + list(example.tokens[example.answer_start :])])
        with torch.no_grad():
            total += (
                peft_model(input_ids=torch.tensor([example.tokens]), labels=labels).loss.item() * example.supervised
            )
        count += example.supervised
    assert loss == pytest.approx(total / count, rel=1e-5)


def test_places_made_for_a_long_pack_serve_a_short_one(model, monkeypatch):
    one, other = load(model, monkeypatch, True), load(model, monkeypatch, True)
    short = [pack(examples()[4:5])]
    mean_loss(one, pack_all(examples(), 500))
    learned(one, 500)
    assert mean_loss(one, short) == mean_loss(other, short)


def test_models_of_another_shape_are_left_to_autograd(tmp_path, monkeypatch):
    for config in (
        MistralConfig(**SHAPE, sliding_window=16),
        LlamaConfig(**SHAPE, hidden_act="gelu"),
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=16),
    ):
        assert not layers.supports(AutoModelForCausalLM.from_config(config))
    half = AutoModelForCausalLM.from_config(MODELS["llama"], dtype=torch.bfloat16)
    assert not layers.supports(half)
    monkeypatch.setattr("tmde_cpu.training.attention.OPERATORS", False)
    assert not layers.supports(AutoModelForCausalLM.from_config(MODELS["llama"]))


def test_memory_is_short_when_a_pass_would_take_half_of_what_is_free(model, monkeypatch):
    loaded = load(model, monkeypatch, True)
    needed = loaded.passes.bytes_of(200, recompute=False)
    monkeypatch.setattr(trainee, "available_memory", lambda: 2 * needed)
    assert (loaded.recomputes(200), loaded.recomputes(201)) == (False, True)
