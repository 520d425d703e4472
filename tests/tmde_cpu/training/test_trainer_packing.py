"""Packing and schedule: what one pass computes is what the examples one by one would."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tmde_core.records.finetune import FineTuneConfig
from tmde_core.sdk.worker import ConversationEncoder, EncodedExample, learning_rate, order_examples
from tmde_core.testing import times_tables
from tmde_cpu.base_model import load_tokenizer
from tmde_cpu.training.packing import pack, pack_all
from tmde_cpu.training.step import mean_loss
from tmde_cpu.training.trainee import load_trainee


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # so small a model gains nothing from more, and waiting threads slow a busy machine


token_lists = st.lists(st.integers(0, 2), min_size=3, max_size=40)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(token_lists, st.integers(1, 39)), min_size=1, max_size=8), st.integers(10, 120))
def test_every_place_of_a_pack_sees_exactly_what_came_before_it_in_its_own_example(drawn, limit):
    examples = [
        EncodedExample(tuple(tokens), min(start, len(tokens) - 1), str(n)) for n, (tokens, start) in enumerate(drawn)
    ]
    expected = sorted(
        (example.tokens[: place + 1], example.tokens[place + 1])
        for example in examples
        for place in range(example.answer_start - 1, len(example.tokens) - 1)
    )
    found = []
    for packed in pack_all(examples, limit):
        tokens, positions = packed.input_ids[0].tolist(), packed.position_ids[0].tolist()
        seen = {}
        for segment in packed.segments:
            before = [place for start, stop in segment.before for place in range(start, stop)]
            for place in range(*segment.span):
                visible = [*before, *range(segment.span[0], place + 1)]
                assert [positions[at] for at in visible] == list(range(len(visible)))
                seen[place] = tuple(tokens[at] for at in visible)
        assert sorted(seen) == list(range(packed.size))
        found += [
            (seen[at], target) for at, target in zip(packed.predict.tolist(), packed.targets.tolist(), strict=True)
        ]
    assert sorted(found) == expected


def test_a_shared_beginning_is_computed_once():
    shared = tuple(range(50))
    packed = pack([EncodedExample((*shared, n, n, n), 51, str(n)) for n in range(100, 104)])
    assert packed.size == 50 + 4 * 2
    assert packed.supervised == 4 * 2


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # raised inside peft
def test_the_loss_of_packs_is_that_of_the_examples_alone_in_transformers_itself(tiny_model):
    torch.manual_seed(3)
    trainee = load_trainee(tiny_model, FineTuneConfig(lora_rank=4))
    for name, tensor in trainee.weights.items():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, std=0.1)
    encoder = ConversationEncoder(load_tokenizer(tiny_model))
    examples = [encoder.encode(example) for example in times_tables([2, 3, 13], "Answer " * 9)]
    packed = pack_all(examples, 400)
    assert sum(one.size for one in packed) < sum(len(example.tokens) for example in examples) / 2
    loss = mean_loss(trainee, packed)
    assert mean_loss(trainee, [pack([example]) for example in examples]) == pytest.approx(loss, rel=1e-5)
    eager = trainee.peft_model.eval()
    eager.config._attn_implementation = "eager"  # none of our attention
    theirs = 0.0
    for example in examples:
        labels = torch.tensor([[-100] * example.answer_start + list(example.tokens[example.answer_start :])])
        with torch.no_grad():
            theirs += eager(input_ids=torch.tensor([example.tokens]), labels=labels).loss.item() * example.supervised
    assert loss == pytest.approx(theirs / sum(example.supervised for example in examples), rel=1e-5)


def test_each_epoch_has_its_own_order_and_always_the_same():
    assert sorted(order_examples(50, 7, 0)) == list(range(50))
    assert order_examples(50, 7, 0) == order_examples(50, 7, 0)
    assert order_examples(50, 7, 0) != order_examples(50, 7, 1)
    assert order_examples(50, 8, 0) != order_examples(50, 7, 0)


@given(st.integers(1, 500), st.floats(0, 0.5), st.sampled_from(["cosine", "linear"]))
def test_the_learning_rate_rises_to_its_peak_and_never_leaves_its_range(total, warmup, kind):
    rates = [learning_rate(step, total, 2e-4, warmup, kind) for step in range(total)]
    top = rates.index(max(rates))
    assert all(0 < rate <= 2e-4 * (1 + 1e-9) for rate in rates)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == pytest.approx(2e-4)
