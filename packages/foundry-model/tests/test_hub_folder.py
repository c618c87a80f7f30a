"""Folders that nobody vouches for: what is opened, and what is refused before it costs anything."""

import json
import logging
import pickle

import pytest
import torch
from safetensors.torch import save_file

from foundry_config import CheckpointError, ConfigError
from foundry_model import config_files, create_model, load_pretrained, model_state


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def folder(tmp_path):
    """A folder with a config that no check of its own refuses, and no weights."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return tmp_path


@pytest.fixture
def saved(tiny_config, tmp_path):
    def make(name="llama", **model):
        torch.manual_seed(0)
        built = create_model(tiny_config(architecture=name, **model)).eval()
        save_file(model_state(built), tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_bytes(config_files(built)["config.json"])
        return built, tmp_path

    return make


def _change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "evil.X"}}, "auto_map"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config"),
        ({"torchscript": True}, "torchscript"),
        ({"attn_implementation": "evil/kernel"}, "attn_implementation"),
        ({"_attn_implementation": "evil/kernel"}, "_attn_implementation"),
        ({"_attn_implementation_internal": "evil/kernel"}, "_attn_implementation_internal"),
        ({"text_config": {"auto_map": {"AutoConfig": "evil.Y"}}}, "text_config.auto_map"),
        ({"model_type": 7}, "no model_type"),
    ],
)
def test_a_config_that_could_run_code_is_refused_by_name(folder, settings, name):
    _change(folder, **settings)

    with pytest.raises(CheckpointError, match=rf"refused: .*{name}"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "not valid JSON"), ("[]", "not a JSON object"), ("[" * 200_000, "not valid JSON"), (" " * 2**21, "larger")],
)
def test_a_config_that_is_no_config_is_refused(folder, content, reason):
    (folder / "config.json").write_text(content)

    with pytest.raises(CheckpointError, match=reason):
        load_pretrained(folder)


def test_a_device_that_is_not_there_is_refused_before_a_file_is_read(tmp_path):
    with pytest.raises(ConfigError, match=r"^device: 'foo' cannot be used"):
        load_pretrained(tmp_path / "nothing", device="foo")


def test_a_folder_without_a_model_is_named(tmp_path, folder):
    with pytest.raises(CheckpointError, match=r"nothing/config.json: cannot be read: .*is this a model folder"):
        load_pretrained(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"has no model.safetensors and no model.safetensors.index.json"):
        load_pretrained(folder)


def test_pickled_weights_are_refused_unread(folder, tmp_path):
    canary = tmp_path / "canary"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))

    with pytest.raises(CheckpointError, match=r"only pickled weights \(pytorch_model.bin\)"):
        load_pretrained(folder)

    assert not canary.exists()


def test_an_adapter_that_names_another_model_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")

    with pytest.raises(CheckpointError, match=r"adapter_config.json names another model"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/etc/passwd", "a/b.safetensors", "weights.bin", ".safetensors"]
)
def test_an_index_that_points_outside_the_folder_is_refused(folder, name):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))

    with pytest.raises(CheckpointError, match=r"only plain .safetensors names are read"):
        load_pretrained(folder)


@pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "7"])
def test_an_index_that_is_no_index_is_refused(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)

    with pytest.raises(CheckpointError, match=r"index.json: (not an index|its weight_map)"):
        load_pretrained(folder)


def test_an_index_that_disagrees_with_its_shards_is_refused(folder):
    save_file({"a": torch.zeros(2)}, folder / "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"b": "one.safetensors"}}))

    with pytest.raises(CheckpointError, match=r"disagrees with one.safetensors about tensor 'a'"):
        load_pretrained(folder)


def test_a_config_with_more_layers_than_the_file_has_tensors_is_refused_before_it_is_built(folder):
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    for settings in ({"num_hidden_layers": 10**12}, {"num_experts": 10**12}):
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | settings))
        with pytest.raises(CheckpointError, match="to 1000000000000, and the files hold 1 tensors"):
            load_pretrained(folder)


@pytest.mark.slow
def test_a_saved_model_opens_with_equal_logits_and_leaves_the_random_state_alone(saved):
    model, folder = saved()
    before = torch.get_rng_state()
    ids = torch.arange(32)[None]

    opened = load_pretrained(folder)

    assert torch.equal(torch.get_rng_state(), before)
    assert not opened.training
    assert torch.equal(opened(ids, use_cache=False).logits, model(ids, use_cache=False).logits)


@pytest.mark.slow
def test_shards_bare_trunks_and_old_buffers_open_too(saved):
    model, folder = saved("gpt2")
    state = {name.removeprefix("transformer."): tensor for name, tensor in model_state(model).items()}
    state["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    names = sorted(state)
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: state[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    ids = torch.arange(32)[None]

    assert torch.equal(load_pretrained(folder)(ids).logits, model(ids).logits)


@pytest.mark.slow
def test_half_precision_weights_keep_their_type(saved):
    model, folder = saved("gpt2")
    save_file({n: t.bfloat16() for n, t in model_state(model).items()}, folder / "model.safetensors")

    assert {p.dtype for p in load_pretrained(folder).parameters()} == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"vocab_size": 10**9}, r"embed_tokens.weight is \[1000, 64\], the model has \[1000000000, 64\]"),
        ({"hidden_size": 128}, "the weights do not fit config.json"),
        ({"num_hidden_layers": 3}, "model.layers.2.self_attn.q_proj.weight is missing"),
        ({"num_hidden_layers": "2"}, "transformers refuses this 'llama'"),
        ({"hidden_act": "__import__"}, "cannot build this 'llama': KeyError: '__import__'"),
        ({"model_type": "lama"}, "no causal language model of type 'lama'. Did you mean 'llama'"),
    ],
)
def test_a_config_that_does_not_fit_its_weights_is_refused(saved, settings, reason):
    _, folder = saved()
    _change(folder, **settings)

    with pytest.raises(CheckpointError, match=reason):
        load_pretrained(folder)


@pytest.mark.slow
def test_fields_that_a_family_does_not_know_are_left_out_with_a_warning(saved, caplog):
    _, folder = saved()
    _change(folder, secret_sauce=3)

    with caplog.at_level(logging.WARNING, logger="foundry_model.hub_folder"):
        opened = load_pretrained(folder)

    assert "fields unknown to 'llama' are left out: secret_sauce" in caplog.text
    assert not hasattr(opened.config, "secret_sauce")


@pytest.mark.slow
def test_an_encoder_is_refused_because_it_sees_what_it_is_to_predict(saved):
    _, folder = saved("hf:bert")
    load_pretrained(folder)
    _change(folder, is_decoder=False)

    with pytest.raises(CheckpointError, match="this 'bert' sees later tokens, as an encoder does"):
        load_pretrained(folder)
