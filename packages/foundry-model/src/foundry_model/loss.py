"""The training loss: a sum over target tokens and their count, so that any cut of a batch gives the same gradient.

    loss_sum, count = token_loss(model, input_ids, labels)      labels: as in transformers, unshifted, -100 = ignored
    (loss_sum / targets_of_the_whole_global_batch).backward()   exact for every accumulation and number of ranks

Position t predicts label t + 1. The model is always called with `use_cache=False` and, unless asked, without an
attention mask: with either of them, transformers turns the isolation of packed documents off in silence.
"""

import contextlib
import inspect
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from foundry_model.cpu_attention import CpuAttention, prepare_to_compile
from foundry_model.cross_entropy import IGNORED, headless_cross_entropy, leave_untraced, summed_cross_entropy
from foundry_model.modes import evaluating
from foundry_model.packed_rows import one_document_a_row


def token_loss(
    model: nn.Module,
    input_ids: Tensor,
    labels: Tensor,
    *,
    position_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    chunked: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy of a micro-batch and the number of its targets.

    Args:
        model: Anything whose output has `.logits` [B, T, V].
        input_ids: Token ids. [B, T]
        labels: Token ids of any integer type, unshifted; -100 is no target. The first of a row is never one. [B, T]
        position_ids: Positions that start again at every document, to isolate packed documents. [B, T]
        attention_mask: 1 for tokens, 0 for padding; rows padded on the right do not need it. [B, T]
        chunked: Never hold all logits; only for models that `supports_chunked_loss` accepts.

    Returns:
        The sum as an fp32 scalar with a gradient [nats], and the count as an int64 scalar [tokens].
    """
    targets = next_tokens(labels).view(-1).long()  # [B * T]
    inputs = _call_arguments(model, input_ids, position_ids, attention_mask)
    if chunked:
        core = unwrapped(model)
        hidden = core.base_model(**inputs)[0]  # [B, T, D]
        head = core.get_output_embeddings()
        loss = headless_cross_entropy(hidden.reshape(-1, hidden.shape[-1]), head.weight, head.bias, targets)
    else:
        logits = model(**inputs).logits  # [B, T, V]
        loss = summed_cross_entropy(logits.reshape(-1, logits.shape[-1]), targets)
    return loss, (targets != IGNORED).sum()


class TokenLoss(nn.Module):
    """`token_loss` as a module, for what wraps modules: `DistributedDataParallel` and `compile()`.

    A wrapper around the bare model would not see the calls of the chunked loss, which go to its parts.
    """

    def __init__(self, model: nn.Module, *, chunked: bool = False, cpu_attention: bool = False) -> None:
        """
        Args:
            model: Anything that `token_loss` takes.
            chunked: Never hold all logits.
            cpu_attention: Go back through attention by `foundry_model.cpu_attention` where that can.
        """
        super().__init__()
        self.model = model
        self.chunked = chunked
        self.cpu_attention = cpu_attention

    def __call__(
        self,
        input_ids: Tensor,
        labels: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Call `forward` or what it was compiled to, sparing the model what is known about its rows."""
        with one_document_a_row() if position_ids is None else contextlib.nullcontext():
            return super().__call__(input_ids, labels, position_ids, attention_mask)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile `forward`, all but the cross-entropy itself; arguments as of `torch.compile`."""
        leave_untraced()
        if self.cpu_attention:
            prepare_to_compile()
        super().compile(*args, **kwargs)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the summed loss and the number of targets; shapes as in `token_loss`."""
        with CpuAttention() if self.cpu_attention else contextlib.nullcontext():
            return token_loss(
                self.model,
                input_ids,
                labels,
                position_ids=position_ids,
                attention_mask=attention_mask,
                chunked=self.chunked,
            )


def next_tokens(labels: Tensor) -> Tensor:
    """Shift labels so that position t holds its target, label t + 1; the last position has none. [B, T]

    >>> next_tokens(torch.tensor([[5, 6, 7]])).tolist()
    [[6, 7, -100]]
    """
    return torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORED)], dim=1)


def supports_chunked_loss(model: nn.Module) -> bool:
    """Try on a few tokens, once for each model, whether the logits are just the head applied to the last block.

    Some families cap or scale their logits afterwards (gemma2, cohere, nanochat). Changes neither weights, nor modes,
    nor the state of any random generator.
    """
    core = unwrapped(model)
    if core not in _chunkable:
        _chunkable[core] = _head_makes_the_logits(core)
    return _chunkable[core]


