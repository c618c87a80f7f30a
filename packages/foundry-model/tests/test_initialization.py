import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from foundry_config import ConfigError
from foundry_model import create_model
from foundry_model.initialization import INITS, REFERENCE_WIDTH


class Blocks(nn.Module):
    """Names of a transformer, all matrices drawn with the same standard deviation."""

    def __init__(self, layers=4, width=64, std=0.02, residual="c_proj"):
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(num_hidden_layers=layers, initializer_range=std)
        self.embedding = nn.Embedding(100, width)
        self.project_in = nn.Linear(width, width)  # as OPT has one between a narrower embedding and its blocks
        self.head = nn.Linear(width, 100, bias=False)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "attention": nn.ModuleDict({"query": nn.Linear(width, width), residual: nn.Linear(width, width)}),
                    "mlp": nn.ModuleDict({"up": nn.Linear(width, 2 * width), residual: nn.Linear(2 * width, width)}),
                }
            )
            for _ in range(layers)
        )
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=std)

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.head


def _std(weight):
    return weight.detach().square().mean().sqrt().item()


def test_mup_like_leaves_what_is_outside_the_blocks_alone():
    model, untouched = Blocks(width=1024), Blocks(width=1024)

    INITS["mup-like"](model)

    assert torch.equal(model.project_in.weight, untouched.project_in.weight)
    assert torch.equal(model.head.weight, untouched.head.weight)
    assert _std(model.blocks[0]["mlp"]["up"].weight) == pytest.approx(0.01, rel=0.02)


def test_hf_leaves_the_weights_alone():
    model, untouched = Blocks(), Blocks()

    INITS["hf"](model)

    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), untouched.parameters(), strict=True))


@pytest.mark.parametrize("layers", [1, 4, 9])
def test_gpt2_scaled_divides_residual_projections_by_the_root_of_twice_the_layers(layers):
    model, untouched = Blocks(layers), Blocks(layers)

    INITS["gpt2-scaled"](model)

    for block, before in zip(model.blocks, untouched.blocks, strict=True):
        for branch in ("attention", "mlp"):
            assert _std(block[branch]["c_proj"].weight) == pytest.approx(0.02 / math.sqrt(2 * layers), rel=1e-4)
        assert torch.equal(block["mlp"]["up"].weight, before["mlp"]["up"].weight)
    assert torch.equal(model.embedding.weight, untouched.embedding.weight)


@pytest.mark.parametrize("width", [64, REFERENCE_WIDTH])
def test_mup_like_scales_matrices_with_the_root_of_their_inputs_and_embeddings_not_at_all(width):
    model, untouched = Blocks(layers=2, width=width), Blocks(layers=2, width=width)

    INITS["mup-like"](model)

    std = 0.02 * math.sqrt(REFERENCE_WIDTH / width)
    block = model.blocks[0]
    assert _std(block["attention"]["query"].weight) == pytest.approx(std, rel=1e-4)
    assert _std(block["attention"]["c_proj"].weight) == pytest.approx(std / 2, rel=1e-4)
    assert _std(block["mlp"]["c_proj"].weight) == pytest.approx(std / math.sqrt(2) / 2, rel=1e-4)
    assert torch.equal(model.embedding.weight, untouched.embedding.weight)
    assert torch.equal(model.head.weight, untouched.head.weight)


def test_all_three_draw_the_same_directions():
    plain, scaled = Blocks(), Blocks()
    INITS["gpt2-scaled"](scaled)

    ratio = scaled.blocks[0]["mlp"]["c_proj"].weight / plain.blocks[0]["mlp"]["c_proj"].weight

    assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio))


@pytest.mark.slow
@pytest.mark.parametrize("init", INITS)
def test_a_model_without_memory_can_be_made_with_every_init(tiny_config, init):
    with FakeTensorMode():  # as the estimate of memory does
        model = create_model(tiny_config(init=init))

    assert model.num_parameters() > 0


def test_a_family_whose_residual_projections_are_not_known_is_refused():
    with pytest.raises(ConfigError, match="no residual projections are known in Blocks"):
        INITS["gpt2-scaled"](Blocks(residual="unheard_of"))


def test_a_family_of_which_only_half_of_the_projections_are_known_is_refused():
    model = Blocks()
    model.config.num_attention_heads = 2
    for block in model.blocks:
        block["mlp"]["unheard_of"] = block["mlp"].pop("c_proj")

    with pytest.raises(ConfigError, match="not all residual projections are known in Blocks"):
        INITS["gpt2-scaled"](model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "opt", "llama", "gemma3", "hf:phi", "hf:falcon", "hf:starcoder2"])
def test_both_projections_of_every_layer_are_scaled_in_real_families(tiny_config, name):
    torch.manual_seed(0)

    model = create_model(tiny_config(architecture=name, layers=4, init="gpt2-scaled", init_std=0.04))

    scaled = [p for p in model.parameters() if p.dim() == 2 and _std(p) == pytest.approx(0.04 / 8**0.5, rel=1e-3)]
    assert len(scaled) == 8


@pytest.mark.slow
def test_experts_are_not_scaled_by_half(tiny_config):
    with pytest.raises(ConfigError, match="not all residual projections are known in MixtralForCausalLM"):
        create_model(tiny_config(architecture="hf:mixtral", init="gpt2-scaled"))
