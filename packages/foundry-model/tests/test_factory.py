"""Building models: sizes, ids, refusals, and the ways in from outside the named architectures."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from foundry_config import ConfigError
from foundry_model import (
    Blueprint,
    ModelRequest,
    SpecialIds,
    count_parameters,
    create_model,
    estimate_memory,
    isolates_documents,
    supports_chunked_loss,
)
from foundry_model.cost import known_flops_per_token
from foundry_model.model_request import model_request


def own_blueprint(request: ModelRequest) -> Blueprint:
    """An architecture that a user's module defines."""
    model = request.model
    fields = {"n_embd": model.hidden_size, "n_layer": model.layers, "n_head": 2, "vocab_size": request.vocab_size}
    return Blueprint("gpt2", fields)


def own_module(request: ModelRequest) -> nn.Module:
    """A network that a user's module builds itself."""
    return nn.Linear(request.vocab_size, request.model.hidden_size)


def own_mistake(request: ModelRequest) -> str:
    return "gpt2"


def own_failure(request: ModelRequest) -> nn.Module:
    return nn.Linear(request.no_such_field, 3)


def own_nothing(request: ModelRequest) -> nn.Module:
    return nn.Identity()


class Own(nn.Module):
    """A recurrent network without a config; `change` spoils it."""

    def __init__(self, vocab_size: int, change: str = "", *, both_ways: bool = False) -> None:
        super().__init__()
        self.tokens, self.out = nn.Embedding(vocab_size, 8), nn.Linear(8, vocab_size)
        self.cell = nn.GRU(8, 4 if both_ways else 8, batch_first=True, bidirectional=both_ways)
        self.change = change

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None) -> Any:
        logits = self.out(self.cell(self.tokens(input_ids))[0])
        if self.change == "fails":
            raise KeyError("no such layer")
        if self.change == "undefined":
            logits = logits * float("nan")
        if self.change == "draws":
            logits = logits + torch.randn(logits.shape)
        if self.change == "masks":
            logits = (logits + logits.mean(1, keepdim=True)).index_fill(2, torch.tensor([0]), float("-inf"))
        return logits if self.change == "bare" else SimpleNamespace(logits=logits)


def own_recurrent(request: ModelRequest) -> nn.Module:
    return Own(request.vocab_size)


def own_bare(request: ModelRequest) -> nn.Module:
    return Own(request.vocab_size, "bare")


def own_failing(request: ModelRequest) -> nn.Module:
    return Own(request.vocab_size, "fails")


def own_undefined(request: ModelRequest) -> nn.Module:
    return Own(request.vocab_size, "undefined")


def own_drawing(request: ModelRequest) -> nn.Module:
    return Own(request.vocab_size, "draws")


def own_masking(request: ModelRequest) -> nn.Module:
    """Sees all tokens, and gives no probability to one."""
    return Own(request.vocab_size, "masks")


class Placed(nn.Module):
    """Positions first, tokens in a table of an unusual name, rows of one length only, and a config of its own."""

    def __init__(self, request: ModelRequest) -> None:
        super().__init__()
        self.config = SimpleNamespace(n_layer=1, n_head=2, block_size=request.positions)
        self.places = nn.Embedding(request.positions, 8)
        self.words = nn.Embedding(request.vocab_size, 8)
        self.mix = nn.Parameter(torch.ones(request.positions, request.positions).tril() / request.positions)
        self.out = nn.Linear(8, request.vocab_size)

    def get_input_embeddings(self) -> nn.Module:
        raise NotImplementedError  # as transformers says of a table that it does not find by its name

    def forward(self, input_ids: torch.Tensor) -> Any:
        x = self.words(input_ids) + self.places.weight
        return SimpleNamespace(logits=self.out(self.mix @ x))


def own_placed(request: ModelRequest) -> nn.Module:
    return Placed(request)


def own_narrow(request: ModelRequest) -> nn.Module:
    return Own(50)


def own_encoder(request: ModelRequest) -> nn.Module:
    return Own(request.vocab_size, both_ways=True)


def test_positions_and_vocabulary_come_from_data_and_tokenizer_unless_given(tiny_config):
    assert model_request(tiny_config(length=48)).positions == 48
    assert model_request(tiny_config(max_position_embeddings=99)).positions == 99
    assert model_request(tiny_config()).vocab_size == 1000
    assert model_request(tiny_config(), vocab_size=77).vocab_size == 77


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (SpecialIds(pad=3), "pad and eos are both 3; the tokenizer needs a <pad> of its own"),
        (SpecialIds(pad=2), "pad and bos are both 2"),
        (SpecialIds(eos=1000), "eos is 1000, outside a vocabulary of 1000"),
        (SpecialIds(unk=-1), "unk is -1, outside"),
    ],
)
def test_special_ids_that_clash_or_lie_outside_are_refused(tiny_config, ids, reason):
    with pytest.raises(ConfigError, match=f"special ids: {reason}"):
        create_model(tiny_config(), special_ids=ids)


