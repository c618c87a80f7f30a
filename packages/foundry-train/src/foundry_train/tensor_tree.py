"""An optimizer's state as one flat dictionary of tensors, keyed by parameter name.

    optimizer.state[p] = {"step": ..., "exp_avg": ...}   ->   {"block.weight::step": ..., "block.weight::exp_avg": ...}

Names, unlike torch's own positions in a list, notice when a model was renamed, reordered or reshaped between saving and
loading. Several optimizers (Muon for the matrices, AdamW for the rest) share one dictionary, since a parameter belongs
to one of them only.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from foundry_config.errors import ResumeMismatchError
from foundry_model.loss import unwrapped
from foundry_train.plain_values import decode_plain, encode_plain

SEPARATOR = "::"
_LIKE_PARAMETER = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"}  # state of the parameter's shape
_SHOWN = 8  # differences listed in one message


class OptimizerTree(NamedTuple):
    """Everything an optimizer holds."""

    tensors: dict[str, torch.Tensor]
    """`<parameter>::<key>`; the optimizer's own tensors, not copies."""
    members: list[dict[str, Any]]
    """For each optimizer its class, groups (settings, parameter names) and values that are no tensors; in JSON."""


def optimizers_of(optimizer: Any) -> list[torch.optim.Optimizer]:
    """Return the optimizers behind one optimizer, a group of them (`.optimizers`), or None."""
    if optimizer is None:
        return []
    return list(getattr(optimizer, "optimizers", [optimizer]))


def export_optimizer(model: nn.Module, optimizer: Any) -> OptimizerTree:
    """Describe one optimizer or a group of them by the names of the parameters of `model`.

    Raises:
        ValueError: The optimizer holds a parameter that is not one of the model's.
        TypeError: It keeps a value that JSON and safetensors cannot hold exactly.
    """
    names = {id(parameter): name for name, parameter in unwrapped(model).named_parameters()}
    tensors: dict[str, torch.Tensor] = {}
    members: list[dict[str, Any]] = []
    for member in optimizers_of(optimizer):
        values: dict[str, Any] = {}
        for parameter, state in member.state.items():
            name = _name_of(parameter, names)
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{name}{SEPARATOR}{key}"] = value.detach()
                else:
                    values[f"{name}{SEPARATOR}{key}"] = encode_plain(value, where=f"optimizer state {key} of {name}")
        groups = [_describe_group(group, names) for group in member.param_groups]
        members.append({"class": type(member).__name__, "groups": groups, "values": values})
    return OptimizerTree(tensors, members)


def import_optimizer(model: nn.Module, optimizer: Any, tree: OptimizerTree) -> None:
    """Put `tree` into the optimizer; tensors on the right device are taken over, not copied.

    An optimizer built on *another* instance of the model (as when a factory makes the model on loading) is pointed to
    the parameters of `model`.

    Raises:
        ResumeMismatchError: Other optimizers, groups, parameters or shapes than `tree` describes; lists them.
    """
    parameters = dict(unwrapped(model).named_parameters())
    members = optimizers_of(optimizer)
    rebind_foreign_optimizer(parameters, members, tree.members)
    check_optimizer(model, optimizer, tree)
    owner = {id(p): (member, group) for member in members for group in member.param_groups for p in group["params"]}
    for member, described in zip(members, tree.members, strict=True):
        member.state.clear()
        for group, saved in zip(member.param_groups, described["groups"], strict=True):
            group.update({key: decode_plain(value) for key, value in saved["settings"].items()})
        for key, value in described["values"].items():
            name, _, field = key.rpartition(SEPARATOR)
            member.state[parameters[name]][field] = decode_plain(value)
    for key, tensor in tree.tensors.items():
        name, _, field = key.rpartition(SEPARATOR)
        parameter = parameters[name]
        member, group = owner[id(parameter)]
        member.state[parameter][field] = tensor.to(_state_device(group, parameter, field))


