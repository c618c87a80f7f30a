"""The models and batches that contestants train: on a CPU as published peers were measured, on CUDA at real sizes."""

from typing import NamedTuple


class Shape(NamedTuple):
    """One workload; all contestants train exactly this."""

    architecture: str
    layers: int
    width: int
    inner: int
    heads: int
    vocab: int
    length: int
    """Tokens per sequence (T)."""
    batch: int
    """Sequences per update (B)."""
    precision: str
    threads: int = 2

    @property
    def tokens(self) -> int:
        """Tokens per update."""
        return self.batch * self.length


SHAPES = {
    # with two threads the tiny model is bistable, so it is measured with one
    "tiny": Shape("gpt2", 2, 64, 256, 2, 1024, 32, 8, "fp32", threads=1),
    "small": Shape("gpt2", 6, 384, 1536, 6, 8192, 256, 8, "bf16"),
    "124m": Shape("gpt2", 12, 768, 3072, 12, 50304, 512, 4, "bf16"),
    "cuda-gpt2-124m": Shape("gpt2", 12, 768, 3072, 12, 50304, 1024, 32, "bf16", threads=0),
    "cuda-llama-60m": Shape("llama", 8, 512, 1376, 8, 32000, 512, 64, "bf16", threads=0),
}


def device_of(shape_name: str) -> str:
    """Where a shape is trained."""
    return "cuda" if shape_name.startswith("cuda-") else "cpu"
