"""Saves one adapter of each kind that the installed PEFT knows, for a tiny model. Runs in a subprocess only.

    python peft_kinds.py BASE DIRECTORY TOKEN_IDS

Each adapter goes to `DIRECTORY/NAME`. The output is a JSON object: `kinds` maps a name to the logits that PEFT computes
with the adapter after the token ids, or to null where nobody compares them; `failed` maps a name to why PEFT could not make the
adapter.
"""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoModelForCausalLM

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ATTENTION = ["q_proj", "v_proj"]


class Maker:
    """Makes adapters on copies of one model."""

    def __init__(self, base: Path, directory: Path, ids: list[int]) -> None:
        self.base = base
        self.directory = directory
        self.ids = torch.tensor([ids])
        self.failed: dict[str, str] = {}
        self.kinds: dict[str, list[float] | None] = {}

    def model(self, **options: Any) -> Any:
        """A new copy of the base model."""
        torch.manual_seed(3)
        return AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32, **options)

    def make(self, name: str, create: Callable[[], Any], *, compare: bool = False, **saving: Any) -> None:
        """Save what `create` returns, an adapter on a model, and compute with it if it is to be compared."""
        try:
            made = create()
            made.save_pretrained(str(self.directory / name), **saving)
            with torch.no_grad():
                self.kinds[name] = made.eval()(self.ids).logits[0, -1].tolist() if compare else None
        except Exception as error:  # whatever PEFT says is told
            self.failed[name] = f"{type(error).__name__}: {error}"[:300]

    def plain(self, name: str, **fields: Any) -> None:
        """Make a plain LoRA adapter with these fields of the configuration."""
        self.make(name, lambda: self.lora(**fields), compare=True)

    def other(self, name: str, **fields: Any) -> None:
        """Make a LoRA adapter with these fields of the configuration, which is not plain."""
        self.make(name, lambda: self.lora(**fields))

    def lora(self, *, trained: bool = True, **fields: Any) -> Any:
        """A model with a LoRA adapter."""
        chosen = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **fields}
        made = get_peft_model(self.model(), LoraConfig(**chosen))
        if trained:
            train(made)
        return made

    def edited(self, name: str, **fields: Any) -> None:
        """Make a LoRA adapter and change its configuration, for a kind that wants libraries that are not installed."""
        self.other(name)
        config = self.directory / name / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | fields))

    def prepared(self, beginning: str, **fields: Any) -> Any:
        """A model with an adapter whose beginning is computed from data."""
        from peft.tuners.lora.corda import preprocess_corda

        model = self.model()
        if beginning == "lora_ga":
            fields["lora_ga_config"] = peft.LoraGAConfig()
        config = LoraConfig(
            r=4, lora_alpha=6, target_modules=ATTENTION, task_type="CAUSAL_LM", init_lora_weights=beginning, **fields
        )

        def run() -> None:
            model(self.ids)

        def learn() -> None:
            model(self.ids, labels=self.ids).loss.backward()

        if beginning == "corda":
            preprocess_corda(model, config, run_model=run)
        elif beginning == "lora_ga":
            peft.preprocess_loraga(model, config, learn)
        made = get_peft_model(model, config)
        if beginning == "eva":
            batch = {"input_ids": self.ids.repeat(8, 1), "attention_mask": torch.ones(8, self.ids.shape[1])}
            peft.initialize_lora_eva_weights(made, [batch] * 4)
        return made

    def converted(self, beginning: str) -> None:
        """Make an adapter whose beginning changed the base model, and let PEFT convert it to plain LoRA."""
        name = f"converted-{beginning}"
        try:
            made = self.prepared(beginning)
            first = self.directory.parent / f"first-{beginning}"
            made.peft_config["default"].init_lora_weights = True
            made.save_pretrained(str(first))
            made.peft_config["default"].init_lora_weights = beginning
            train(made)
            with torch.no_grad():
                self.kinds[name] = made.eval()(self.ids).logits[0, -1].tolist()
            made.save_pretrained(str(self.directory / name), path_initial_model_for_weight_conversion=str(first))
        except Exception as error:  # whatever PEFT says is told
            self.kinds.pop(name, None)
            self.failed[name] = f"{type(error).__name__}: {error}"[:300]


def train(model: Any) -> None:
    """Change every trainable weight, as training would."""
    draws = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and weight.is_floating_point():
                weight += 0.2 * torch.randn(weight.shape, generator=draws).to(weight.dtype) if "lora" in name else 0.01


