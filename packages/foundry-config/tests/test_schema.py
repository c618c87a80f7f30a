"""The structs: what is valid, what is refused, what is filled in."""

import copy
from pathlib import Path

import msgspec
import pytest

from foundry_config import (
    ConfigError,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    LoggingConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
    parse_config,
)
from foundry_config.base import Config
from foundry_config.field_docs import attribute_texts
from foundry_config.fields import CLASSES, field_class, section_of

STRUCTS = [
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    LoggingConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
]
MODEL = {"layers": 2, "embedding_size": 64, "hidden_size": 64, "intermediate_hidden_size": 128, "attention_heads": 2}


def test_a_valid_config_keeps_its_values(tiny_config):
    assert tiny_config.model.hidden_size == 64
    assert tiny_config.training.train_steps == 10


def test_direct_construction_equals_loading(tiny_config, tiny_yaml):
    assert tiny_config == parse_config(tiny_yaml)


def test_a_negative_vocabulary_is_refused():
    with pytest.raises(ConfigError, match=r"vocab_size: must be an integer of at least 8 .* got -1"):
        TokenizerConfig(vocab_size=-1)


def test_a_config_error_is_also_a_value_error_and_a_validation_error():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, msgspec.ValidationError)


def test_all_missing_required_fields_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        ModelConfig()

    for field in MODEL:
        assert f"ModelConfig.{field}: this field is missing" in str(caught.value)


def test_an_unknown_field_in_python_is_refused_with_the_nearest_right_one():
    with pytest.raises(ConfigError, match=r"layrs: unknown field\. Did you mean 'layers'"):
        ModelConfig(**(MODEL | {"layrs": 2}))


def test_positional_arguments_are_refused():
    with pytest.raises(TypeError, match=r"ModelConfig takes its fields by name: ModelConfig\(architecture=...\)"):
        ModelConfig(2)


def test_a_path_object_is_refused_with_what_to_write():
    with pytest.raises(ConfigError, match=r"DataConfig\.source_corpus: .*Path; write str\(\) of it"):
        DataConfig(source_corpus=Path("x"), batch_size=2, max_sequence_length=8)


def test_optional_fields_have_their_defaults():
    model = ModelConfig(**MODEL)

    assert model.architecture == "gpt2"
    assert model.dropout == 0.0
    assert model.key_value_heads is None
    assert ExperimentConfig.__struct_defaults__


def test_nested_configs_are_validated():
    with pytest.raises(ConfigError, match=r"data.batch_size: must be an integer of at least 1, got 0"):
        ExperimentConfig(
            experiment_name="x",
            data={"source_corpus": "x", "batch_size": 0, "max_sequence_length": 8},
            tokenizer=TokenizerConfig(vocab_size=1000),
            model=ModelConfig(**MODEL),
            training=TrainingConfig(output_dir="x", learning_rate=1.0),
        )


def test_empty_lists_and_nulls_are_valid_where_they_mean_something():
    assert EvaluationConfig(sample_prompts=(), minimal_pairs=[]).minimal_pairs == ()
    assert TrainingConfig(output_dir="x", learning_rate=0.1, checkpoint_schedule=None).checkpoint_schedule is None
    assert TrainingConfig(output_dir="x", learning_rate=0.1, checkpoint_schedule=()).checkpoint_schedule == ()


def test_direct_construction_gives_the_types_that_loading_gives():
    training = TrainingConfig(output_dir="x", learning_rate=1, train_tokens=1e6, checkpoint_schedule=[1, 2e3])

    assert type(training.learning_rate) is float
    assert type(training.train_tokens) is int
    assert training.checkpoint_schedule == (1, 2000)


def test_a_changed_copy_is_validated():
    model = ModelConfig(**MODEL)

    assert msgspec.structs.replace(model, layers=3).layers == 3
    with pytest.raises(ConfigError, match="layers"):
        msgspec.structs.replace(model, layers=0)


def test_rules_between_fields_hold_in_direct_construction():
    with pytest.raises(ConfigError, match="3 heads do not divide hidden_size 64; the nearest is 2"):
        ModelConfig(**(MODEL | {"attention_heads": 3}))


def test_configs_are_frozen_and_can_be_copied(tiny_config):
    with pytest.raises(AttributeError):
        tiny_config.random_seed = 1

    assert copy.deepcopy(tiny_config) == tiny_config


def test_data_that_holds_itself_is_refused():
    endless: dict = {}
    endless["again"] = [endless] * 9

    with pytest.raises(ConfigError, match="nested more than"):
        ModelConfig(**(MODEL | {"extra": endless}))


@pytest.mark.parametrize("value", [object(), b"bytes", {1: 2}, float("nan"), "\ud800", 10**2000, {"k" * 300: 1}])
def test_what_is_no_plain_data_is_refused_inside_free_mappings(value):
    with pytest.raises(ConfigError, match="extra"):
        ModelConfig(**(MODEL | {"extra": {"key": value}}))


@pytest.mark.parametrize("struct", STRUCTS)
def test_every_field_carries_one_class_and_a_text(struct: type[Config]):
    texts = attribute_texts()

    for field in msgspec.structs.fields(struct):
        if not section_of(field.type):
            assert field_class(field.type) in CLASSES, f"{struct.__name__}.{field.name} needs Identity, Numeric or Free"
            assert len(texts[struct.__name__, field.name][0]) > 10


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a\0b", "x" * 129, "-x", "a b", "näme", "a\n", "", "."])
def test_names_of_experiments_that_could_leave_their_folder_are_refused(tiny_yaml, name):
    with pytest.raises(ConfigError, match="experiment_name"):
        parse_config(tiny_yaml, overrides=[f"experiment_name={msgspec.json.encode(name).decode()}"])


@pytest.mark.parametrize("path", ["a\0b", "a\x1b[2J", "x\n", "x" * 5000, "a/" + "b" * 256])
def test_paths_that_no_disk_can_hold_are_refused(tiny_yaml, path):
    with pytest.raises(ConfigError, match="output_dir"):
        TrainingConfig(output_dir=path, learning_rate=0.1)


@pytest.mark.parametrize("path", ["/scratch/run", "../runs/x", "~/runs", "run with spaces", "läufe/ä"])
def test_absolute_and_parent_paths_are_the_users_choice(path):
    assert TrainingConfig(output_dir=path, learning_rate=0.1).output_dir == path
