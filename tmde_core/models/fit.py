"""Computes how much memory a model needs to answer and to be trained, and how fast it answers. Nothing is measured here.

Every figure follows from the sizes of the model, so it is known before anything is fetched. Sizes are in bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from tmde_core.records.base import Record

GB = 10**9

# ------------------------------------------------------------------------------------------ bits per weight

Q4_K, Q5_0, Q5_K, Q6_K, Q8_0 = 4.5, 5.5, 5.5, 6.5625, 8.5
"""Bits per weight of llama.cpp's block formats (ggml-common.h)."""
SUPERBLOCK = 256
"""Q4_K to Q6_K need rows of a multiple of so many numbers. Other rows are stored as Q5_0 and Q8_0 instead."""
GGUF_HEADER_BYTES = 7_000_000
"""The tokenizer in a GGUF file of a vocabulary of 150,000 tokens."""
NF4 = 0.5 + 4 / 64 / 4 + 4 / 64 / 256
"""Bytes per weight in bitsandbytes' 4-bit NormalFloat with double quantisation: 4 bits, an 8-bit constant for each 64
weights, and a 32-bit constant for each 256 of those (QLoRA, arXiv 2305.14314, section 3)."""

# ------------------------------------------------------------------------------------------- answering

SERVER_BYTES = 150_000_000
"""What a llama.cpp server takes beside weights and cache. Measured with the embedded model: 66 MB."""
CARD_CONTEXT_BYTES = 500_000_000
"""What the CUDA context of one process takes on a card. It differs between cards and drivers: 300 to 600 MB."""
CARD_BATCH = 512
"""How many prompt tokens llama.cpp reads in one step on a card; the buffer of their logits is always there."""
BYTES_A_SECOND_AND_CORE = 5e9
"""How many bytes of weights one core multiplies in a second. Measured with the embedded model: 98.9 tokens of 98 MB on
two cores."""
RAM_BYTES_A_SECOND = 25e9
"""An assumption: half of what two channels of DDR4-3200 give at best (51 GB/s). More cores do not help beyond this."""
CARD_MOST_TOKENS = 100.0
"""Very small models are held up by other work than reading their weights."""
CARD_BYTES_A_SECOND = 150e9
"""An assumption: six tenths of what the memory of a small card gives (250 GB/s). Larger cards are several times as fast.
"""

# -------------------------------------------------------------------------------------------- training

LORA_WEIGHT_BYTES = 16
"""A weight of the adapter, its gradient and the two moments of AdamW, each in 32 bits."""
BLOCK_HIDDEN, BLOCK_ATTENTION, BLOCK_FEED_FORWARD = 12, 8, 2
"""How many vectors of each size are in memory for one token while one block is computed back and forth. Fitted to
Unsloth: 103 kB a token with 1.07 billion weights (width 2048, feed-forward 8192), and 227 kB with Llama 3.1 8B (width
4096, feed-forward 14336), which follow from the context lengths that its authors publish."""
KEPT_HIDDEN, KEPT_FEED_FORWARD = 9, 2
"""The same for each block when nothing is recomputed (no gradient checkpointing)."""
LOGITS_CHUNK = 256
"""The number of tokens whose logits are in memory at once if the loss is computed in chunks. Unsloth takes larger chunks
where memory is free."""
LOGIT_BYTES = 10
"""A logit in 16 bits, its copy in 32 bits, and its gradient in 32 bits."""
FRAGMENTATION = 1.15
"""How much more than it uses PyTorch reserves if the buffers have many sizes."""
CPU_LIBRARY_BYTES = 450_000_000
"""What PyTorch takes on the CPU before it has loaded a model."""
CPU_PASS_SHARE = 0.8
"""The activations of training on the CPU, relative to the weights. 135 million weights take 1.4 GB so, measured 1.37."""
CPU_TOKENS_A_SECOND = 70.0
"""The number of tokens that one core trains in a second for each GB of 32-bit weights. Measured."""


