"""Parts of a step. They need PyTorch only, so they run in TMDE's own environment."""

from __future__ import annotations

import random

import pytest
import torch

from tmde_core.sdk.worker import IGNORED, EncodedExample
from tmde_unsloth.training.batches import MicroBatch, split, to_part

CPU = torch.device("cpu")


def example(length: int, answer_start: int) -> EncodedExample:
    return EncodedExample(tuple(range(1, length + 1)), answer_start, f"{length}/{answer_start}")


def test_only_the_answer_has_labels_and_padding_stands_behind():
    part = to_part([example(5, 3), example(3, 1)], padding=0, device=CPU)
    assert part.input_ids.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 0, 0]]
    assert part.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert part.labels.tolist() == [[IGNORED] * 3 + [4, 5], [IGNORED, 2, 3, IGNORED, IGNORED]]
    assert part.supervised == 4


@pytest.mark.parametrize("size", [1, 3, 16, 100])
def test_every_example_is_in_exactly_one_part_and_similar_lengths_are_together(size: int):
    drawn = random.Random(size)
    examples = [example(drawn.randint(4, 500), 2) for _ in range(16)]
    parts = split(examples, size)
    assert sorted(one.trace_id for part in parts for one in part) == sorted(one.trace_id for one in examples)
    assert all(len(part) <= size for part in parts)
    lengths = [len(one) for part in parts for one in part]
    assert lengths == sorted(lengths, reverse=True), "the longest part comes first, so lack of memory shows at once"


def test_the_size_halves_down_to_one_and_a_later_attempt_goes_on_with_it(tmp_path):
    micro = MicroBatch(tmp_path, batch_size=4, wanted=6)
    assert [micro.halve() and micro.size for _ in range(3)] == [3, 1, False]
    assert MicroBatch(tmp_path, batch_size=4, wanted=16).size == 1


def test_an_attempt_after_a_killed_one_begins_as_much_smaller_as_its_batch(tmp_path):
    assert MicroBatch(tmp_path, batch_size=4, wanted=16).size == 16
    assert MicroBatch(tmp_path, batch_size=2, wanted=16).size == 8
    assert MicroBatch(tmp_path, batch_size=2, wanted=3).size == 3


def test_a_damaged_memory_of_earlier_attempts_is_ignored(tmp_path):
    (tmp_path / "micro-batch.json").write_text("{")
    assert MicroBatch(tmp_path, batch_size=4, wanted=5).size == 5
