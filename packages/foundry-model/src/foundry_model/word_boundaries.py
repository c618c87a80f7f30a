"""Which tokens make up which word, and which tokens begin a new one.

    text     the  dog's  bark                     words stand between spaces, tabs and line breaks
    tokens   ▁the ▁dog ' s ▁bark
    word      0    1   1 1  2

A token belongs to the word that its first visible byte stands in; one of whitespace alone to the word after it. Words
end where the next token opens a word, so the probability that a word is over lies in tokens that come later: see
`surprisal` for the correction that this asks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from foundry_config.errors import DataError
from foundry_model.scoring_tokenizer import ScoringTokenizer

WHITESPACE = b" \t\n\r\x0b\x0c"
_UNSPELLED = b"\xff"  # stands for a token without bytes: visible, and no byte of any text


@dataclass(frozen=True)
class WordBoundaries:
    """What the tokens of a vocabulary say about words."""

    surfaces: tuple[bytes, ...]
    opens: tuple[bool, ...]
    """Whether the token begins with whitespace, so that a word before it is over."""
    ends_text: frozenset[int]
    """Special tokens after which no word goes on: BOS and EOS."""

    @property
    def boundary(self) -> list[bool]:
        """Tokens before which a word is over. [V]"""
        return [opens or token in self.ends_text for token, opens in enumerate(self.opens)]

    def words(self, ids: Sequence[int]) -> tuple[list[int], list[bytes]]:
        """Assign every token of a text to a word.

        Returns:
            The word of each token, counted from 0, and the bytes of each word.
        """
        found: list[bytes] = []
        owners: list[int] = []
        current = b""  # bytes of the word that is not over yet
        for token in ids:
            surface = self.surfaces[token]
            blank = not surface.strip(WHITESPACE)
            if current and (self.opens[token] or blank):
                found.append(current)
                current = b""
            owners.append(len(found))
            *complete, rest = _split(surface)
            for part in complete:
                if current + part:
                    found.append(current + part)
                current = b""
            current += rest
        if current:
            found.append(current)
        return [min(owner, max(0, len(found) - 1)) for owner in owners], found


def word_boundaries(tokenizer: ScoringTokenizer) -> WordBoundaries:
    """Read the vocabulary of a tokenizer."""
    surfaces = tuple(_UNSPELLED if surface is None else surface for surface in tokenizer.token_surfaces())
    opens = tuple(surface[:1] in (b" ", b"\t", b"\n", b"\r", b"\x0b", b"\x0c") for surface in surfaces)
    ends_text = frozenset(token for token in (tokenizer.bos_id, tokenizer.eos_id) if token is not None)
    return WordBoundaries(surfaces, opens, ends_text)


def align(ids: Sequence[int], words: Sequence[str], boundaries: WordBoundaries, *, where: str) -> list[int]:
    """Return the word, as an index of `words`, that each token of their text belongs to.

    Args:
        ids: Tokens of `" ".join(words)`.
        words: Words without whitespace.
        boundaries: Of the same tokenizer.
        where: `file:line`, for messages.

    Raises:
        DataError: A word has no token of its own.
    """
    owners, found = boundaries.words(ids)
    if len(found) == len(words):
        lost = sorted(set(range(len(words))) - set(owners))
    else:
        lost = [i for i, word in enumerate(words) if i >= len(found) or not _may_be(found[i], word)] or [len(words) - 1]
    if lost:
        raise DataError(
            f"{where}: the tokenizer does not see the word {words[lost[0]]!r} (word {lost[0] + 1}) as one of its own; "
            "it may consist of characters that are removed, or be joined with a neighbour"
        )
    return owners


def _may_be(found: bytes, word: str) -> bool:
    return _UNSPELLED in found or found == word.encode()


def _split(surface: bytes) -> list[bytes]:
    """Cut at runs of whitespace; leading ones are left out, a trailing one gives an empty last part."""
    parts = surface.translate(bytes.maketrans(WHITESPACE, b" " * len(WHITESPACE))).lstrip().split(b" ")
    return parts if parts[-1:] == [b""] else [*[part for part in parts[:-1] if part], parts[-1]]
