"""Spare a model the search for packed documents in rows of which it is known that there are none.

Without an attention mask, transformers compares the position ids of every batch, which the model has just counted
itself, to find out whether several documents share a row. That costs a step: on a GPU the answer must be waited for,
and a compiled program, which cannot wait, always computes with a full mask instead of a causal kernel. Where the caller
gives no position ids, every row counts from 0 and the answer is known.

    with one_document_a_row():
        logits = model(input_ids=input_ids, use_cache=False).logits
"""

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch

_FUNCTION = "find_packed_sequence_indices"  # of transformers.masking_utils: position ids [B, T] -> [B, T] or None

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
    """Stand before the function of transformers, once; there is nothing to do before a model has imported it."""
    masking = sys.modules.get("transformers.masking_utils")
    search = getattr(masking, _FUNCTION, None)
    if masking is None or search is None or hasattr(search, "stands_before"):
        return

    def find_packed_sequence_indices(position_ids: torch.Tensor) -> Any:
        if torch.compiler.is_compiling():
            return None if _known_while_compiling else search(position_ids)
        return None if getattr(_known, "holds", False) else search(position_ids)

    find_packed_sequence_indices.stands_before = search  # pyright: ignore[reportFunctionMemberAccess]
    setattr(masking, _FUNCTION, find_packed_sequence_indices)
