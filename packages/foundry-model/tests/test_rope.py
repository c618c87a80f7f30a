"""The rotary base of the config holds whatever else `extra` says about positions."""

from types import SimpleNamespace

import pytest

from foundry_config import ConfigError
from foundry_model.rope import default_rope, merged_rope


def config_of(rope):
    return lambda: SimpleNamespace(rope_parameters=rope)


def test_the_base_of_the_config_replaces_that_of_the_family_and_the_share_of_a_head_stays():
    published = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}

    assert default_rope(config_of(published), 5e4) == published | {"rope_theta": 5e4}


def test_a_family_that_stretches_its_context_does_not_from_scratch():
    published = {"rope_type": "yarn", "factor": 32.0, "rope_theta": 150000.0}

    assert default_rope(config_of(published), 5e4) == {"rope_type": "default", "rope_theta": 5e4}


def test_every_kind_of_layer_gets_the_base():
    published = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}

    kinds = default_rope(config_of(published), 5e4)

    assert {kind: kept["rope_theta"] for kind, kept in kinds.items()} == dict.fromkeys(published, 5e4)


def test_a_config_without_rotary_settings_gets_the_plain_ones():
    assert default_rope(config_of(None), 5e4) == {"rope_type": "default", "rope_theta": 5e4}


@pytest.mark.parametrize("name", ["rope_type", "type"])
def test_scaling_is_put_over_the_base_under_both_names_of_its_type(name):
    base = {"rope_type": "default", "rope_theta": 5e4}

    merged = merged_rope(base, {name: "linear", "factor": 2.0}, family="llama")

    assert merged == {"rope_type": "linear", "rope_theta": 5e4, "factor": 2.0}


def test_another_base_than_that_of_the_config_is_refused():
    with pytest.raises(ConfigError, match=r"rope_theta: 7.0 contradicts model.rope_theta 50000.0"):
        merged_rope({"rope_theta": 5e4}, {"rope_theta": 7.0}, family="llama")


def test_kinds_of_layers_may_have_bases_of_their_own_and_unknown_kinds_are_refused():
    base = {"full": {"rope_theta": 5e4}, "sliding": {"rope_theta": 5e4}}

    assert merged_rope(base, {"full": {"rope_theta": 1e6}}, family="gemma3")["full"] == {"rope_theta": 1e6}
    with pytest.raises(ConfigError, match="gemma3 has one set for each kind of layer; give full and sliding"):
        merged_rope(base, {"rope_type": "linear", "factor": 2.0}, family="gemma3")


def test_what_is_no_mapping_is_left_to_transformers_to_refuse():
    assert merged_rope({"rope_theta": 5e4}, "linear", family="llama") == "linear"
