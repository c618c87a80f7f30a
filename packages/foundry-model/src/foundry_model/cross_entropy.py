"""Summed cross-entropy over target tokens, without copies of the logits in fp32.

    summed_cross_entropy(logits [N, V], targets [N])                 logits are there already
    headless_cross_entropy(hidden [N, D], weight [V, D], targets)    logits never exist as a whole

PyTorch's own path makes an fp32 copy of [N, V], its log-softmax, and the gradient of both. Here rows are taken a few at
a time, in pieces that stay in the cache: fp32 exists only for the piece at hand. On a GPU, kernels of Triton read every
row once in each direction and hold nothing in fp32 (`triton_cross_entropy`). The arithmetic is that of the plain path:
fp32 sums, gradients rounded once to the type of the logits.
"""

import functools
import importlib.util
import logging
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from foundry_model.out_of_memory import is_out_of_memory

logger = logging.getLogger(__name__)

IGNORED = -100
"""Target of a position that has none, as in PyTorch and transformers."""
CPU_PIECE = 2**19
"""Logits that are taken at a time on a CPU: 2 MiB in fp32 stay in the cache."""
GPU_PIECE = 2**26
"""Logits that are taken at a time on a GPU, where a piece must fill it: 256 MiB in fp32."""
KERNEL_PIECE = 2**28
"""The same where kernels hold nothing in fp32: 512 MiB in 16 bits."""
UNDERFLOW = 1e-30
"""A probability below it has lost digits, or may soon; its logarithm is made from the scores instead."""


def summed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of -log p(target) over the rows that have a target.

    Args:
        logits: Scores of any float type. [N, V]
        targets: Token ids; -100 where a row has none. [N]

    Returns:
        An fp32 scalar with a gradient. [nats]

    Raises:
        IndexError, RuntimeError: On a CPU, as PyTorch: a target that is neither -100 nor a row of the vocabulary.
    """
    on_cpu = logits.device.type == "cpu"
    # the compiler fuses the plain formula better than it traces the pieces; and what fits into the cache needs none
    if on_cpu and (torch.compiler.is_compiling() or logits.numel() <= CPU_PIECE):
        return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    return cast(Tensor, _apply_rowwise(logits, targets))


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
    if not torch.is_grad_enabled():  # a function of autograd is not told so, and would make the gradients in vain
        return _sweep(hidden, weight, bias, targets, dtype, scale=None, wanted=False)[0]
    return cast(Tensor, _apply_headless(hidden, weight, bias, targets, dtype))


def leave_untraced() -> None:
    """Keep the compiler out of the losses of this module; to be called before a program that uses them is compiled.

    Its own kernels are slower than those for a GPU, and of the headless loss torch 2.11 makes a program whose gradients
    are zero. Not done on import, since it imports the compiler, which takes a second.
    """
    global _apply_rowwise, _apply_headless
    if _apply_headless == _Headless.apply:  # once: programs that are compiled already expect what they have met
        _apply_rowwise, _apply_headless = map(torch.compiler.disable, (_Rowwise.apply, _Headless.apply))


def _refuse_to_be_traced() -> None:
    """Without `leave_untraced`, the compiler stops here: at what raises, it leaves the calling program as it is."""
    if torch.compiler.is_compiling():
        raise RuntimeError("the loss of foundry_model is no part of a compiled program; see leave_untraced()")


@functools.cache
def gpu_kernels(device: torch.device) -> Any:
    """Return the module `triton_cross_entropy` if it works on `device`, else None; a GPU without it is slower.

    Triton builds its kernels when they are first used, and needs a C compiler for that.
    """
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    try:
        from foundry_model import triton_cross_entropy as kernels

        logits, targets = torch.eye(3, device=device), torch.arange(3, device=device)
        found = kernels.row_losses(logits, targets)[0]
        if not torch.allclose(found, F.cross_entropy(logits, targets, reduction="none")):
            raise ArithmeticError("its kernel computes other numbers")
    except Exception as error:  # Triton raises errors of many kinds, some of them of the compiler
        if is_out_of_memory(error):
            raise  # says nothing of the kernels
        reason = str(error).strip().partition("\n")[0]
        logger.warning("the loss runs without the kernels of Triton, three times slower: %s", reason)
        return None
    return kernels


class _Rowwise(torch.autograd.Function):
    """Keeps the logits alone; the softmax is made again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        _refuse_to_be_traced()
        kernels = gpu_kernels(logits.device)
        if kernels is not None:
            logits, targets = logits.contiguous(), targets.contiguous()
            losses, lses = kernels.row_losses(logits, targets)
            ctx.save_for_backward(logits, targets, lses)
            return losses.sum()
        counted = targets != IGNORED
        index = targets.where(counted, 0)[:, None]  # [N, 1]
        chosen = torch.empty(len(logits), dtype=torch.float32, device=logits.device)  # [N]
        for rows in _pieces(len(logits), logits.shape[1], logits.device, headless=False):
            chosen[rows] = torch.log_softmax(logits[rows], -1, dtype=torch.float32).gather(1, index[rows])[:, 0]
        ctx.save_for_backward(logits, index, counted)
        return chosen.masked_fill_(~counted, 0.0).sum().neg_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, *saved = ctx.saved_tensors
        result = torch.empty_like(logits)
        kernels = gpu_kernels(logits.device)
        if kernels is not None:
            targets, lses = saved
            return kernels.row_gradients(logits, targets, lses, grads[0], out=result), None
        index, counted = saved
        factor = counted * grads[0]  # [N]
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
        _refuse_to_be_traced()
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


