"""Models as Hugging Face directories: what to write, and how to put weights back.

    model --model_state-->  {name: tensor}   --caller-->  model.safetensors  --load_weights_into-->  model
          --config_files--> {"config.json": bytes, "generation_config.json": bytes}

What is written opens in transformers 4.5x and 5.x with equal logits: version 5 keeps the rotary base inside
`rope_parameters` and the type in `dtype`, version 4 reads `rope_theta` and `torch_dtype` and falls back to its defaults
in silence, so both are written. A folder that nobody vouches for is opened by `hub_folder.py`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundry_config.errors import CheckpointError
from foundry_config.lookup import did_you_mean
from foundry_model.loss import unwrapped
from foundry_model.safetensors_header import TensorEntry, read_safetensors_header, read_tensor_into, shown


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors to save, named as transformers names them; of tied ones the source only.

    The tensors are the model's own memory, not copies.
    """
    core = unwrapped(model)
    aliases = set(getattr(core, "all_tied_weights_keys", None) or {})
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in core.state_dict(keep_vars=True).items():
        if name in aliases or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        state[name] = tensor.detach()
    return state


def config_files(model: nn.Module) -> dict[str, bytes]:
    """Return the JSON files that stand beside the weights, as bytes by file name."""
    core = unwrapped(model)
    files = {"config.json": _json_bytes(_portable_config(core))}
    generation = getattr(core, "generation_config", None)
    if generation is not None:
        files["generation_config.json"] = _json_bytes(json.loads(generation.to_json_string(use_diff=True)))
    return files


def load_weights_into(model: nn.Module, files: Sequence[Path | str]) -> None:
    """Copy the tensors of safetensors files into the parameters of a model that exists.

    All files are checked before the first byte is copied: together they must hold exactly the names, shapes and types
    of `model_state(model)`.

    Raises:
        CheckpointError: A file is damaged, or does not belong to this model; lists what differs.
    """
    wanted = model_state(model)
    found = read_headers(files)
    entries = {name: entry for header in found.values() for name, entry in header.items()}
    problems = describe_mismatch(wanted, entries)
    problems += [
        f"{name} is {_type_name(entries[name].dtype)}, the model has {_type_name(tensor.dtype)}"
        for name, tensor in wanted.items()
        if name in entries and entries[name].dtype != tensor.dtype
    ]
    if problems:
        raise CheckpointError(_mismatch(files, problems))
    copy_tensors(found, wanted)


def copy_tensors(found: Mapping[Path, Mapping[str, TensorEntry]], targets: Mapping[str, Tensor]) -> None:
    """Read the tensors of checked files into `targets`; names that are not there are left out."""
    for path, header in found.items():
        with path.open("rb", buffering=0) as file:
            for name, entry in header.items():
                if name in targets:
                    read_tensor_into(file, entry, targets[name])  # type: ignore[arg-type]


def read_headers(files: Sequence[Path | str]) -> dict[Path, dict[str, TensorEntry]]:
    """Return the header of every file; a tensor may stand in one of them only.

    Raises:
        CheckpointError: A file is damaged, or two hold the same tensor.
    """
    found: dict[Path, dict[str, TensorEntry]] = {}
    owner: dict[str, Path] = {}
    for path in map(Path, files):
        found[path] = read_safetensors_header(path)
        for name in found[path]:
            if name in owner:
                raise CheckpointError(f"{path}: tensor {name[:80]!r} is also in {owner[name]}")
            owner[name] = path
    return found


def describe_mismatch(wanted: Mapping[str, Tensor], entries: Mapping[str, TensorEntry]) -> list[str]:
    """Say which tensors are missing, unknown, or of another shape than the model's."""
    missing = [f"{name} is missing" for name in wanted if name not in entries]
    unknown = [n for n in entries if n not in wanted]
    odd = [f"{shown(name)} is not in the model.{did_you_mean(shown(name), wanted)}" for name in unknown[:10]]
    odd += [f"{shown(name)} is not in the model" for name in unknown[10:]]
    shapes = [
        f"{name} is {list(entries[name].shape)}, the model has {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in entries and entries[name].shape != tuple(tensor.shape)
    ]
    return missing + odd + shapes


def _portable_config(model: Any) -> dict[str, Any]:
    """The model's config with what version 4 of transformers reads in addition."""
    config = model.config
    content = json.loads(config.to_json_string(use_diff=False))
    content = {k: v for k, v in content.items() if k not in _NOISE and not k.startswith("_") and not _infinite(v)}
    dtype = _type_name(next(model.parameters()).dtype)
    content |= {
        "architectures": [type(model).__name__],
        "model_type": config.model_type,
        "dtype": dtype,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    return content | _rope_of_version_4(content)


def _infinite(value: Any) -> bool:
    """Whether a value holds infinity: the two versions spell it differently, and it only occurs as a default."""
    return "__float__" in json.dumps(value)


def _rope_of_version_4(content: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings under the names of transformers 4."""
    rope = content.get("rope_parameters")
    if not isinstance(rope, dict):
        return {}
    if "full_attention" in rope:  # gemma3: one set for each kind of layer
        local = rope.get("sliding_attention", {}).get("rope_theta", rope["full_attention"]["rope_theta"])
        old = {"rope_local_base_freq": local}
        rope = rope["full_attention"]
    else:
        old = {}
    old["rope_theta"] = rope["rope_theta"]
    if "partial_rotary_factor" in rope:
        old |= {"partial_rotary_factor": rope["partial_rotary_factor"]}
        if content["model_type"] == "gpt_neox":
            old |= {"rotary_pct": rope["partial_rotary_factor"], "rotary_emb_base": rope["rope_theta"]}
    if rope.get("rope_type", "default") != "default":
        old["rope_scaling"] = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
    return old


def _mismatch(files: Sequence[Path | str], problems: Sequence[str]) -> str:
    lines = "\n".join(f"  {problem}" for problem in problems[:10])
    more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
    return f"{', '.join(map(str, files[:3]))}: not the weights of this model:\n{lines}{more}"


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _json_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


# Keys that transformers writes and that say nothing about the network.
_NOISE = {"id2label", "label2id", "problem_type", "name_or_path", "output_attentions", "output_hidden_states"}
