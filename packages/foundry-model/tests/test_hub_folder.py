"""Folders that nobody vouches for: what is opened, and what is refused before it costs anything."""

import json
import logging
import os
import pickle
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file, save_file

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


def test_a_long_name_with_many_settings_in_it_costs_no_memory(folder):
    many = {f"a{i}": {} for i in range(4000)} | {"auto_map": {"AutoConfig": "evil.Y"}}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "z" * 100_000: many}))

    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"config.json sets z{80}\.\.\.\.auto_map,") as error:
        load_pretrained(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 2**26 and len(str(error.value)) < 500


@pytest.mark.parametrize("value", ["[1]", "null", "3"])
def test_an_infinity_that_is_none_is_refused(folder, value):
    (folder / "config.json").write_text(f'{{"model_type": "llama", "x": {{"__float__": {value}}}}}')

    with pytest.raises(CheckpointError, match=r"config.json: not valid JSON: __float__ is"):
        load_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "one.safetensors"])
def test_a_pipe_in_the_folder_is_refused_instead_of_waited_for(folder, name):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)

    with pytest.raises(CheckpointError, match=f"{name}: not a plain file"):
        load_pretrained(folder)


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
@pytest.mark.parametrize("name", ["gpt2", "llama", "hf:gptj"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_keep_their_type_and_compute_as_transformers_does(saved, name, dtype):
    from transformers import AutoModelForCausalLM

    model, folder = saved(name)
    state = {n: t.to(dtype) for n, t in model_state(model).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    ids = torch.arange(32)[None]

    opened = load_pretrained(folder)

    assert {p.dtype for p in opened.parameters()} == {dtype}
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()(ids, use_cache=False).logits
    assert torch.equal(opened(ids, use_cache=False).logits, expected)


def _add(folder, **tensors):
    state = load_file(folder / "model.safetensors")
    save_file(state | {name.replace("__", "."): t for name, t in tensors.items()}, folder / "model.safetensors")
    return state


@pytest.mark.slow
def test_a_head_that_is_tied_may_be_in_the_file_as_the_equal_of_its_embedding(saved):
    model, folder = saved()
    _add(folder, lm_head__weight=model.get_input_embeddings().weight.detach().clone())

    assert torch.equal(load_pretrained(folder).lm_head.weight, model.lm_head.weight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "told"),
    [
        (torch.zeros(1000, 64), "holds other numbers; if that is meant, set tie_word_embeddings to false"),
        (torch.zeros(7, 3), r"is float32 \[7, 3\], and that is float32 \[1000, 64\]"),
        (torch.zeros(1000, 64, dtype=torch.int64), r"is int64 \[1000, 64\], and that is float32"),
    ],
)
def test_a_head_that_is_tied_and_differs_is_refused_instead_of_left_out(saved, head, told):
    _, folder = saved()
    _add(folder, lm_head__weight=head)

    with pytest.raises(CheckpointError, match=rf"lm_head.weight is tied to model.embed_tokens.weight .*, but {told}"):
        load_pretrained(folder)


@pytest.mark.slow
def test_two_names_for_one_tensor_are_both_named(saved):
    _, folder = saved("gpt2")
    _add(folder, wte__weight=torch.zeros(1000, 64))

    with pytest.raises(CheckpointError, match=r"transformer.wte.weight and wte.weight both stand for transformer.wte"):
        load_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "kind"), [(torch.float64, "float64"), (torch.int8, "int8")])
def test_weights_of_a_type_that_would_not_be_kept_are_refused_with_advice(saved, dtype, kind):
    model, folder = saved()
    save_file({n: t.to(dtype) for n, t in model_state(model).items()}, folder / "model.safetensors")

    with pytest.raises(CheckpointError, match=f"is {kind}; models are float32, .* so save it as one of these"):
        load_pretrained(folder)


