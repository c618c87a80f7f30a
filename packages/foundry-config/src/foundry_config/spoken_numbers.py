"""Numbers that JSON has no words for."""

import math
from typing import Any

from foundry_config.shapes import is_list, is_mapping


def speakable(value: Any) -> Any:
    """Replace numbers that are not finite, at any depth, by their names.

    >>> speakable({"loss": float("inf"), "values": [1.5, float("nan")]})
    {'loss': 'inf', 'values': [1.5, 'nan']}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if is_mapping(value):
        return {str(key): speakable(entry) for key, entry in value.items()}
    if is_list(value):
        return [speakable(entry) for entry in value]
    return value
