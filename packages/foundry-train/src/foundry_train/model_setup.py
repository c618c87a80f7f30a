"""From a fresh model to what the loop calls: kernels, probes, gradient checkpointing, chunked loss, compilation.

The loop calls one module, `TokenLoss`, so that compilation fuses the loss into the model. Weights are always saved from
the model itself: keys in checkpoints never carry a prefix.
"""

import logging
import warnings
from typing import Any, NamedTuple

import torch

from foundry_config import ExperimentConfig
from foundry_config.errors import ConfigError
from foundry_model.loss import TokenLoss, isolates_documents, supports_chunked_loss
from foundry_train.bf16_weights import Bf16Weights
from foundry_train.compilation import quieten_compiler, wants_compile
from foundry_train.environment import total_memory_bytes

logger = logging.getLogger(__name__)

LOGITS_BYTES = 6  # of one logit: in 16 bits from the head, in 32 for the loss
LOGITS_SHARE = 1 / 8  # of the device's memory, from which on `chunked_loss: auto` does not hold all logits


class TrainableModel(NamedTuple):
    """A model and the way to its loss."""

    model: Any
    loss_function: TokenLoss
    chunked: bool
    compiled: bool
    bf16_weights: Bf16Weights | None = None
    """What the loss computes with instead of the weights of `model`."""


def prepare_for_training(
    model: Any, config: ExperimentConfig, *, device: torch.device, micro_batch: int, expected_seconds: float | None
) -> TrainableModel:
    """Apply what the config asks of the model's forward and backward pass.

    Args:
        model: On its device.
        config: The experiment.
        device: Where it trains.
        micro_batch: Sequences per forward pass, which decides about chunking the loss.
        expected_seconds: Guess of how long the run computes, for `compile: auto`; None if unknown.

    Raises:
        ConfigError: The architecture cannot do what the config asks for.
    """
    training = config.training
    check_attention_trains(getattr(model, "foundry_attention", None), device)
    if training.liger_kernels:
        use_liger_kernels(model, device)
    if config.data.document_mask and not isolates_documents(model):
        raise ConfigError(
            f"data.document_mask: architecture {config.model.architecture!r} lets tokens see other documents; "
            "turn it off or choose another architecture"
        )
    if training.gradient_checkpointing:
        checkpoint_gradients(model, config.model.architecture)
    chunked = wants_chunked_loss(model, config, device=device, micro_batch=micro_batch)
    stop_looking_for_padding(model)
    compiled = wants_compile(training.compile, device, expected_seconds)
    # what makes activations again would not look through it
    cpu_attention = device.type == "cpu" and not training.gradient_checkpointing
    bf16_weights = Bf16Weights(model) if training.bf16_params else None
    loss_function = TokenLoss(
        model if bf16_weights is None else bf16_weights.model,
        chunked=chunked,
        cpu_attention=cpu_attention and training.precision == "bf16",
    )
    if compiled:
        quieten_compiler(device)
        # one program for each shape: a short last batch must not turn the common one into a slower, dynamic program
        loss_function.compile(dynamic=False)
    return TrainableModel(model, loss_function, chunked, compiled, bf16_weights)


def check_attention_trains(attention: str | None, device: torch.device) -> None:
    """Refuse an implementation of attention that cannot go back through itself.

    Raises:
        ConfigError: FlexAttention on a CPU.
    """
    if attention == "flex_attention" and device.type == "cpu":
        raise ConfigError(
            "model.attention: 'flex' cannot be trained on a CPU, where PyTorch has no backward pass for it; use auto"
        )


def stop_looking_for_padding(model: torch.nn.Module) -> None:
    """Spare each forward pass the search for padding by which transformers advises an attention mask.

    Rows are padded on the right only, where under causal attention a mask changes nothing. In most families it is the
    model without its head that searches.
    """
    for module in model.modules():
        if hasattr(module, "warn_if_padding_and_no_attention_mask"):
            vars(module)["warn_if_padding_and_no_attention_mask"] = _no_advice


def _no_advice(input_ids: Any, attention_mask: Any) -> None:
    """Stands in for `PreTrainedModel.warn_if_padding_and_no_attention_mask`."""


def use_liger_kernels(model: Any, device: torch.device) -> None:
    """Replace norms, activations and rotary embeddings of `model` by the kernels of the extra `liger`.

    The loss stays ours: it sums over targets and knows chunks, which Liger's does not.

    Raises:
        ConfigError: The device is no GPU of CUDA, the extra is missing, or Liger has nothing for the architecture.
    """
    if device.type != "cuda":
        raise ConfigError(f"training.liger_kernels: they run on CUDA only, and this run trains on {device.type}")
    try:
        from liger_kernel.transformers import monkey_patch  # pyright: ignore[reportMissingImports] - optional extra
    except ImportError as error:
        raise ConfigError("training.liger_kernels needs the extra: foundry-train[liger]") from error
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type not in monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ConfigError(f"training.liger_kernels: there are none for the model type {model_type!r}; set it to false")
    monkey_patch._apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)


def checkpoint_gradients(model: Any, architecture: str) -> None:
    """Recompute activations in the backward pass instead of keeping them.

    Raises:
        ConfigError: The architecture does not support it.
    """
    try:
        with warnings.catch_warnings():
            # transformers 5.23 warns of a new name, which 5.17 does not have
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except (AttributeError, ValueError) as error:
        raise ConfigError(f"training.gradient_checkpointing: {architecture!r} does not support it ({error})") from error


def wants_chunked_loss(model: Any, config: ExperimentConfig, *, device: torch.device, micro_batch: int) -> bool:
    """Decide whether the loss is computed without ever holding all logits.

    Raises:
        ConfigError: It was asked for and the architecture does not allow it.
    """
    wish = config.training.chunked_loss
    if wish == "off":
        return False
    logits = micro_batch * config.data.max_sequence_length * config.tokenizer.vocab_size * LOGITS_BYTES
    memory = device_memory_bytes(device)
    if wish == "auto" and (memory is None or logits < LOGITS_SHARE * memory):
        return False
    if supports_chunked_loss(model):
        logger.info("the loss is computed in chunks (all logits would take %.1f GiB)", logits / 2**30)
        return True
    if wish == "on":
        raise ConfigError(
            f"training.chunked_loss: architecture {config.model.architecture!r} changes its logits after the output "
            "projection, so they cannot be computed in chunks; set it to auto or off"
        )
    return False


def device_memory_bytes(device: torch.device) -> int | None:
    """Memory of the device that a model can use."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return total_memory_bytes()
