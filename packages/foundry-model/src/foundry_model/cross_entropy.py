"""Summed cross-entropy over target tokens, without copies of the logits in fp32.

    summed_cross_entropy(logits [N, V], targets [N])                 logits are there already
    headless_cross_entropy(hidden [N, D], weight [V, D], targets)    logits never exist as a whole

PyTorch's own path makes an fp32 copy of [N, V], its log-softmax, and the gradient of both. Here rows are taken a few at
a time, in pieces that stay in the cache: fp32 exists only for the piece at hand. The arithmetic is that of the plain
path: fp32 sums, gradients rounded once to the type of the logits.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Target of a position that has none, as in PyTorch and transformers."""
CPU_PIECE = 2**19
"""Logits that are taken at a time on a CPU: 2 MiB in fp32 stay in the cache."""


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of -log p(target) over the rows that have a target.

    Args:
        logits: Scores of any float type. [N, V]
        targets: Token ids; -100 where a row has none. [N]

    Returns:
        An fp32 scalar with a gradient. [nats]
    """
    # the compiler fuses the plain formula better than it traces the pieces; and what fits into the cache needs none
    if torch.compiler.is_compiling() or (logits.device.type == "cpu" and logits.numel() <= CPU_PIECE):
        return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    return cast(Tensor, _Rowwise.apply(logits, targets))


def headless_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Return the same sum from the input of the output projection, a piece of the logits at a time.

    Under autocast the products are made in its type, as the projection itself would.

    Args:
        hidden: Output of the last block. [N, D]
        weight: Output projection. [V, D]
        bias: Its bias, or None. [V]
        targets: Token ids; -100 where a row has none. [N]

    Returns:
        An fp32 scalar with a gradient with respect to the first three. [nats]
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    return cast(Tensor, _Headless.apply(hidden, weight, bias, targets, dtype))


class _Rowwise(torch.autograd.Function):
    """Keeps the logits alone; the softmax is made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        counted = targets != IGNORED
        index = targets.clamp(min=0)[:, None]  # [N, 1]
        chosen = torch.empty(len(logits), dtype=torch.float32, device=logits.device)  # [N]
        for rows in _pieces(len(logits), logits.shape[1], logits.device, headless=False):
            chosen[rows] = torch.log_softmax(logits[rows], -1, dtype=torch.float32).gather(1, index[rows])[:, 0]
        ctx.save_for_backward(logits, index, counted)
        return chosen.masked_fill_(~counted, 0.0).sum().neg_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, index, counted = ctx.saved_tensors
        factor = counted * grads[0]  # [N]
        result = torch.empty_like(logits)
        for rows in _pieces(len(logits), logits.shape[1], logits.device, headless=False):
            piece = torch.softmax(logits[rows], -1, dtype=torch.float32)  # [n, V]
            result[rows] = _minus_target(piece, index[rows], factor[rows])
        return result, None


class _Headless(torch.autograd.Function):
    """Makes the gradients in the forward pass, where each piece of the logits exists anyway.

    Not so for fp16: its gradients only keep their small values when the loss scale goes in before they are rounded, and
    that scale is known in the backward pass alone; there the pieces are made again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        ctx.dtype, ctx.again = dtype, dtype == torch.float16
        wanted = any(ctx.needs_input_grad) and not ctx.again
        loss, *gradients = _sweep(hidden, weight, bias, targets, dtype, scale=None, wanted=wanted)
        kept = (hidden, weight, bias, targets) if ctx.again else gradients
        ctx.save_for_backward(*kept)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if ctx.again:
            hidden, weight, bias, targets = saved
            _, *gradients = _sweep(hidden, weight, bias, targets, ctx.dtype, scale=grads[0], wanted=True)
        else:
            gradients = [None if g is None else g * grads[0] for g in saved]
        return (*gradients, None, None)


def _sweep(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    dtype: torch.dtype,
    *,
    scale: Tensor | None,
    wanted: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Go over the rows once: the summed loss, and if wanted its gradients times `scale`."""
    inputs, matrix = hidden.to(dtype), weight.to(dtype)
    counted = targets != IGNORED
    index = targets.clamp(min=0)[:, None]
    factor = counted.float() if scale is None else counted * scale.float()
    loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
    d_hidden = torch.empty_like(hidden) if wanted else None
    d_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted else None
    d_bias = torch.zeros_like(bias, dtype=torch.float32) if wanted and bias is not None else None
    offset = None if bias is None else bias.to(dtype)
    for rows in _pieces(len(hidden), len(weight), hidden.device, headless=True):
        scores = F.linear(inputs[rows], matrix, offset).float()  # [n, V]
        log_probabilities = torch.log_softmax(scores, -1)  # [n, V]
        loss -= log_probabilities.gather(1, index[rows])[:, 0].masked_fill_(~counted[rows], 0.0).sum()
        if d_hidden is None or d_weight is None:
            continue
        piece = _minus_target(log_probabilities.exp_(), index[rows], factor[rows])
        if d_bias is not None:
            d_bias += piece.sum(0)
        piece = piece.to(dtype)
        d_hidden[rows] = (piece @ matrix).to(hidden.dtype)
        d_weight += piece.T @ inputs[rows]
    return loss, d_hidden, d_weight, d_bias


def _minus_target(probabilities: Tensor, index: Tensor, factor: Tensor) -> Tensor:
    """Turn softmax rows into the gradient of the loss, in place: factor * (p - onehot(target)). [n, V]"""
    column = factor[:, None]
    return probabilities.mul_(column).scatter_add_(1, index, -column)


def piece_rows(vocab_size: int, device_type: str, *, headless: bool) -> int:
    """Rows that are taken at a time: few enough for the CPU's cache, many enough to fill a GPU.

    A piece of `headless_cross_entropy` is a matrix product as well, and that needs some rows to be worth it.
    """
    if device_type != "cpu":
        budget = 2**26
    else:
        budget = 2**22 if headless else CPU_PIECE
    return max(128 if headless else 16, budget // vocab_size)


def _pieces(rows: int, vocab_size: int, device: torch.device, *, headless: bool) -> list[slice]:
    size = piece_rows(vocab_size, device.type, headless=headless)
    return [slice(start, start + size) for start in range(0, rows, size)]
