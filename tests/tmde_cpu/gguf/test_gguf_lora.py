"""The adapter that llama.cpp serves is the one that was trained: proven on the real model, with a negative control."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from tests import warm
from tmde_core.records.base import from_json
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.sdk.training import TrainingJob
from tmde_core.testing import make_context, times_tables, write_job
from tmde_cpu.backend import CpuBackend
from tmde_cpu.gguf import families
from tmde_cpu.gguf.families import permute
from tmde_cpu.gguf.lora import write_gguf_lora

SYSTEM = "Answer the question in one short sentence."
HELD_OUT = [(a, b) for a in (3, 6, 9, 12) for b in (4, 7, 11)]
"""What is not learned."""
ASKED = HELD_OUT[::2]

MEAN_TOLERANCE = 0.2
"""Mean difference of top-5 log-probabilities between PEFT in float32 and llama.cpp. llama.cpp rounds activations to 8
bits before each product with a quantised matrix, which cost 0.11 here; without the permutation it was 0.38."""

SAME_ANSWERS = 0.75
"""Share of held-out greedy answers that must be equal to the letter. Not all can be: where two tokens are almost equally
likely, 8-bit activations decide otherwise, and from there on the texts differ. Measured: all of them."""

SERVE = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port, params.ui, params.warmup = sys.argv[1], ["127.0.0.1"], 0, False, False
params.n_ctx, params.n_parallel = 1024, 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
adapters = []
for path in sys.argv[2:]:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = path, 1.0
    adapters.append(adapter)
params.lora_adapters = adapters
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""

PEFT = """
import json, sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM
from peft import PeftModel
from tmde_cpu.base_model import load_tokenizer
base, adapter, prompts, strings = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
tokenizer = load_tokenizer(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
answers = []
for messages in prompts:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    with torch.no_grad():
        logprobs = model(input_ids=ids).logits[0, -1].log_softmax(-1)
        written = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=16,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )[0, ids.shape[1]:]
    answers.append({"logprobs": logprobs.tolist(), "text": tokenizer.decode(written, skip_special_tokens=True)})
tokens = [tokenizer.encode(string, add_special_tokens=False) for string in strings]
json.dump({"answers": answers, "tokens": tokens}, sys.stdout)
"""

STRINGS = [
    "What is 7 times 88?",
    "a  3.14\n\n12 x12y",
    "don't  stop\n\nit's 3.14 ",
    "1,234.50 € ½ ²3",
    "日本語  12\t\tx",
    " 9 9  9",
]


def prompts() -> list[list[dict[str, str]]]:
    return [
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"What is {a} times {b}?"}]
        for a, b in ASKED
    ]


@contextmanager
def llama_server(model: Path, *adapters: Path) -> Iterator[httpx.Client]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(model), *map(str, adapters)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    ) as process:
        assert process.stdout
        with httpx.Client(base_url=process.stdout.readline().strip(), timeout=120) as client:
            yield client
        process.kill()  # its server threads do not end by themselves


@pytest.fixture(scope="module")
def trained(tmp_path_factory, embedded_model) -> Path:
    """A data directory with one adapter, trained on times tables on the real model."""
    data_dir = tmp_path_factory.mktemp("data")
    (data_dir / "models").symlink_to(embedded_model.parent, target_is_directory=True)
    held_out = {f"What is {a} times {b}?" for a, b in HELD_OUT}
    train = [example for example in times_tables(range(2, 13), SYSTEM) if example.instruction not in held_out][::2]
    config = FineTuneConfig(epochs=1, batch_size=8, gradient_accumulation_steps=1, learning_rate=5e-4)
    job = write_job(data_dir, train, [], config)
    plan = CpuBackend(make_context(data_dir=data_dir)).plan(from_json(job.read_bytes(), TrainingJob))
    done = warm.run(plan.argv, {**os.environ, **plan.env})
    assert done.returncode == 0, done.stderr
    return data_dir / "lora-adapters" / job.parent.name


@pytest.fixture(scope="module")
def peft_says(trained, embedded_model) -> dict[str, Any]:
    base = embedded_model.parent / f"{embedded_model.stem}-f32"
    asked = (msgspec.json.encode(part).decode() for part in (prompts(), STRINGS))
    done = warm.run([sys.executable, "-c", PEFT, str(base), str(trained), *asked])
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout)


def differences(client: httpx.Client, peft_says: dict[str, Any]) -> list[float]:
    """|llama.cpp - PEFT| of the log-probabilities of llama.cpp's five likeliest first tokens, over all prompts."""
    found = []
    for messages, answer in zip(prompts(), peft_says["answers"], strict=True):
        prompt = client.post("/apply-template", json={"messages": messages}).json()["prompt"]
        reply = client.post(
            "/completion",
            json={"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": 5, "cache_prompt": False},
        ).json()
        likeliest = reply["completion_probabilities"][0]["top_logprobs"]
        found += [abs(top["logprob"] - answer["logprobs"][top["id"]]) for top in likeliest]
    return found


@pytest.mark.slow
def test_llama_cpp_serves_what_peft_computes_and_without_the_permutation_it_would_not(
    trained, peft_says, embedded_model, tmp_path, monkeypatch
):

    with llama_server(embedded_model, trained / "adapter.gguf") as client:
        served = differences(client, peft_says)
        answers = [
            client.post("/v1/chat/completions", json={"messages": messages, "temperature": 0, "max_tokens": 16}).json()
            for messages in prompts()
        ]
        tokens = [
            client.post("/tokenize", json={"content": string, "add_special": False}).json()["tokens"]
            for string in STRINGS
        ]
    assert tokens == peft_says["tokens"]
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    same = [text == answer["text"] for text, answer in zip(texts, peft_says["answers"], strict=True)]
    sys.stdout.write(f"mean {np.mean(served):.4f} max {np.max(served):.4f} same answers {np.mean(same):.2f}\n")

    monkeypatch.setattr(families, "permute", lambda rows, heads: rows)
    write_gguf_lora(trained, embedded_model.parent / f"{embedded_model.stem}-f32", tmp_path / "wrong.gguf")
    with llama_server(embedded_model, tmp_path / "wrong.gguf") as client:
        wrong = differences(client, peft_says)
    with llama_server(embedded_model) as client:
        base = differences(client, peft_says)
    sys.stdout.write(
        f"without permutation: mean {np.mean(wrong):.4f} max {np.max(wrong):.4f}; base: mean {np.mean(base):.4f}\n"
    )

    assert np.mean(served) < MEAN_TOLERANCE
    assert np.mean(same) >= SAME_ANSWERS
    assert np.mean(wrong) > 2 * np.mean(served)
    assert np.mean(wrong) > MEAN_TOLERANCE
    assert np.mean(base) > MEAN_TOLERANCE


def test_the_permutation_turns_the_halves_of_each_head_into_neighbouring_pairs():
    rows = np.arange(8)[:, None]  # two heads of four: halves (0, 1 | 2, 3) and (4, 5 | 6, 7)
    assert permute(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
