"""Causal attention in bf16 on a CPU with a backward pass in matrix products.

    with CpuAttention():
        model(...)         # every `scaled_dot_product_attention` that can, goes the quick way back

PyTorch's fused kernel is quick forwards, but backwards it takes eight times as long: it multiplies small tiles one
thread at a time. Here the backward pass makes the probabilities again for a block of queries, up to the last key that
the block may see, and hands whole batches of products to the library that multiplies bf16 matrices. It pays up to about
`MAX_LENGTH` tokens: beyond, the products leave the cache.

The forward pass is PyTorch's own, to the bit. The gradients have the rounding of bf16 scores, as those of `eager`
attention under autocast have: about 0.6 % of their norm, where the fused kernel has 0.3 %.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

MAX_LENGTH = 512
"""Tokens per sequence (T), from which on the fused kernel is as quick."""


class CpuAttention(TorchFunctionMode):
    """Sends calls of `scaled_dot_product_attention` to `causal_attention` where that computes the same."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for every function of its own within the block."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _attend(*args, **kwargs)
        return func(*args, **kwargs)


def causal_attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None) -> Tensor:
    """Return softmax(scale q k^T) v, where no token sees those behind it.

    Args:
        query: On the CPU. [B, H, T, D]
        key: [B, H, T, D]
        value: [B, H, T, D]
        scale: Of the scores; 1 / sqrt(D) if not given.
    """
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    if _compiled is not None and torch.compiler.is_compiling():
        return cast(Tensor, _compiled(query, key, value, scale))
    return cast(Tensor, _CausalAttention.apply(query, key, value, scale))


def prepare_to_compile() -> None:
    """Make `causal_attention` one operation of a compiled program; to be called before it is compiled.

    The compiler would take the backward pass apart, and make a slower program of its pieces. Not done on import, which
    it would slow down.
    """
    global _compiled
    if _compiled is None:
        _compiled = _make_operator()


def _attend(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    others = [given for name, given in kwargs.items() if name not in ("is_causal", "scale")]
    quick = (
        not args
        and bool(kwargs.get("is_causal"))
        and not any(isinstance(given, Tensor) or given for given in others)  # mask, dropout, shared heads
        and query.dtype == key.dtype == value.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and query.shape == key.shape == value.shape
        and query.ndim == 4
        and query.shape[2] <= MAX_LENGTH
        and torch.is_grad_enabled()
        and query.requires_grad
    )
    if quick:
        return causal_attention(query, key, value, scale=kwargs.get("scale"))
    return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)


_compiled: Any = None


def _make_operator() -> Any:
    """Register forward and backward pass as operations of PyTorch, and return the one with the gradient."""

    @torch.library.custom_op("foundry::causal_attention", mutates_args=())
    def forward(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale).contiguous()

    @torch.library.custom_op("foundry::causal_attention_backward", mutates_args=())
    def backward(
        grad: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _attention_gradients(query, key, value, grad, scale)

    forward.register_fake(lambda query, *_: query.new_empty(query.shape))
    backward.register_fake(lambda _, *inputs: tuple(x.new_empty(x.shape) for x in inputs[:3]))

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 (torch gives it by name)
        ctx.save_for_backward(*inputs[:3])
        ctx.scale = inputs[3]

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        return (*backward(grad, *ctx.saved_tensors, ctx.scale), None)

    forward.register_autograd(differentiate, setup_context=keep)
    return forward


class _CausalAttention(torch.autograd.Function):
    """Keeps queries, keys and values; the gradients are those of Dao et al. (2022), appendix B."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value = ctx.saved_tensors
        return (*_attention_gradients(query, key, value, grads[0], ctx.scale), None)


def _attention_gradients(
    query: Tensor, key: Tensor, value: Tensor, grad: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to queries, keys and values. [B, H, T, D] each"""
    shape = query.shape
    rows, length, width = shape[0] * shape[1], shape[2], shape[3]
    query, key, value, grad = (x.reshape(rows, length, width) for x in (query, key, value, grad))
    found = [torch.empty_like(query) for _ in range(3)]
    block, group = _sizes(length)
    hidden = torch.full((block, block), -math.inf, dtype=query.dtype).triu_(1)  # what a block may not see
    for start in range(0, rows, group):
        part = slice(start, start + group)
        gradients = _gradients(query[part], key[part] * scale, value[part], grad[part], hidden)
        for whole, piece in zip(found, gradients, strict=True):
            whole[part] = piece
    found[1] *= scale
    d_query, d_key, d_value = (x.view(shape) for x in found)
    return d_query, d_key, d_value


def _gradients(
    query: Tensor, key: Tensor, value: Tensor, grad: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of some heads, a block of queries at a time; keys are scaled already. [n, T, D] each"""
    block, length = len(hidden), query.shape[1]
    d_query = torch.empty_like(query)
    d_key, d_value = (torch.zeros(key.shape, dtype=torch.float32) for _ in range(2))
    for start in range(0, length, block):
        end = min(start + block, length)
        now, seen = slice(start, end), slice(0, end)
        scores = torch.bmm(query[:, now], key[:, seen].mT)  # [n, block, seen]
        scores[:, :, now] += hidden[: end - start, : end - start]
        weights = torch.softmax(scores, -1)
        d_value[:, seen] += torch.bmm(weights.mT, grad[:, now])
        d_weights = torch.bmm(grad[:, now], value[:, seen].mT)
        d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
        d_query[:, now] = torch.bmm(d_scores, key[:, seen])
        d_key[:, seen] += torch.bmm(d_scores.mT, query[:, now])
    return d_query, d_key, d_value


def _sizes(length: int) -> tuple[int, int]:
    """Queries of a block, and heads (over all sequences) at a time: as measured, see docs/performance.md."""
    return (128, 48) if length <= 256 else (256, 16)