def plain_loras(maker: Maker) -> None:
    """Make what is plain LoRA."""
    maker.plain("lora")
    for beginning in ("gaussian", "orthogonal", "mica"):
        maker.plain(beginning, init_lora_weights=beginning)
    maker.plain("all-linear", target_modules="all-linear")
    maker.plain("expression", target_modules=r".*\.(q_proj|up_proj)")
    maker.plain("one-layer", layers_to_transform=[1], layers_pattern="layers")
    maker.plain("one-number-of-a-layer", layers_to_transform=1)
    maker.plain("without-some", exclude_modules=["k_proj"])
    maker.plain("dropout", lora_dropout=0.3)
    maker.plain("broken-alpha", lora_alpha=2.5)
    maker.plain("same-patterns", rank_pattern={"q_proj": 4}, alpha_pattern={"q_proj": 6})
    maker.plain("rank-pattern", rank_pattern={"q_proj": 8})
    maker.plain("alpha-pattern", alpha_pattern={"q_proj": 12})
    maker.plain(
        "patterns", rank_pattern={r"layers\.0\..*(q|v)_proj": 2}, alpha_pattern={"mlp.down_proj": 1, "o_proj": 30}
    )
    maker.plain("rslora", use_rslora=True)
    maker.plain("rslora-rank-pattern", use_rslora=True, rank_pattern={"up_proj": 9})
    maker.plain("no-task", task_type=None)
    maker.make("loraplus", lambda: loraplus(maker), compare=True)
    maker.make("half", lambda: halved(maker), compare=True)
    maker.make("weighted-sum", lambda: combined(maker, "linear"), compare=True, selected_adapters=["sum"])
    maker.make("concatenated", lambda: combined(maker, "cat"), compare=True, selected_adapters=["sum"])
    maker.make("eva", lambda: evolved(maker), compare=True)
    for beginning in ("pissa", "olora", "corda", "lora_ga"):
        maker.converted(beginning)
    maker.make("loha-as-lora", lambda: AsLora(maker), compare=True)


class AsLora:
    """A LoHa adapter that PEFT saves as plain LoRA."""

    def __init__(self, maker: Maker) -> None:
        config = peft.LoHaConfig(r=2, alpha=4, target_modules=TARGETS, task_type="CAUSAL_LM")
        self.model = get_peft_model(maker.model(), config)
        train(self.model)

    def save_pretrained(self, path: str) -> None:
        peft.save_as_lora(path, self.model, rank=4)

    def eval(self) -> Any:
        return self.model.eval()


def loraplus(maker: Maker) -> Any:
    """An adapter after a step of LoRA+, which is an optimiser."""
    from peft.optimizers import create_loraplus_optimizer

    made = maker.lora(trained=False)
    optimiser = create_loraplus_optimizer(model=made, optimizer_cls=torch.optim.AdamW, lr=1e-2, loraplus_lr_ratio=16)
    for _ in range(2):
        made(maker.ids, labels=maker.ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return made


def halved(maker: Maker) -> Any:
    """An adapter of 16-bit matrices on a model of 32-bit ones."""
    made = maker.lora()
    for name, weight in made.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.to(torch.bfloat16)
    return made


def evolved(maker: Maker) -> Any:
    """A trained adapter that began with EVA."""
    made = maker.prepared("eva", eva_config=peft.EvaConfig(rho=1.0))
    train(made)
    return made


def combined(maker: Maker, how: str) -> Any:
    """The sum of two adapters, as an adapter."""
    made = maker.lora()
    made.add_adapter("other", LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, task_type="CAUSAL_LM"))
    made.add_weighted_adapter(["default", "other"], [0.5, 0.5], "sum", combination_type=how)
    made.set_adapter("sum")
    return made


