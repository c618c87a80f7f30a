"""Which parameters text never reaches: they are built and saved, but no training changes them.

A model that also reads pictures has an encoder for them (git, phi4_multimodal), and the decoder half of a translator
has attention to an encoder that is not there (bart and its like). What such a part would compute is no cost of training
on text, and that it is there at all is worth a warning.
"""

from typing import Any

import torch
from torch import nn

from foundry_model.loss import call_on_tokens, probe_ids
from foundry_model.modes import evaluating, fixed_chance


def out_of_reach(model: nn.Module, *, length: int, vocab_size: int | None = None) -> frozenset[str]:
    """Name the trainable parameters that take no part in what the model says about a row of tokens.

    Changes neither weights, nor modes, nor the state of any random generator. Where every module is called, it costs
    one forward pass; else one pass back tells which parameters of the others are used all the same. Experts, of which a
    short text may choose few, are not looked at.

    Args:
        model: On a device (not `meta`), or of fake tensors; without gradients.
        length: T, tokens to run over.
        vocab_size: Ids that there are. Default: as many as the model has embeddings. [tokens]
    """
    called: set[str] = set()

    def note(name: str) -> Any:
        return lambda module, given: called.add(name)  # noqa: ARG005 (the signature of a hook)

    hooks = [module.register_forward_pre_hook(note(name)) for name, module in model.named_modules()]
    try:
        with evaluating(model), fixed_chance(model):
            ids = probe_ids(model, length=length, vocab_size=vocab_size)  # [1, T]
            call_on_tokens(model, ids)
            uncalled = [name for name, _ in _own_parameters(model) if name.rpartition(".")[0] not in called]
            return frozenset(_without_gradient(model, ids, uncalled)) if uncalled else frozenset()
    finally:
        for hook in hooks:
            hook.remove()


def _own_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad and "experts." not in name]


def _without_gradient(model: nn.Module, ids: torch.Tensor, names: list[str]) -> list[str]:
    """Those of `names` that a pass back leaves without a gradient."""
    wanted = dict(model.named_parameters())
    with torch.enable_grad():
        total = call_on_tokens(model, ids).logits.float().sum()
        gradients = torch.autograd.grad(total, [wanted[name] for name in names], allow_unused=True)
    return [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]
