"""What `model.extra` can spoil in a family whose function is known: found before the model trains."""

import pytest

from foundry_config import ConfigError
from foundry_model import create_model, flops_per_token
from foundry_model.impossible import impossible_values
from foundry_model.model_request import is_as_published

ACTIVATION = {"mamba": "silu", "mamba2": "silu"}


@pytest.fixture
def extra_config(tiny_config):
    def make(name, extra, **model):
        return tiny_config(architecture=name, extra=extra, activation_function=ACTIVATION.get(name, "gelu"), **model)

    return make


@pytest.mark.parametrize(
    ("field", "value", "possible"),
    [
        ("num_attention_heads", 0, "1 or more"),
        ("n_embd", -1, "1 or more"),
        ("head_dim", -2, "0 or more"),
        ("initializer_range", -0.5, "0 or more"),
        ("init_std", float("nan"), "0 or more"),
        ("embd_pdrop", 3, "0 to 1"),
        ("attention_dropout", float("nan"), "0 to 1"),
        ("layerdrop", -1.0, "0 to 1"),
    ],
)
def test_a_value_that_no_family_can_have_is_named(field, value, possible):
    assert impossible_values({field: value, "vocab_size": 300}) == [f"{field} {value!r} (possible is {possible})"]


def test_values_that_are_no_numbers_are_left_to_the_family():
    settings = {"num_attention_heads": [1, 2], "n_inner": None, "dropout": "x", "initializer_range": True, "foo": -1}

    assert impossible_values(settings) == []


def test_a_family_is_as_published_unless_extra_changes_it(extra_config):
    assert is_as_published(extra_config("llama", {}))
    assert not is_as_published(extra_config("llama", {"sliding_window": 3}))
    assert not is_as_published(extra_config("hf:llama", {}))
    assert not is_as_published(extra_config("my:model", {}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "extra", "told"),
    [
        ("smollm3", {"no_rope_layers": [1]}, "transformers refuses this 'smollm3': IndexError: list index out"),
        ("smollm3", {"no_rope_layer_interval": 0}, "transformers refuses this 'smollm3': ZeroDivisionError"),
        ("mamba", {"time_step_rank": -1}, "cannot build this 'mamba': RuntimeError: .* negative dimension -1"),
        ("opt", {"layerdrop": 2.0}, r"'opt' cannot have layerdrop 2.0 \(possible is 0 to 1\)"),
    ],
)
def test_what_cannot_be_built_is_refused_on_the_meta_device_too(extra_config, name, extra, told):
    with pytest.raises(ConfigError, match=f"{told}.*; model.extra sets {next(iter(extra))}"):
        create_model(extra_config(name, extra), device="meta")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "extra", "told"),
    [
        ("mamba2", {"n_groups": 3}, "'mamba2' does not run on 32 token ids alone: RuntimeError"),
        ("mamba2", {"chunk_size": 0}, "'mamba2' does not run on 32 token ids alone: ZeroDivisionError"),
        ("gemma3", {"sliding_window": None}, "'gemma3' does not run on 32 token ids alone: ValueError: .*sliding"),
        ("gemma3", {"use_bidirectional_attention": True}, "'gemma3' is not causal"),
    ],
)
def test_what_only_a_run_over_tokens_tells_is_refused_before_the_model_trains(extra_config, name, extra, told):
    with pytest.raises(ConfigError, match=f"model.architecture: {told}.*; model.extra sets {next(iter(extra))}"):
        create_model(extra_config(name, extra))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rope", "told"),
    [
        (
            "llama",
            {"fator": 2},
            "fator: rotary positions of type 'default' do not read it. Did you mean 'factor'. They",
        ),
        ("llama", {"factor": 2}, "factor: rotary positions of type 'default' do not read it. They read: .*rope_theta"),
        ("llama", {"type": "linear", "factor": 2.0, "beta_fast": 1}, "beta_fast: rotary positions of type 'linear'"),
        ("gemma3", {"full_attention": {"fator": 2}}, "full_attention.fator: .*Did you mean 'factor'"),
    ],
)
def test_a_rotary_setting_that_nothing_reads_is_refused(extra_config, name, rope, told):
    with pytest.raises(ConfigError, match=rf"^model\.extra\.rope_parameters\.{told}"):
        create_model(extra_config(name, {"rope_parameters": rope}), device="meta")


@pytest.mark.slow
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16, "beta_fast": 32, "truncate": True},
        {"partial_rotary_factor": 0.5},
        {"rope_type": "proportional", "factor": 2.0, "partial_rotary_factor": 0.5},
    ],
)
def test_rotary_settings_that_are_read_are_accepted(extra_config, rope):
    made = create_model(extra_config("llama", {"rope_parameters": rope}), device="meta").config.rope_parameters

    assert {name: made[name] for name in rope} == rope


@pytest.mark.slow
def test_parts_that_extra_adds_and_text_does_not_reach_are_known_and_cost_nothing(extra_config, caplog):
    config = extra_config("gpt2", {"add_cross_attention": True})

    model = create_model(config)

    assert any("crossattention" in name for name in model.foundry_out_of_reach)
    assert "text does not reach" in caplog.text
    assert flops_per_token(config, 32) == flops_per_token(extra_config("gpt2", {}), 32)
