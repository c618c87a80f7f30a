"""Open a Hugging Face model directory that nobody vouches for.

    folder/config.json                    parsed here; only fields that the family knows reach transformers
    folder/model.safetensors              or the shards that model.safetensors.index.json names
      -> a model of shapes only -> names and shapes compared -> memory -> weights

Nothing in the folder is run. What could name code (`auto_map`, kernels, quantizers, adapters, pickled weights) is
refused by name, and no memory is taken before the files and the config agree.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from foundry_config.errors import CheckpointError, ConfigError
from foundry_model.attention import best_attention
from foundry_model.blueprints import Blueprint
from foundry_model.factory import build
from foundry_model.hf_families import config_class, family_config, field_name, known_fields, model_class
from foundry_model.honoured import sees_later_tokens
from foundry_model.placing import usable_device
from foundry_model.pretrained import copy_tensors, describe_mismatch, model_state, read_headers
from foundry_model.safetensors_header import TensorEntry

logger = logging.getLogger(__name__)

MAX_JSON_BYTES = 2**20


def load_pretrained(folder: Path | str, *, device: torch.device | str = "cpu") -> Any:
    """Load a causal language model of transformers from a local folder, in evaluation mode.

    Weights keep the type they are stored in (the first tensor's, where a file mixes several). PyTorch's global random
    state stays as it is.

    Args:
        folder: Holds `config.json` and safetensors, as `save_pretrained` or a checkpoint of ours leaves them.
        device: Where the model goes.

    Raises:
        CheckpointError: The folder is not a model, asks for code, or its weights do not fit its config, by name.
        ConfigError: `device` is not there.
    """
    root, place = Path(folder), usable_device(device)
    settings = _read_config(root)
    found = read_headers(_weight_files(root))
    entries = {name: entry for header in found.values() for name, entry in header.items()}
    plan = _family_plan(root, settings, tensors=len(entries))
    attention = best_attention(model_class(plan))
    try:
        with torch.device("meta"):
            shape = build(plan, attention)
    except ConfigError as error:
        raise CheckpointError(f"{root}/config.json: {error}") from error
    names = _match(root, shape, entries)
    with torch.random.fork_rng(devices=[]):
        model = build(plan, attention)
    model.to(dtype=_stored_type(entries))
    renamed = {path: {names[n]: entry for n, entry in header.items() if n in names} for path, header in found.items()}
    copy_tensors(renamed, model_state(model))
    model.foundry_attention = attention
    model.eval().to(place)
    try:
        leaks = sees_later_tokens(model)
    except ConfigError as error:
        raise CheckpointError(f"{root}: this {plan.model_type!r} {error}, so there is nothing to use it for") from None
    if leaks:
        raise CheckpointError(
            f"{root}: this {plan.model_type!r} sees later tokens, as an encoder does; its scores as a language model"
            " would mean nothing"
        )
    return model


def _read_config(root: Path) -> dict[str, Any]:
    settings = read_small_json(root / "config.json")
    problems = list(_dangers(settings))
    if (root / "adapter_config.json").exists():
        problems.append("adapter_config.json names another model to load")
    if not isinstance(settings.get("model_type"), str):
        problems.append("config.json has no model_type")
    if problems:
        raise CheckpointError(f"{root}: refused: {'; '.join(problems)}")
    return settings


def read_small_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most 1 MiB.

    Raises:
        CheckpointError: It is missing, too large, or not a JSON object.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_JSON_BYTES + 1)
        if len(raw) > MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_JSON_BYTES:,} bytes; a config is not")
        content = json.loads(raw, object_hook=_special_float)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; is this a model folder?") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content


def _special_float(content: dict[str, Any]) -> Any:
    """Undo how transformers 5 writes infinity: {"__float__": "Infinity"}."""
    return float(content["__float__"]) if content.keys() == {"__float__"} else content


def _dangers(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """What in a config could make transformers fetch or run something."""
    for key, value in settings.items():
        if key in _CODE_FIELDS and value not in (None, False):
            yield f"config.json sets {prefix}{key}, which names code or a format that runs code"
        if "attn_implementation" in key and isinstance(value, str) and not value.isidentifier():
            yield f"config.json sets {prefix}{key} to {value[:80]!r}, which is fetched from a hub"
        if isinstance(value, dict):
            yield from _dangers(value, f"{prefix}{key}.")


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
        if index.stat().st_size > 16 * MAX_JSON_BYTES:
            raise CheckpointError(f"{index}: larger than {16 * MAX_JSON_BYTES:,} bytes")
        weight_map = json.loads(index.read_bytes())["weight_map"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index}: not an index of shards: {error}") from error
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: its weight_map is not a map of strings")
    return weight_map


def _family_plan(root: Path, settings: Mapping[str, Any], *, tensors: int) -> Any:
    """The config object of transformers, from the fields that it knows; the others are left out with a warning."""
    model_type = settings["model_type"]
    for name, value in settings.items():  # before anything is built that has so many parts
        most = tensors if name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") else 2**16
        if re.search("layer|expert", name) and isinstance(value, int) and value > most:
            raise CheckpointError(f"{root}: config.json sets {name} to {value}, and the files hold {tensors} tensors")
    try:
        cls = config_class(model_type)
        known = known_fields(cls) | _ALWAYS_KNOWN
        fields = {field_name(cls, name): value for name, value in settings.items() if name in known}
        plan = family_config(Blueprint(model_type, fields), {})
    except ConfigError as error:
        raise CheckpointError(f"{root}/config.json: {error}") from error
    unknown = sorted(settings.keys() - known - _SAYS_NOTHING)
    unknown = [name for name in unknown if getattr(plan, name, None) != settings[name]]  # derived ones are right
    if unknown:
        logger.warning("%s: fields unknown to %r are left out: %s", root, model_type, ", ".join(unknown))
    return plan


def _match(root: Path, shape: Any, entries: Mapping[str, TensorEntry]) -> dict[str, str]:
    """Map the names in the files to those of the model, and check that nothing is missing, odd or of another shape."""
    wanted = model_state(shape)
    aliases = set(getattr(shape, "all_tied_weights_keys", None) or {})
    prefix = f"{shape.base_model_prefix}."
    ignorable = [re.compile(p) for p in getattr(shape, "_keys_to_ignore_on_load_unexpected", None) or ()]
    ignorable += [re.compile(r"rotary_emb\.inv_freq$"), re.compile(r"\.attn\.(masked_)?bias$")]
    names: dict[str, str] = {}
    odd: dict[str, TensorEntry] = {}
    for name, entry in entries.items():
        # older files of a bare trunk lack the prefix that the causal-LM class puts before its names
        target = name if name in wanted else prefix + name
        if target in wanted:
            names[name] = target
        elif name not in aliases and not any(pattern.search(name) for pattern in ignorable):
            odd[name] = entry
    seen = {target: entries[name] for name, target in names.items()} | odd
    not_float = [f"{n} is {e.dtype}, not a float type" for n, e in seen.items() if not e.dtype.is_floating_point]
    problems = [*describe_mismatch(wanted, seen), *not_float]
    if problems:
        raise CheckpointError(_list(root, problems))
    return names


def _stored_type(entries: Mapping[str, TensorEntry]) -> torch.dtype:
    return next((e.dtype for e in entries.values() if e.dtype in _FLOATS), torch.float32)


def _list(root: Path, problems: Sequence[str]) -> str:
    more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
    return f"{root}: the weights do not fit config.json:\n" + "\n".join(f"  {p}" for p in problems[:10]) + more


_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_CODE_FIELDS = {
    "auto_map",
    "trust_remote_code",
    "quantization_config",
    "compression_config",
    "torchscript",
    "custom_pipelines",
    "_attn_implementation_internal",
    "kernel_config",
}
# Special ids, tying and size are the family's own fields too; `extra` may not set them, a finished config must.
_ALWAYS_KNOWN = {
    "vocab_size",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "rope_local_base_freq",
    "rotary_pct",
    "rotary_emb_base",
    "partial_rotary_factor",
}
_SAYS_NOTHING = {
    "model_type",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "_name_or_path",
    "name_or_path",
    "id2label",
    "label2id",
    "problem_type",
    "task_specific_params",
    "is_encoder_decoder",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "chunk_size_feed_forward",
    "n_ctx",
    "attn_implementation",
    "_attn_implementation",
}
