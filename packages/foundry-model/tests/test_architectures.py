"""What each named architecture takes, what it refuses, and that nothing it takes is ignored."""

import pytest
import torch

from foundry_config import ConfigError
from foundry_model import SpecialIds
from foundry_model.architectures import ARCHITECTURES
from foundry_model.factory import create_model
from foundry_model.model_request import model_request

NAMES = [name for name in ARCHITECTURES if name != "pythia"]
# The activation that a family insists on, where it does.
ACTIVATION = {"mamba": "silu", "mamba2": "silu", "rwkv": "relu2"}
# Its reference implementation pads every sequence to whole pieces of 256 tokens otherwise.
EXTRA = {"mamba2": {"chunk_size": 8}}
CHANGES = {
    "activation_function": "tanh",
    "dropout": 0.2,
    "attention_dropout": 0.2,
    "key_value_heads": 1,
    "head_dim": 16,
    "rope_theta": 500.0,
    "norm_epsilon": 0.01,
    "tie_embeddings": False,
    "state_size": 8,
    "init_std": 0.05,
    "intermediate_hidden_size": 192,
    "layers": 3,
    "embedding_size": 32,
    "init": "mup-like",
}
# What a family cannot honour, and therefore refuses.
REFUSED = {
    "gpt2": {"key_value_heads", "head_dim", "rope_theta", "state_size", "embedding_size"},
    "gpt_neox": {"key_value_heads", "head_dim", "state_size", "embedding_size"},
    "opt": {"key_value_heads", "head_dim", "rope_theta", "norm_epsilon", "state_size"},
    "llama": {"dropout", "state_size", "embedding_size"},
    "mistral": {"dropout", "state_size", "embedding_size"},
    "qwen3": {"dropout", "state_size", "embedding_size"},
    "olmo2": {"dropout", "head_dim", "state_size", "embedding_size"},
    "gemma3": {"dropout", "state_size", "embedding_size"},
    "smollm3": {"dropout", "head_dim", "state_size", "embedding_size"},
    "mamba": {"activation_function", "dropout", "attention_dropout", "key_value_heads", "head_dim", "rope_theta"}
    | {"embedding_size"},
    "mamba2": {
        "activation_function",
        "dropout",
        "attention_dropout",
        "key_value_heads",
        "rope_theta",
        "embedding_size",
    },
    "rwkv": {"activation_function", "dropout", "attention_dropout", "key_value_heads", "head_dim", "rope_theta"}
    | {"embedding_size", "state_size", "init_std"},
}


@pytest.fixture
def family_config(tiny_config):
    def make(name, **model):
        own = {"activation_function": ACTIVATION.get(name, "gelu"), "extra": EXTRA.get(name, {})}
        return tiny_config(architecture=name, **(own | model))

    return make


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", CHANGES)
def test_a_field_that_a_family_cannot_honour_is_refused_by_name(family_config, name, field):
    if field in REFUSED[name]:
        with pytest.raises(ConfigError, match=rf"{field}: .*{name}"):
            ARCHITECTURES[name](model_request(family_config(name, **{field: CHANGES[field]})))
    else:
        ARCHITECTURES[name](model_request(family_config(name, **{field: CHANGES[field]})))


def test_all_refusals_of_a_family_come_in_one_message(family_config):
    with pytest.raises(ConfigError) as error:
        ARCHITECTURES["llama"](model_request(family_config("llama", dropout=0.1, state_size=4)))

    assert "model.dropout" in str(error.value)
    assert "model.state_size" in str(error.value)


def test_values_that_ask_for_nothing_new_are_accepted(family_config):
    neutral = family_config("gpt2", key_value_heads=2, head_dim=32, bias=True)

    assert ARCHITECTURES["gpt2"](model_request(neutral)) == ARCHITECTURES["gpt2"](model_request(family_config("gpt2")))


def test_state_space_widths_that_do_not_fit_are_refused(family_config):
    with pytest.raises(ConfigError, match="mamba widens by a whole factor, and 100 is no multiple of hidden_size 64"):
        ARCHITECTURES["mamba"](model_request(family_config("mamba", intermediate_hidden_size=100)))
    with pytest.raises(ConfigError, match="cannot split 128 units into heads 48 wide"):
        ARCHITECTURES["mamba2"](model_request(family_config("mamba2", head_dim=48)))


def test_rwkv_with_one_layer_is_refused(family_config):
    with pytest.raises(ConfigError, match=r"rwkv spreads its decays.*use 2 or more"):
        ARCHITECTURES["rwkv"](model_request(family_config("rwkv", layers=1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_field_that_a_family_takes_is_ignored(family_config, name):
    ids = torch.arange(8)[None] * 15 % 1000

    def outputs(training, **model):
        torch.manual_seed(0)
        built = create_model(family_config(name, **model)).train(training)
        torch.manual_seed(1)
        with torch.no_grad():
            return built(ids, use_cache=False).logits

    unchanged = {training: outputs(training) for training in (True, False)}
    for field in CHANGES.keys() - REFUSED[name]:
        training = "dropout" in field
        assert not torch.equal(outputs(training, **{field: CHANGES[field]}), unchanged[training]), field


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_named_architecture_has_the_sizes_ids_and_ties_of_the_config(family_config, name):
    config = family_config(name, layers=3, tie_embeddings=True)
    model = create_model(config, vocab_size=500, special_ids=SpecialIds(pad=4, bos=5, eos=6, unk=7))

    logits = model(torch.arange(16).view(2, 8), use_cache=False).logits

    assert logits.shape == (2, 8, 500)
    assert model.training
    assert model.config.num_hidden_layers == 3
    assert model.config.hidden_size == 64
    assert (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id) == (4, 5, 6)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.config.max_position_embeddings == 32 if hasattr(model.config, "max_position_embeddings") else True


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_model_and_another_seed_another(family_config, name):
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in create_model(family_config(name)).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_on_one_batch_lower_the_loss(family_config, name):
    from foundry_model import token_loss

    torch.manual_seed(0)
    model = create_model(family_config(name))
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    ids = torch.arange(16).view(2, 8) * 29 % 1000
    losses = []
    for _ in range(4):
        loss, count = token_loss(model, ids, ids)
        (loss / count).backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    assert losses[-1] < losses[0] * 0.95
