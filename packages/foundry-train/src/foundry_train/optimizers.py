"""Optimizers by name, each with weight decay on matrices only.

    adamw       every parameter by AdamW, in one fused kernel where the device has it
    muon        hidden matrices by Muon (orthogonalised momentum), the rest by AdamW: two optimizers, one group
    sgd         momentum `adam_beta1`
    adafactor   factored second moments: the least memory

A run always holds an `OptimizerGroup`, so that one optimizer and two look the same. The learning rate is set before
every step by the loop; nothing here schedules anything. A user's own, named in the config as `"module:function"`, is
called as `function(model, training_config, device)` and returns one `torch.optim.Optimizer` or a list of them. A group
of its parameters that wants another rate than the others has a factor: `{"params": [...], "lr_scale": 0.1}`.
"""

import inspect
import logging
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from foundry_config import TrainingConfig
from foundry_config.errors import ConfigError
from foundry_config.lookup import pick, users_code
from foundry_model.out_of_memory import is_out_of_memory
from foundry_train.fused_adamw import FusedAdamW

logger = logging.getLogger(__name__)

OptimizerFactory = Callable[
    [nn.Module, TrainingConfig, torch.device], torch.optim.Optimizer | Sequence[torch.optim.Optimizer]
]

SCALE = "lr_scale"
NO_MATRICES = {"A_log"}  # numbers that stand alone, kept as a matrix by mamba and its kin


class OptimizerGroup:
    """One or several optimizers that update a model together."""

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer], *, name: str = "") -> None:
        """
        Args:
            optimizers: The members.
            name: As the config has it, for messages.
        """
        self.optimizers: list[torch.optim.Optimizer] = list(optimizers)
        self.name = name

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all members, in order; changing an entry changes the optimizer."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def held(self) -> set[int]:
        """The identities of the parameters that some member updates."""
        return ids(parameter for group in self.param_groups for parameter in group["params"])

    def set_learning_rate(self, rate: float) -> None:
        """Give every group of parameters `rate`, times its own `lr_scale` where it has one."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group[SCALE] if SCALE in group else rate

    def step(self) -> None:
        """Update the parameters.

        Raises:
            ConfigError: A user's optimizer raised something.
        """
        with users_code(self.name, kind="optimizer", unless=is_out_of_memory):
            for optimizer in self.optimizers:
                optimizer.step()

    def zero_grad(self) -> None:
        """Drop the gradients, so that the next backward pass writes instead of adding."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


def make_optimizer(model: nn.Module, training: TrainingConfig, device: torch.device) -> OptimizerGroup:
    """Build the optimizer that `training.optimizer` names, over the trainable parameters of `model`.

    Raises:
        ConfigError: Unknown name, settings that the optimizer refuses, or a user's function that gives no optimizer
            that can train this model.
    """
    name = training.optimizer
    factory: OptimizerFactory = pick(name, OPTIMIZERS, kind="optimizer")
    try:
        with users_code(name, kind="optimizer", unless=is_out_of_memory):
            built = factory(model, training, device)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"optimizer {name!r} refused its settings: {error}") from error
    optimizers = [built] if isinstance(built, torch.optim.Optimizer) or not isinstance(built, Sequence) else [*built]
    if not optimizers or not all(isinstance(optimizer, torch.optim.Optimizer) for optimizer in optimizers):
        found = f"{built!r:.60}" if optimizers else "an empty list"
        raise ConfigError(
            f"optimizer {name!r} must return a torch.optim.Optimizer or a list of them; it returned {found}"
        )
    group = OptimizerGroup(optimizers, name=name)
    _check_members(group, model)
    _check_rates(group, training.learning_rate)
    return group