@pytest.mark.parametrize("size", [0, -5])
def test_a_vocabulary_of_nothing_is_refused_and_not_replaced(tiny_config, size):
    with pytest.raises(ConfigError, match=f"^vocab_size: {size} entries; a vocabulary has one or more"):
        create_model(tiny_config(), vocab_size=size)


@pytest.mark.parametrize("device", ["foo", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_built(tiny_config, device):
    with pytest.raises(ConfigError, match=f"^device: {device!r} cannot be used: .*write 'cpu'"):
        create_model(tiny_config(), device=device)


def test_a_tokenizer_without_some_special_tokens_is_accepted(tiny_config):
    assert model_request(tiny_config(), special_ids=SpecialIds(pad=None, bos=None, unk=None)).special.eos == 3


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"attention_heads": 3}, "3 heads do not divide hidden_size 64|attention_heads"),
        ({"key_value_heads": 3, "attention_heads": 4}, "3 do not divide attention_heads 4|key_value_heads"),
        ({"max_position_embeddings": 16}, "16 is shorter than data.max_sequence_length 32|max_position_embeddings"),
        ({"architecture": "gtp2"}, "unknown architecture 'gtp2'. Did you mean 'gpt2'"),
        ({"architecture": "nowhere:make"}, "cannot import module 'nowhere'"),
    ],
)
def test_a_model_that_no_architecture_can_build_is_refused(tiny_config, model, reason):
    with pytest.raises(ConfigError, match=reason):
        create_model(tiny_config(**model))


def test_a_function_that_returns_neither_blueprint_nor_module_is_refused(tiny_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])

    with pytest.raises(ConfigError, match=r"'own:own_mistake' returned str; .* a .*Blueprint, or a .*Module"):
        create_model(tiny_config(architecture="own:own_mistake"))


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (
            "own_failure",
            r"'own:own_failure' raised AttributeError: .*no_such_field.* \(test_factory.py, line \d+",
        ),
        ("own_nothing", r"the Identity that was built has no parameters to train"),
        ("own_bare", r"'own:own_bare' gives a Tensor; its output must have .logits of shape \[1, 32, 1000\]"),
        ("own_failing", r"'own:own_failing' does not run on 32 token ids alone: KeyError: 'no such layer'"),
        ("own_undefined", r"'own:own_undefined' gives logits that are no numbers \(NaN\)"),
        ("own_masking", r"'own:own_masking' is not causal"),
        ("own_narrow", r"'own:own_narrow' gives logits of shape \[1, 32, 50\] where \[1, 32, 1000\] is needed"),
        ("own_encoder", r"'own:own_encoder' is not causal"),
    ],
)
def test_a_users_model_that_cannot_learn_language_says_why(tiny_config, monkeypatch, function, told):
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])

    with pytest.raises(ConfigError, match=told):
        create_model(tiny_config(architecture=f"own:{function}"))


@pytest.mark.slow
def test_a_users_module_without_a_config_is_built_probed_and_estimated(tiny_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])
    config = tiny_config(architecture="own:own_recurrent", attention_heads=3)

    model = create_model(config)
    weights = 4 * sum(p.numel() for p in model.parameters())

    assert model.training and not isolates_documents(model) and not supports_chunked_loss(model)
    assert estimate_memory(config).weights == weights
    assert estimate_memory(config).total > 4 * weights


@pytest.mark.slow
@pytest.mark.parametrize("function", ["own_drawing", "own_placed"])
def test_a_users_model_need_not_look_like_one_of_transformers(tiny_config, monkeypatch, function):
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])
    config = tiny_config(architecture=f"own:{function}")

    model = create_model(config)

    assert "own" in model.foundry_attention
    assert known_flops_per_token(model, 32) is None and known_flops_per_token(config, 32) is None
    assert estimate_memory(config, chunked_loss=True).weights == 4 * count_parameters(model).total


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["opt", "gpt_neo"])
def test_a_family_is_built_for_rows_of_a_few_tokens(tiny_config, model_type):
    assert create_model(tiny_config(architecture=f"hf:{model_type}", length=8)).foundry_out_of_reach == frozenset()


@pytest.mark.parametrize("architecture", ["mamba", "rwkv", "hf:mamba"])
def test_heads_do_not_matter_to_a_family_without_attention(tiny_config, architecture):
    activation = "relu2" if architecture == "rwkv" else "silu"
    config = tiny_config(architecture=architecture, attention_heads=7, activation_function=activation)

    assert count_parameters(create_model(config, device="meta")).total > 0


@pytest.mark.parametrize(("heads", "told"), [({"attention_heads": 7}, "7 heads"), ({"key_value_heads": 3}, "3 do not")])
def test_heads_that_do_not_divide_are_refused_in_other_families(tiny_config, heads, told):
    with pytest.raises(ConfigError, match=told):
        create_model(tiny_config(architecture="hf:granite", **heads), device="meta")


def test_a_module_that_a_users_function_builds_is_taken_as_it_is(tiny_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])

    model = create_model(tiny_config(architecture="own:own_module"), device="meta")

    assert isinstance(model, nn.Linear)
    assert model.foundry_attention == "own"
    assert model.weight.device.type == "meta"


