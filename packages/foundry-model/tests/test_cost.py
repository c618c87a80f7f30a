"""Operations and memory, against PyTorch's own counters."""

import gc

import pytest
import torch
from msgspec.structs import replace
from torch.utils.flop_counter import FlopCounterMode

from foundry_config import ConfigError
from foundry_model import count_parameters, create_model, estimate_memory, flops_per_token, token_loss
from foundry_model.architectures import ARCHITECTURES

RECURRENT = {"mamba", "mamba2", "rwkv"}
ATTENTION = [name for name in ARCHITECTURES if name not in RECURRENT | {"pythia"}]


def counted(model, length=32):
    """Operations that PyTorch counts for a token of two rows."""
    ids = torch.arange(2 * length).view(2, length)
    with FlopCounterMode(display=False) as counter:
        token_loss(model, ids, ids)[0].backward()
    return counter.get_total_flops() / ids.numel()


@pytest.mark.parametrize("name", ["micro_batch", "world_size"])
@pytest.mark.parametrize("value", [-1, 0])
def test_a_number_of_nothing_is_refused_by_the_name_of_its_argument(tiny_config, name, value):
    with pytest.raises(ConfigError, match=f"^{name}: {value} is not positive"):
        estimate_memory(tiny_config(), **{name: value})


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTENTION)
def test_the_formula_gives_exactly_what_pytorch_counts(tiny_config, name):
    config = tiny_config(architecture=name, attention="eager", key_value_heads=None, layers=3)
    model = create_model(config)
    ids = torch.arange(64).view(2, 32)

    with FlopCounterMode(display=False) as counter:
        token_loss(model, ids, ids)[0].backward()

    # some versions of transformers make the angles of the positions by a matrix product, once for a whole batch
    angles = {name: flops for name, flops in counter.get_flop_counts().items() if name.endswith("rotary_emb")}
    counted = counter.get_total_flops() - sum(sum(flops.values()) for flops in angles.values())
    assert flops_per_token(model, 32) == counted / 64
    assert flops_per_token(config, 32) == flops_per_token(model, 32)


@pytest.mark.slow
def test_of_the_experts_those_count_that_a_token_is_sent_to(tiny_config):
    def flops(chosen):
        extra = {"num_local_experts": 8, "num_experts_per_tok": chosen}
        return flops_per_token(tiny_config(architecture="hf:mixtral", extra=extra), 32)

    expert, layers = 3 * 64 * 128, 2  # three matrices

    assert flops(2) - flops(1) == 6 * expert * layers
    attention, router, head = 4 * 64 * 64, 8 * 64, 64 * 1000
    assert flops(1) == 6 * (layers * (attention + router + expert) + head) + 12 * layers * 64 * 32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "extra"),
    [
        ("mixtral", {}),
        ("aria_text", {"moe_num_shared_experts": 1}),
        ("jetmoe", {}),
        ("ernie4_5_moe", {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32}),
    ],
)
def test_mixtures_cost_what_pytorch_counts_when_experts_are_multiplied_one_by_one(tiny_config, model_type, extra):
    config = tiny_config(architecture=f"hf:{model_type}", attention="eager", activation_function="silu", extra=extra)
    model = create_model(config)
    if model_type != "jetmoe":
        model.set_experts_implementation("eager")

    assert flops_per_token(model, 32) == pytest.approx(counted(model), rel=0.01)


@pytest.mark.slow
def test_layers_with_heads_of_different_widths_count_as_what_they_are(tiny_config):
    pytest.importorskip("transformers.models.gemma4")
    narrow = {"vocab_size_per_layer_input": 1000, "hidden_size_per_layer_input": 16}
    config = tiny_config(architecture="hf:gemma4_text", attention="eager", layers=2, extra=narrow)
    model = create_model(config)

    assert flops_per_token(model, 32) == pytest.approx(counted(model), rel=0.01)


LATENT = {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 24, "v_head_dim": 16}
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 9}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "extra"),
    [
        ("deepseek_v3", {**LATENT, **EXPERTS, "q_lora_rank": 16, "moe_intermediate_size": 32}),
        ("minicpm3", {**LATENT, "q_lora_rank": 16}),
    ],
)
def test_attention_costs_what_pytorch_counts_where_heads_are_no_plain_heads(tiny_config, model_type, extra):
    config = tiny_config(architecture=f"hf:{model_type}", attention="eager", activation_function="silu", extra=extra)
    model = create_model(config)
    short, long = (counted(model, length) for length in (16, 32))

    assert flops_per_token(model, 32) - flops_per_token(model, 16) == pytest.approx(long - short, rel=0.01)


@pytest.mark.slow
def test_of_alternating_layers_those_with_attention_count(tiny_config):
    config = tiny_config(architecture="hf:recurrent_gemma", layers=3)  # recurrent, recurrent, attention

    assert flops_per_token(config, 32) - flops_per_token(config, 16) == 12 * 64 * 16


@pytest.mark.slow
def test_recurrent_families_have_no_attention_term(tiny_config):
    config = tiny_config(architecture="mamba", activation_function="silu")

    assert flops_per_token(config, 32) == flops_per_token(config, 4096)


