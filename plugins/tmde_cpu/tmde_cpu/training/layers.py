"""Compute the forward and backward passes of Llama-shaped models explicitly, several times as fast as autograd on a CPU.

A small model spends its time between the matrix products: in dispatch, in new memory, in low-rank products too thin to
be fast, in activations that are written and read again. Here, each activation has a place that is allocated once.
Matrices that read the same input are stored as one matrix, together with the rows of LoRA's A, so that one product
computes both. Values that a few cheap operations can recompute are not kept. Frozen weights have no gradients. The
results equal those of PEFT, up to rounding (tests/tmde_cpu/test_trainer_layers.py).
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tmde_cpu.training import attention
from tmde_cpu.training.attention import Heads
from tmde_cpu.training.packing import Pack

KINDS = frozenset({"llama", "mistral", "qwen2"})
"""Values of `model_type` whose layers consist of: norm, attention with rotary positions, norm, gated unit."""


def supports(model: Any) -> bool:
    """Return whether the passes in this module support the model."""
    shape = model.config
    return (
        attention.OPERATORS
        and shape.model_type in KINDS
        and shape.hidden_act == "silu"
        and not (getattr(shape, "use_sliding_window", True) and getattr(shape, "sliding_window", None))
        and all(parameter.dtype == torch.float32 for parameter in model.parameters())
    )


class Projection:
    """Linear modules with the same input, each with its LoRA matrices: y = W x + b + s B A x for all of them at once.

    The result `z` is [N, outputs + ranks]: the modules' outputs side by side, then each module's A x. The frozen
    weights and the A matrices are moved into one matrix. The modules still work, on views of the matrix.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        layers = [module.base_layer for module in modules]
        downs = [module.lora_A["default"].weight for module in modules]
        self._ups = [module.lora_B["default"].weight for module in modules]
        self._scale = float(modules[0].scaling["default"])
        with torch.no_grad():
            self._matrix = torch.cat([*(layer.weight for layer in layers), *downs])
        for layer in layers:
            _let_go(layer.weight)
        self.inputs = int(self._matrix.shape[1])
        self.outputs = sum(int(layer.out_features) for layer in layers)
        self.width = int(self._matrix.shape[0])
        gradients = torch.zeros(self.width - self.outputs, self._matrix.shape[1])
        self._down_gradients = gradients
        self._parts: list[tuple[slice, slice]] = []
        row, low = 0, self.outputs
        for layer, down, up in zip(layers, downs, self._ups, strict=True):
            rank = down.shape[0]
            layer.weight.data = self._matrix[row : row + layer.out_features]
            down.data = self._matrix[low : low + rank]
            down.grad = gradients[low - self.outputs :][:rank]
            up.grad = torch.zeros_like(up)
            self._parts.append((slice(row, row + layer.out_features), slice(low, low + rank)))
            row, low = row + layer.out_features, low + rank
        biases = [layer.bias for layer in layers]
        self._bias = None
        if any(bias is not None for bias in biases):
            self._bias = torch.cat(
                [
                    torch.zeros(layer.out_features) if bias is None else bias.detach()
                    for layer, bias in zip(layers, biases, strict=True)
                ]
            )

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Compute `z` from `x` [N, inputs] and return the part with the outputs."""
        torch.mm(x, self._matrix.t(), out=z)
        outputs = z[:, : self.outputs]
        if self._bias is not None:
            outputs.add_(self._bias)
        for (columns, low), up in zip(self._parts, self._ups, strict=True):
            z[:, columns].addmm_(z[:, low], up.t(), alpha=self._scale)
        return outputs

    def backward(self, x: Tensor, low: Tensor, gradient: Tensor, back: Tensor | None) -> None:
        """Add to the gradients of A and B. Write the gradient of `x` to `back` unless `back` is None.

        Args:
            x: the input of `forward`.
            low: A x of each module, side by side, from the last columns of the result of `forward`.
            gradient: [N, width]. The outputs' part is given; the rest is computed here.
            back: the result, or None.
        """
        first = self.outputs
        for (columns, rows), up in zip(self._parts, self._ups, strict=True):
            of_output, of_low = gradient[:, columns], gradient[:, rows]
            torch.addmm(of_low, of_output, up, beta=0, alpha=self._scale, out=of_low)
            up.grad.addmm_(of_output.t(), low[:, rows.start - first : rows.stop - first], alpha=self._scale)
        self._down_gradients.addmm_(gradient[:, first:].t(), x)
        if back is not None:
            torch.mm(gradient, self._matrix, out=back)


@dataclass
class _Kept:
    """The results of one layer's forward pass that its backward pass needs; [N, …] each."""

    qkv: Tensor
    """Queries and keys after rotation, values, and their A x."""
    context: Tensor
    """The result of attention."""
    between: Tensor
    """The sum after attention, which the gated unit reads."""
    gate_up: Tensor
    o_low: Tensor
    down_low: Tensor
    scales: Tensor
    """1 / root mean square of the inputs of both norms."""
    sums: list[Tensor]
    """For each segment's attention, the logarithms of the sums of exponentials."""