def check_optimizer(model: nn.Module, optimizer: Any, tree: OptimizerTree) -> None:
    """Compare an optimizer with a description of one.

    Raises:
        ResumeMismatchError: They differ; the message lists the first differences.
    """
    names = {id(parameter): name for name, parameter in unwrapped(model).named_parameters()}
    members = optimizers_of(optimizer)
    classes, saved_classes = [type(m).__name__ for m in members], [m["class"] for m in tree.members]
    problems: list[str] = []
    if classes != saved_classes:
        problems.append(f"optimizers: saved {', '.join(saved_classes) or 'none'}, now {', '.join(classes) or 'none'}")
    else:
        for member, described in zip(members, tree.members, strict=True):
            problems += _group_problems(member, described, names)
    if not problems:
        problems = _shape_problems(dict(unwrapped(model).named_parameters()), tree.tensors)
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ResumeMismatchError(
            f"the checkpoint's optimizer state does not fit: {'; '.join(problems[:_SHOWN])}{more}"
        )


def rebind_foreign_optimizer(
    parameters: Mapping[str, nn.Parameter], members: list[torch.optim.Optimizer], described: list[dict[str, Any]]
) -> None:
    """Point optimizers that hold none of `parameters` to them, by the saved names; others are left as they are."""
    own = {id(parameter) for parameter in parameters.values()}
    held = [p for member in members for group in member.param_groups for p in group["params"]]
    if len(members) != len(described) or not held or any(id(parameter) in own for parameter in held):
        return
    for member, saved in zip(members, described, strict=True):
        pairs = list(zip(member.param_groups, saved["groups"], strict=False))
        if len(pairs) != len(member.param_groups) or len(pairs) != len(saved["groups"]):
            return
        for group, saved_group in pairs:
            replacements = [parameters.get(name) for name in saved_group["params"]]
            shapes = [None if p is None else tuple(p.shape) for p in replacements]
            if shapes == [tuple(p.shape) for p in group["params"]]:
                group["params"] = replacements


def _describe_group(group: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    settings = {
        key: encode_plain(value, where=f"optimizer setting {key}")
        for key, value in group.items()
        if key not in {"params", "param_names"}
    }
    return {"params": [_name_of(parameter, names) for parameter in group["params"]], "settings": settings}


def _name_of(parameter: torch.Tensor, names: dict[int, str]) -> str:
    if id(parameter) not in names:
        raise ValueError(
            f"the optimizer holds a parameter of shape {list(parameter.shape)} that the model does not have"
        )
    return names[id(parameter)]


def _group_problems(member: torch.optim.Optimizer, described: dict[str, Any], names: dict[int, str]) -> list[str]:
    groups, saved_groups = member.param_groups, described["groups"]
    if len(groups) != len(saved_groups):
        return [f"{described['class']}: saved {len(saved_groups)} parameter groups, now {len(groups)}"]
    problems: list[str] = []
    for index, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        now = [names.get(id(parameter), "<not in the model>") for parameter in group["params"]]
        if now == saved["params"]:
            continue
        where = f"{described['class']} group {index}"
        problems += [f"{where}: {name} is missing now" for name in saved["params"] if name not in set(now)]
        problems += [f"{where}: {name} was not saved" for name in now if name not in set(saved["params"])]
        if sorted(now) == sorted(saved["params"]):
            problems.append(f"{where}: the same parameters in another order")
    return problems


def _shape_problems(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]) -> list[str]:
    problems: list[str] = []
    for key, tensor in tensors.items():
        name, _, field = key.rpartition(SEPARATOR)
        if name not in parameters:
            problems.append(f"{key}: no such parameter now")
        elif field in _LIKE_PARAMETER and tensor.shape != parameters[name].shape:
            problems.append(f"{key}: saved {list(tensor.shape)}, now {list(parameters[name].shape)}")
    return problems


def _state_device(group: dict[str, Any], parameter: nn.Parameter, field: str) -> torch.device:
    """Where torch wants this value: `step` stays on the CPU unless the update runs as one kernel or is captured."""
    if field == "step" and not (group.get("fused") or group.get("capturable")):
        return torch.device("cpu")
    return parameter.device