def _check_members(group: OptimizerGroup, model: nn.Module) -> None:
    """Refuse optimizers that cannot train the model; warn of parameters that nobody updates.

    Raises:
        ConfigError: One wants to compute the loss itself, or none holds a parameter of the model.
    """
    for optimizer in group.optimizers:
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ConfigError(
                f"optimizer {group.name!r}: {type(optimizer).__name__} wants to compute the loss itself, again and"
                " again (a closure), which a training step cannot give it; use one that needs gradients alone"
            )
    held = group.held()
    left = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if left and len(left) == len(trainable(model)):
        raise ConfigError(f"optimizer {group.name!r} holds no parameter of the model, so nothing would be trained")
    if left:
        logger.warning(
            "optimizer %r holds only some parameters; these %s never change: %s",
            *(group.name, len(left), ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")),
        )


def _check_rates(group: OptimizerGroup, rate: float) -> None:
    """Refuse learning rates that the schedule would level out; warn if it replaces the one that all were made with.

    Raises:
        ConfigError: Groups of parameters differ in their rates, or one has a factor that is none.
    """
    for entry in group.param_groups:
        scale = entry.get(SCALE, 1.0)
        if not isinstance(scale, int | float) or not 0 <= scale < math.inf:
            raise ConfigError(f"optimizer {group.name!r}: {SCALE} must be a number from 0 on, not {scale!r:.60}")
    rates = {float(entry["lr"]) for entry in group.param_groups if SCALE not in entry and "lr" in entry}
    shown = ", ".join(f"{found:g}" for found in sorted(rates))
    if len(rates) > 1:
        raise ConfigError(
            f"optimizer {group.name!r} gives its parameters the learning rates {shown}; training.learning_rate and its "
            f"schedule set one for all, so give a group its factor instead: {{'params': [...], '{SCALE}': 0.1}}"
        )
    if rates - {rate}:
        logger.warning(
            "optimizer %r was made with a learning rate of %s; training.learning_rate: %g and its schedule replace it",
            *(group.name, shown, rate),
        )


def adamw(model: nn.Module, training: TrainingConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019)."""
    return _adamw(decay_groups(model, training.weight_decay), training, device)


def muon(model: nn.Module, training: TrainingConfig, device: torch.device) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices inside the blocks, AdamW for embeddings, head, norms and biases.

    The rate of a matrix is scaled to AdamW's update size (Liu et al. 2025), so that one learning rate fits both.
    """
    hidden = hidden_matrices(model)
    if not hidden:
        raise ConfigError("optimizer 'muon' found no matrix inside the blocks of this model; use adamw")
    first = torch.optim.Muon(
        hidden,
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
        momentum=training.adam_beta1,
        adjust_lr_fn="match_rms_adamw",
    )
    return [first, _adamw(decay_groups(model, training.weight_decay, without=hidden), training, device)]


def sgd(model: nn.Module, training: TrainingConfig, device: torch.device) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum; weight decay is coupled, as in torch."""
    groups = decay_groups(model, training.weight_decay)
    return torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.adam_beta1, fused=has_fused(device))


def adafactor(model: nn.Module, training: TrainingConfig, device: torch.device) -> torch.optim.Optimizer:  # noqa: ARG001
    """Adafactor (Shazeer and Stern 2018): row and column statistics instead of a second moment per weight.

    PyTorch's takes the smaller of the learning rate and `1 / sqrt(step)`, times the root mean square of the weights.
    """
    return torch.optim.Adafactor(decay_groups(model, training.weight_decay), lr=training.learning_rate)


def decay_groups(
    model: nn.Module, weight_decay: float, *, without: Collection[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Split the trainable parameters of `model` into those that decay and those that do not; no group is empty.

    Args:
        model: Its names and shapes decide, see `matrices`.
        weight_decay: Of the first group.
        without: Parameters that something else updates.
    """
    decaying, left = ids(matrices(model)), ids(without)
    parameters = [parameter for parameter in trainable(model) if id(parameter) not in left]
    groups = [
        {"params": [p for p in parameters if id(p) in decaying], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decaying], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trainable weights that decay: embeddings, linear layers, kernels of convolutions.

    Not biases and norms; nor what a model keeps as a matrix although its numbers stand alone: the mixing vectors of
    RWKV, of shape [1, 1, D], and the logarithms of Mamba's decay rates.
    """
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and _is_matrix(parameter) and name.rpartition(".")[2] not in NO_MATRICES
    ]


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The 2-D weights that multiply hidden states: of the `matrices`, neither embeddings nor the output projection."""
    outside = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        outside |= ids(head.parameters())
    return [parameter for parameter in matrices(model) if parameter.ndim == 2 and id(parameter) not in outside]


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that take gradients, tied ones once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def has_fused(device: torch.device) -> bool:
    """Whether torch has one-kernel optimizers for the device; 3.5 times faster than the loop on CPU."""
    return device.type in {"cpu", "cuda", "mps", "xpu"}


def ids(parameters: Iterable[nn.Parameter]) -> set[int]:
    """Identities, since tensors compare by their values."""
    return {id(parameter) for parameter in parameters}


def _is_matrix(parameter: nn.Parameter) -> bool:
    return sum(size > 1 for size in parameter.shape) >= 2


def _adamw(groups: list[dict[str, Any]], training: TrainingConfig, device: torch.device) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {
        "lr": training.learning_rate,
        "betas": (training.adam_beta1, training.adam_beta2),
        "eps": training.adam_epsilon,
    }
    return FusedAdamW(groups, **settings) if has_fused(device) else torch.optim.AdamW(groups, **settings)


OPTIMIZERS: dict[str, OptimizerFactory] = {"adamw": adamw, "muon": muon, "sgd": sgd, "adafactor": adafactor}