class _Layer:
    def __init__(self, module: Any, heads: Heads) -> None:
        attn, mlp = module.self_attn, module.mlp
        self.heads = heads
        self.qkv = Projection([attn.q_proj, attn.k_proj, attn.v_proj])
        self.o = Projection([attn.o_proj])
        self.gate_up = Projection([mlp.gate_proj, mlp.up_proj])
        self.down = Projection([mlp.down_proj])
        self.norms = (module.input_layernorm.weight.detach(), module.post_attention_layernorm.weight.detach())
        self.epsilon = float(module.input_layernorm.variance_epsilon)
        self.width = self.o.outputs
        self.inner = self.down.inputs

    def room(self, size: int) -> _Kept:
        """Allocate the memory for the kept results of `size` tokens."""
        return _Kept(
            qkv=torch.empty(size, self.qkv.width),
            context=torch.empty(size, self.heads.query * self.heads.width),
            between=torch.empty(size, self.width),
            gate_up=torch.empty(size, self.gate_up.width),
            o_low=torch.empty(size, self.o.width - self.o.outputs),
            down_low=torch.empty(size, self.down.width - self.down.outputs),
            scales=torch.empty(2, size, 1),
            sums=[],
        )

    def floats(self) -> int:
        """Return how many numbers `room` allocates for each token."""
        lows = self.o.width - self.o.outputs + self.down.width - self.down.outputs
        context = self.heads.query * self.heads.width
        return self.qkv.width + context + self.width + self.gate_up.width + lows + 2 + self.heads.query


@dataclass
class _Scratch:
    """Memory for values that are used within one layer only."""

    normed: Tensor
    residual: Tensor
    """As wide as the model, like `normed`."""
    qkv: Tensor
    o: Tensor
    gate_up: Tensor
    inner: Tensor
    inner_too: Tensor
    down: Tensor