DAMAGED = {
    "heads": ("llama", {"num_attention_heads": 0}, "config.json: .*cannot have num_attention_heads 0"),
    "negative heads": ("gpt2", {"n_head": -1}, "config.json: .*cannot have n_head -1"),
    "width": ("llama", {"hidden_size": -32}, "config.json: .*cannot have hidden_size -32"),
    "head width": ("llama", {"head_dim": -1}, "config.json: .*cannot have head_dim -1"),
    "vocabulary": ("llama", {"vocab_size": -1}, "config.json: .*cannot have vocab_size -1"),
    "inner width": ("gpt2", {"n_inner": 2**62}, "config.json sets n_inner to 4611686018427387904, and the files hold"),
    "large width": ("gpt2", {"n_embd": 2**31}, "config.json sets n_embd to 2147483648"),
    "standard deviation": ("gpt2", {"initializer_range": -0.5}, "cannot have initializer_range -0.5"),
    "no number": ("opt", {"init_std": float("nan")}, "cannot have init_std nan"),
    "dropout": ("opt", {"dropout": 3}, "cannot have dropout 3"),
    "no dropout": ("gpt2", {"embd_pdrop": float("nan")}, "cannot have embd_pdrop nan"),
    "padding": ("llama", {"pad_token_id": 10**6}, "config.json: .*AssertionError: Padding_idx must be within"),
    "padding far out": ("gpt2", {"pad_token_id": 10**30}, "config.json sets pad_token_id to 10000000"),
    "no window": ("gemma3", {"sliding_window": None}, "'gemma3_text' does not run on 16 token ids .*config.json"),
    "a root": ("gemma3", {"query_pre_attn_scalar": -1}, "'gemma3_text' does not run on 16 token ids .*config.json"),
    "positions": ("hf:gptj", {"n_positions": 10**9}, "config.json sets n_positions to 1000000000"),
    "some positions": ("hf:gptj", {"n_positions": 2**24}, r"bytes of tables that no file holds, .*\[16777216, "),
    "sines": ("hf:ctrl", {"n_positions": 2**24}, "bytes of tables that no file holds, .*pos_encoding"),
    "embedded": ("hf:xglm", {"max_position_embeddings": 2**24}, "bytes of tables that no file holds, .*positions"),
    "a scan": ("mamba2", {"chunk_size": 10**6}, "config.json sets chunk_size to 1000000"),
    "groups": ("mamba2", {"n_groups": 0}, "config.json"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_config_ends_in_one_error_that_names_it(saved, case):
    name, settings, told = DAMAGED[case]
    _, folder = saved(name, activation_function="silu" if name == "mamba2" else "gelu", intermediate_hidden_size=256)
    _change(folder, **settings)

    with pytest.raises(CheckpointError, match=told):
        load_pretrained(folder)


@pytest.mark.slow
def test_settings_that_nest_too_deep_for_transformers_are_refused(saved):
    _, folder = saved()
    text = (folder / "config.json").read_text().rstrip()[:-1]
    deep = '{"a":' * 700 + "1" + "}" * 700
    (folder / "config.json").write_text(f'{text}, "rope_parameters": {deep}}}')

    with pytest.raises(CheckpointError, match=r"config.json: .*recursion"):
        load_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"max_position_embeddings": 131_072},
        {"max_position_embeddings": 10_485_760},
        {"rope_theta": 3_580_165_449, "rope_parameters": {"rope_type": "default", "rope_theta": 3_580_165_449}},
        {"vocab_size_per_layer_input": 262_144},  # of gemma3n; here it is unknown
        {"audio_chunk_size": 480_000},
    ],
)
def test_large_numbers_of_models_that_exist_are_no_damage(saved, settings):
    _, folder = saved()
    _change(folder, **settings)

    assert load_pretrained(folder).config.model_type == "llama"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"vocab_size": 10**6}, r"embed_tokens.weight is \[1000, 64\], the model has \[1000000, 64\]"),
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
