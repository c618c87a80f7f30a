"""Copy a state out of the way of the training, into memory that is used again, and write it from a thread.

The loop is blocked for the copy only. The first copy pays for fresh memory; later ones run at the speed of memory. One
save is in flight at most: the next one waits, since it needs the same buffers.
"""

import threading
from collections.abc import Callable, Mapping

import torch


class SnapshotBuffers:
    """CPU memory for copies of tensors, kept from one snapshot to the next; pinned for tensors on CUDA."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def copy(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return copies on the CPU, valid until the next call; the originals may change as soon as this returns."""
        devices: set[torch.device] = set()
        copies: dict[str, torch.Tensor] = {}
        for name, tensor in tensors.items():
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
            copies[name] = buffer.copy_(tensor.detach(), non_blocking=True)
            devices.add(tensor.device)
        for device in devices:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            elif device.type == "mps":
                torch.mps.synchronize()
        self._buffers |= copies
        return copies


def on_cpu(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors for a save that blocks: CPU ones as they are, others copied."""
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


class BackgroundWriter:
    """Runs one job at a time in a thread and keeps its error for whoever asks next."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is running."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Callable[[], None]) -> None:
        """Run `job` in a thread; the job before must be over (`wait`)."""

        def body() -> None:
            try:
                job()
            except BaseException as error:
                self._error = error

        # Not a daemon: a program that ends normally does not lose the save it asked for.
        self._thread = threading.Thread(target=body, name="checkpoint-writer")
        self._thread.start()

    def wait(self) -> None:
        """Wait for the running job, if any; its error stays for `raise_pending`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def raise_pending(self) -> None:
        """Raise the error of the last job, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error