class WrittenOut:
    """A Llama-shaped model whose layers run on the code of this module. Use it like `trainee.Differentiated`."""

    def __init__(self, peft_model: Any) -> None:
        model = peft_model.get_base_model()
        shape, body = model.config, model.model
        width = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        heads = Heads(shape.num_attention_heads, shape.num_key_value_heads, width)
        self._layers = [_Layer(layer, heads) for layer in body.layers]
        self._embedding = body.embed_tokens.weight.detach()
        self._norm, self._epsilon = body.norm.weight.detach(), float(body.norm.variance_epsilon)
        self._rotary = body.rotary_emb
        self._room = 0
        self._inputs: list[Tensor] = []
        self._kept: list[_Kept] = []
        self._scratch: _Scratch | None = None
        self._pack: Pack | None = None
        self._turn: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))

    # ------------------------------------------------------------------------------------------ memory

    def bytes_of(self, size: int, recompute: bool) -> int:
        """Return the memory for a pass of `size` tokens, in addition to the allocated memory."""
        layer = self._layers[0]
        inputs = (len(self._layers) + 1) * layer.width
        kept = layer.floats() * (1 if recompute else len(self._layers))
        scratch = 2 * layer.width + layer.qkv.width + layer.o.width + layer.gate_up.width + 2 * layer.inner
        wanted = 4 * size * (inputs + kept + scratch + layer.down.width)
        have = 4 * self._room * (inputs + layer.floats() * len(self._kept) + scratch + layer.down.width)
        return max(0, wanted - have)

    def _make_room(self, size: int, slots: int) -> None:
        if size <= self._room and slots <= len(self._kept):
            return
        self._inputs, self._kept, self._scratch = [], [], None  # free the old memory first
        layer = self._layers[0]
        self._room = size
        self._inputs = [torch.empty(size, layer.width) for _ in range(len(self._layers) + 1)]
        self._kept = [layer.room(size) for layer in self._layers[:slots]]
        self._scratch = _Scratch(
            normed=torch.empty(size, layer.width),
            residual=torch.empty(size, layer.width),
            qkv=torch.empty(size, layer.qkv.width),
            o=torch.empty(size, layer.o.width),
            gate_up=torch.empty(size, layer.gate_up.width),
            inner=torch.empty(size, layer.inner),
            inner_too=torch.empty(size, layer.inner),
            down=torch.empty(size, layer.down.width),
        )

    # ---------------------------------------------------------------------------------------- the model

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch's types are not read, see pyproject.toml
    def forward(self, pack: Pack, recompute: bool = False) -> Tensor:
        """Return the last hidden states at the places that are trained on: [S, width].

        Args:
            pack: the examples.
            recompute: keep only the layers' inputs, and compute each layer again in `backward`. This is a third more
                work.
        """
        self._make_room(pack.size, 1 if recompute else len(self._layers))
        self._pack = pack
        self._recompute = recompute
        x = self._inputs[0][: pack.size]
        torch.index_select(self._embedding, 0, pack.input_ids[0], out=x)
        cos, sin = self._rotary(x, pack.position_ids)
        half = cos.shape[-1] // 2
        self._turn = cos[0, :, None, :half].contiguous(), sin[0, :, None, :half].contiguous()
        for index, layer in enumerate(self._layers):
            self._forward(layer, self._slot(index), self._inputs[index], self._inputs[index + 1])
        self._last = self._inputs[-1].index_select(0, pack.predict)
        hidden = torch.empty_like(self._last)
        self._last_scale = _norm(self._last, self._norm, self._epsilon, hidden)
        return hidden

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def backward(self, gradient: Tensor) -> None:
        """Add to the gradients of the adapter's parameters, given the gradient of the result of `forward`."""
        pack, scratch = self._pack, self._scratch
        assert pack is not None
        assert scratch is not None
        back = torch.empty_like(gradient)
        _norm_backward(gradient, self._last, self._norm, self._last_scale, back)
        flowing = scratch.residual[: pack.size].zero_()
        flowing.index_add_(0, pack.predict, back)
        for index in reversed(range(len(self._layers))):
            layer, kept = self._layers[index], self._slot(index)
            if self._recompute and index < len(self._layers) - 1:
                self._forward(layer, kept, self._inputs[index], self._inputs[-1])
            self._backward(layer, kept, self._inputs[index], flowing, first=index == 0)

    def _slot(self, index: int) -> _Kept:
        return self._kept[0 if self._recompute else index]

    def _forward(self, layer: _Layer, kept: _Kept, x: Tensor, result: Tensor) -> None:
        """Run one layer from `x` to `result`."""
        pack, scratch = self._pack, self._scratch
        assert pack is not None
        assert scratch is not None
        size = pack.size
        x, result, between = x[:size], result[:size], kept.between[:size]
        normed, qkv, context, gate_up = scratch.normed[:size], kept.qkv[:size], kept.context[:size], kept.gate_up[:size]

        kept.scales[0, :size] = _norm(x, layer.norms[0], layer.epsilon, normed)
        layer.qkv.forward(normed, qkv)
        _rotate(qkv, layer.heads, *self._turn)
        kept.sums = attention.forward(qkv, layer.heads, pack.segments, context)
        o = scratch.o[:size]
        torch.add(x, layer.o.forward(context, o), out=between)
        kept.o_low[:size] = o[:, layer.o.outputs :]

        kept.scales[1, :size] = _norm(between, layer.norms[1], layer.epsilon, normed)
        layer.gate_up.forward(normed, gate_up)
        inner = scratch.inner[:size]
        torch.ops.aten.silu.out(gate_up[:, : layer.inner], out=inner)
        inner.mul_(gate_up[:, layer.inner : 2 * layer.inner])
        down = scratch.down[:size]
        torch.add(between, layer.down.forward(inner, down), out=result)
        kept.down_low[:size] = down[:, layer.down.outputs :]

    def _backward(self, layer: _Layer, kept: _Kept, x: Tensor, flowing: Tensor, first: bool) -> None:
        """Turn `flowing` from the gradient of the layer's result into the gradient of its input `x`."""
        pack, scratch = self._pack, self._scratch
        assert pack is not None
        assert scratch is not None
        size = pack.size
        x, between, gate_up = x[:size], kept.between[:size], kept.gate_up[:size]
        inner, of_inner, normed = scratch.inner[:size], scratch.inner_too[:size], scratch.normed[:size]
        gate, up = gate_up[:, : layer.inner], gate_up[:, layer.inner : 2 * layer.inner]

        of_down = scratch.down[:size]
        of_down[:, : layer.width] = flowing
        of_gate_up = scratch.gate_up[:size]
        of_gate, of_up = of_gate_up[:, : layer.inner], of_gate_up[:, layer.inner : 2 * layer.inner]
        torch.ops.aten.silu.out(gate, out=of_up)
        torch.mul(of_up, up, out=inner)
        layer.down.backward(inner, kept.down_low[:size], of_down, of_inner)
        of_up.mul_(of_inner)
        of_inner.mul_(up)
        torch.ops.aten.silu_backward.grad_input(of_inner, gate, grad_input=of_gate)
        _normed(between, layer.norms[1], kept.scales[1, :size], normed)
        back = scratch.o[:size, : layer.width]
        layer.gate_up.backward(normed, gate_up[:, layer.gate_up.outputs :], of_gate_up, back)
        _norm_backward(back, between, layer.norms[1], kept.scales[1, :size], normed)
        flowing.add_(normed)

        of_o, context, qkv = scratch.o[:size], kept.context[:size], kept.qkv[:size]
        of_o[:, : layer.width] = flowing
        of_context = inner[:, : context.shape[1]] if context.shape[1] <= layer.inner else torch.empty_like(context)
        layer.o.backward(context, kept.o_low[:size], of_o, of_context)
        of_qkv = scratch.qkv[:size]
        attention.backward(of_context, qkv, layer.heads, pack.segments, context, kept.sums, of_qkv)
        cos, sin = self._turn
        _rotate(of_qkv, layer.heads, cos, -sin)
        _normed(x, layer.norms[0], kept.scales[0, :size], normed)
        low = qkv[:, layer.qkv.outputs :]
        if first:  # the gradient of the embeddings is not needed
            layer.qkv.backward(normed, low, of_qkv, None)
            return
        layer.qkv.backward(normed, low, of_qkv, back)
        _norm_backward(back, x, layer.norms[0], kept.scales[0, :size], normed)
        flowing.add_(normed)