_chunkable: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _head_makes_the_logits(core: Any) -> bool:
    find = getattr(core, "get_output_embeddings", None)
    head = find() if find is not None else None
    base = getattr(core, "base_model", core)
    if not isinstance(head, nn.Linear) or base is core:
        return False
    factors: list[Tensor] = []

    def enlarge(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        # a cap at 30 does not show in the small logits of a new model, so the head is fed much larger inputs
        factors.append(1000.0 / head.forward(given[0]).abs().max().clamp(min=1e-6))
        return (given[0] * factors[0],)

    with evaluating(core):
        inputs = _call_arguments(core, probe_ids(core, length=8), None, None)
        hook = head.register_forward_pre_hook(enlarge)
        try:
            expected = core(**inputs).logits.float()
        finally:
            hook.remove()
        if not factors:  # the weights of the head are used in some other way
            return False
        hidden = base(**inputs)[0]
        if hidden.shape[-1] != head.in_features:  # another projection stands between the last block and the head
            return False
        found = head(hidden * factors[0]).float()
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=1e-2)


def isolates_documents(model: nn.Module) -> bool:
    """Try on two short documents whether position ids that start again keep them from seeing each other.

    Changes neither weights, nor modes, nor the state of any random generator.
    """
    core = unwrapped(model)
    if "position_ids" not in parameters_of_forward(core):
        return False
    with evaluating(core):
        packed = probe_ids(core, length=16)  # [1, 16]: two documents of 8
        positions = torch.arange(8, device=packed.device).repeat(2)[None]
        together = core(**_call_arguments(core, packed, positions, None)).logits[:, 8:].float()
        alone = core(**_call_arguments(core, packed[:, 8:], positions[:, :8], None)).logits.float()
    return torch.allclose(together, alone, rtol=1e-3, atol=1e-4)


def unwrapped(model: nn.Module) -> Any:
    """Return the model inside wrappers of `torch.compile` and `DistributedDataParallel`."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def parameters_of_forward(model: nn.Module) -> frozenset[str]:
    """Names that `forward` takes; read once for each class."""
    cls = type(model)
    if cls not in _FORWARD_PARAMETERS:
        _FORWARD_PARAMETERS[cls] = frozenset(inspect.signature(cls.forward).parameters)
    return _FORWARD_PARAMETERS[cls]


def token_logits(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Logits of every position, from token ids alone. [B, T] -> [B, T, V]"""
    return call_on_tokens(model, input_ids).logits


def call_on_tokens(model: nn.Module, input_ids: Tensor) -> Any:
    """Whatever the model gives for token ids alone, [B, T]."""
    with one_document_a_row():
        return model(**_call_arguments(model, input_ids, None, None))


def _call_arguments(
    model: nn.Module, input_ids: Tensor, position_ids: Tensor | None, attention_mask: Tensor | None
) -> dict[str, Any]:
    arguments: dict[str, Any] = {"input_ids": input_ids}
    if position_ids is not None:
        arguments["position_ids"] = position_ids
    if attention_mask is not None:
        arguments["attention_mask"] = attention_mask
    if "use_cache" in parameters_of_forward(unwrapped(model)):
        arguments["use_cache"] = False
    return arguments


def probe_ids(model: Any, *, length: int, vocab_size: int | None = None) -> Tensor:
    """A fixed row of token ids that uses no random generator. [1, length]"""
    ids = torch.arange(3, 3 + length, device=next(model.parameters()).device) * 7 + 1
    embedded = embedded_ids(model)
    return (ids % (embedded if vocab_size is None else min(vocab_size, embedded)))[None]


def embedded_ids(model: Any) -> int:
    """Ids that a model certainly has an embedding for, where it does not say which of its tables they are in."""
    find = getattr(model, "get_input_embeddings", None)
    with contextlib.suppress(RuntimeError):  # how transformers says that the table has an unusual name
        if find is not None:
            return find().weight.shape[0]
    tables = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
    return min(tables, default=_FEW_IDS)


_FEW_IDS = 8  # of a model without a table of embeddings; every vocabulary has so many
_FORWARD_PARAMETERS: dict[type[nn.Module], frozenset[str]] = {}
