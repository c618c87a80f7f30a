"""What scoring asks of a tokenizer, and the token that a text starts from.

Any object with these names will do; those of foundry-data have them. Position 0 predicts the first token of a text, so
something must stand there: BOS, or EOS for a model that was trained on documents ended by EOS and never saw a BOS.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from foundry_config import DataConfig
from foundry_config.errors import DataError

Start = Literal["bos", "eos"]


class ScoringTokenizer(Protocol):
    """Text to ids, and ids to the bytes they stand for."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eos_id(self) -> int | None: ...

    @property
    def unk_id(self) -> int | None: ...

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Any]:
        """Ids of every text (lists or arrays), without special tokens."""
        ...

    def token_surfaces(self) -> Sequence[bytes | None]:
        """Bytes that each id stands for inside a text; None for special and unknown tokens."""
        ...


def start_token(tokenizer: ScoringTokenizer, start: Start | None = None) -> int:
    """Return the id that stands before a text.

    Args:
        tokenizer: Where the special ids are from.
        start: Which of them. Default: BOS, or EOS if there is no BOS.

    Raises:
        DataError: The tokenizer has no such token.
    """
    if start == "bos" or (start is None and tokenizer.bos_id is not None):
        found = tokenizer.bos_id
    else:
        found = tokenizer.eos_id
    if found is None:
        wanted = start.upper() if start else "BOS or EOS"
        raise DataError(f"the tokenizer has no {wanted} token to start a text from, so first tokens have no score")
    return found


def trained_start(data: DataConfig) -> Start:
    """Return what stood before each document in training: a model that saw no BOS knows EOS as the start of a text."""
    return "eos" if data.add_eos and not data.add_bos else "bos"


def encode_texts(tokenizer: ScoringTokenizer, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the ids of every text as plain integers."""
    if not texts:
        return []
    return [tuple(ids.tolist() if hasattr(ids, "tolist") else ids) for ids in tokenizer.encode_batch(texts)]


def check_vocabulary(tokenizer: ScoringTokenizer, model_size: int, *, padded: bool = False) -> None:
    """Refuse a tokenizer that is not the model's.

    Args:
        tokenizer: Its size must be that of the model.
        model_size: Width of the logits (V).
        padded: Also accept a model whose size is the tokenizer's, rounded up to a multiple of 64 or 128.

    Raises:
        DataError: The sizes differ.
    """
    size = tokenizer.vocab_size
    if size == model_size or (padded and model_size in (-(-size // unit) * unit for unit in (64, 128))):
        return
    raise DataError(
        f"the tokenizer has {size:,} tokens, but the model has {model_size:,}: they do not belong together; "
        "put the tokenizer that the model was trained with beside its weights"
    )