# --------------------------------------------------------------------------------------- small operations


def _let_go(weight: Tensor) -> None:
    """Tell the kernel that the pages of a mapped file behind a tensor are no longer needed.

    transformers maps the file of the weights, and a mapping exists as long as any tensor of it. Without this call, the
    weights would be in memory twice. If the tensor is not a mapping, its values are lost, so nothing may use the tensor
    any more.
    """
    begin = -(-weight.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (weight.data_ptr() + weight.nbytes - begin) // mmap.PAGESIZE * mmap.PAGESIZE
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def _norm(x: Tensor, weight: Tensor, epsilon: float, out: Tensor) -> Tensor:
    """Write the RMSNorm (Zhang and Sennrich 2019) of the rows of `x` to `out`; return 1 / root mean square, [N, 1]."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[1]).add_(epsilon).rsqrt_()
    _normed(x, weight, scale, out)
    return scale


def _normed(x: Tensor, weight: Tensor, scale: Tensor, out: Tensor) -> None:
    torch.mul(x, scale, out=out)
    out.mul_(weight)


def _norm_backward(gradient: Tensor, x: Tensor, weight: Tensor, scale: Tensor, out: Tensor) -> None:
    """Write the gradient of `x` to `out`. The content of `gradient` is overwritten."""
    gradient.mul_(weight)
    torch.mul(gradient, x, out=out)
    inner = out.sum(dim=-1, keepdim=True).mul_(scale).mul_(scale).div_(-x.shape[1])
    torch.addcmul(gradient, x, inner, out=out)
    out.mul_(scale)


def _rotate(qkv: Tensor, heads: Heads, cos: Tensor, sin: Tensor) -> None:
    """Apply rotary positions (Su et al. 2021) to queries and keys in place. `cos` and `sin` are [N, 1, width / 2]."""
    columns = (heads.query + heads.key) * heads.width
    one, two = qkv[:, :columns].unflatten(1, (-1, 2, heads.width // 2)).unbind(2)
    turned = one * sin
    one.mul_(cos).addcmul_(two, sin, value=-1)
    two.mul_(cos).add_(turned)
