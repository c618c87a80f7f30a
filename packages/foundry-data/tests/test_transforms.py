"""The list of steps: what can be written, and what is said about the rest."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config.errors import ConfigError
from foundry_data.transforms import TRANSFORMS, manipulation_fingerprint, parse_steps, validate_steps

GOOD = [
    "lowercase",
    {"name": "regex_replace", "pattern": "[0-9]+"},
    {"name": "sample", "fraction": 0.5},
    {"command": ["cat"]},
]


def test_good_steps_pass_and_show_their_options_with_defaults():
    validate_steps(GOOD)
    steps = parse_steps(GOOD, seed=0)

    assert [step.name for step in steps] == ["lowercase", "regex_replace", "sample", "cat"]
    assert steps[1].settings == {"pattern": "[0-9]+", "replacement": "", "ignore_case": False}
    assert steps[0].label == "dataset_manipulation[0] 'lowercase'"


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("lowercas", "unknown step 'lowercas'. Did you mean 'lowercase'? Known: regex_replace, lowercase"),
        ({"name": "regex_drop", "patern": "x"}, "'regex_drop' has no option 'patern'. Did you mean 'pattern'?"),
        ({"name": "lowercase", "pattern": "x"}, "'lowercase' has no option 'pattern'. Known: none"),
        ({"name": "regex_drop"}, "'regex_drop' needs the option 'pattern'"),
        ({"name": "regex_drop", "pattern": 3}, "pattern is 3: expected `str`, got `int`"),
        ({"pattern": "x"}, "a step is a name, or a mapping with a `name` or a `command`"),
        ({"name": 3}, "a step is a name"),
        ({"name": "lowercase", "command": ["cat"]}, "has no option 'command'"),
        ({}, "a step is a name"),
        ({"command": ["cat"], "shell": True}, "'command' has no option 'shell'"),
    ],
)
def test_a_bad_step_is_named_with_what_is_wrong(step, said):
    with pytest.raises(ConfigError) as caught:
        validate_steps(["lowercase", step])

    assert str(caught.value).startswith("dataset_manipulation[1]: ")
    assert said in str(caught.value)


def test_every_bad_step_is_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        validate_steps(["nope", "lowercase", {"name": "sample"}])

    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "dataset_manipulation[0]",
        "dataset_manipulation[2]",
    ]


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_anything_else_ends_with_a_config_error_or_passes(step):
    try:
        validate_steps([step])
    except ConfigError as error:
        assert str(error).startswith("dataset_manipulation[0]: ")


def test_a_step_put_in_front_does_not_change_the_seeds_of_the_others():
    alone = parse_steps([{"name": "sample", "fraction": 0.5}], seed=3)
    second = parse_steps(["lowercase", {"name": "sample", "fraction": 0.5}], seed=3)

    assert alone[0].context.seed == second[1].context.seed


def test_the_fingerprint_follows_options_order_and_seed():
    prints = [
        manipulation_fingerprint(steps, seed=seed)
        for steps, seed in [
            (["lowercase", "deduplicate"], 1),
            (["deduplicate", "lowercase"], 1),
            (["lowercase", {"name": "deduplicate", "ignore": "case"}], 1),
            (["lowercase", "deduplicate"], 2),
            ([], 1),
        ]
    ]

    assert len(set(prints)) == len(prints)
    assert manipulation_fingerprint([{"name": "lowercase"}, "deduplicate"], seed=1) == prints[0]


def test_every_transform_is_documented_and_says_its_options_as_json():
    for name, kind in TRANSFORMS.items():
        assert kind.__doc__, name
        assert msgspec.json.schema(kind)["$defs"][kind.__name__]["additionalProperties"] is False
