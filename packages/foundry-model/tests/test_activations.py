import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config import ConfigError
from foundry_model.activations import ACTIVATIONS, canonical_activation

spellings = st.sampled_from([s for name, others in ACTIVATIONS.items() for s in (name, *others)])


@given(spellings, st.sampled_from(["-", " ", "", "_"]), st.booleans())
def test_any_case_and_separator_of_a_known_spelling_gives_the_same_name(spelling, separator, upper):
    changed = spelling.replace("_", separator)
    changed = changed.upper() if upper else changed

    assert canonical_activation(changed, gated=False, family="gpt2") == canonical_activation(
        spelling, gated=False, family="gpt2"
    )


@pytest.mark.parametrize("name", ["GELU", "gelu_new", "SwiGLU", "swish", "GEGLU", "ReLU", "relu^2"])
def test_names_of_papers_and_libraries_are_understood(name):
    expected = {
        "GELU": "gelu",
        "gelu_new": "gelu_pytorch_tanh",
        "SwiGLU": "silu",
        "swish": "silu",
        "GEGLU": "gelu",
        "ReLU": "relu",
        "relu^2": "relu2",
    }

    assert canonical_activation(name, gated=True, family="llama") == expected[name]


def test_a_gate_is_refused_where_the_feed_forward_layer_has_none():
    with pytest.raises(ConfigError, match=r"'SwiGLU' needs a gate.*gpt2 has none; use 'silu'"):
        canonical_activation("SwiGLU", gated=False, family="gpt2")


def test_an_unknown_name_is_refused_with_the_nearest_known_one():
    with pytest.raises(ConfigError, match=r"unknown activation 'gelo'\. Did you mean 'gelu'\?"):
        canonical_activation("gelo", gated=False, family="gpt2")


@pytest.mark.slow
def test_every_name_exists_in_transformers():
    from transformers.activations import ACT2CLS

    assert set(ACTIVATIONS) <= set(ACT2CLS)
