"""Shares of a run as whole steps."""

import math
from fractions import Fraction


def steps_of(share: float, total: int) -> int:
    """Return a share of `total` steps, rounded up; the share is taken as it is written in decimals.

    >>> steps_of(0.07, 100)  # 7.000000000000001 in floating point
    7
    """
    return math.ceil(Fraction(repr(share)) * total)
