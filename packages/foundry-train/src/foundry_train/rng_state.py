"""The random generators of a process: taken, put back, and gathered over ranks, without pickle.

Dropout draws from torch's generator of its device; Python's and NumPy's global generators belong to whatever else a
user's code may draw. The states of Python and NumPy are plain values for `trainer/state.json`; those of torch are byte
tensors for `trainer/rng-<rank>.safetensors`.
"""

import hashlib
import json
import random
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from foundry_train.plain_values import decode_plain, encode_plain
from foundry_train.rank_agreement import world_size

TORCH_CPU = "torch.cpu"
TORCH_CUDA = "torch.cuda"


class RngState(NamedTuple):
    """All global generators of one process."""

    plain: dict[str, Any]
    """`python` and `numpy`, as JSON values."""
    tensors: dict[str, torch.Tensor]
    """`torch.cpu`, and `torch.cuda` for the CUDA device of the process, whatever its number; bytes."""


def capture_rng(device: torch.device | None = None) -> RngState:
    """Copy the state of every global generator, that of a CUDA `device` included."""
    plain = {"python": encode_plain(random.getstate()), "numpy": encode_plain(np.random.get_state(legacy=False))}
    tensors = {TORCH_CPU: torch.get_rng_state()}
    if device is not None and device.type == "cuda":
        tensors[TORCH_CUDA] = torch.cuda.get_rng_state(device)
    return RngState(plain, tensors)


def restore_rng(state: RngState, device: torch.device | None = None) -> None:
    """Put every global generator back, that of a CUDA `device` too where it was saved."""
    random.setstate(decode_plain(state.plain["python"]))
    np.random.set_state(decode_plain(state.plain["numpy"]))
    torch.set_rng_state(state.tensors[TORCH_CPU])
    if device is not None and device.type == "cuda":
        # earlier checkpoints number the devices: torch.cuda.0, torch.cuda.1, ...
        own = state.tensors.get(TORCH_CUDA, state.tensors.get(f"{TORCH_CUDA}.{device.index or 0}"))
        if own is not None:
            torch.cuda.set_rng_state(own, device)


def derived_rng(state: RngState, number: int, device: torch.device) -> RngState:
    """Return generators that go other ways than those of `state`, always the same for the same `number`."""
    digest = hashlib.sha256(state.tensors[TORCH_CPU].numpy().tobytes() + number.to_bytes(4, "little")).digest()
    seed = int.from_bytes(digest[:8], "little") % 2**63
    tensors = {TORCH_CPU: torch.Generator().manual_seed(seed).get_state()}
    if device.type == "cuda":
        tensors[TORCH_CUDA] = torch.Generator(device).manual_seed(seed).get_state()
    return RngState(state.plain, tensors)


def gather_rng(device: torch.device) -> list[RngState]:
    """Return the generators of all ranks, in order of rank; every rank must call it.

    Args:
        device: Of the rank; the collective runs there: on CUDA with nccl, on the CPU with gloo.
    """
    own = capture_rng(device)
    if world_size() == 1:
        return [own]
    names = sorted(own.tensors)
    parts = [_json_bytes(own.plain), _json_bytes(names), *[own.tensors[name] for name in names]]
    gathered = [_gather_bytes(part, device) for part in parts]
    states: list[RngState] = []
    for index in range(world_size()):
        plain, rank_names, *tensors = [column[index] for column in gathered]
        states.append(RngState(_from_bytes(plain), dict(zip(_from_bytes(rank_names), tensors, strict=True))))
    return states


def _gather_bytes(part: torch.Tensor, device: torch.device) -> list[torch.Tensor]:
    size = torch.tensor([part.numel()], device=device)
    sizes = [torch.zeros_like(size) for _ in range(world_size())]
    dist.all_gather(sizes, size)
    longest = max(int(entry) for entry in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8, device=device)
    padded[: part.numel()] = part.to(device)
    columns = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(columns, padded)
    return [column[: int(entry)].cpu() for column, entry in zip(columns, sizes, strict=True)]


def _json_bytes(value: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _from_bytes(part: torch.Tensor) -> Any:
    return json.loads(part.numpy().tobytes())
