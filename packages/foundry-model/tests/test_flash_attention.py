"""Models that train with FlashAttention, which refuses fp32; a stand-in for its kernel makes a card unnecessary."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from foundry_model.evaluation import evaluate_sequences
from foundry_model.generation import generate_ids
from foundry_model.loss import supports_chunked_loss, token_loss
from foundry_model.sampling import Sampling

pytestmark = pytest.mark.slow  # imports the models of transformers


def kernel(_module, query, key, value, _mask, **_):
    """Attention as transformers has it of flash_attn: in the type of autocast, or in half precision."""
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (query, key, value))
    if query.dtype not in (torch.float16, torch.bfloat16):
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    return F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2), None


@pytest.fixture
def model(monkeypatch):
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", kernel)
    config = LlamaConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    model.config._attn_implementation_internal = "flash_attention_2"
    return model


def test_a_model_that_trains_in_half_precision_is_evaluated_in_fp32(model):
    ids = torch.arange(32).view(2, 16) * 5 % 199
    with torch.autocast("cpu", dtype=torch.bfloat16):
        token_loss(model, ids, ids)[0].backward()
    with pytest.raises(RuntimeError, match="only support fp16 and bf16"):
        token_loss(model, ids, ids)

    found = evaluate_sequences(model, [SimpleNamespace(input_ids=ids, labels=ids)])

    assert model.config._attn_implementation == "flash_attention_2" and model.training
    model.config._attn_implementation_internal = "sdpa"
    assert found == evaluate_sequences(model, [SimpleNamespace(input_ids=ids, labels=ids)])


def test_a_model_that_trains_in_half_precision_is_probed_and_writes(model):
    assert supports_chunked_loss(model)
    assert len(list(generate_ids(model, [[1, 2]], max_new_tokens=3, stop_id=None, sampling=Sampling(), seed=0))) > 0

    assert model.config._attn_implementation == "flash_attention_2"
