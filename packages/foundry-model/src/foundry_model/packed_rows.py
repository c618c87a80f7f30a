"""Spare a model the search for packed documents in rows of which it is known that there are none.

Without an attention mask, transformers compares the position ids of every batch, which the model has just counted
itself, to find out whether several documents share a row. That costs a step: on a GPU the answer must be waited for,
and a compiled program, which cannot wait, always computes with a full mask instead of a causal kernel; before torch
2.14 it does so in any case. The full mask makes attention two to three times slower. Where the caller gives no
position ids, every row counts from 0 and the answer is known.

    with one_document_a_row():
        logits = model(input_ids=input_ids, use_cache=False).logits
"""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

# of transformers.masking_utils
_SEARCH = "find_packed_sequence_indices"  # position ids [B, T] -> [B, T] or None
_SKIP = "_ignore_causal_mask_sdpa"  # whether the causal kernel does without a mask

_known = threading.local()  # what holds in this thread, for a model that runs as it is written
_known_while_compiling = False  # the same for the compiler, which reads plain globals only; it guards on the value


@contextlib.contextmanager
def one_document_a_row() -> Iterator[None]:
    """Inside, models of transformers take every row for one document, in this thread.

    Only for calls without position ids and with no cache.
    """
    global _known_while_compiling
    _install()
    before = getattr(_known, "holds", False)
    _known.holds = _known_while_compiling = True
    try:
        yield
    finally:
        _known.holds = _known_while_compiling = before


def _install() -> None:
    """Stand before two functions of transformers, once; there is nothing to do before a model has imported them."""
    masking = sys.modules.get("transformers.masking_utils")
    for name, stand_before in ((_SEARCH, _stand_before_search), (_SKIP, _stand_before_skip)):
        function = getattr(masking, name, None)
        if masking is not None and function is not None and not hasattr(function, "stands_before"):
            standing = stand_before(function)
            standing.stands_before = function
            setattr(masking, name, standing)


def _stand_before_search(search: Callable[[torch.Tensor], Any]) -> Any:
    def find_packed_sequence_indices(position_ids: torch.Tensor) -> Any:
        if torch.compiler.is_compiling():
            return None if _known_while_compiling else search(position_ids)
        return None if getattr(_known, "holds", False) else search(position_ids)

    return find_packed_sequence_indices


def _stand_before_skip(ignore: Callable[..., bool]) -> Any:
    def ignore_causal_mask_sdpa(
        padding_mask: torch.Tensor | None,
        q_length: int,
        kv_length: int,
        q_offset: int,
        kv_offset: int,
        local_attention_size: int | None = None,
    ) -> bool:
        plain = _known_while_compiling and padding_mask is None and q_length == kv_length
        if torch.compiler.is_compiling() and plain:
            return local_attention_size is None or kv_length < local_attention_size
        return ignore(padding_mask, q_length, kv_length, q_offset, kv_offset, local_attention_size)

    return ignore_causal_mask_sdpa
