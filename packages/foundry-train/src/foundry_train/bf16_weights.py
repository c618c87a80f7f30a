"""A copy of a model with weights in bf16, which computes, beside the model with weights in fp32, which is trained.

    weights fp32 --refresh, once an update--> weights bf16 --forward, backward--> gradient bf16
          ^                                                                           |
          +------- optimizer <------- gradient fp32, summed over micro-batches <------+ as soon as a weight's is done

Autocast casts every weight in every forward pass and keeps what stands between the layers in fp32; here neither is
done, so that less memory is moved. Everything else sees the fp32 model only: optimizer, checkpoints, evaluation. In
bf16 a weight of size 1 changes in steps of 0.004, so that small updates would be lost without it (Micikevicius et al.
2018, "Mixed Precision Training").
"""

import copy
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Bf16Weights:
    """The copy that computes, and the way of weights and gradients between it and the model."""

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: Holds the weights in fp32. Parameters that its class wants in fp32 are shared by both; buffers are
                too, since running statistics are saved with the model.
        """
        halves: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []  # of the model, of the copy
        stays = _stays_in_fp32(model)
        for name, parameter in model.named_parameters():
            if stays(name) or not parameter.is_floating_point():
                halves[id(parameter)] = parameter
                continue
            half = nn.Parameter(parameter.detach().to(torch.bfloat16), requires_grad=parameter.requires_grad)
            halves[id(parameter)] = half
            self._pairs.append((parameter, half))
            if parameter.requires_grad:
                half.register_post_accumulate_grad_hook(_hand_over_to(parameter))
        self.model = copy.deepcopy(model, halves)

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the weights of the model into the copy."""
        torch._foreach_copy_([half for _, half in self._pairs], [weight for weight, _ in self._pairs])  # pyright: ignore[reportPrivateImportUsage]


def _hand_over_to(parameter: nn.Parameter) -> Callable[[Tensor], None]:
    def hand_over(half: Tensor) -> None:
        gradient, half.grad = half.grad, None
        if gradient is None:
            return
        if parameter.grad is None:
            parameter.grad = gradient.to(parameter.dtype)
        else:
            parameter.grad.add_(gradient)

    return hand_over


def _stays_in_fp32(model: nn.Module) -> Callable[[str], bool]:
    """Whether a parameter of that name belongs to the modules that a class of transformers wants in fp32."""
    names = getattr(model, "_keep_in_fp32_modules_strict", None)
    wanted = re.compile("|".join(rf"(^|\.){name}($|\.)" for name in names or ()) or "(?!)")
    return lambda name: wanted.search(name) is not None
