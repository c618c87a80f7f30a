"""Which device a run uses, and the fastest that device could be."""

import logging
import re

import torch

from foundry_config.errors import ConfigError

logger = logging.getLogger(__name__)

# Dense peaks of the makers' data sheets, TFLOP/s: (fp32, tf32, bf16 and fp16). Matched by the longest name whose words
# are in the device's own; a device that is not here has no MFU rather than a wrong one.
PEAK_TFLOPS: dict[str, tuple[float, float, float]] = {
    "H100 PCIe": (51.0, 378.0, 756.0),
    "H100 NVL": (60.0, 417.5, 835.5),
    "H100": (67.0, 494.5, 989.4),
    "H200": (67.0, 494.5, 989.4),
    "H200 NVL": (60.0, 417.5, 835.5),
    "GH200": (67.0, 494.5, 989.4),
    "GB200": (80.0, 1250.0, 2500.0),
    "B200": (75.0, 1125.0, 2250.0),
    "A100": (19.5, 156.0, 312.0),
    "A10G": (31.5, 35.0, 70.0),
    "A10": (31.2, 62.5, 125.0),
    "A30": (10.3, 82.0, 165.0),
    "A40": (37.4, 74.8, 149.7),
    "L4": (30.3, 60.0, 121.0),
    "L40": (90.5, 90.5, 181.0),
    "L40S": (91.6, 183.0, 362.0),
    "V100": (15.7, 15.7, 125.0),
    "V100-PCIE": (14.0, 14.0, 112.0),
    "T4": (8.1, 8.1, 65.0),
    "RTX 3090": (35.6, 35.6, 71.0),
    "RTX 4090": (82.6, 82.6, 165.2),
}
_OTHER_CARDS = re.compile(r"\b(?:MIG|Laptop|Max-Q|Ti|SUPER|D)\b")  # a part of a card, or a slower or faster sister


def get_device(wish: str = "auto", *, asked: str = "training.device") -> torch.device:
    """Return the device called `wish`; `auto` takes CUDA, then Apple's GPU, then the CPU.

    A card of CUDA always comes with its number, which much of `torch.cuda` insists on.

    Args:
        wish: auto, cpu, cuda, cuda:1, ... or mps.
        asked: What the wish was given by, for messages.

    Raises:
        ConfigError: A device was asked for by name that does not exist or is not there.
    """
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(wish)
    except RuntimeError as error:
        raise ConfigError(f"{asked}: unknown device {wish!r}; write auto, cpu, cuda, cuda:1 or mps") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"{asked}: {wish!r} is not supported; write auto, cpu, cuda, cuda:1 or mps")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{asked}: {wish!r} was asked for, but torch sees no CUDA device; use auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"{asked}: {wish!r} does not exist; there are {torch.cuda.device_count()} CUDA devices")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_initialized() else 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"{asked}: {wish!r} was asked for, but torch sees no Apple GPU; use auto or cpu")
    return device


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the dense peak of one device in FLOP/s at `precision`, or None if it is not known.

    A CPU has none here: what its cores reach depends on clock, vector width and neighbours, so a table would lie.
    """
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    fitting = [known for known in PEAK_TFLOPS if re.search(rf"\b{known}\b", name)]
    entry = max(fitting, key=len, default=None)
    if entry is None or _OTHER_CARDS.search(name):
        logger.info("no peak is known for %s, so no MFU is shown", name)
        return None
    fp32, tf32, half = PEAK_TFLOPS[entry]
    return 1e12 * {"fp32": fp32, "tf32": tf32}.get(precision, half)