class Architecture(Record):
    """The sizes of a decoder of the Llama kind, which decide how much memory it takes."""

    blocks: int
    """Number of layers."""
    width: int
    """Size of the hidden state."""
    feed_forward: int
    """Size of the feed-forward layer."""
    heads: int
    """Number of attention heads."""
    key_heads: int
    """Number of heads of keys and values."""
    head_size: int
    """Numbers in one head."""
    vocabulary: int
    """Number of tokens of the vocabulary."""
    tied_head: bool = True
    """Whether the output layer shares the weights of the embedding."""

    @property
    def attention_width(self) -> int:
        """Numbers in the queries of one token."""
        return self.heads * self.head_size

    @property
    def key_width(self) -> int:
        """Numbers in the keys of one token; there are as many in its values."""
        return self.key_heads * self.head_size

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """Input and output size of the seven matrices of one block: q, k, v, o, gate, up, down."""
        return (
            (self.width, self.attention_width),
            (self.width, self.key_width),
            (self.width, self.key_width),
            (self.attention_width, self.width),
            (self.width, self.feed_forward),
            (self.width, self.feed_forward),
            (self.feed_forward, self.width),
        )

    @property
    def block_weights(self) -> int:
        """Number of weights in the matrices of all blocks."""
        return self.blocks * sum(rows * columns for rows, columns in self.matrices)

    @property
    def table_weights(self) -> int:
        """Number of weights of the embedding, and of the output layer if it has its own."""
        return self.vocabulary * self.width * (1 if self.tied_head else 2)

    @property
    def parameters(self) -> int:
        """Number of weights. Norms of queries and keys are left out; they are below 0.1 %."""
        return self.block_weights + self.table_weights + (2 * self.blocks + 1) * self.width


# ----------------------------------------------------------------------------------------------- answering


def compute_gguf_bytes(shape: Architecture, quantization: str) -> int:
    """Return the size of a GGUF file, by llama.cpp's recipe (src/llama-quant.cpp).

    `Q4_K_M` stores the output layer and half of attn_v and ffn_down in Q6_K, and the rest in Q4_K. A tied embedding is
    the output layer.

    Args:
        shape: the sizes of the model.
        quantization: `Q4_K_M`, `Q8_0`, `F16` or `BF16`.

    Raises:
        ValueError: the recipe of the quantisation is not known here.
    """
    if quantization in ("F16", "BF16"):
        return 2 * shape.parameters + GGUF_HEADER_BYTES
    if quantization == "Q8_0":
        return int(shape.parameters * Q8_0 / 8) + GGUF_HEADER_BYTES
    if quantization != "Q4_K_M":
        raise ValueError(f"The recipe of {quantization} is not known here.")
    better = sum(_is_better(block, shape.blocks) for block in range(shape.blocks))
    table = shape.vocabulary * shape.width
    bits = table * _stored(Q6_K, shape.width) + (0 if shape.tied_head else table * _stored(Q4_K, shape.width))
    for number, (rows, columns) in enumerate(shape.matrices):
        improved = better if number in (2, 6) else 0  # attn_v and ffn_down
        bits += rows * columns * improved * _stored(Q6_K, rows)
        bits += rows * columns * (shape.blocks - improved) * _stored(Q4_K, rows)
    return int(bits / 8) + GGUF_HEADER_BYTES


def _is_better(block: int, blocks: int) -> bool:
    """Return whether the recipe gives a block more bits: the first and last eighth, and every third between them."""
    return block < blocks // 8 or block >= 7 * blocks // 8 or (block - blocks // 8) % 3 == 2


def _stored(bits: float, row: int) -> float:
    if row % SUPERBLOCK == 0:
        return bits
    return Q5_0 if bits < Q6_K else Q8_0


def compute_cache_bytes(shape: Architecture, context: int, slots: int, number_bytes: float = 2.0) -> int:
    """Return the size of the cache of keys and values: two vectors a token and block, in 16 bits by default.

    Sliding windows (Gemma 3) would make it smaller and are left out.
    """
    return int(context * slots * 2 * shape.blocks * shape.key_width * number_bytes)


def compute_answer_bytes(
    shape: Architecture, weights_bytes: int, context: int, slots: int, *, on_card: bool = False
) -> int:
    """Return the memory that a llama.cpp server needs: weights, cache and buffers.

    Args:
        shape: the sizes of the model.
        weights_bytes: the size of the GGUF file.
        context: tokens that a prompt and its answer may have together.
        slots: how many answers are generated at the same time.
        on_card: whether everything is on a graphics card.
    """
    needed = weights_bytes + compute_cache_bytes(shape, context, slots) + SERVER_BYTES
    return needed + (CARD_CONTEXT_BYTES + CARD_BATCH * shape.vocabulary * 4 if on_card else 0)


