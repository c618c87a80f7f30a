"""Time and peak memory of the loss from the last hidden state on: PyTorch's own, row by row, and headless.

    python packages/foundry-model/benchmarks/loss_paths.py --tokens 2048 --width 384 --vocab 8192 --dtype bf16

Each row is the best of `--repeats` forward and backward passes; memory is the peak of PyTorch's allocator in one more,
without the inputs. Ratios travel between machines, absolute times do not.
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from foundry_model.cross_entropy import headless_cross_entropy, summed_cross_entropy


def main() -> None:
    """Print one line for each path."""
    options = _options()
    device = torch.device(options.device)
    torch.manual_seed(0)
    hidden = torch.randn(options.tokens, options.width, device=device, requires_grad=True)
    weight = (torch.randn(options.vocab, options.width, device=device) * 0.02).requires_grad_()
    targets = torch.randint(0, options.vocab, (options.tokens,), device=device)
    paths: dict[str, Callable[[], Tensor]] = {
        "torch": lambda: F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum"),
        "rowwise": lambda: summed_cross_entropy(F.linear(hidden, weight), targets),
        "headless": lambda: headless_cross_entropy(hidden, weight, None, targets),
    }

    def run(path: Callable[[], Tensor]) -> None:
        hidden.grad = weight.grad = None
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.dtype == "bf16"):
            loss = path()
        loss.backward()

    print(f"{options.tokens} x {options.width} -> {options.vocab}, {options.dtype}, {device}, {torch.__version__}")
    for name, path in paths.items():
        seconds = min(_seconds(lambda path=path: run(path), device) for _ in range(options.repeats))
        peak = _peak_bytes(lambda path=path: run(path), device)
        print(f"{name:10s} {1e3 * seconds:10.1f} ms {peak / 2**20:10.1f} MiB")


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        work()
    held = peak = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