@pytest.mark.slow
def test_a_blueprint_of_a_users_function_is_built(tiny_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])

    model = create_model(tiny_config(architecture="own:own_blueprint", layers=3))

    assert len(model.transformer.h) == 3


@pytest.mark.slow
def test_importing_the_package_imports_neither_model_classes_nor_the_compiler():
    heavy = "('transformers.models', 'transformers', 'torch._dynamo', 'datasets', 'wandb')"
    code = f"import sys, foundry_model; print([m for m in {heavy} if m in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.slow
def test_the_default_model_has_the_sizes_of_its_config(tiny_config):
    model = create_model(tiny_config(dropout=0.1, attention_dropout=0.1))

    logits = model(torch.randint(0, 1000, (2, 32))).logits

    assert logits.shape == (2, 32, 1000)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.foundry_attention == "sdpa"
    assert model.config.n_layer == 2
    assert model.config.n_embd == 64
    assert model.config.resid_pdrop == model.config.embd_pdrop == model.config.attn_pdrop == 0.1


@pytest.mark.slow
def test_parameters_are_counted_as_the_formula_of_gpt2_says(tiny_config):
    vocab_size, positions, width, inner, layers = 1000, 32, 64, 128, 2
    block = 2 * 2 * width + 3 * width * (width + 1) + width * (width + 1) + inner * (width + 1) + width * (inner + 1)

    counts = count_parameters(create_model(tiny_config()))

    assert counts.total == vocab_size * width + positions * width + layers * block + 2 * width
    assert counts.trainable == counts.total
    assert counts.non_embedding == layers * block + 2 * width


@pytest.mark.slow
def test_a_model_on_the_meta_device_has_shapes_and_takes_no_memory(tiny_config):
    shaped = create_model(tiny_config(layers=3), device="meta")

    assert {p.device.type for p in shaped.parameters()} == {"meta"}
    assert count_parameters(shaped) == count_parameters(create_model(tiny_config(layers=3)))


@pytest.mark.slow
def test_extra_fields_reach_the_family_and_unknown_ones_are_refused(tiny_config):
    model = create_model(tiny_config(extra={"scale_attn_by_inverse_layer_idx": True}))
    assert model.config.scale_attn_by_inverse_layer_idx is True

    with pytest.raises(ConfigError, match=r"model.extra.n_layers: .*'gpt2' has no such field. Did you mean 'n_layer'"):
        create_model(tiny_config(extra={"n_layers": 3}))
    with pytest.raises(ConfigError, match=r"model.extra.num_hidden_layers: already decided by the common fields"):
        create_model(tiny_config(extra={"num_hidden_layers": 3}))
    with pytest.raises(ConfigError, match=r"transformers refuses this 'gpt2': .*reorder_and_upcast_attn"):
        create_model(tiny_config(extra={"reorder_and_upcast_attn": "yes please"}))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["phi", "stablelm", "olmo", "qwen2", "gpt_neo"])
def test_any_other_family_is_built_from_the_common_fields(tiny_config, model_type):
    extra = {"gpt_neo": {"attention_types": [[["global"], 2]]}}.get(model_type, {})
    model = create_model(tiny_config(architecture=f"hf:{model_type}", extra=extra))

    assert model(torch.arange(32)[None]).logits.shape == (1, 32, 1000)
    assert model.config.num_hidden_layers == 2
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.slow
def test_a_wish_for_biases_reaches_the_family_and_no_wish_leaves_it_as_published(tiny_config):
    assert create_model(tiny_config(architecture="hf:granite"), device="meta").config.attention_bias is False
    assert create_model(tiny_config(architecture="hf:granite", bias=True), device="meta").config.attention_bias is True


@pytest.mark.slow
def test_a_family_that_keeps_a_field_under_another_name_gets_it(tiny_config):
    extra = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    model = create_model(tiny_config(architecture="hf:qwen3_moe", extra=extra), device="meta")

    assert model.config.num_experts == 4
    assert model.model.layers[0].mlp.gate.weight.shape == (4, 64)


@pytest.mark.slow
def test_the_chunked_loss_is_refused_to_a_family_that_caps_its_logits(tiny_config):
    assert supports_chunked_loss(create_model(tiny_config(architecture="gpt2")))
    assert not supports_chunked_loss(create_model(tiny_config(architecture="hf:gemma2")))


@pytest.mark.slow
def test_a_family_that_cannot_place_a_common_field_says_which(tiny_config):
    with pytest.raises(ConfigError, match=r"model.dropout: the config of 'llama' has none of"):
        create_model(tiny_config(architecture="hf:llama", dropout=0.1))
    with pytest.raises(ConfigError, match=r"no causal language model of type 'lama'. Did you mean 'llama'"):
        create_model(tiny_config(architecture="hf:lama"))


@pytest.mark.slow
@pytest.mark.gpu
def test_a_seed_gives_the_same_weights_on_cuda_as_on_the_cpu(tiny_config):

    def weights(device):
        torch.manual_seed(0)
        return [p.detach().cpu() for p in create_model(tiny_config(), device=device).parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights("cuda"), weights("cpu"), strict=True))
