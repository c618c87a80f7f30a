"""Cross-entropy over rows of logits in two kernels on a GPU, each of which reads a row once.

    losses, lses = row_losses(logits [n, V], targets [n])          -log p(target) and log-sum-exp, fp32 [n] each
    row_gradients(logits, targets, lses, factor, out=logits)       factor * (p - onehot(target)), in place or elsewhere

PyTorch's own operations read and write rows of fp32 several times over. Here the type of the logits is read, all sums
are fp32, and the gradient is rounded once. A row whose target is -100 has loss 0 and gradient 0. Every row is one
program and nothing is added up across rows, so the bits do not depend on the order in which they run.

The running maximum with a sum that is scaled along is that of Milakov and Gimelshein 2018, "Online normalizer
calculation for softmax".
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foundry_model.cross_entropy import IGNORED

VERSION = triton.__version__
BLOCK = 8192  # logits that a program holds at a time
WARPS = 16


@triton.jit
def _losses(logits, targets, losses, lses, stride, VOCAB: tl.constexpr, IGNORED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    logits += row * stride
    columns = tl.arange(0, BLOCK)
    highest = -3.4028234e38  # not -inf, from which -inf could not be subtracted
    total = 0.0
    for start in range(0, VOCAB, BLOCK):
        scores = tl.load(logits + start + columns, mask=start + columns < VOCAB, other=float("-inf"))
        scores = scores.to(tl.float32)
        new = tl.maximum(highest, tl.max(scores, 0))
        total = total * tl.exp(highest - new) + tl.sum(tl.exp(scores - new), 0)
        highest = new
    lse = highest + tl.log(total)
    counted = target != IGNORED
    chosen = tl.load(logits + tl.where(counted, target, 0)).to(tl.float32)
    tl.store(lses + row, lse)
    tl.store(losses + row, tl.where(counted, lse - chosen, 0.0))


@triton.jit
def _gradients(
    logits,
    results,
    targets,
    lses,
    factor,
    stride,
    result_stride,
    VOCAB: tl.constexpr,
    IGNORED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    lse = tl.load(lses + row)
    scale = tl.load(factor).to(tl.float32)
    logits += row * stride
    results += row * result_stride
    columns = tl.arange(0, BLOCK)
    for start in range(0, VOCAB, BLOCK):
        inside = start + columns < VOCAB
        scores = tl.load(logits + start + columns, mask=inside, other=float("-inf")).to(tl.float32)
        gradient = tl.exp(scores - lse) - tl.where(start + columns == target, 1.0, 0.0)
        gradient = tl.where(target != IGNORED, gradient * scale, 0.0)
        tl.store(results + start + columns, gradient.to(results.dtype.element_ty), mask=inside)


def row_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return -log p(target) of every row, 0 where there is no target, and the log-sum-exp of every row.

    Args:
        logits: Of any float type, on a GPU; the numbers of a row stand one after the other. [n, V]
        targets: Token ids, or -100. [n]

    Returns:
        Both in fp32. [n] each
    """
    losses, lses = (torch.empty(len(logits), dtype=torch.float32, device=logits.device) for _ in range(2))
    _start(_losses, logits, targets, losses, lses, logits.stride(0), logits.shape[1], IGNORED, BLOCK)
    return losses, lses


def row_gradients(logits: Tensor, targets: Tensor, lses: Tensor, factor: Tensor, *, out: Tensor) -> Tensor:
    """Write the gradient of `factor` times the summed loss into `out`, which may be `logits` itself.

    Args:
        logits: As `row_losses` was given them. [n, V]
        targets: Likewise. [n]
        lses: What `row_losses` returned. [n]
        factor: One number, on the device.
        out: Of the type that the gradient is rounded to. [n, V]
    """
    strides = logits.stride(0), out.stride(0)
    _start(_gradients, logits, out, targets, lses, factor, *strides, logits.shape[1], IGNORED, BLOCK)
    return out


def _start(kernel: Any, logits: Tensor, *arguments: Any) -> None:
    """Run one program for each row, on the card of the tensors: Triton starts them on the current one."""
    if logits.stride(1) != 1 and logits.numel() > 1:
        raise ValueError("the numbers of a row of logits must stand one after the other; call .contiguous() before")
    if len(logits):
        with torch.cuda.device_of(logits):
            kernel[(len(logits),)](logits, *arguments, num_warps=WARPS)
