"""The order in which an epoch visits the sequences: a keyed permutation that any position can be asked of alone.

    order = epoch_order(1_000_000_000, seed=42, epoch=3)
    order(np.array([0, 1, 999_999_999]))     -> three different indices, at once: nothing is shuffled or stored

An index is written as a pair (left, right) on a grid just large enough, and eight keyed rounds move each half by a hash
of the other (a Feistel network); a result outside the range goes through again until it is inside (cycle walking), so
that every index is met exactly once. Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002.
"""

import hashlib
import math

import numpy as np
import numpy.typing as npt

ROUNDS = 8
Indices = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]


class EpochOrder:
    """The order of one epoch; calling it turns positions into indices."""

    def __init__(self, length: int, seed: int, epoch: int) -> None:
        """Make the keys; see `epoch_order`."""
        if length < 0:
            raise ValueError(f"an epoch cannot have {length} sequences")
        self.length = length
        self._columns = max(1, math.isqrt(max(0, length - 1)) + 1)  # columns * rows >= length, with few to spare
        self._rows = max(1, -(-length // self._columns))
        self._keys = [
            int.from_bytes(hashlib.sha256(f"foundry.order/1 {seed} {epoch} {place}".encode()).digest()[:8], "little")
            for place in range(ROUNDS)
        ]

    def __len__(self) -> int:
        return self.length

    def __call__(self, positions: npt.ArrayLike) -> Indices:
        """Return the index at each position, any shape.

        Raises:
            IndexError: A position is negative or not below the length.
        """
        places = np.asarray(positions, dtype=np.int64)
        if places.size and (places.min() < 0 or places.max() >= self.length):
            raise IndexError(f"positions from 0 to {self.length - 1} exist; got {places.min()} to {places.max()}")
        values = self._encipher(places.reshape(-1).astype(np.uint64))
        while (outside := values >= self.length).any():
            values[outside] = self._encipher(values[outside])
        return values.astype(np.int64).reshape(places.shape)

    def _encipher(self, values: _Words) -> _Words:
        """One pass of the network: a bijection of the whole grid."""
        columns, rows = np.uint64(self._columns), np.uint64(self._rows)
        left = values // columns  # < rows
        right = values - left * columns  # < columns
        for place, key in enumerate(self._keys):
            if place % 2 == 0:
                right = _add(right, _hash(left, key), columns)
            else:
                left = _add(left, _hash(right, key), rows)
        return left * columns + right


def epoch_order(length: int, seed: int, epoch: int) -> EpochOrder:
    """Return the permutation of `length` sequences that belongs to (seed, epoch).

    >>> sorted(epoch_order(5, seed=1, epoch=0)(range(5)).tolist())
    [0, 1, 2, 3, 4]
    """
    return EpochOrder(length, seed, epoch)


def _add(values: _Words, hashes: _Words, modulus: np.uint64) -> _Words:
    """`(values + hashes) % modulus` for values below it; numpy divides by one number much faster than it takes `%`."""
    total = values + (hashes - hashes // modulus * modulus)  # < 2 * modulus
    return np.minimum(total, total - modulus)  # what is below the modulus would wrap around, to something huge


def _hash(values: _Words, key: int) -> _Words:
    """Mix each value with the key (the finalizer of SplitMix64, Steele et al. 2014); arithmetic is modulo 2**64."""
    mixed = values + np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
