"""How much memory a training step takes, estimated without taking it.

    weights      4 bytes a parameter, and 2 more where they are kept in bf16 as well (`bf16_params`)
    gradients    4 bytes a parameter
    optimizer    8 bytes a parameter for AdamW (two moments), less for others
    activations  what the forward pass keeps for the backward pass, for one micro-batch
    logits       the logits and their gradient; with the chunked loss only a piece of them

Activations are not guessed: the model runs once on PyTorch's fake tensors, which have shapes but no data, and what
autograd keeps is added up. That is done with two and with three layers and extended to all of them. Gradients come into
being while activations go, so unless gradients of an earlier micro-batch are there already, the peak is not the sum.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foundry_config.errors import ConfigError
from foundry_config.schema import ExperimentConfig
from foundry_model.blueprints import SpecialIds
from foundry_model.cost import out_of_reach_of, output_projection
from foundry_model.cross_entropy import piece_rows
from foundry_model.factory import assemble_model, with_layers
from foundry_model.loss import token_logits


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that one training process holds, by what holds them."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    total: int
    """Peak of a step. [bytes]"""


def estimate_memory(
    config: ExperimentConfig,
    *,
    micro_batch: int | None = None,
    chunked_loss: bool | None = None,
    vocab_size: int | None = None,
    special_ids: SpecialIds | None = None,
    world_size: int = 1,
) -> MemoryEstimate:
    """Estimate the memory of one training step, to about a fifth.

    Counted is what PyTorch's allocator hands out; the interpreter, libraries and CUDA context come on top.

    Args:
        config: The experiment; reads model, precision, optimizer, gradient checkpointing and batch sizes.
        micro_batch: B, sequences of one forward pass. Default: as the config says.
        chunked_loss: Whether the loss never holds all logits. Default: if the config demands it; its `auto` depends
            on the device, so an estimate without this is an upper bound.
        vocab_size: Entries of the tokenizer in use. Default: `tokenizer.vocab_size`. [tokens]
        special_ids: Ids of the tokenizer in use.
        world_size: Processes that share the global batch.

    Raises:
        ConfigError: The config describes no model that can be built, or one that fake tensors cannot pass through; a
            number of sequences or processes that is not positive.
    """
    for name, count in {"micro_batch": micro_batch, "world_size": world_size}.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name}: {count} is not positive; give 1 or more, or leave it out")
    training = config.training
    batch = micro_batch or _configured_micro_batch(config, world_size)
    chunked = training.chunked_loss == "on" if chunked_loss is None else chunked_loss
    model = assemble_model(config, vocab_size=vocab_size, special_ids=special_ids, device="meta")
    left = out_of_reach_of(config, vocab_size=vocab_size, special_ids=special_ids)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    gradients = 4 * sum(size for name, size in sizes.items() if name not in left)
    weights = (6 if training.bf16_params else 4) * sum(sizes.values())
    kept = _kept_bytes(config, batch, vocab_size or config.tokenizer.vocab_size, special_ids)
    logits = _logits_bytes(config, model, batch, vocab_size or config.tokenizer.vocab_size, chunked)
    optimizer = _optimizer_bytes(config, model, left)
    rows = config.data.batch_size * training.gradient_accumulation_steps // world_size
    accumulates = rows > batch
    peak = gradients + kept + logits if accumulates else max(kept + logits, gradients)
    return MemoryEstimate(weights, gradients, optimizer, kept, logits, total=weights + optimizer + peak)


def _configured_micro_batch(config: ExperimentConfig, world_size: int) -> int:
    size = config.training.micro_batch_size
    return size if isinstance(size, int) else max(1, config.data.batch_size // world_size)


def _kept_bytes(config: ExperimentConfig, batch: int, vocab_size: int, special_ids: SpecialIds | None) -> int:
    """Bytes that the forward pass keeps for the backward pass, logits left out."""
    positions = config.data.max_sequence_length
    measured = min(positions, _LONGEST_SCAN.get(config.model.architecture, positions))
    # two and three, because rwkv cannot be built with one
    try:
        two, three = (
            _kept_by_layers(with_layers(config, layers), batch, measured, vocab_size, special_ids) for layers in (2, 3)
        )
    except Exception as error:  # a family or a user's model may look at numbers, which fake tensors do not have
        raise ConfigError(
            f"the memory of architecture {config.model.architecture!r} cannot be estimated with PyTorch"
            f" {torch.__version__}, since it does not run without numbers ({type(error).__name__})"
        ) from error
    layer = (three - two) * positions // measured
    base = two * positions // measured - 2 * layer
    layers = config.model.layers
    if config.training.gradient_checkpointing:
        inputs = batch * positions * config.model.hidden_size * _bytes_per_value(config)
        return base + layer + layers * inputs
    return base + layers * layer


def _kept_by_layers(
    config: ExperimentConfig, batch: int, positions: int, vocab_size: int, special_ids: SpecialIds | None
) -> int:
    # fake tensors pull in the compiler's front end, which only estimates need
    from torch._subclasses.fake_tensor import FakeTensorMode

    storages: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        model = assemble_model(config, vocab_size=vocab_size, special_ids=special_ids)
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        ids = torch.zeros(batch, positions, dtype=torch.long)
        lowered = config.training.precision in ("bf16", "fp16") and not config.training.bf16_params
        if config.training.bf16_params:
            for parameter in model.parameters():  # `to` cannot swap fake tensors that are tied
                parameter.data = parameter.data.to(torch.bfloat16)
        dtype = torch.float16 if config.training.precision == "fp16" else torch.bfloat16
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", dtype=dtype, enabled=lowered),
        ):
            logits: Tensor = token_logits(model, ids)
        own.add(logits.untyped_storage()._cdata)
        total = sum(storage.nbytes() for key, storage in storages.items() if key not in own)
    return total + batch * positions * _LOSS_BYTES


def _logits_bytes(config: ExperimentConfig, model: Any, batch: int, vocab_size: int, chunked: bool) -> int:
    rows = batch * config.data.max_sequence_length
    piece = min(rows, piece_rows(vocab_size, "cpu", headless=chunked)) * vocab_size
    head: Any = output_projection(model)
    if chunked and head is not None:  # a piece and its exponentials in fp32, and the gradient of the output projection
        return 8 * piece + 4 * head.weight.numel()
    width = _bytes_per_value(config)
    logits = rows * vocab_size * width
    forward = logits + (4 if width == 4 else 8) * piece
    return max(forward, 2 * logits + 4 * piece)


def _optimizer_bytes(config: ExperimentConfig, model: Any, left: frozenset[str]) -> int:
    name = config.training.optimizer
    inside = {id(p) for p in getattr(model, "base_model", model).parameters() if p.dim() == 2}
    inside -= {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    total = 0
    for path, parameter in model.named_parameters():
        if path in left:  # never gets a gradient, and so no state
            continue
        matrix = id(parameter) in inside
        total += parameter.numel() * _STATE_BYTES.get(name, (8, 8))[0 if matrix else 1]
    return total


def _bytes_per_value(config: ExperimentConfig) -> int:
    return 2 if config.training.precision in ("bf16", "fp16") else 4


# What the loss keeps of a token besides the logits: its target, and whether it counts. The loss itself is not run: it
# takes the logits in pieces, thousands of them for a large batch.
_LOSS_BYTES = 9
# Optimizer -> bytes of state a parameter: (matrices inside the blocks, everything else).
_STATE_BYTES = {"adamw": (8, 8), "muon": (4, 8), "sgd": (4, 4), "lion": (4, 4), "adafactor": (0, 0)}
# The reference scans of these families run token by token; a short stretch is measured and extended.
_LONGEST_SCAN = {"mamba": 32, "rwkv": 32, "hf:mamba": 32, "hf:rwkv": 32}
