"""How work on a corpus tells how far it is.

progress("tokenizing train", TokenizedBytes(8192, tokens=2100), 16384)
"""

from collections.abc import Callable
from typing import Self

Progress = Callable[[str, int, int | None], None]
"""Told (stage, bytes of text done, bytes in all if known). Bytes that became tokens are `TokenizedBytes`."""


class TokenizedBytes(int):
    """A number of bytes of text that also knows how many tokens they became."""

    tokens: int

    def __new__(cls, number: int, *, tokens: int) -> Self:
        """Make the number."""
        made = super().__new__(cls, number)
        made.tokens = tokens
        return made


def no_progress(stage: str, done: int, total: int | None) -> None:
    """Ignore what is told."""
