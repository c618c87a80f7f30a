"""A model made ready to be asked for exact probabilities: fp32, evaluation mode, no gradients, nothing left changed.

    with open_for_scoring(model) as scorer:         a bf16 model is copied to fp32; an fp32 one is used as it is
        output = scorer.read(input_ids)             the last hidden states, or the logits where the two cannot be split
        logits = scorer.logits(output[0, 3:5])      made only for the rows that somebody asks for

On leaving, every module is back in its own mode and every random generator where it was, so that a run may be evaluated
in the middle of training without a bit of difference.
"""

import contextlib
import copy
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from foundry_model.context import longest_context
from foundry_model.loss import parameters_of_forward, supports_chunked_loss, token_logits, unwrapped
from foundry_model.modes import evaluating, without_compiler


class ScoringModel:
    """A model and what scoring needs to know of it, found out when it is first asked for; see `open_for_scoring`."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model = model
        self.device = device

    @functools.cached_property
    def head(self) -> nn.Module | None:
        """The output projection, where the logits are nothing but its image of the last hidden states."""
        return self.model.get_output_embeddings() if supports_chunked_loss(self.model) else None

    @functools.cached_property
    def vocab_size(self) -> int:
        """Width of the logits (V); padded vocabularies have more rows than the tokenizer has tokens. [tokens]"""
        probe = torch.ones((1, 2), dtype=torch.int64, device=self.device)
        return token_logits(self.model, probe).shape[-1]

    @functools.cached_property
    def context(self) -> int | None:
        """Most tokens that the model can read at once; None where the architecture sets no limit. [tokens]"""
        return longest_context(self.model)

    @functools.cached_property
    def reads_tries(self) -> bool:
        """Whether a mask and positions let several texts share their beginning, see `prefix_trie`."""
        return _reads_tries(self)

    def read(self, input_ids: Tensor, *, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """Run the model over rows padded on the right: a causal model never looks at what comes after.

        Args:
            input_ids: Token ids. [B, T]
            mask: True where row t may look at column s; only for models that read tries. [B, T, T]
            positions: Position of every token, together with `mask`. [B, T]

        Returns:
            Last hidden states [B, T, D] if there is a `head`, else logits [B, T, V].
        """
        inputs: dict[str, Any] = {"input_ids": input_ids}
        if mask is not None:
            inputs |= {"attention_mask": _additive(mask), "position_ids": positions}
        if "use_cache" in parameters_of_forward(self.model):
            inputs["use_cache"] = False
        if self.head is None:
            return self.model(**inputs).logits
        return self.model.base_model(**inputs)[0]

    def logits(self, rows: Tensor) -> Tensor:
        """Turn some rows of what `read` returned into fp32 logits. [N, D or V] -> [N, V]"""
        return (rows if self.head is None else self.head(rows)).float()


@contextlib.contextmanager
def open_for_scoring(model: nn.Module) -> Iterator[ScoringModel]:
    """Make `model` ready for scoring while the block runs.

    Args:
        model: Anything called with `input_ids` [B, T] whose output has `.logits` [B, T, V] and that is causal.

    Yields:
        The model in fp32; weights of another type are copied, which takes their memory a second time.
    """
    core = unwrapped(model)
    if any(p.is_floating_point() and p.dtype != torch.float32 for p in core.parameters()):
        core = copy.deepcopy(core).float()
    device = next((tensor.device for tensor in (*core.parameters(), *core.buffers())), torch.device("cpu"))
    generators = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=generators),
        torch.autocast(device.type, enabled=False),
        _full_fp32(device),
        without_compiler(core),
        evaluating(core),
    ):
        yield ScoringModel(core, device)


def _reads_tries(scorer: ScoringModel) -> bool:
    """Try on eight tokens whether two texts can share their beginning without seeing each other's end."""
    takes = parameters_of_forward(scorer.model)
    if not {"attention_mask", "position_ids"} <= takes or _has_local_attention(scorer):
        return False
    ids = (torch.arange(10, device=scorer.device) * 7 + 1) % scorer.vocab_size
    left, right = [0, 1, 2, 3, 4, 5], [0, 1, 2, 6, 7, 8]  # 0 1 2, then 3 4 5 or 6 7 8
    mask = torch.eye(9, dtype=torch.bool, device=scorer.device)
    for path in (left, right):
        for depth, node in enumerate(path):
            mask[node, path[: depth + 1]] = True
    depths = torch.tensor([[0, 1, 2, 3, 4, 5, 3, 4, 5]], device=scorer.device)
    try:
        shared = scorer.read(ids[None, :9], mask=mask[None], positions=depths)[0]
    except Exception:  # an attention kernel that takes no such mask may refuse it with any error
        return False
    alone = [scorer.read(ids[None, path])[0] for path in (left, right)]
    tolerance = 2e-5 * float(shared.abs().max()) + 1e-6
    if not math.isfinite(tolerance):
        return False  # whoever scores with this model is told about its logits
    return all(
        torch.allclose(shared[path], expected, rtol=0, atol=tolerance)
        for path, expected in zip((left, right), alone, strict=True)
    )


def _has_local_attention(scorer: ScoringModel) -> bool:
    """Sliding windows count rows, not positions: in a trie they would cut off ancestors."""
    config = getattr(scorer.model, "config", None)
    return any(getattr(config, name, None) for name in _WINDOWS)


def _additive(mask: Tensor) -> Tensor:
    """The mask as every implementation of attention takes it: 0 or the lowest number, with an axis for the heads."""
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, lowest)[:, None]  # [B, 1, T, T]


# gpt_neo, recurrent_gemma and modernbert-decoder have names of their own
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "attention_window_size", "local_attention")


@contextlib.contextmanager
def _full_fp32(device: torch.device) -> Iterator[None]:
    """No TF32 in matrix products and convolutions."""
    products = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32 if device.type == "cuda" else False
    try:
        torch.set_float32_matmul_precision("highest")
        if convolutions:
            torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        if convolutions:
            torch.backends.cudnn.allow_tf32 = True