def other_loras(maker: Maker) -> None:
    """Make the relatives of LoRA that have its kind in their configuration."""
    maker.other("dora", use_dora=True)
    maker.other("qalora", use_qalora=True, qalora_group_size=8)
    maker.other(
        "bdlora",
        use_bdlora=peft.BdLoraConfig(
            target_modules_bd_a=["o_proj", "down_proj"], target_modules_bd_b=["q_proj"], nblocks=2, match_strict=False
        ),
    )
    maker.other("lora-bias", lora_bias=True)
    maker.other("bias-all", bias="all")
    maker.other("bias-lora-only", bias="lora_only")
    maker.other("modules-to-save", modules_to_save=["lm_head"])
    maker.other("saved-embedding", modules_to_save=["embed_tokens"])
    maker.other("embedding", target_modules=["q_proj", "embed_tokens"])
    maker.other("output", target_modules=["q_proj", "lm_head"])
    maker.make("output-alone", lambda: maker.lora(target_modules=["q_proj", "lm_head"]), save_embedding_layers=False)
    maker.other("layer-replication", layer_replication=[(0, 2), (0, 2)])
    maker.other("target-parameters", target_modules=[], target_parameters=["mlp.down_proj.weight"])
    maker.other("tokens", trainable_token_indices=[1, 2])
    maker.other("alora", alora_invocation_tokens=[5, 6])
    maker.other("kasa", kasa_config=peft.KasaConfig())
    maker.other("velora", velora_config=peft.VeloraConfig(num_groups=4))
    maker.other("monteclora", monteclora_config=peft.MontecloraConfig())
    maker.make("arrow", lambda: arrow(maker))
    maker.other("pissa", init_lora_weights="pissa")
    maker.other("pissa-fast", init_lora_weights="pissa_niter_2")
    maker.other("olora", init_lora_weights="olora")
    maker.edited("loftq", init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": 1})
    for beginning in ("corda", "lora_ga"):
        maker.make(beginning, lambda beginning=beginning: maker.prepared(beginning))
    maker.make("lora-for-classes", lambda: maker.lora(task_type="FEATURE_EXTRACTION"))
    maker.make("several", lambda: combined(maker, "linear"), selected_adapters=["default", "other"])


def arrow(maker: Maker) -> Any:
    paths = []
    for number in range(2):
        paths.append(str(maker.directory.parent / f"expert-{number}"))
        maker.lora(target_modules=ATTENTION).save_pretrained(paths[-1])
    return peft.create_arrow_model(maker.model(), paths, peft.ArrowConfig(top_k=1))


SPECIAL: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10, "target_modules": ATTENTION},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 1},
    "BOFT": {"boft_block_size": 4, "target_modules": ATTENTION},
    "C3A": {"block_size": 8, "target_modules": ATTENTION},
    "CARTRIDGE": {"num_virtual_tokens": 4},
    "CPT": {"cpt_token_ids": [3, 4], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 1]},
    "FOURIERFT": {"n_frequency": 20, "target_modules": ATTENTION},
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 4, "num_tasks": 2},
    "OFT": {"r": 0, "oft_block_size": 4, "target_modules": ATTENTION},
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "P_TUNING": {"num_virtual_tokens": 4, "encoder_hidden_size": 8},
    "TRAINABLE_TOKENS": {"token_indices": [1, 2]},
    "VBLORA": {"num_vectors": 8, "vector_length": 8, "target_modules": ATTENTION},
    "WAVEFT": {"n_frequency": 20, "target_modules": ATTENTION},
    "ROAD": {"group_size": 8, "target_modules": ATTENTION},
}
"""Kind → the fields that it needs. Every other kind gets `target_modules`, and a rank if it has one."""


def other_kinds(maker: Maker) -> None:
    """Make one adapter of every kind but LoRA."""
    for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        name = getattr(kind, "value", str(kind))
        if name == "LORA":
            continue
        if name == "XLORA":
            maker.make(name, lambda config=config: xlora(maker, config))
            continue
        if name == "ADAMSS":
            maker.edited(name, peft_type=name)
            continue
        fields = SPECIAL.get(name, {"target_modules": ATTENTION})
        if "r" in inspect.signature(config).parameters and name != "ADALORA":
            fields = {"r": 4, **fields}
        maker.make(
            name,
            lambda config=config, fields=fields: get_peft_model(maker.model(), config(task_type="CAUSAL_LM", **fields)),
        )


def xlora(maker: Maker, config: Any) -> Any:
    path = str(maker.directory.parent / "expert-x")
    maker.lora(target_modules=ATTENTION).save_pretrained(path)
    model = maker.model()
    model.config.use_cache = False
    return get_peft_model(model, config(task_type="CAUSAL_LM", hidden_size=32, adapters={"0": path}))


def main() -> None:
    """Make everything and tell what was made."""
    warnings.simplefilter("ignore")
    base, directory, ids = sys.argv[1:]
    maker = Maker(Path(base), Path(directory), json.loads(ids))
    plain_loras(maker)
    other_loras(maker)
    other_kinds(maker)
    json.dump({"kinds": maker.kinds, "failed": maker.failed}, sys.stdout)


if __name__ == "__main__":
    main()
