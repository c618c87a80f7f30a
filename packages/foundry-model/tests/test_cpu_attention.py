"""The quick way back through attention, against PyTorch's in double precision."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_model import cpu_attention
from foundry_model.cpu_attention import MAX_LENGTH, CpuAttention, causal_attention, prepare_to_compile


def _heads(batch, heads, length, width, seed=0, dtype=torch.bfloat16):
    """Query, key, value and a gradient; the first three are views of one tensor, as a fused projection gives them."""
    generator = torch.Generator().manual_seed(seed)
    fused = torch.randn(batch, length, 3 * heads * width, generator=generator).to(dtype).requires_grad_()
    parts = [part.view(batch, length, heads, width).transpose(1, 2) for part in fused.split(heads * width, -1)]
    return fused, parts, torch.randn(batch, heads, length, width, generator=generator).to(dtype)


def _error(found, exact):
    return float((found.double() - exact).norm() / exact.norm().clamp(min=1e-9))


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 5),
    length=st.one_of(st.integers(1, 40), st.sampled_from([127, 128, 129, 256, 257, 300])),
    width=st.sampled_from([4, 10, 32]),
    scale=st.sampled_from([None, 0.05, 1.0]),
)
def test_forward_is_that_of_pytorch_and_gradients_are_as_near_to_the_truth_as_eager_ones(
    batch, heads, length, width, scale
):
    fused, parts, grad = _heads(batch, heads, length, width)
    exact = fused.detach().double().requires_grad_()
    exact_parts = [part.view(batch, length, heads, width).transpose(1, 2) for part in exact.split(heads * width, -1)]
    F.scaled_dot_product_attention(*exact_parts, is_causal=True, scale=scale).backward(grad.double())

    found = causal_attention(*parts, scale=scale)
    found.backward(grad)

    assert torch.equal(found, F.scaled_dot_product_attention(*parts, is_causal=True, scale=scale))
    assert _error(fused.grad, exact.grad) < 0.02


@pytest.mark.slow
def test_small_groups_and_blocks_give_the_same_gradients(monkeypatch):
    fused, parts, grad = _heads(2, 3, 50, 8)
    (whole,) = torch.autograd.grad(causal_attention(*parts), fused, grad, retain_graph=True)

    monkeypatch.setattr(cpu_attention, "_sizes", lambda _: (16, 4))
    (pieces,) = torch.autograd.grad(causal_attention(*parts), fused, grad)

    assert _error(pieces, whole.double()) < 0.01


@pytest.fixture
def calls(monkeypatch):
    """Shapes for which the quick way was taken."""
    found = []

    def counted(query, key, value, *, scale=None):
        found.append(tuple(query.shape))
        return causal_attention(query, key, value, scale=scale)

    monkeypatch.setattr(cpu_attention, "causal_attention", counted)
    return found


def test_the_quick_way_is_taken_within_the_block_only(calls):
    _, parts, _ = _heads(1, 2, 8, 4)

    outside = F.scaled_dot_product_attention(*parts, is_causal=True)
    with CpuAttention():
        inside = F.scaled_dot_product_attention(*parts, is_causal=True, attn_mask=None, dropout_p=0.0, enable_gqa=False)

    assert calls == [(1, 2, 8, 4)]
    assert torch.equal(inside, outside)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"is_causal": True, "dropout_p": 0.5},
        {"attn_mask": torch.ones(8, 8, dtype=torch.bool)},
        {"is_causal": True, "enable_gqa": True},
    ],
)
def test_what_it_does_not_compute_is_left_to_pytorch(calls, asked):
    _, parts, _ = _heads(1, 2, 8, 4)

    with CpuAttention():
        F.scaled_dot_product_attention(*parts, **asked)

    assert calls == []


def test_other_types_lengths_and_passes_without_gradients_are_left_to_pytorch(calls):
    with CpuAttention():
        F.scaled_dot_product_attention(*_heads(1, 1, 8, 4, dtype=torch.float32)[1], is_causal=True)
        F.scaled_dot_product_attention(*_heads(1, 1, MAX_LENGTH + 1, 4)[1], is_causal=True)
        query, key, value = _heads(1, 1, 8, 4)[1]
        F.scaled_dot_product_attention(query[:, :, -1:], key, value, is_causal=True)
        with torch.no_grad():
            F.scaled_dot_product_attention(query, key, value, is_causal=True)

    assert calls == []


@pytest.mark.slow
def test_a_compiled_program_takes_it_as_one_operation_with_the_same_bits():
    prepare_to_compile()
    prepare_to_compile()  # once is enough, and twice no harm
    weight = torch.randn(3 * 8, 16, dtype=torch.bfloat16).requires_grad_()
    x = torch.randn(2, 12, 16, dtype=torch.bfloat16)

    def attend():
        with CpuAttention():
            query, key, value = (part.view(2, 12, 2, 4).transpose(1, 2) for part in F.linear(x, weight).split(8, -1))
            return F.scaled_dot_product_attention(query, key, value, is_causal=True).float().square().sum()

    def gradient(function):
        weight.grad = None
        function().backward()
        return weight.grad

    graphs = []
    compiled = torch.compile(attend, backend=lambda graph, _: graphs.append(graph) or graph, fullgraph=True)

    torch.testing.assert_close(gradient(compiled), gradient(attend), rtol=0, atol=0)
    assert [str(node.target) for node in graphs[0].graph.nodes if "attention" in str(node.target)] == [
        "foundry.causal_attention.default"
    ]
    torch.testing.assert_close(gradient(torch.compile(attend, backend="aot_eager")), gradient(attend), rtol=0, atol=0)
