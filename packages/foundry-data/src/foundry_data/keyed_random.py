"""Chance that depends on a seed and a text, and on nothing else: not on the order of documents, nor on the worker.

    keyed_hash(seed, "sample", text) / 2**64      uniform in [0, 1), the same wherever the text turns up

Equal texts therefore share their fate: copies of a document land on the same side of a split.
"""

import hashlib
from random import Random

RANGE = 2**64


def keyed_hash(seed: int, purpose: str, text: str) -> int:
    """Return a number in [0, 2**64) that looks random; different purposes (16 bytes at most) are independent."""
    key = (seed % RANGE).to_bytes(8, "little")
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=key, person=purpose.encode())
    return int.from_bytes(digest.digest(), "little")


def keyed_choice(seed: int, purpose: str, text: str, *, fraction: float) -> bool:
    """Return True for a share `fraction` of all texts; a larger fraction includes all that a smaller one did."""
    return keyed_hash(seed, purpose, text) < int(fraction * RANGE)


def keyed_random(seed: int, purpose: str, text: str) -> Random:
    """Return a generator of its own for one text."""
    return Random(keyed_hash(seed, purpose, text))


def split_by_hash(text: str, fraction: float, seed: int) -> bool:
    """Tell whether a document belongs to the held-out share.

    The answer depends on the text and the seed, so documents that are added or moved change no other's side.

    Args:
        text: The document.
        fraction: Share that is held out, from 0 to 1.
        seed: `random_seed` of the experiment.
    """
    return keyed_choice(seed, "held-out", text, fraction=fraction)
