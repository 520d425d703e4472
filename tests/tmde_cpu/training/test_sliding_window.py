"""Models whose layers see only the places directly before are trained as transformers computes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from tests.tmde_cpu.training.test_trainer_layers import SHAPE, examples
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.sdk.worker import TrainingFailedError
from tmde_cpu.training.packing import pack, pack_all
from tmde_cpu.training.step import mean_loss
from tmde_cpu.training.trainee import load_trainee

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

WINDOWED: dict[str, PreTrainedConfig] = {
    "gemma3": Gemma3TextConfig(
        **SHAPE, head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
    "mistral": MistralConfig(**SHAPE, sliding_window=16),
    "qwen2": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=16, max_window_layers=1),
}


def save(directory: Path, config: PreTrainedConfig) -> Path:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("name", WINDOWED)
def test_the_loss_of_packs_is_that_of_transformers_itself(tmp_path: Path, name: str) -> None:
    directory = save(tmp_path, WINDOWED[name])
    trainee = load_trainee(directory, FineTuneConfig(lora_rank=2))
    packs = pack_all(examples(), 200)
    assert any(segment.before for one in packs for segment in one.segments), "some examples share their beginning"
    found = mean_loss(trainee, packs)
    assert found == pytest.approx(mean_loss(trainee, [pack([one]) for one in examples()]), rel=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    total, supervised = 0.0, 0
    for one in examples():
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([one.tokens])).logits[0].log_softmax(-1)
        for place in range(one.answer_start, len(one.tokens)):
            total -= float(logits[place - 1, one.tokens[place]])
            supervised += 1
    assert found == pytest.approx(total / supervised, rel=1e-4)


def test_a_model_that_caps_its_scores_is_refused(tmp_path: Path) -> None:
    config = Gemma2Config(**SHAPE, head_dim=16, final_logit_softcapping=30.0)
    with pytest.raises(TrainingFailedError, match=r"caps its scores.*Train it with another backend"):
        load_trainee(save(tmp_path, config), FineTuneConfig(lora_rank=2))