@pytest.mark.slow
def test_a_frozen_parameter_is_counted_but_not_as_trainable(tiny_config):
    model = create_model(tiny_config(tie_embeddings=False))
    model.get_output_embeddings().weight.requires_grad_(False)

    counts = count_parameters(model)

    assert counts.total - counts.trainable == 64_000
    assert counts.non_embedding == count_parameters(create_model(tiny_config())).non_embedding


def _measured_peak(config, micro_batch, *, chunked=False):
    """Most bytes that PyTorch's CPU allocator had given out at once during two steps."""
    length, rows = config.data.max_sequence_length, config.data.batch_size
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        model = create_model(config)
        parameters, halves = list(model.parameters()), config.training.bf16_params
        if halves:  # weights in fp32 are trained, those of the model compute
            parameters = [parameter.detach().clone() for parameter in parameters]
            model = model.to(torch.bfloat16)
        optimizer = torch.optim.AdamW(parameters, fused=True)
        autocast = config.training.precision == "bf16" and not halves
        for _ in range(2):
            for _ in range(rows // micro_batch):
                ids = torch.zeros(micro_batch, length, dtype=torch.long)
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                    loss, _ = token_loss(model, ids, ids, chunked=chunked)
                loss.backward()
                del loss
                for parameter, half in zip(parameters, model.parameters(), strict=True) if halves else ():
                    parameter.grad, half.grad = half.grad.float(), None
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision", "micro_batch", "chunked"),
    [
        ("gpt2", "fp32", 4, False),
        ("gpt2", "fp32", 2, True),
        ("gpt2", "bf16", 4, False),
        ("gpt2", "bf16_params", 4, False),
        ("llama", "bf16_params", 4, False),
        ("llama", "fp32", 4, False),
        ("gemma3", "fp32", 2, False),
        ("rwkv", "fp32", 4, False),
    ],
)
def test_the_memory_estimate_is_within_a_fifth_of_the_measured_peak(tiny_config, name, precision, micro_batch, chunked):
    activation = {"activation_function": "relu2"} if name == "rwkv" else {}
    config = tiny_config(
        architecture=name,
        layers=2 if name == "rwkv" else 4,
        batch_size=4,
        length=40 if name == "rwkv" else 96,
        vocab=2000,
        precision="bf16" if precision == "bf16_params" else precision,
        bf16_params=precision == "bf16_params",
        **activation,
    )

    estimate = estimate_memory(config, micro_batch=micro_batch, chunked_loss=chunked)

    assert estimate.total == pytest.approx(_measured_peak(config, micro_batch, chunked=chunked), rel=0.2)


@pytest.mark.slow
def test_an_estimate_leaves_the_random_state_alone_and_grows_as_it_should(tiny_config):
    before = torch.get_rng_state()
    small, large = (estimate_memory(tiny_config(batch_size=8), micro_batch=size) for size in (2, 8))

    assert torch.equal(torch.get_rng_state(), before)
    assert large.activations == pytest.approx(4 * small.activations, rel=0.1)
    assert large.logits > 2 * small.logits
    assert small.weights == small.gradients == 4 * count_parameters(create_model(tiny_config())).total
    assert small.optimizer == 2 * small.weights


@pytest.mark.slow
def test_an_estimate_takes_no_loss_piece_by_piece_of_a_large_batch(tiny_config, monkeypatch):
    monkeypatch.setattr("foundry_model.cross_entropy._pieces", lambda *_, **__: pytest.fail("thousands of pieces"))

    assert estimate_memory(tiny_config(batch_size=2**14), micro_batch=2**14).logits > 2**28


@pytest.mark.slow
def test_an_estimate_knows_the_loss_that_the_config_demands(tiny_config):
    config = tiny_config(vocab=2000, batch_size=256, length=128)
    demanded = replace(config, training=replace(config.training, chunked_loss="on"))

    assert estimate_memory(demanded) == estimate_memory(config, chunked_loss=True)
    assert estimate_memory(demanded).logits < estimate_memory(config).logits
    assert estimate_memory(demanded, chunked_loss=False) == estimate_memory(config)


@pytest.mark.slow
def test_checkpointing_and_other_optimizers_take_less(tiny_config):
    config = tiny_config(layers=6, length=128)
    plain = estimate_memory(config)

    recomputed = estimate_memory(replace(config, training=replace(config.training, gradient_checkpointing=True)))
    momentum = estimate_memory(replace(config, training=replace(config.training, optimizer="sgd")))
    muon = estimate_memory(replace(config, training=replace(config.training, optimizer="muon")))

    assert recomputed.activations < plain.activations / 2
    assert momentum.optimizer == plain.optimizer // 2
    assert momentum.optimizer < muon.optimizer < plain.optimizer


@pytest.mark.slow
@pytest.mark.gpu
def test_the_memory_estimate_is_within_a_fifth_of_the_peak_on_cuda(tiny_config):
    config = tiny_config(layers=8, hidden_size=512, embedding_size=512, intermediate_hidden_size=2048, length=512)
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = create_model(config, device="cuda")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.zeros(2, 512, dtype=torch.long, device="cuda")
    for _ in range(2):
        loss, _ = token_loss(model, ids, ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    assert estimate_memory(config).total == pytest.approx(torch.cuda.max_memory_allocated() - before, rel=0.2)
