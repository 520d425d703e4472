"""Run one optimizer step, or compute the loss alone.

Logits exist for a few places at a time, and only for tokens that are trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tmde_cpu.training.packing import Pack
from tmde_cpu.training.trainee import Trainee

CLIP_NORM = 1.0

LOGIT_ROWS = 64
"""Rows of logits that exist at the same time. With 49,152 words, a row and its gradient take 0.4 MB."""


def optimizer_step(
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    packs: Sequence[Pack],
    rate: float,
    working: Callable[[], None] = lambda: None,
) -> tuple[float, int]:
    """Run one step on all packs and return the mean loss of a supervised token, and the number of supervised tokens.

    Args:
        trainee: the model to train.
        optimizer: the optimizer of the adapter's weights.
        packs: the examples of the step.
        rate: the learning rate.
        working: called before each pack.
    """
    supervised = sum(pack.supervised for pack in packs)
    total = 0.0
    for pack in packs:
        working()
        hidden = trainee.passes.forward(pack, trainee.recomputes(pack.size))
        gradient = torch.empty_like(hidden)
        total += _loss(trainee.head, hidden, pack.targets, gradient, 1 / supervised)
        trainee.passes.backward(gradient)
    torch.nn.utils.clip_grad_norm_(trainee.weights.values(), CLIP_NORM)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)  # some gradients are parts of a larger one
    return total / supervised, supervised


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch's types are not read, see pyproject.toml
def mean_loss(trainee: Trainee, packs: Sequence[Pack], working: Callable[[], None] = lambda: None) -> float:
    """Return the mean loss of a supervised token."""
    total = 0.0
    for pack in packs:
        working()
        # Nothing is kept for a backward pass. `recompute` ensures this where the passes allocate the memory.
        total += _loss(trainee.head, trainee.passes.forward(pack, recompute=True), pack.targets)
    return total / sum(pack.supervised for pack in packs)


@torch.no_grad()  # type: ignore[untyped-decorator]
def _loss(
    head: torch.Tensor,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    gradient: torch.Tensor | None = None,
    scale: float = 1.0,
) -> float:
    """Return the sum of the cross entropies, and write the gradient of `hidden`, times `scale`, to `gradient`."""
    total = 0.0
    logits = torch.empty(min(LOGIT_ROWS, len(hidden)), head.shape[0])
    logs = torch.empty_like(logits)
    for start in range(0, len(hidden), LOGIT_ROWS):
        rows, words = hidden[start : start + LOGIT_ROWS], targets[start : start + LOGIT_ROWS, None]
        some, log = logits[: len(rows)], logs[: len(rows)]
        torch.mm(rows, head.t(), out=some)
        torch.log_softmax(some, -1, out=log)
        total -= log.gather(1, words).sum().item()
        if gradient is not None:
            log.exp_()
            log.scatter_add_(1, words, torch.full(words.shape, -1.0))
            torch.mm(log, head, out=gradient[start : start + LOGIT_ROWS])
    if gradient is not None:
        gradient.mul_(scale)
    return total
