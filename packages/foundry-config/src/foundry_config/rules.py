"""Rules between fields: each looks at one section (or the whole config) and yields the field and what is wrong.

A rule reads only the fields that it is about, so that it is left out when one of those is itself wrong, and nothing
else is. Every problem names a way out.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from foundry_config import names
from foundry_config.field_checker import check_value, kind_of_field
from foundry_config.lookup import did_you_mean
from foundry_config.manipulations import named_steps
from foundry_config.origins import Path
from foundry_config.shapes import is_list, right_items
from foundry_config.shares import steps_of

if TYPE_CHECKING:
    from foundry_config.schema import (
        DataConfig,
        ExperimentConfig,
        LoggingConfig,
        ModelConfig,
        TokenizerConfig,
        TrainingConfig,
    )

Found = Iterator[tuple[str | Path, str]]

OTHER_MODELS = "`hf:<model_type>` of transformers, or `module:function`"
SPECIAL_TOKENS = len(names.SPECIAL_TEXTS)
BYTES = 256
MAX_CELLS = 10_000
MAX_NAME_BYTES = 255  # of one component of a path, on every common file system


def known_architecture(model: "ModelConfig") -> Found:
    """The architecture is in the table, `hf:<model_type>`, or a reference."""
    name = model.architecture
    if name.startswith(names.FAMILY):
        if name == names.FAMILY:
            yield "architecture", "`hf:` needs a model type of transformers after it, for example hf:granite"
    elif problem := names.unknown_name(name, names.ARCHITECTURES, kind="architecture", others=OTHER_MODELS):
        yield "architecture", problem


def known_activation(model: "ModelConfig") -> Found:
    """The activation is a spelling of a known one; an architecture from outside may have others."""
    if _is_custom(model.architecture):
        return
    name = model.activation_function
    if not names.is_activation(name):
        hint = did_you_mean(name, names.ACTIVATIONS)
        yield "activation_function", f"unknown activation {name!r}.{hint} Known: {', '.join(names.ACTIVATIONS)}"


def heads_divide_the_hidden_size(model: "ModelConfig") -> Found:
    """Every head gets the same whole number of units, unless `head_dim` says how many."""
    if _has_attention(model) and model.head_dim is None and model.hidden_size % model.attention_heads:
        divisors = [h for h in range(1, min(model.hidden_size, 4096) + 1) if model.hidden_size % h == 0]
        nearest = min(divisors, key=lambda h: abs(h - model.attention_heads))
        message = (
            f"{model.attention_heads} heads do not divide hidden_size {model.hidden_size}; the nearest is {nearest}"
        )
        yield "attention_heads", message


def key_value_heads_divide_the_heads(model: "ModelConfig") -> Found:
    """Every key/value head serves the same number of query heads."""
    groups = model.key_value_heads
    if _has_attention(model) and groups is not None and model.attention_heads % groups:
        yield "key_value_heads", f"{groups} key/value heads do not divide attention_heads {model.attention_heads}"


def embedding_is_as_wide_as_the_blocks(model: "ModelConfig") -> Found:
    """Only some architectures put a projection between a narrower embedding and the blocks."""
    separate = model.architecture in names.SEPARATE_EMBEDDING or _is_custom(model.architecture)
    if not separate and model.embedding_size != model.hidden_size:
        yield (
            "embedding_size",
            f"{model.embedding_size} is not hidden_size {model.hidden_size}; {model.architecture!r} has one width for "
            f"both (architectures with two: {', '.join(names.SEPARATE_EMBEDDING)})",
        )


def one_wish_about_attention(model: "ModelConfig") -> Found:
    """`use_flash_attention` and `attention` do not name different implementations."""
    if model.use_flash_attention and model.attention not in ("auto", "flash_attention_2"):
        yield "use_flash_attention", f"contradicts attention: {model.attention}; leave one of the two out"


def vocabulary_holds_the_special_tokens(tokenizer: "TokenizerConfig") -> Found:
    """A tokenizer that is trained needs entries for special tokens, bytes and symbols, and some for text."""
    if tokenizer.source is not None:
        return
    parts = [(SPECIAL_TOKENS, "special tokens"), (len(tokenizer.user_defined_symbols), "user_defined_symbols")]
    parts += [(BYTES, "bytes (byte_fallback)")] if tokenizer.byte_fallback else []
    needed = sum(count for count, _ in parts)
    if tokenizer.vocab_size <= needed:
        listed = " + ".join(f"{count} {what}" for count, what in parts if count)
        yield "vocab_size", f"{tokenizer.vocab_size} leaves no entry for text: {listed} take {needed}"


def symbols_differ(tokenizer: "TokenizerConfig") -> Found:
    """No symbol is listed twice, or is a piece of every vocabulary anyway."""
    for index, symbol in right_items(tokenizer.user_defined_symbols):
        if symbol in tokenizer.user_defined_symbols[:index]:
            yield f"user_defined_symbols.{index}", f"{symbol!r} is listed twice"
        if symbol in names.SPECIAL_TEXTS:
            yield f"user_defined_symbols.{index}", f"{symbol!r} is a piece of every vocabulary already; leave it out"


def bf16_weights_compute_in_bf16(training: "TrainingConfig") -> Found:
    """Weights in bf16 are for the precision of that name."""
    if training.bf16_params and training.precision != "bf16":
        yield "bf16_params", f"needs precision: bf16, and precision is {training.precision}; set both, or neither"


def one_length(training: "TrainingConfig") -> Found:
    """At most one of steps, tokens and words says how long the run is."""
    given = [
        name
        for name, value in (
            ("train_steps", training.train_steps),
            ("train_tokens", training.train_tokens),
            ("train_words", training.train_words),
        )
        if value is not None
    ]
    for name in given[1:]:
        yield name, f"{given[0]} already says how long the run is; leave one of the two out"


def one_warmup(training: "TrainingConfig") -> Found:
    """Warm-up is given in steps or as a share."""
    if training.warmup_steps is not None and training.warmup_ratio is not None:
        yield "warmup_ratio", "warmup_steps already says how long the warm-up is; leave one of the two out"


def warmup_fits(training: "TrainingConfig") -> Found:
    """Warm-up is not longer than the run."""
    warmup, steps = training.warmup_steps, training.train_steps
    if warmup is not None and steps is not None and warmup > steps:
        yield "warmup_steps", f"{warmup:,} steps of warm-up are longer than the run of train_steps {steps:,}"


def decay_fits(training: "TrainingConfig") -> Found:
    """Warm-up and decay of the wsd schedule do not overlap."""
    if training.lr_schedule == "wsd" and (training.warmup_ratio or 0.0) + training.decay_ratio > 1:
        yield "decay_ratio", f"warmup_ratio {training.warmup_ratio:g} and this {training.decay_ratio:g} exceed the run"
    steps, warmup = training.train_steps, training.warmup_steps
    if training.lr_schedule == "wsd" and steps is not None and steps > 2 and warmup is not None and warmup <= steps:
        decay = steps_of(training.decay_ratio, steps)
        if warmup + decay > steps:
            yield (
                "decay_ratio",
                f"{warmup:,} steps of warm-up and {decay:,} of decay are longer than the run of {steps:,}; lower "
                "warmup_steps or this",
            )


def known_optimizer(training: "TrainingConfig") -> Found:
    """The optimizer is in the table or a reference."""
    if problem := names.unknown_name(training.optimizer, names.OPTIMIZERS, kind="optimizer"):
        yield "optimizer", problem


def known_lr_schedule(training: "TrainingConfig") -> Found:
    """The schedule of the learning rate is in the table or a reference."""
    if problem := names.unknown_name(training.lr_schedule, names.LR_SCHEDULES, kind="schedule"):
        yield "lr_schedule", problem


def schedule_entries_are_right(training: "TrainingConfig") -> Found:
    """Every entry of the checkpoint schedule is a step, a preset or a spacing with a fitting number."""
    if training.checkpoint_schedule:
        # here and not above: few configs spell one out
        from foundry_config.checkpoint_schedule import entry_problem

        for index, entry in right_items(training.checkpoint_schedule):
            if problem := entry_problem(entry):
                yield f"checkpoint_schedule.{index}", problem


def schedule_fits(training: "TrainingConfig") -> Found:
    """No explicit step lies beyond the end of the run."""
    steps = training.train_steps
    for index, entry in right_items(training.checkpoint_schedule or ()):
        if steps is not None and isinstance(entry, int) and entry > steps:
            yield f"checkpoint_schedule.{index}", f"step {entry:,} lies beyond the run of train_steps {steps:,}"


def output_dir_can_be_made(training: "TrainingConfig") -> Found:
    """No component of the run directory is longer than file systems allow."""
    for part in training.output_dir.split("/"):
        if len(part.encode(errors="replace")) > MAX_NAME_BYTES:
            yield "output_dir", f"a folder name of {len(part.encode())} bytes; file systems allow {MAX_NAME_BYTES}"


def sinks_are_references(logging: "LoggingConfig") -> Found:
    """Further sinks are functions of a module."""
    for index, sink in right_items(logging.sinks):
        if not names.is_reference(sink):
            yield f"sinks.{index}", f"{sink!r} is not written as `package.module:function`"


def shards_hold_a_sequence(data: "DataConfig") -> Found:
    """A file of the token store holds at least one sequence."""
    if data.shard_tokens < data.max_sequence_length:
        yield "shard_tokens", f"{data.shard_tokens:,} is less than max_sequence_length {data.max_sequence_length:,}"


def positions_reach(config: "ExperimentConfig") -> Found:
    """The model is built for sequences as long as those it trains on."""
    longest, length = config.model.max_position_embeddings, config.data.max_sequence_length
    if longest is not None and longest < length:
        yield "model.max_position_embeddings", f"{longest:,} is less than data.max_sequence_length {length:,}"


def micro_batch_fits(config: "ExperimentConfig") -> Found:
    """A micro-batch is a part of a batch."""
    micro, batch = config.training.micro_batch_size, config.data.batch_size
    if isinstance(micro, int) and micro > batch:
        yield "training.micro_batch_size", f"{micro:,} is more than data.batch_size {batch:,}, of which it is a part"


def manipulations_are_steps(config: "ExperimentConfig") -> Found:
    """Every ablation is a name, or a mapping with a name or a command."""
    for index, step in right_items(config.dataset_manipulation):
        path = f"dataset_manipulation.{index}"
        if isinstance(step, str):
            if not step:
                yield path, "an empty name"
            continue
        if ("name" in step) == ("command" in step):
            yield path, "a step has either `name` with its options, or `command` with a list of program and arguments"
        elif "name" in step and not (isinstance(step["name"], str) and step["name"]):
            yield path, "`name` must be text"
        elif "command" in step and not _is_command(step["command"]):
            yield path, "`command` must be a list of texts: the program and its arguments"


def a_pool_tops_up_an_ablation(config: "ExperimentConfig") -> Found:
    """Replacement text is given only where steps may take words out, in this run or in one of its matrix."""
    ablated = config.dataset_manipulation or "dataset_manipulation" in config.matrix
    if config.data.replacement_corpus is not None and not ablated:
        yield (
            "data.replacement_corpus",
            "tops up what dataset_manipulation takes out, but there are no steps, so nothing of it would be used; "
            "write the steps of the ablation into dataset_manipulation, or leave replacement_corpus out",
        )


def matrix_varies_fields(config: "ExperimentConfig") -> Found:
    """Every entry of the matrix is a field with at least one value, and there are not too many combinations."""
    for path, values in config.matrix.items():
        yield from _matrix_problem(path, values)
    combinations = math.prod(max(len(values), 1) for values in config.matrix.values())
    if combinations > MAX_CELLS:
        yield "matrix", f"{combinations:,} combinations; at most {MAX_CELLS:,} runs"


def _matrix_problem(path: str, values: Any) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong with one entry of the matrix, or with one of its values."""
    # here and not above: the schema imports the rules
    from foundry_config.schema import ExperimentConfig

    kind = kind_of_field(ExperimentConfig, path)
    if isinstance(kind, str):
        yield ("matrix", path), kind
    elif path == "matrix" or path.startswith("matrix."):
        yield ("matrix", path), "a matrix cannot vary itself"
    elif not values:
        yield ("matrix", path), "an empty list leaves nothing to run; give at least one value"
    else:
        for index, value in enumerate(values):
            given = named_steps(value).steps if path == "dataset_manipulation" else value
            yield from ((("matrix", path, index), message) for message in check_value(kind, given))


