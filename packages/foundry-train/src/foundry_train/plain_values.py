"""Say Python values in JSON without losing anything: tuples, infinities, small arrays and 0-d tensors.

    (0.9, 0.999)   <->   {"$tuple": [0.9, 0.999]}
    inf            <->   {"$float": "inf"}

Optimizer groups, LR schedulers and generator states hold such values. Finite floats are written as Python's `repr`,
which reads back to the same bits.
"""

import math
from typing import Any

import numpy as np
import torch


def encode_plain(value: Any, *, where: str = "value") -> Any:
    """Return `value` as JSON values that `decode_plain` turns back.

    Raises:
        TypeError: A part of `value` is none of number, text, list, tuple, dict, array, 0-d tensor; `where` names it.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, list | tuple) and all(type(entry) is int for entry in value):
        return list(value) if isinstance(value, list) else {"$tuple": list(value)}  # hundreds of words of a generator
    if isinstance(value, list):
        return [encode_plain(entry, where=where) for entry in value]
    if isinstance(value, tuple):
        return {"$tuple": [encode_plain(entry, where=where) for entry in value]}
    if isinstance(value, dict):
        return _encode_dict(value, where)
    if isinstance(value, np.ndarray):
        return {"$array": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, torch.Tensor) and value.ndim == 0:
        return {"$tensor": value.item(), "dtype": str(value.dtype).removeprefix("torch.")}
    raise TypeError(f"{where}: a {type(value).__name__} has no exact form in JSON")


def decode_plain(value: Any) -> Any:
    """Return the Python value that `encode_plain` described."""
    if isinstance(value, list):
        return [decode_plain(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if "$float" in value:
        return float(value["$float"])
    if "$tuple" in value:
        return tuple(decode_plain(entry) for entry in value["$tuple"])
    if "$dict" in value:
        return {decode_plain(key): decode_plain(entry) for key, entry in value["$dict"]}
    if "$array" in value:
        return np.array(value["$array"], dtype=value["dtype"])
    if "$tensor" in value:
        return torch.tensor(value["$tensor"], dtype=getattr(torch, value["dtype"]))
    return {key: decode_plain(entry) for key, entry in value.items()}


def _encode_dict(value: dict[Any, Any], where: str) -> Any:
    plain = all(isinstance(key, str) and not key.startswith("$") for key in value)
    if plain:
        return {key: encode_plain(entry, where=f"{where}.{key}") for key, entry in value.items()}
    pairs = [[encode_plain(key, where=where), encode_plain(entry, where=where)] for key, entry in value.items()]
    return {"$dict": pairs}
