"""Open a Hugging Face model directory that nobody vouches for.

    folder/config.json                    see `hub_config.py`
    folder/model.safetensors              or the shards that model.safetensors.index.json names
      -> a model of shapes only -> names and shapes compared -> memory -> weights

Nothing in the folder is run. What could name code (`auto_map`, kernels, quantizers, adapters, pickled weights) is
refused by name, and no memory is taken before the files and the config agree.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from foundry_config.errors import CheckpointError, ConfigError
from foundry_model.attention import best_attention
from foundry_model.factory import build
from foundry_model.hf_families import model_class
from foundry_model.honoured import failures_told, sees_later_tokens
from foundry_model.hub_config import MAX_JSON_BYTES, damaged, family_plan, read_config
from foundry_model.placing import usable_device
from foundry_model.pretrained import copy_tensors, describe_mismatch, model_state, read_headers
from foundry_model.safetensors_header import TensorEntry, open_plain_file, same_bytes, shown

Headers = Mapping[Path, Mapping[str, TensorEntry]]


def load_pretrained(folder: Path | str, *, device: torch.device | str = "cpu") -> Any:
    """Load a causal language model of transformers from a local folder, in evaluation mode.

    Weights keep the type they are stored in: float32, bfloat16 or float16 (the first tensor's, where a file mixes
    several). PyTorch's global random state stays as it is.

    Args:
        folder: Holds `config.json` and safetensors, as `save_pretrained` or a checkpoint of ours leaves them.
        device: Where the model goes.

    Raises:
        CheckpointError: The folder is not a model, asks for code, or its weights do not fit its config, by name.
        ConfigError: `device` is not there.
    """
    root, place = Path(folder), usable_device(device)
    settings = read_config(root)
    found = read_headers(_weight_files(root))
    entries = {name: entry for header in found.values() for name, entry in header.items()}
    plan = family_plan(root, settings, entries)
    attention = best_attention(model_class(plan))
    with damaged(f"{root}/config.json"), torch.device("meta"):
        shape = build(plan, attention)
    names = _match(root, shape, found)
    _check_scratch(root, shape, entries)
    with damaged(f"{root}/config.json"), torch.random.fork_rng(devices=[]):
        model = _in_type(next((entries[n].dtype for n in names), torch.float32), plan, attention)
    renamed = {path: {names[n]: entry for n, entry in header.items() if n in names} for path, header in found.items()}
    copy_tensors(renamed, model_state(model))
    model.foundry_attention = attention
    model.eval().to(place)
    _check_use(root, model, plan.model_type)
    return model


def _in_type(dtype: torch.dtype, plan: Any, attention: str) -> Any:
    """Build a model whose weights have a type, and whose tables have the one that its family gives them beside these.

    The tables are computed in fp32: many a family would make its angles from frequencies in bf16 otherwise.
    """
    model = build(plan, attention)
    if dtype == torch.float32:
        return model
    with torch.device("meta"):
        types = {name: buffer.dtype for name, buffer in build(plan, attention, dtype=dtype).named_buffers()}
    for name, buffer in model.named_buffers():
        buffer.data = buffer.data.to(types[name])
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    return model


def _check_use(root: Path, model: Any, model_type: str) -> None:
    """Refuse a model that does not run, or that no score of a language model could come from."""
    try:
        with failures_told(_TRIED):
            leaks = sees_later_tokens(model, length=_TRIED)
    except ConfigError as error:
        hint = "; is config.json the one that it was saved with?" if error.__cause__ else ""
        reason = f"this {model_type!r} {error}, so there is nothing to use it for{hint}"
        raise CheckpointError(f"{root}: {reason}") from error.__cause__
    if leaks:
        raise CheckpointError(
            f"{root}: this {model_type!r} sees later tokens, as an encoder does; its scores as a language model would"
            " mean nothing"
        )


def _weight_files(root: Path) -> list[Path]:
    single, index = root / "model.safetensors", root / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        return _shards(index)
    pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in root.glob(pattern))
    if pickled:
        raise CheckpointError(f"{root}: has only pickled weights ({pickled[0]}), which can run code; save safetensors")
    raise CheckpointError(f"{root}: has no model.safetensors and no model.safetensors.index.json")


def _shards(index: Path) -> list[Path]:
    weight_map = read_small_index(index)
    names = sorted(set(weight_map.values()))
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors", name):
            raise CheckpointError(f"{index}: names the file {name[:80]!r}; only plain .safetensors names are read")
    files = [index.parent / name for name in names]
    listed = {(index.parent / file).name: {n for n, f in weight_map.items() if f == file} for file in names}
    for path, header in read_headers(files).items():
        if header.keys() != listed[path.name]:
            odd = sorted(header.keys() ^ listed[path.name])[0]
            raise CheckpointError(f"{index}: disagrees with {path.name} about tensor {odd[:80]!r}")
    return files


def read_small_index(index: Path) -> dict[str, str]:
    """Read the weight map of a sharded model: tensor -> file.

    Raises:
        CheckpointError: It is missing, too large, or not a map of strings.
    """
    try:
        with open_plain_file(index) as file:
            raw = file.read(16 * MAX_JSON_BYTES + 1)
        if len(raw) > 16 * MAX_JSON_BYTES:
            raise CheckpointError(f"{index}: larger than {16 * MAX_JSON_BYTES:,} bytes")
        weight_map = json.loads(raw)["weight_map"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index}: not an index of shards: {error}") from error
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: its weight_map is not a map of strings")
    return weight_map


def _match(root: Path, shape: Any, found: Headers) -> dict[str, str]:
    """Map the names in the files to those of the model.

    Raises:
        CheckpointError: A tensor is missing, odd, there twice, or of another shape or type; or one that the config ties
            to another differs from it.
    """
    entries = {name: entry for header in found.values() for name, entry in header.items()}
    wanted = model_state(shape)
    tied = getattr(shape, "all_tied_weights_keys", None) or {}
    prefix = f"{shape.base_model_prefix}."
    ignorable = [re.compile(p) for p in getattr(shape, "_keys_to_ignore_on_load_unexpected", None) or ()]
    ignorable += [re.compile(r"rotary_emb\.inv_freq$"), re.compile(r"\.attn\.(masked_)?bias$")]
    names: dict[str, str] = {}
    copies: dict[str, str] = {}
    odd: dict[str, TensorEntry] = {}
    for name, entry in entries.items():
        # older files of a bare trunk lack the prefix that the causal-LM class puts before its names
        target = name if name in wanted or name in tied else prefix + name
        if target in wanted:
            names[name] = target
        elif target in tied:
            copies[name] = tied[target]
        elif not any(pattern.search(name) for pattern in ignorable):
            odd[name] = entry
    seen = {target: entries[name] for name, target in names.items()} | odd
    problems = [*_twice(names), *describe_mismatch(wanted, seen), *_unusable_types(seen)]
    problems = problems or list(_unequal_copies(found, copies, names))
    if problems:
        raise CheckpointError(_list(root, problems))
    return names


def _twice(names: Mapping[str, str]) -> Iterator[str]:
    """Names in the files that stand for one tensor of the model."""
    first: dict[str, str] = {}
    for name, target in names.items():
        if target in first:
            yield f"{first[target]} and {name} both stand for {target}; keep the one that holds the weights"
        first.setdefault(target, name)


def _unusable_types(seen: Mapping[str, TensorEntry]) -> Iterator[str]:
    for name, entry in seen.items():
        if entry.dtype not in _FLOATS:
            kind = str(entry.dtype).removeprefix("torch.")
            yield f"{shown(name)} is {kind}; models are float32, bfloat16 or float16, so save it as one of these"


def _unequal_copies(found: Headers, copies: Mapping[str, str], names: Mapping[str, str]) -> Iterator[str]:
    """Tensors in the files that the config ties to others, so that they have no place, and that are not the same."""
    places = {name: (path, entry) for path, header in found.items() for name, entry in header.items()}
    stored = {target: name for name, target in names.items()}
    for name, target in copies.items():
        entry, other = places[name][1], places[stored[target]][1]
        if (entry.shape, entry.dtype) != (other.shape, other.dtype):
            how = f"is {_described(entry)}, and that is {_described(other)}"
        elif not same_bytes(places[name], places[stored[target]]):
            how = "holds other numbers; if that is meant, set tie_word_embeddings to false in config.json"
        else:
            continue
        yield f"{name} is tied to {target} by config.json, but {how}"


def _described(entry: TensorEntry) -> str:
    return f"{str(entry.dtype).removeprefix('torch.')} {list(entry.shape)}"


def _check_scratch(root: Path, shape: Any, entries: Mapping[str, TensorEntry]) -> None:
    """Refuse tables that come from no file and are larger than all that do: of positions, in the older families.

    Raises:
        CheckpointError: Names the largest.
    """
    sizes = {name: buffer.nbytes for name, buffer in shape.named_buffers()}
    if sum(sizes.values()) > max(_LITTLE, sum(entry.bytes for entry in entries.values())):
        name = max(sizes, key=lambda each: sizes[each])
        raise CheckpointError(
            f"{root}: config.json asks for {sum(sizes.values()):,} bytes of tables that no file holds, the largest"
            f" {name} {list(shape.get_buffer(name).shape)}; is its number of positions right?"
        )


def _list(root: Path, problems: Sequence[str]) -> str:
    more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
    return f"{root}: the weights do not fit config.json:\n" + "\n".join(f"  {p}" for p in problems[:10]) + more


_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_LITTLE = 2**28  # bytes; what anything can spare
_TRIED = 16  # tokens