_apply_rowwise: Any = _Rowwise.apply
_apply_headless: Any = _Headless.apply


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
    factor = torch.ones((), device=hidden.device) if scale is None else scale.float()
    loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
    d_hidden = torch.empty_like(hidden) if wanted else None
    d_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted else None
    d_bias = torch.zeros_like(bias, dtype=torch.float32) if wanted and bias is not None else None
    offset = None if bias is None else bias.to(dtype)
    for rows in _pieces(len(hidden), len(weight), hidden.device, headless=True):
        scores = F.linear(inputs[rows], matrix, offset)  # [n, V]
        piece_loss, piece = _loss_and_gradient(scores, targets[rows], factor, wanted=wanted)
        loss += piece_loss
        if piece is None or d_hidden is None or d_weight is None:
            continue
        if d_bias is not None:
            d_bias += piece.sum(0, dtype=torch.float32)
        piece = piece.to(dtype)
        d_hidden[rows] = (piece @ matrix).to(hidden.dtype)
        if dtype == torch.float32:
            d_weight.addmm_(piece.T, inputs[rows])
        else:
            d_weight += piece.T @ inputs[rows]
    return loss, d_hidden, d_weight, d_bias


def _loss_and_gradient(
    scores: Tensor, targets: Tensor, factor: Tensor, *, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """The summed loss of a piece of logits, which are used up, and if wanted its gradient times `factor`. [n, V]"""
    kernels = gpu_kernels(scores.device)
    if kernels is not None:
        losses, lses = kernels.row_losses(scores, targets)
        return losses.sum(), kernels.row_gradients(scores, targets, lses, factor, out=scores) if wanted else None
    counted = targets != IGNORED
    index = targets.where(counted, 0)[:, None]  # [n, 1]
    probabilities = torch.softmax(scores, -1, dtype=torch.float32)  # [n, V]
    chosen = probabilities.gather(1, index)  # [n, 1]
    if scores.device.type != "cpu" or bool(chosen.min() < UNDERFLOW):
        chosen = torch.log_softmax(scores, -1, dtype=torch.float32).gather(1, index)
    else:
        chosen = chosen.log_()
    loss = chosen[:, 0].masked_fill_(~counted, 0.0).sum().neg_()
    return loss, _minus_target(probabilities, index, counted * factor) if wanted else None


def _minus_target(probabilities: Tensor, index: Tensor, factor: Tensor) -> Tensor:
    """Turn softmax rows into the gradient of the loss, in place: factor * (p - onehot(target)). [n, V]"""
    column = factor[:, None]
    return probabilities.mul_(column).scatter_add_(1, index, -column)


def piece_rows(vocab_size: int, device_type: str, *, headless: bool) -> int:
    """Rows that are taken at a time: few enough for the CPU's cache, many enough to fill a GPU.

    A piece of `headless_cross_entropy` is a matrix product as well, and that needs some rows to be worth it.
    """
    if device_type != "cpu":
        return max(128 if headless else 16, GPU_PIECE // vocab_size)
    if not headless:
        return max(16, CPU_PIECE // vocab_size)
    return max(128, 2**22 // vocab_size, min(512, 2**26 // vocab_size))


def _pieces(rows: int, vocab_size: int, device: torch.device, *, headless: bool) -> list[slice]:
    size = piece_rows(vocab_size, device.type, headless=headless)
    if gpu_kernels(device) is not None:
        size = max(size, KERNEL_PIECE // vocab_size)
    return [slice(start, start + size) for start in range(0, rows, size)]
