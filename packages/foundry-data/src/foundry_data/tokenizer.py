"""What every tokenizer can do, whatever made it; training and tokenization see only this.

    tokenizer.encode("a b")                              -> [5, 9]
    tokenizer.encode("a b", add_special_tokens=True)     -> [2, 5, 9, 3]          bos ... eos
    tokenizer.decode([2, 5, 9, 3])                       -> 'a b'
    tokenizer(["a b", "a"])["input_ids"]                 -> [[5, 9], [5, 0]]       padded, with an attention_mask

Text is never read as a special token: the letters `<s>` in a corpus are four ordinary characters. Two implementations
exist: `SentencePieceTokenizer` and `HuggingFaceTokenizer`; `load_tokenizer` opens either.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foundry_config.errors import DataError

Ids = npt.NDArray[np.int32]
IdMatrix = npt.NDArray[np.int64]


class Tokenizer(ABC):
    """Text to ids and back.

    Attributes:
        vocab_size: Number of ids, special ones included; every id is below it.
        pad_id, unk_id, bos_id, eos_id: Ids of the special tokens, None for one that does not exist.
        fingerprint: `sha256:...` of all that decides which ids a text gets.
    """

    vocab_size: int
    pad_id: int | None
    unk_id: int | None
    bos_id: int | None
    eos_id: int | None
    fingerprint: str

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of every text, in order, without special tokens; releases the interpreter lock."""

    @abstractmethod
    def encode_offsets(self, text: str) -> tuple[Ids, npt.NDArray[np.int64]]:
        """Return the ids [T] of a text and the index of the last character that each touches, [T], never falling.

        A token without a character of its own (a mark put before the text) has the index of the character before it, -1
        at the start.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer], skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`; special tokens are left out, or spelled as in the vocabulary."""

    @abstractmethod
    def token_text(self, token_id: int) -> str:
        """Return the token as it stands in the vocabulary, e.g. `'▁the'`.

        Raises:
            DataError: There is no such id.
        """

    @abstractmethod
    def token_surfaces(self) -> list[bytes | None]:
        """Return the UTF-8 bytes that each id stands for inside a text; None for a special or unknown token."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the files that `load_tokenizer` and `AutoTokenizer` open into an existing folder."""

    @property
    @abstractmethod
    def has_dummy_prefix(self) -> bool:
        """Whether a space that is not in the text is put before it."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of one text, between BOS and EOS (those that exist) if special tokens are asked for."""
        ids: list[int] = self.encode_batch([text])[0].tolist()
        return self._with_special_tokens(ids) if add_special_tokens else ids

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        add_special_tokens: bool = False,
        max_length: int | None = None,
        pad_to: int | None = None,
    ) -> dict[str, IdMatrix]:
        """Encode texts and pad them on the right to one length.

        Args:
            texts: One text counts as a batch of one.
            add_special_tokens: Put each text between BOS and EOS.
            max_length: Cut longer texts to this many tokens; EOS, if asked for, stays the last one.
            pad_to: Length of the result. Default: the longest text.

        Returns:
            `input_ids` [B, T] and `attention_mask` [B, T] (1 for a token, 0 for padding).

        Raises:
            DataError: Padding is needed, but there is no pad token.
            ValueError: `pad_to` is shorter than a text.
        """
        batch = [texts] if isinstance(texts, str) else list(texts)
        sequences = [ids.tolist() for ids in self.encode_batch(batch)] if batch else []
        room = None if max_length is None else max_length
        if add_special_tokens:
            room = None if room is None else max(0, room - len(self._with_special_tokens([])))
            sequences = [self._with_special_tokens(ids[:room]) for ids in sequences]
        return self.pad([ids[:max_length] for ids in sequences], length=pad_to)

    def pad(self, sequences: Sequence[Sequence[int]], *, length: int | None = None) -> dict[str, IdMatrix]:
        """Return `input_ids` and `attention_mask` [B, T] of sequences padded on the right; see `__call__`."""
        longest = max((len(ids) for ids in sequences), default=0)
        length = longest if length is None else length
        if longest > length:
            raise ValueError(f"a sequence of {longest} tokens does not fit into pad_to={length}; set max_length too")
        if self.pad_id is None and any(len(ids) < length for ids in sequences):
            raise DataError("this tokenizer has no pad token, so that texts of different lengths cannot be one batch")
        input_ids = np.full((len(sequences), length), self.pad_id or 0, dtype=np.int64)  # [B, T]
        attention_mask = np.zeros_like(input_ids)  # [B, T]
        for row, ids in enumerate(sequences):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def _with_special_tokens(self, ids: list[int]) -> list[int]:
        before = [] if self.bos_id is None else [self.bos_id]
        after = [] if self.eos_id is None else [self.eos_id]
        return [*before, *ids, *after]

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: padding, BOS, EOS."""
        return frozenset(i for i in (self.pad_id, self.bos_id, self.eos_id) if i is not None)

    # The names under which Hugging Face code looks for the same things.
    @property
    def pad_token_id(self) -> int | None:
        return self.pad_id

    @property
    def unk_token_id(self) -> int | None:
        return self.unk_id

    @property
    def bos_token_id(self) -> int | None:
        return self.bos_id

    @property
    def eos_token_id(self) -> int | None:
        return self.eos_id

    @property
    def pad_token(self) -> str | None:
        return self._special_text(self.pad_id)

    @property
    def unk_token(self) -> str | None:
        return self._special_text(self.unk_id)

    @property
    def bos_token(self) -> str | None:
        return self._special_text(self.bos_id)

    @property
    def eos_token(self) -> str | None:
        return self._special_text(self.eos_id)

    def save_pretrained(self, path: str | Path) -> None:
        """Write the tokenizer into the existing folder `path`; the same as `save`."""
        self.save(Path(path))

    def __len__(self) -> int:
        return self.vocab_size

    def _special_text(self, token_id: int | None) -> str | None:
        return None if token_id is None else self.token_text(token_id)
