"""One form for configs that mean the same: dump, digest, diff."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_config import (
    ExperimentConfig,
    canonical_json,
    config_digest,
    config_from_dict,
    diff_configs,
    dump_config,
    field_classes,
    flatten,
    parse_config,
    replace_fields,
)
from foundry_config.describing import bare
from foundry_config.field_checker import kind_of_field
from foundry_config.yaml_reader import resolve
from foundry_config.yaml_writer import write_text, write_yaml

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)


@pytest.mark.slow
@given(extra=st.dictionaries(texts, values, max_size=4), prompts=st.lists(texts, max_size=3), rate=st.floats(1e-9, 1))
@settings(max_examples=60, deadline=None)
def test_a_dumped_config_loads_back_to_an_equal_one(extra, prompts, rate):
    config = parse_config(BASE)
    config = replace_fields(
        config, {"model.extra": extra, "evaluation.sample_prompts": prompts, "training.learning_rate": rate}
    )

    again = parse_config(dump_config(config))

    assert again == config
    assert canonical_json(again) == canonical_json(config)


@given(texts)
def test_text_is_read_back_as_text_however_it_looks(text):
    from_file = parse_config(BASE, overrides=[f"model.extra.x={write_text(text)}"]).model.extra["x"]

    assert from_file == text


@pytest.mark.parametrize(
    "text", ["1e-4", "no", "null", "~", "", " a", "a ", "a: b", "# x", "-", "- a", "*a", "0x10", "🦙"]
)
def test_text_that_would_read_as_something_else_is_quoted(text):
    written = write_text(text)

    assert written == text or written.startswith('"')
    assert written.startswith('"') or resolve(written) == text


def test_a_written_document_has_one_line_for_every_field():
    assert write_yaml({"a": 1, "b": {"c": [1, {"d": None}], "e": {}}, "f": {}}) == (
        "a: 1\nb:\n  c: [1, {d: null}]\n  e: {}\nf: {}\n"
    )


def test_canonical_json_has_sorted_keys_and_loads_back(tiny_config):
    data = json.loads(canonical_json(tiny_config))

    assert list(data) == sorted(data)
    assert config_from_dict(data) == tiny_config


def test_the_digest_does_not_depend_on_key_order_or_on_how_defaults_are_spelled(tiny_yaml, tiny_config):
    sections = tiny_yaml.split("\n", 1)
    reordered = f"random_seed: 42\nevaluation: {{}}\nmatrix: {{}}\n{tiny_yaml.replace('random_seed: 42', '')}"
    spelled = parse_config(dump_config(tiny_config))

    assert sections[0] == "experiment_name: test_exp"
    assert config_digest(parse_config(reordered)) == config_digest(spelled) == config_digest(tiny_config)


def test_the_digest_is_the_same_in_every_version(tiny_config):
    # the digest of a run that exists: when this fails, resuming that run would be refused
    assert config_digest(tiny_config) == GOLDEN


@pytest.mark.parametrize("path", [path for path, tag in field_classes().items() if tag == "identity"])
def test_identity_fields_change_the_digest(tiny_config, path):
    # an architecture whose sizes are free of each other, and no length that another one would contradict
    free = {"model.architecture": "opt", "training.train_steps": None, "training.warmup_steps": None}
    config = replace_fields(tiny_config, free)

    assert config_digest(_changed(config, path)) != config_digest(config)


def test_free_and_numeric_fields_do_not_change_the_digest(tiny_config):
    changed = replace_fields(tiny_config, {"logging.level": "DEBUG", "training.precision": "bf16"})

    assert config_digest(changed) == config_digest(tiny_config)
    assert config_digest(changed, classes=["numeric"]) != config_digest(tiny_config, classes=["numeric"])


def test_true_and_one_are_not_the_same_value(tiny_config):
    one, true = (replace_fields(tiny_config, {"model.extra": {"x": value}}) for value in (1, True))

    assert config_digest(one) != config_digest(true)
    assert str(diff_configs(one, true)[0]) == 'model.extra: {"x":1} -> {"x":true}'


def test_a_diff_lists_every_changed_field_with_its_class(tiny_config):
    changed = replace_fields(
        tiny_config, {"training.learning_rate": 3e-4, "logging.dir": None, "training.compile": "on"}
    )

    changes = diff_configs(tiny_config, changed)

    assert [str(change) for change in changes] == [
        "training.learning_rate: 0.0001 -> 0.0003",
        "training.compile: 'off' -> 'on'",
        "logging.dir: 'test/logs' -> null",
    ]
    assert [change.field_class for change in changes] == ["identity", "numeric", "free"]
    assert diff_configs(tiny_config, tiny_config) == []


def test_every_field_has_a_class_and_a_value(tiny_config):
    assert list(flatten(tiny_config)) == list(field_classes())
    assert msgspec.json.encode(flatten(tiny_config))


def _changed(config, path):
    value = flatten(config)[path]
    literal = getattr(bare(kind_of_field(ExperimentConfig, path)), "values", ())
    others = [1, 32, 64, 0.5, 2.0, not value, "relu", "sgd", "bloom:f", "linear", "cosine", [], ["x"], {"a": 1}, 4096]
    for candidate in (*literal, *others):
        try:
            changed = replace_fields(config, {path: candidate})
        except ValueError:
            continue
        if flatten(changed)[path] != value:
            return changed
    raise AssertionError(f"no other value found for {path}")


GOLDEN = "sha256:eca69eb789a0286ec8ea8ab2ddf14ec203cb279ad609e26460473c9c79043142"
BASE = """
experiment_name: base
data: {source_corpus: x, batch_size: 2, max_sequence_length: 32}
tokenizer: {vocab_size: 1000}
model: {layers: 2, embedding_size: 64, hidden_size: 64, intermediate_hidden_size: 128, attention_heads: 2}
training: {output_dir: out, learning_rate: 1e-4}
"""
