"""The config.json of a Hugging Face model directory that nobody vouches for, up to the config object of transformers.

    config.json --read_config--> settings, nothing in which names code --family_plan--> config object of the family

Only fields that the family knows reach transformers. A number that would make much of a small folder (a billion
positions, a million layers) is refused by its name before anything is built from it.
"""

import json
import logging
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foundry_config.errors import CheckpointError, ConfigError
from foundry_model.blueprints import Blueprint
from foundry_model.field_names import FIELD_NAMES
from foundry_model.hf_families import config_class, family_config, field_name, known_fields
from foundry_model.safetensors_header import TensorEntry, open_plain_file, shown

logger = logging.getLogger(__name__)

MAX_JSON_BYTES = 2**20


def read_config(root: Path) -> dict[str, Any]:
    """Read the config.json of a folder.

    Raises:
        CheckpointError: It is missing or no JSON object, or something in it or beside it could fetch or run code.
    """
    settings = read_small_json(root / "config.json")
    problems = list(_dangers(settings))
    if (root / "adapter_config.json").exists():
        problems.append("adapter_config.json names another model to load")
    if not isinstance(settings.get("model_type"), str):
        problems.append("config.json has no model_type")
    if problems:
        raise CheckpointError(f"{root}: refused: {'; '.join(problems)}")
    return settings


def family_plan(root: Path, settings: Mapping[str, Any], entries: Mapping[str, TensorEntry]) -> Any:
    """Make the config object of transformers, from the fields that it knows; the others are left out with a warning.

    Args:
        root: The folder, for messages.
        settings: What its config.json holds.
        entries: The tensors in its files, which say how large a model it can be.

    Raises:
        CheckpointError: A value that no model of such files has, or that the family refuses.
    """
    model_type = settings["model_type"]
    # before transformers is loaded for nothing
    _check_sizes(root, settings, entries, lambda name: _most_parts(name, len(entries)))
    with damaged(f"{root}/config.json"):
        cls = config_class(model_type)
        known = known_fields(cls) | _ALWAYS_KNOWN
        own = {name: value for name, value in settings.items() if name in known}
        numbers = _numbers(entries)
        _check_sizes(root, own, entries, lambda name: _largest_number(name, numbers))
        plan = family_config(Blueprint(model_type, {field_name(cls, name): own[name] for name in own}), {})
    unknown = sorted(settings.keys() - known - _SAYS_NOTHING)
    unknown = [name for name in unknown if getattr(plan, name, None) != settings[name]]  # derived ones are right
    if unknown:
        logger.warning("%s: fields unknown to %r are left out: %s", root, model_type, ", ".join(map(shown, unknown)))
    return plan


@contextmanager
def damaged(where: str) -> Iterator[None]:
    """Turn what is wrong with a config into what is wrong with the folder that it lies in."""
    try:
        yield
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def read_small_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most 1 MiB.

    Raises:
        CheckpointError: It is missing, no plain file, too large, or not a JSON object.
    """
    try:
        with open_plain_file(path) as file:
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
    if content.keys() != {"__float__"}:
        return content
    if not isinstance(content["__float__"], str):
        raise ValueError(f"__float__ is {str(content['__float__'])[:40]}, and not 'Infinity', '-Infinity' or 'NaN'")
    return float(content["__float__"])


def _dangers(settings: Mapping[str, Any]) -> Iterator[str]:
    """What in a config could make transformers fetch or run something."""
    for path, name, value in _walk(settings):
        if name in _CODE_FIELDS and value not in (None, False):
            yield f"config.json sets {path}, which names code or a format that runs code"
        if "attn_implementation" in name and isinstance(value, str) and not value.isidentifier():
            yield f"config.json sets {path} to {value[:80]!r}, which is fetched from a hub"


def _walk(settings: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """All settings, however deep they lie: the dotted path as a message can show it, the name, the value."""
    waiting = [("", settings)]
    while waiting:
        prefix, inner = waiting.pop()
        for name, value in inner.items():
            path = f"{prefix}{shown(name)}"
            yield path, name, value
            if isinstance(value, dict):
                waiting.append((f"{shown(path)}.", value))


def _check_sizes(
    root: Path, settings: Mapping[str, Any], entries: Mapping[str, TensorEntry], most: Callable[[str], int]
) -> None:
    for path, name, value in _walk(settings):
        if isinstance(value, int) and abs(value) > most(name):
            held = f"{len(entries):,} tensors with {_numbers(entries):,} numbers"
            raise CheckpointError(f"{root}: config.json sets {path} to {str(value)[:40]}, and the files hold {held}")


def _numbers(entries: Mapping[str, TensorEntry]) -> int:
    return sum(math.prod(entry.shape) for entry in entries.values())


def _most_parts(name: str, tensors: int) -> int:
    """How many layers or experts there can be; each takes time to build, even without memory."""
    if name in FIELD_NAMES["layers"]:
        return tensors
    counts = re.search("layer|expert", name) and not re.search("size|dim", name)
    return 2**16 if counts else sys.maxsize


def _largest_number(name: str, numbers: int) -> int:
    """How large a setting can be: as all that the files hold, or as the longest context there is, of 10 million."""
    if re.search("theta|base|freq", name):  # what angles are computed from counts nothing
        return sys.maxsize
    if re.fullmatch("(mamba_)?chunk_size", name):  # a scan fills a piece, even for one token
        return 2**12
    return max(2**24, numbers)


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
