"""PyTorch and transformers, loaded a little sooner: most of the time to the first step is their import."""

import ctypes
import importlib.util
import os
import sys
from pathlib import Path
from threading import Thread

from foundry_config.collecting import uncollected


def load_libraries() -> None:
    """Import torch and transformers; a second thread maps PyTorch's shared libraries meanwhile.

    The linker takes a quarter of a second for them and needs no lock of Python's. It runs beside `transformers.models`,
    which reads as long in its own source files and loads no shared library, for which it would have to wait.
    """
    with uncollected():
        import transformers

        mapping = Thread(target=map_shared_libraries, args=(_torch_folder(),))
        mapping.start()
        import transformers.models  # noqa: F401

        mapping.join()
        import torch  # noqa: F401


def _torch_folder() -> Path | None:
    if sys.platform != "linux" or "torch" in sys.modules:
        return None
    spec = importlib.util.find_spec("torch")
    return Path(spec.origin).parent / "lib" if spec and spec.origin else None


def map_shared_libraries(folder: Path | None) -> None:
    """Let the linker load what `import torch` will ask it for, in the same order; where it cannot, nothing happens.

    Args:
        folder: Of PyTorch's libraries (`torch/lib`); None does nothing.
    """
    if folder is None:
        return
    try:
        dlopen = ctypes.CDLL(None).dlopen  # called so, it leaves Python's lock to the others; ctypes.CDLL keeps it
    except (OSError, AttributeError):
        return
    dlopen.restype, dlopen.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    for name, mode in (("libtorch_global_deps.so", os.RTLD_GLOBAL), ("libtorch.so", os.RTLD_LOCAL)):
        dlopen(os.fsencode(folder / name), os.RTLD_NOW | mode)
