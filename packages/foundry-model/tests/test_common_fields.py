"""What `hf:<type>` makes of the common fields, in families of every kind, on the device that takes no memory."""

import logging

import pytest
import torch

from foundry_config import ConfigError
from foundry_model import create_model, token_loss
from foundry_model.generation import generate_ids
from foundry_model.sampling import Sampling
from foundry_model.scoring_model import open_for_scoring

pytestmark = pytest.mark.slow  # the first one pays for the model classes


@pytest.fixture
def shaped(tiny_config):
    def make(model_type, **model):
        return create_model(tiny_config(architecture=f"hf:{model_type}", **model), device="meta").config

    return make


@pytest.mark.parametrize("model_type", ["gemma3_text", "olmo3", "mellum"])
def test_the_rotary_base_reaches_every_kind_of_layer(shaped, model_type):
    rope = shaped(model_type, rope_theta=5e4).rope_parameters

    assert [kept["rope_theta"] for kept in rope.values() if isinstance(kept, dict)] == [5e4, 5e4]


def test_scaling_in_extra_keeps_the_rotary_base(shaped):
    rope = shaped("llama", rope_theta=5e4, extra={"rope_scaling": {"rope_type": "linear", "factor": 2.0}})

    assert rope.rope_parameters == {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4}


def test_a_family_without_rotary_positions_refuses_a_base(shaped):
    with pytest.raises(ConfigError, match=r"model.rope_theta: the config of 'gptj' has no rope_parameters, so 50000.0"):
        shaped("gptj", rope_theta=5e4)


@pytest.mark.parametrize(
    ("model_type", "names"),
    [("seed_oss", ["residual_dropout"]), ("xglm", ["dropout"]), ("phi", ["resid_pdrop", "embd_pdrop"])],
)
def test_every_kind_of_dropout_is_what_the_config_says(shaped, model_type, names):
    assert [getattr(shaped(model_type, dropout=0.2), name) for name in names] == [0.2] * len(names)
    assert [getattr(shaped(model_type), name) for name in names] == [0.0] * len(names)


def test_shared_key_value_heads_are_a_matter_of_their_number(shaped):
    assert shaped("falcon").multi_query is False
    assert shaped("gpt_bigcode", key_value_heads=1).multi_query is True
    with pytest.raises(ConfigError, match=r"model.key_value_heads: falcon has one, or one for each of the 4 heads; 2"):
        shaped("falcon", attention_heads=4, key_value_heads=2)


def test_a_state_space_family_takes_its_inner_width_as_a_multiple(shaped):
    assert shaped("falcon_mamba", intermediate_hidden_size=192).expand == 3
    with pytest.raises(ConfigError, match="falcon_mamba widens by a whole factor, and 100 is no multiple"):
        shaped("falcon_mamba", intermediate_hidden_size=100)


@pytest.mark.parametrize(
    ("layers", "kinds"), [(1, ["global"]), (2, ["global", "local"]), (5, [*["global", "local"] * 2, "global"])]
)
def test_layers_of_two_kinds_take_turns_at_every_depth(shaped, layers, kinds):
    assert shaped("gpt_neo", layers=layers).attention_layers == kinds


def test_extra_chooses_the_kinds_of_layers(shaped):
    config = shaped("gpt_neo", layers=4, extra={"attention_types": [[["global"], 4]]})

    assert config.attention_layers == ["global"] * 4


@pytest.mark.parametrize("model_type", ["gptj", "codegen"])
def test_no_more_of_a_head_is_rotated_than_there_is(shaped, model_type):
    assert shaped(model_type).rotary_dim == shaped(model_type).n_embd // shaped(model_type).n_head
    assert shaped(model_type, extra={"rotary_dim": 2}).rotary_dim == 2


@pytest.mark.parametrize("model_type", ["gptj", "gpt_neo", "jamba", "recurrent_gemma"])
def test_a_family_can_be_trained_scored_and_read(tiny_config, model_type):
    model = create_model(tiny_config(architecture=f"hf:{model_type}", layers=2))
    ids = torch.arange(4, 20).view(2, 8)

    token_loss(model, ids, ids)[0].backward()
    with open_for_scoring(model) as scorer:
        assert scorer.logits(scorer.read(ids)[0, :2]).shape == (2, scorer.vocab_size)
    made = generate_ids(model, [[4, 5, 6]], max_new_tokens=3, stop_id=None, sampling=Sampling(), seed=1)
    assert len(list(made)) == 3


def test_values_that_a_config_leaves_open_are_named_where_the_network_cannot_be_built(shaped):
    with pytest.raises(ConfigError, match=r"cannot build this 'dots1'.*its config leaves open.*n_routed_experts"):
        shaped("dots1")


def test_a_family_that_cannot_tie_says_so(shaped):
    with pytest.raises(ConfigError, match="RemBertForCausalLM of transformers cannot tie"):
        shaped("rembert")


def test_a_family_with_an_activation_of_its_own_says_so(shaped, caplog):
    with caplog.at_level(logging.WARNING):
        shaped("bloom", intermediate_hidden_size=256)

    assert "the config of 'bloom' has no field for it, so 'gelu' has no effect" in caplog.text


def test_a_config_that_joins_several_networks_leads_to_the_one_that_reads_text(shaped):
    with pytest.raises(ConfigError, match="use 'hf:gemma3_text' for the one that reads text") as error:
        shaped("gemma3")

    assert "object at 0x" not in str(error.value)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"num_hidden_layers": 3}, "model.extra: n_layer 3 contradicts model.layers 2; set model.layers alone"),
        ({"vocab_size": 3}, "model.extra.vocab_size: not a matter of extra; the tokenizer decides it"),
        ({"rope_theta": 3.0}, "model.extra.rope_theta: not a matter of extra; set model.rope_theta"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings: not a matter of extra; set model.tie_embeddings"),
        ({"torch_dtype": "bfloat16"}, "torch_dtype: not a matter of extra; set training.precision"),
        ({"rope_scaling": {}}, "model.extra.rope_scaling: the config of 'gpt2' has no such field"),
    ],
)
def test_extra_cannot_contradict_what_is_said_elsewhere(shaped, extra, reason):
    with pytest.raises(ConfigError, match=reason):
        shaped("gpt2", extra=extra)


def test_an_encoder_is_built_as_a_decoder_and_refused_when_it_is_not(tiny_config):
    assert create_model(tiny_config(architecture="hf:bert")).config.is_decoder is True
    with pytest.raises(ConfigError, match="'hf:bert' is not causal"):
        create_model(tiny_config(architecture="hf:bert", extra={"is_decoder": False}))


@pytest.mark.slow
@pytest.mark.parametrize("spelling", ["SwiGLU", "geglu"])
@pytest.mark.parametrize("model_type", ["gptj", "gpt_neo", "starcoder2"])
def test_a_gate_is_refused_by_a_family_without_one(tiny_config, model_type, spelling):
    with pytest.raises(ConfigError, match=f"'{spelling}' needs a gate, .* layer of hf:{model_type} has none"):
        create_model(tiny_config(architecture=f"hf:{model_type}", activation_function=spelling))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model_type", ["granite", "phi3", "lfm2", "modernbert-decoder", "mixtral", "ernie4_5_moe", "deepseek_v3"]
)
def test_a_gate_is_accepted_by_a_family_with_one_whatever_it_is_called(tiny_config, model_type):
    config = tiny_config(architecture=f"hf:{model_type}", activation_function="SwiGLU", layers=4)

    assert create_model(config, device="meta").num_parameters() > 0