def estimate_answer_speed(weights_bytes: int, cores: int, *, on_card: bool = False) -> float:
    """Return about how many tokens a second one answer gets.

    Each token reads all weights once, so the speed is the memory's bandwidth divided by their size. The bandwidth is an
    assumption; on a card it is that of a small one.
    """
    if on_card:
        return min(CARD_MOST_TOKENS, CARD_BYTES_A_SECOND / max(weights_bytes, 1))
    return min(RAM_BYTES_A_SECOND, cores * BYTES_A_SECOND_AND_CORE) / max(weights_bytes, 1)


# ------------------------------------------------------------------------------------------------ training


class CardNeed(NamedTuple):
    """What training needs on a card, in bytes."""

    reserved_bytes: int
    """What PyTorch reserves: the figure that `torch.cuda.max_memory_reserved` shows."""
    total_bytes: int
    """With the CUDA context: the figure that `nvidia-smi` shows."""


def count_lora_weights(shape: Architecture, rank: int) -> int:
    """Return the number of weights of an adapter on all seven matrices: rank times input and output size of each."""
    return shape.blocks * rank * sum(rows + columns for rows, columns in shape.matrices)


def compute_card_bytes(
    shape: Architecture,
    *,
    rank: int,
    batch: int,
    length: int,
    four_bit: bool = True,
    checkpointing: bool = True,
    unsloth: bool = True,
) -> CardNeed:
    """Return the memory to train an adapter on a card.

    The parts: the matrices in 4 or 16 bits; embedding and output layer in 16 bits (32 without Unsloth); the adapter
    with its gradients and AdamW's moments; the activations of one block (of all blocks without checkpointing) for
    every token of a micro-batch, or the logits if they take more; two matrices in 16 bits for dequantising. Unsloth
    keeps the checkpoints in RAM and computes the loss in chunks; other trainers keep both on the card.

    Checked against runs on an H100 with 1.07 billion weights, rank 16 and 1,004 tokens: batch 4 measured 1.30 GiB
    reserved, batch 16 measured 2.46 GiB.

    Args:
        shape: the sizes of the model.
        rank: the adapter's rank.
        batch: examples in a micro-batch.
        length: tokens of the longest example.
        four_bit: whether the matrices are quantised (QLoRA).
        checkpointing: whether activations are recomputed.
        unsloth: whether Unsloth trains, and not plain PEFT.
    """
    tokens = batch * length
    static = (
        shape.block_weights * (NF4 if four_bit else 2)
        + shape.table_weights * (2 if unsloth else 4)
        + count_lora_weights(shape, rank) * LORA_WEIGHT_BYTES
        + 2 * 2 * max(rows * columns for rows, columns in shape.matrices)
    )
    if checkpointing:
        block = 2 * (
            BLOCK_HIDDEN * shape.width
            + BLOCK_ATTENTION * shape.attention_width
            + BLOCK_FEED_FORWARD * shape.feed_forward
        )
        kept = 0 if unsloth else 2 * shape.blocks * shape.width
    else:
        block = 0
        kept = 2 * shape.blocks * (KEPT_HIDDEN * shape.width + KEPT_FEED_FORWARD * shape.feed_forward)
    logits = (min(tokens, LOGITS_CHUNK) if unsloth else tokens) * shape.vocabulary * LOGIT_BYTES
    # The logits are gone before the first block is computed back, so only the larger of the two counts.
    reserved = (static + tokens * kept + max(tokens * block, logits)) * (1 if unsloth else FRAGMENTATION)
    return CardNeed(int(reserved), int(reserved) + CARD_CONTEXT_BYTES)


def find_largest_batch(shape: Architecture, available_bytes: int, *, rank: int, length: int, most: int) -> int:
    """Return the largest micro-batch, at most `most`, that fits on a card in 4 bits; 0: not even one example fits."""
    return next(
        (
            batch
            for batch in range(most, 0, -1)
            if compute_card_bytes(shape, rank=rank, batch=batch, length=length).total_bytes <= available_bytes
        ),
        0,
    )


def compute_cpu_bytes(shape: Architecture) -> int:
    """Return the memory to train an adapter on the CPU, in 32 bits. It is right within a factor of two."""
    return int(CPU_LIBRARY_BYTES + 4 * shape.parameters * (1 + CPU_PASS_SHARE))


def estimate_cpu_seconds(shape: Architecture, tokens: int, cores: int) -> float:
    """Return about how long training on the CPU takes.

    Args:
        shape: the sizes of the model.
        tokens: tokens of all examples, times the epochs.
        cores: number of physical cores.
    """
    return tokens / (CPU_TOKENS_A_SECOND * cores / (4 * shape.parameters / GB))
