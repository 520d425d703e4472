"""Divide the examples of a step into parts that fit into memory, and turn a part into tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tmde_core.sdk.files import write_atomic
from tmde_core.sdk.records import Record, from_json, to_json
from tmde_core.sdk.worker import IGNORED, EncodedExample


@dataclass(frozen=True)
class Part:
    """Examples that are computed at the same time, padded to the length of the longest."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    supervised: int


def split(examples: Sequence[EncodedExample], size: int) -> list[Sequence[EncodedExample]]:
    """Return the examples in parts of at most `size`, those of similar length together.

    The sum of the gradients of a step does not depend on the order, and padding is lost work.
    """
    ordered = sorted(examples, key=len, reverse=True)
    return [ordered[first : first + size] for first in range(0, len(ordered), size)]


def to_part(examples: Sequence[EncodedExample], padding: int, device: torch.device) -> Part:
    """Return tensors for some examples. Padding stands behind the text, where it changes nothing before it."""
    longest = max(map(len, examples))
    ids = torch.full((len(examples), longest), padding)
    labels = torch.full((len(examples), longest), IGNORED)
    mask = torch.zeros((len(examples), longest), dtype=torch.long)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.tokens)
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        labels[row, : len(tokens)] = torch.tensor(example.labels)
    supervised = sum(example.supervised for example in examples)
    return Part(ids.to(device), mask.to(device), labels.to(device), supervised)


class _Remembered(Record, frozen=True):
    batch_size: int
    micro_batch: int


class MicroBatch:
    """The number of examples that are computed at the same time. It only shrinks during a run."""

    def __init__(self, run_dir: Path, batch_size: int, wanted: int) -> None:
        """Continue with the size of an earlier attempt of this run if there is one.

        An attempt with a smaller batch follows one that ended for lack of memory, so it begins smaller in the same
        proportion.

        Args:
            run_dir: the run's directory.
            batch_size: the batch size of this attempt.
            wanted: the size to begin with otherwise.
        """
        self._file = run_dir / "micro-batch.json"
        self._batch_size = batch_size
        self.size = max(1, wanted)
        try:
            before = from_json(self._file.read_bytes(), _Remembered)
        except Exception:  # there is none yet
            before = None
        if before is not None:
            self.size = max(1, min(self.size, before.micro_batch * batch_size // before.batch_size))
        self._keep()

    def halve(self) -> bool:
        """Halve the size after a lack of memory. Return False if it is 1 already."""
        if self.size == 1:
            return False
        self.size //= 2
        self._keep()
        return True

    def _keep(self) -> None:
        write_atomic(self._file, to_json(_Remembered(batch_size=self._batch_size, micro_batch=self.size)))


def parts(examples: Sequence[EncodedExample], size: int, padding: int, device: torch.device) -> Iterator[Part]:
    """Return the parts of a step one after the other, so that only one is in memory."""
    for some in split(examples, size):
        yield to_part(some, padding, device)