def _has_attention(model: "ModelConfig") -> bool:
    """Whether it is known to have; what transformers or a function builds, they know."""
    return model.architecture not in names.WITHOUT_ATTENTION and not _is_custom(model.architecture)


def _is_custom(architecture: str) -> bool:
    return ":" in architecture


def _is_command(command: Any) -> bool:
    return is_list(command) and len(command) > 0 and all(isinstance(part, str) for part in command)


DATA_RULES = (shards_hold_a_sequence,)
TOKENIZER_RULES = (vocabulary_holds_the_special_tokens, symbols_differ)
MODEL_RULES = (
    known_architecture,
    known_activation,
    heads_divide_the_hidden_size,
    key_value_heads_divide_the_heads,
    embedding_is_as_wide_as_the_blocks,
    one_wish_about_attention,
)
TRAINING_RULES = (
    bf16_weights_compute_in_bf16,
    one_length,
    one_warmup,
    warmup_fits,
    decay_fits,
    known_optimizer,
    known_lr_schedule,
    schedule_entries_are_right,
    schedule_fits,
    output_dir_can_be_made,
)
LOGGING_RULES = (sinks_are_references,)
EXPERIMENT_RULES = (
    positions_reach,
    micro_batch_fits,
    manipulations_are_steps,
    a_pool_tops_up_an_ablation,
    matrix_varies_fields,
)
