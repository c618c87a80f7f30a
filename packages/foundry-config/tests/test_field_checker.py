"""Every field against every kind of bad value, and the slow check against msgspec's own."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect as types

from foundry_config import ConfigError, ExperimentConfig, parse_config
from foundry_config.checking import build
from foundry_config.describing import bare, describe
from foundry_config.field_checker import FieldChecker, check_value, kind_of_field
from foundry_config.fields import field_classes

BAD_VALUES: dict[str, Any] = {
    ".inf": math.inf,
    "-.inf": -math.inf,
    ".nan": math.nan,
    "-1": -1,
    "0": 0,
    "1.5": 1.5,
    "99999999999999999999999999": 99999999999999999999999999,
    "1e300": 1e300,
    "true": True,
    '"5"': "5",
    '"text"': "text",
    '""': "",
    "null": None,
    "[]": [],
    "[[1]]": [[1]],
    "{}": {},
    "{a: [1, .nan]}": {"a": [1, math.nan]},
    "2024-01-01": "2024-01-01",
    '"a\\x00b\\n"': "a\0b\n",
}
KINDS = {path: kind_of_field(ExperimentConfig, path) for path in field_classes()}
TABLE = [(path, text) for path in KINDS for text in BAD_VALUES]


def accepts(kind: types.Type, value: Any) -> bool:
    """Say, independently of the code under test, whether a field may hold a value."""
    inner = bare(kind)
    if isinstance(inner, types.UnionType):
        return any(accepts(member, value) for member in inner.types)
    if isinstance(inner, types.IntType) and isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    python_type = {types.IntType: int, types.FloatType: float, types.BoolType: bool}.get(type(inner))
    if python_type is int:
        return type(value) is int and _bounded(inner, value)
    if python_type is float:
        return type(value) in (int, float) and math.isfinite(value) and _bounded(inner, value)
    if python_type is bool:
        return type(value) is bool
    if isinstance(inner, types.NoneType):
        return value is None
    if isinstance(inner, types.LiteralType):
        return type(value) is str and value in inner.values
    if isinstance(inner, types.StrType):
        fits = isinstance(value, str) and len(value) >= (inner.min_length or 0)
        return fits and (inner.pattern is None or msgspec_matches(inner.pattern, value))
    if isinstance(inner, types.VarTupleType | types.ListType):
        return isinstance(value, list) and all(accepts(inner.item_type, item) for item in value)
    if isinstance(inner, types.DictType):
        return isinstance(value, dict) and "a" not in value
    return True


def _bounded(kind: Any, value: float) -> bool:
    low = (kind.ge is None or value >= kind.ge) and (kind.gt is None or value > kind.gt)
    return low and (kind.le is None or value <= kind.le) and (kind.lt is None or value < kind.lt)


def msgspec_matches(pattern: str, value: str) -> bool:
    try:
        msgspec.convert(value, type=_pattern_type(pattern))
    except msgspec.ValidationError:
        return False
    return True


def _pattern_type(pattern: str) -> Any:
    from typing import Annotated

    return Annotated[str, msgspec.Meta(pattern=pattern)]


@pytest.mark.parametrize("path", KINDS)
def test_every_bad_value_of_every_field_is_refused_at_its_place_and_every_good_one_taken(path, tiny_yaml):
    for text, value in BAD_VALUES.items():
        allowed = accepts(KINDS[path], value)
        try:
            parse_config(tiny_yaml, overrides=[f"{path}={text}"])
        except ConfigError as error:
            lines = [str(problem) for problem in error.problems]
            assert any(f": {path}" in line for line in lines) or allowed, f"{path}={text}: {lines}"
        else:
            assert allowed, f"{path} took {text}"


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 70),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(["adamw", "fp32", "auto", "gelu", "3h", "cuda:1", "linear", ""]),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from([path for path in KINDS if "." in path]), json_values, max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_slow_check_accepts_exactly_what_msgspec_accepts(changes):
    data = msgspec.to_builtins(parse_config(BASE))
    for path, value in changes.items():
        section, _, field = path.partition(".")
        data[section][field] = value
    checker = FieldChecker(ExperimentConfig)

    normal = checker.check_root(data)

    try:
        broken = list(msgspec.convert(normal, ExperimentConfig).problems())
    except msgspec.ValidationError:
        broken = ["refused"]
    assert bool(broken) == bool(checker.findings)
    assert (build(ExperimentConfig, data)[0] is None) == bool(checker.findings)


def test_a_wrong_item_of_a_list_has_its_own_place(tiny_yaml):
    with pytest.raises(ConfigError, match=r"<config>:34:26: evaluation.sample_prompts\[1\]: must be text, got 5"):
        parse_config(tiny_yaml + "evaluation:\n  sample_prompts: [text, 5]\n")


def test_a_rule_about_a_wrong_field_is_left_out_and_the_others_are_not(tiny_yaml):
    with pytest.raises(ConfigError) as caught:
        parse_config(tiny_yaml, overrides=["model.hidden_size=-3", "model.key_value_heads=3"])

    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["model.hidden_size", "model.key_value_heads"]


def paths_of_problems(text: str, **overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, overrides=[f"{path.replace('__', '.')}={value}" for path, value in overrides.items()])
    return [problem.path for problem in caught.value.problems]


@pytest.mark.parametrize("wrong", [".nan", "-1", "1.5", "true", "null", "[]", '""', "{log: .inf}", "{a: {b: .nan}}"])
def test_rules_look_at_the_right_items_of_a_list_with_a_wrong_one(tiny_yaml, wrong):
    found = paths_of_problems(tiny_yaml, training__checkpoint_schedule=f"[{wrong}, 99, pythea, 5, {{log: 1}}]")

    assert sorted({path[:31] for path in found}) == [f"training.checkpoint_schedule[{index}]" for index in (0, 1, 2, 4)]


def test_a_merge_key_is_refused_with_what_to_do_instead(tiny_yaml):
    with pytest.raises(ConfigError, match=r"model\.<<: merge keys are no part of YAML 1.2; repeat the fields, or put"):
        parse_config(tiny_yaml.replace("  layers: 2", "  layers: 2\n  <<: {dropout: 0.2}"))


def test_a_wrong_item_hides_no_broken_rule_of_another_list(tiny_yaml):
    assert paths_of_problems(tiny_yaml, dataset_manipulation='[5, "", {nme: a}]') == [
        f"dataset_manipulation[{index}]" for index in range(3)
    ]
    assert paths_of_problems(tiny_yaml, tokenizer__user_defined_symbols='["", "", a, a]') == [
        f"tokenizer.user_defined_symbols[{index}]" for index in (0, 1, 3)
    ]
    assert paths_of_problems(tiny_yaml, logging__sinks='["", a]') == ["logging.sinks[0]", "logging.sinks[1]"]
    assert paths_of_problems(tiny_yaml, matrix="{model.layers: 3, training.lr: [1]}") == [
        "matrix.model.layers",
        "matrix.training.lr",
    ]


@pytest.mark.parametrize(
    ("path", "value", "hint"),
    [
        ("training.async_save", "no", "; write true or false"),
        ("training.train_steps", "1_000", "; write 1000, without separators"),
        ("training.train_steps", "10,000", "; write 10000, without separators"),
        ("training.learning_rate", "1e-3", "; this is text, leave out the quotes"),
        ("training.learning_rate", "nan", "got 'nan'; it must be finite, too"),
        ("training.learning_rate", "-inf", "got '-inf'; it must be finite, too"),
        ("training.precision", "BF16", "Did you mean 'bf16'?"),
        ("training.micro_batch_size", "atuo", "Did you mean 'auto'?"),
        ("training.learning_rate", "fast", "got 'fast'"),
        ("training.train_steps", 2**60, "; it must be at most 9.0072e+15, too"),
        ("model.rope_theta", 1e31, "; it must be at most 1e+30, too"),
    ],
)
def test_a_near_miss_gets_a_hint(path, value, hint):
    (message,) = check_value(KINDS[path], value)

    assert message.endswith(hint)


@pytest.mark.parametrize("path", KINDS)
def test_every_field_says_in_words_what_it_accepts(path):
    words = describe(KINDS[path])

    assert words
    assert "Type" not in words
    assert "anything" not in words or path in ("model.extra", "matrix")


BASE = """
experiment_name: base
data: {source_corpus: x, batch_size: 2, max_sequence_length: 32}
tokenizer: {vocab_size: 1000}
model: {layers: 2, embedding_size: 64, hidden_size: 64, intermediate_hidden_size: 128, attention_heads: 2}
training: {output_dir: out, learning_rate: 1e-4}
"""
