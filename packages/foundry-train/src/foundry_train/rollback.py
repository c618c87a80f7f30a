"""Put back what the passes of an update have changed besides gradients, when the update is not made after all.

    rollback = Rollback(model, device)
    rollback.mark()          # before the passes
    rollback.back()          # they are to be repeated, or dropped
    rollback.settle()        # the update was made

torch's generators are always among it: dropout draws from them. Of buffers (running statistics) and of the generators
of Python and NumPy only the first update can tell whether the passes of a model touch them; from the second on, nothing
is copied for a model that leaves them alone.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from foundry_train.rng_state import RngState, capture_rng, restore_rng


class _Kept(NamedTuple):
    """A buffer as it was."""

    module: nn.Module
    name: str
    buffer: Tensor
    values: Tensor


class Rollback:
    """What one process would need to repeat the passes of an update with the same result."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """
        Args:
            model: Its buffers are looked after.
            device: Its generator is, beside the CPU's.
        """
        self._device = device
        modules = list(model.modules())
        self._places = [(module, name) for module in modules for name, value in module._buffers.items() if _is(value)]
        self._plain: dict[str, Any] | None = None
        self._draws_elsewhere = True  # from Python's or NumPy's generator; until the first update says otherwise
        self._settled = False
        self._kept: list[_Kept] = []

    def mark(self) -> None:
        """Remember how things are."""
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        self._plain = capture_rng().plain if self._draws_elsewhere else None
        self._kept = [_keep(module, name) for module, name in self._places]

    def back(self) -> None:
        """Make things as they were at the last `mark`."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)
        if self._plain is not None:
            restore_rng(RngState(self._plain, {"torch.cpu": self._cpu}))
        self.buffers_back()

    def buffers_back(self) -> None:
        """Put the buffers back alone: what is not finite must not stay in running statistics."""
        with torch.no_grad():
            for kept in self._kept:
                kept.module._buffers[kept.name] = kept.buffer
                kept.buffer.copy_(kept.values)

    def settle(self) -> None:
        """Learn from the first update that was made what the passes of this model leave alone."""
        if self._settled:
            return
        self._settled = True
        self._draws_elsewhere = capture_rng().plain != self._plain
        self._places = [(kept.module, kept.name) for kept in self._kept if _has_changed(kept)]


def _is(buffer: Tensor | None) -> bool:
    return buffer is not None and not buffer.is_inference()


def _keep(module: nn.Module, name: str) -> _Kept:
    buffer = module._buffers[name]
    assert buffer is not None, "only buffers that are there are looked after"
    return _Kept(module, name, buffer, buffer.detach().clone())


def _has_changed(kept: _Kept) -> bool:
    """By its values: the kernel of batch normalisation does not count up the version of what it writes into."""
    now = kept.module._buffers[kept.name]
    return now is None or now is not kept.buffer or not torch.equal(now, kept.values)
