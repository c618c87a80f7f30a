"""What is written beside and into a checkpoint, and how weights come back."""

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from foundry_config import CheckpointError
from foundry_model import config_files, create_model, load_pretrained, load_weights_into, model_state


class Tied(nn.Module):
    """An embedding, a layer with a buffer, and a head that is the embedding."""

    def __init__(self, width=4):
        super().__init__()
        self.embedding = nn.Embedding(6, width)
        self.layer = nn.Linear(width, width)
        self.head = nn.Linear(width, 6, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = Tied()
    path = tmp_path / "model.safetensors"
    save_file(model_state(model), path)
    return model, path


def test_a_tied_tensor_is_saved_once_and_scratch_buffers_are_not():
    assert model_state(Tied()).keys() == {"embedding.weight", "layer.weight", "layer.bias", "scale"}


def test_names_carry_no_prefix_of_a_wrapper():
    model = Tied()
    compiled = SimpleNamespace(_orig_mod=model)

    assert model_state(compiled).keys() == model_state(model).keys()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 8), st.integers(0, 2**20))
def test_weights_come_back_bit_for_bit_into_the_same_memory(tmp_path_factory, width, seed):
    torch.manual_seed(seed)
    source, target = Tied(width), Tied(width)
    path = tmp_path_factory.mktemp("round") / "model.safetensors"
    save_file(model_state(source), path)
    addresses = [p.data_ptr() for p in target.parameters()]

    load_weights_into(target, [path])

    assert [p.data_ptr() for p in target.parameters()] == addresses
    assert target.head.weight is target.embedding.weight
    for name, tensor in model_state(source).items():
        assert torch.equal(model_state(target)[name], tensor)


def test_weights_may_lie_in_several_files_but_a_tensor_only_in_one(saved, tmp_path):
    model, path = saved
    state = model_state(model)
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"layer.bias": state["layer.bias"]}, first)
    save_file({name: tensor for name, tensor in state.items() if name != "layer.bias"}, second)
    other = Tied()

    load_weights_into(other, [first, second])

    assert torch.equal(other.layer.bias, model.layer.bias)
    with pytest.raises(CheckpointError, match=r"tensor 'layer.bias' is also in"):
        load_weights_into(other, [first, path])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("layer.bias"), "layer.bias is missing"),
        (
            lambda s: s.update({"layer.bios": torch.zeros(4)}),
            "layer.bios is not in the model. Did you mean 'layer.bias'",
        ),
        (lambda s: s.update({"layer.bias": torch.zeros(5)}), r"layer.bias is \[5\], the model has \[4\]"),
        (lambda s: s.update({"scale": torch.tensor(2)}), "scale is int64, the model has float32"),
    ],
)
def test_weights_of_another_model_are_refused_before_anything_is_copied(saved, change, reason):
    model, path = saved
    state = {name: tensor.clone() + 1 for name, tensor in model_state(model).items()}
    change(state)
    save_file(state, path)
    before = {name: tensor.clone() for name, tensor in model_state(model).items()}

    with pytest.raises(CheckpointError, match=f"not the weights of this model:\n  {reason}"):
        load_weights_into(model, [path])

    assert all(torch.equal(tensor, before[name]) for name, tensor in model_state(model).items())


def test_the_files_may_be_named_by_text(saved):
    model, path = saved
    other = Tied()

    load_weights_into(other, [str(path)])

    assert torch.equal(other.layer.weight, model.layer.weight)


@pytest.mark.parametrize(("name", "told"), [("z" * 3_000_000, "z" * 80 + "..."), ("a\x1b[31m\n", "a\\x1b[31m\\n")])
def test_a_name_that_no_line_can_show_is_shortened_and_spelled_out(tmp_path, name, told):
    save_file({name: torch.zeros(1)}, tmp_path / "m.safetensors")

    with pytest.raises(CheckpointError) as error:
        load_weights_into(Tied(), [tmp_path / "m.safetensors"])

    assert f"  {told} is not in the model" in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_long_list_of_differences_is_cut(tmp_path):
    save_file({f"x{i}": torch.zeros(1) for i in range(30)}, tmp_path / "m.safetensors")

    with pytest.raises(CheckpointError, match="and 24 more"):
        load_weights_into(Tied(), [tmp_path / "m.safetensors"])


@pytest.mark.slow
def test_the_config_says_what_both_major_versions_of_transformers_read(tiny_config):
    def content(name, **model):
        files = config_files(create_model(tiny_config(architecture=name, **model), device="meta"))
        assert files.keys() == {"config.json", "generation_config.json"}
        return json.loads(files["config.json"])

    llama = content("llama", rope_theta=5e4)
    assert llama["rope_theta"] == llama["rope_parameters"]["rope_theta"] == 5e4
    assert llama["dtype"] == llama["torch_dtype"] == "float32"
    assert llama["architectures"] == ["LlamaForCausalLM"]
    assert llama["model_type"] == "llama"
    assert llama["use_cache"] is True
    neox = content("gpt_neox", rope_theta=5e4)
    assert (neox["rotary_pct"], neox["rotary_emb_base"]) == (0.25, 5e4)
    gemma = content("gemma3", rope_theta=5e4)
    assert (gemma["rope_theta"], gemma["rope_local_base_freq"]) == (5e4, 5e4)
    assert "time_step_limit" not in content("mamba2", activation_function="silu")
    scaled = {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}
    assert content("llama", extra=scaled)["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "opt", "llama", "gemma3", "mamba2", "hf:qwen3_moe"])
def test_plain_transformers_opens_the_directory_with_equal_logits(tiny_config, tmp_path, name):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    own = {
        "mamba2": {"activation_function": "silu"},
        "hf:qwen3_moe": {"extra": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}},
    }
    model = create_model(tiny_config(architecture=name, **own.get(name, {}))).eval()
    save_file(model_state(model), tmp_path / "model.safetensors", metadata={"format": "pt"})
    for file, content in config_files(model).items():
        (tmp_path / file).write_bytes(content)
    ids = torch.arange(64).view(2, 32)

    opened, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)

    assert not any(info.values())
    expected = model(ids, use_cache=False).logits
    assert torch.equal(opened.eval()(ids, use_cache=False).logits, expected)
    assert torch.equal(load_pretrained(tmp_path)(ids, use_cache=False).logits, expected)
