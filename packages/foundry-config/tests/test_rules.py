"""Rules between fields: each names the field, the values and a way out."""

import ast
from pathlib import Path

import pytest

from foundry_config import ConfigError, names, parse_config

PACKAGES = Path(__file__).parents[2]
TABLES = [
    ("foundry-model/src/foundry_model/architectures.py", "ARCHITECTURES", names.ARCHITECTURES),
    ("foundry-train/src/foundry_train/optimizers.py", "OPTIMIZERS", names.OPTIMIZERS),
    ("foundry-train/src/foundry_train/lr_schedules.py", "LR_SCHEDULES", names.LR_SCHEDULES),
]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.attention_heads=3"], "model.attention_heads: 3 heads do not divide hidden_size 64; the nearest is 2"),
        (["model.key_value_heads=4"], "model.key_value_heads: 4 key/value heads do not divide attention_heads 2"),
        (["model.embedding_size=32"], "model.embedding_size: 32 is not hidden_size 64; 'gpt2' has one width for both"),
        (["model.architecture=lama"], "unknown architecture 'lama'. Did you mean 'llama'?"),
        (["model.architecture='hf:'"], "`hf:` needs a model type"),
        (["model.activation_function=glue"], "unknown activation 'glue'. Did you mean 'gelu'?"),
        (["model.use_flash_attention=true", "model.attention=eager"], "contradicts attention: eager"),
        (["tokenizer.vocab_size=260"], "260 leaves no entry for text: 4 special tokens + 256 bytes (byte_fallback)"),
        (["tokenizer.user_defined_symbols=[a, b, a]"], "tokenizer.user_defined_symbols[2]: 'a' is listed twice"),
        (["tokenizer.user_defined_symbols=[<s>]"], "'<s>' is a piece of every vocabulary already; leave it out"),
        (["tokenizer.character_coverage=0.9"], "tokenizer.character_coverage: must be"),
        (["training.bf16_params=true"], "training.bf16_params: needs precision: bf16, and precision is fp32"),
        (["training.train_words=5"], "training.train_words: train_steps already says how long the run is"),
        (
            ["training.warmup_steps=2", "training.warmup_ratio=0.1"],
            "training.warmup_ratio: warmup_steps already says",
        ),
        (["training.warmup_steps=11"], "11 steps of warm-up are longer than the run of train_steps 10"),
        (
            ["training.lr_schedule=wsd", "training.warmup_steps=null", "training.warmup_ratio=0.9"],
            "training.decay_ratio: warmup_ratio 0.9 and this 0.2 exceed the run",
        ),
        (
            ["training.lr_schedule=wsd", "training.warmup_steps=9"],
            "training.decay_ratio: 9 steps of warm-up and 2 of decay are longer than the run of 10; lower warmup_steps",
        ),
        (["training.optimizer=adamv"], "training.optimizer: unknown optimizer 'adamv'. Did you mean 'adamw'?"),
        (["training.lr_schedule=cosin"], "training.lr_schedule: unknown schedule 'cosin'. Did you mean 'cosine'?"),
        (
            ["training.checkpoint_schedule=[1, 11]"],
            "checkpoint_schedule[1]: step 11 lies beyond the run of train_steps 10",
        ),
        (
            ["training.checkpoint_schedule=[{every_step: 1}]"],
            "unknown spacing 'every_step'. Did you mean 'every_steps'?",
        ),
        (
            ["training.checkpoint_schedule=[{every_steps: 0}]"],
            "every_steps must be a whole number of at least 1, got 0",
        ),
        (["training.checkpoint_schedule=[{every_steps: a}]"], "every_steps must be a number, got 'a'"),
        (["training.checkpoint_schedule=[{log: 1}]"], "log is the growth of the distances: above 1"),
        (["training.checkpoint_schedule=[{log: 2, min_intervall: 1}]"], "log has no option 'min_intervall'"),
        (["training.checkpoint_schedule=[{log: 2, linear: 1}]"], "an entry names exactly one spacing"),
        (["training.checkpoint_schedule=[{}]"], "an entry names exactly one spacing"),
        (["training.checkpoint_schedule=[babylm]"], "checkpoint_schedule[0]: unknown preset 'babylm'"),
        (["training.output_dir=" + "x" * 300], "training.output_dir: a folder name of 300 bytes"),
        (["logging.sinks=[csv]"], "logging.sinks[0]: 'csv' is not written as `package.module:function`"),
        (["data.shard_tokens=16"], "data.shard_tokens: 16 is less than max_sequence_length 32"),
        (
            ["model.max_position_embeddings=16"],
            "model.max_position_embeddings: 16 is less than data.max_sequence_length 32",
        ),
        (
            ["data.replacement_corpus=pool"],
            "data.replacement_corpus: tops up what dataset_manipulation takes out, but there are no steps",
        ),
        (["training.micro_batch_size=3"], "training.micro_batch_size: 3 is more than data.batch_size 2"),
        (["dataset_manipulation=['']"], "dataset_manipulation[0]: an empty name"),
        (["dataset_manipulation=[{nam: lower}]"], "dataset_manipulation[0]: a step has either `name`"),
        (["dataset_manipulation=[{name: 5}]"], "dataset_manipulation[0]: `name` must be text"),
        (["dataset_manipulation=[{command: ls}]"], "dataset_manipulation[0]: `command` must be a list of texts"),
        (["matrix={training.lr: [1]}"], "matrix.training.lr: unknown field."),
        (["matrix={training: [1]}"], "matrix.training: is a section; name one of its fields"),
        (["matrix={random_seed.x: [1]}"], "matrix.random_seed.x: random_seed holds no fields"),
        (["matrix={matrix: [1]}"], "matrix.matrix: a matrix cannot vary itself"),
        (["matrix={random_seed: []}"], "matrix.random_seed: an empty list leaves nothing to run"),
        (["matrix={random_seed: [1, x]}"], "matrix.random_seed[1]: must be an integer of at least 0, got 'x'"),
        (["matrix={dataset_manipulation: [none, 3]}"], "matrix.dataset_manipulation[1]: must be text, or a mapping"),
        (["matrix={model.layers: [1, .inf]}"], "matrix.model.layers[1]: must be a finite number"),
        (
            [f"matrix={{random_seed: {list(range(101))}, model.layers: {list(range(1, 101))}}}"],
            "matrix: 10,100 combinations; at most 10,000 runs",
        ),
    ],
)
def test_a_broken_rule_names_the_field_the_values_and_a_way_out(tiny_yaml, overrides, message):
    with pytest.raises(ConfigError) as caught:
        parse_config(tiny_yaml, overrides=overrides)

    assert message in str(caught.value)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.attention_heads=3", "model.head_dim=16"],
        ["model.attention_heads=3", "model.architecture=mamba"],
        ["model.embedding_size=32", "model.architecture=opt"],
        ["model.embedding_size=32", "model.architecture=hf:gemma3n"],
        ["model.architecture=my_models.small:build", "model.activation_function=mine"],
        ["model.activation_function=GELU-Tanh"],
        ["model.use_flash_attention=true", "model.attention=flash_attention_2"],
        ["tokenizer.vocab_size=8", "tokenizer.source=some/tokenizer.model"],
        ["tokenizer.vocab_size=20", "tokenizer.byte_fallback=false"],
        ["training.optimizer=my_package.optimizers:lion", "training.lr_schedule=my_package:saw"],
        ["training.warmup_steps=10"],
        ["training.checkpoint_schedule=[0, 10, pythia, {evenly: 3, min_interval: 2}, {every_words: 1e6}]"],
        ["training.micro_batch_size=auto"],
        ["dataset_manipulation=[lowercase, {name: cut, share: 0.5}, {command: [sed, s/a/b/]}, 'my.mod:f']"],
        ["matrix={training.learning_rate: [1e-3, 1e-4], model.extra.scale: [1, null]}"],
        ["logging.sinks=['my_package.sinks:csv']"],
        ["data.replacement_corpus=pool", "dataset_manipulation=[lowercase]"],
        ["data.replacement_corpus=pool", "matrix={dataset_manipulation: [none, lowercase]}"],
        ["matrix={dataset_manipulation: [none, null, [], {name: cut}, {no-cut: [{name: cut}]}, {command: [sed]}]}"],
    ],
)
def test_what_keeps_the_rules_is_taken(tiny_yaml, overrides):
    assert parse_config(tiny_yaml, overrides=overrides)


@pytest.mark.parametrize(("file", "table", "known"), TABLES)
def test_known_names_are_those_of_the_tables_of_other_packages(file, table, known):
    path = PACKAGES / file
    if not path.exists():
        pytest.skip(f"{file} is not part of this checkout")

    assert set(known) == set(_keys(path, table))


def _keys(path: Path, table: str) -> list[str]:
    """Return the keys of a dict that a module assigns to `table`, without importing it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == table for target in targets):
            return [ast.literal_eval(key) for key in node.value.keys]
    raise AssertionError(f"{path} has no {table}")
