"""The row-by-row and the headless cross-entropy against PyTorch's own."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_model import cross_entropy
from foundry_model.cross_entropy import headless_cross_entropy, piece_rows, summed_cross_entropy


def _targets(rows, vocab_size, ignored, generator):
    targets = torch.randint(0, vocab_size, (rows,), generator=generator)
    targets[torch.rand(rows, generator=generator) < ignored] = -100
    return targets


def _plain(logits, targets):
    return F.cross_entropy(logits.float(), targets, ignore_index=-100, reduction="sum")


@pytest.fixture
def small_pieces(monkeypatch):
    """Cut after 7 rows, so that small examples have several pieces and a short last one."""
    monkeypatch.setattr(cross_entropy, "CPU_PIECE", 0)
    monkeypatch.setattr(cross_entropy, "piece_rows", lambda *_, **__: 7)


@pytest.mark.parametrize("piece", [0, cross_entropy.CPU_PIECE])
@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(0, 40),
    vocab_size=st.integers(1, 30),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    scale=st.sampled_from([1e-3, 1.0, 80.0]),
    seed=st.integers(0, 2**30),
)
def test_the_sum_and_its_gradient_equal_those_of_pytorch(piece, rows, vocab_size, ignored, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, vocab_size, generator=generator) * scale).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    targets = _targets(rows, vocab_size, ignored, generator)

    with mock.patch.object(cross_entropy, "CPU_PIECE", piece):  # 0: row by row, always
        loss = summed_cross_entropy(logits, targets)
    expected = F.cross_entropy(exact, targets, ignore_index=-100, reduction="sum")
    (loss / 3).backward()
    (expected / 3).backward()

    # fp32 rounds an exponent of size x by x * eps, and that is the relative error of the probability
    rounding = 4 * torch.finfo(torch.float32).eps * max(1.0, float(exact.detach().abs().max()) if rows else 0.0)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss.double(), expected, rtol=1e-6, atol=rounding * rows)
    assert torch.allclose(logits.grad.double(), exact.grad, rtol=rounding, atol=rounding / 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_give_the_gradient_that_autograd_rounds_once(small_pieces, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(30, 50, generator=generator) * 3).to(dtype).requires_grad_()
    copy = logits.detach().clone().requires_grad_()
    targets = _targets(30, 50, 0.2, generator)

    loss, expected = summed_cross_entropy(logits, targets), _plain(copy, targets)
    (loss * 1000).backward()
    (expected * 1000).backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert logits.grad.dtype == dtype
    assert torch.allclose(logits.grad.float(), copy.grad.float(), rtol=torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
def test_the_headless_loss_in_fp32_equals_the_plain_one_and_its_three_gradients(small_pieces, with_bias, ignored):
    generator = torch.Generator().manual_seed(1)
    hidden, weight, bias = (torch.randn(s, generator=generator) for s in ((40, 8), (30, 8), (30,)))
    targets = _targets(40, 30, ignored, generator)

    def run(function):
        leaves = [t.clone().requires_grad_() for t in (hidden, weight, bias)]
        loss = function(leaves[0], leaves[1], leaves[2] if with_bias else None)
        (loss / 17).backward()
        return loss, [leaf.grad for leaf in leaves[: 3 if with_bias else 2]]

    loss, gradients = run(lambda h, w, b: headless_cross_entropy(h, w, b, targets))
    expected, expected_gradients = run(lambda h, w, b: _plain(F.linear(h, w, b), targets))

    assert torch.allclose(loss, expected, rtol=1e-6)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1000.0])
def test_the_headless_loss_is_exact_for_likely_and_for_hopeless_targets(small_pieces, scale):
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(40, 4, generator=generator)
    weight = (torch.randn(9, 4, generator=generator) * scale).requires_grad_()
    exact = weight.detach().double().requires_grad_()
    targets = _targets(40, 9, 0.2, generator)

    loss = headless_cross_entropy(hidden, weight, None, targets)
    expected = F.cross_entropy(hidden.double() @ exact.T, targets, ignore_index=-100, reduction="sum")
    loss.backward()
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(weight.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)


def test_a_target_of_no_probability_costs_infinitely_much_and_nan_stays_nan(small_pieces):
    weight = torch.tensor([[0.0], [-torch.inf]])

    assert headless_cross_entropy(torch.ones(1, 1), weight, None, torch.tensor([1])).item() == torch.inf
    assert headless_cross_entropy(torch.ones(1, 1), weight * torch.nan, None, torch.tensor([0])).isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_headless_loss_under_autocast_is_as_near_to_the_truth_as_the_plain_one(small_pieces, dtype):
    generator = torch.Generator().manual_seed(2)
    hidden, weight = torch.randn(60, 16, generator=generator), torch.randn(40, 16, generator=generator) * 0.3
    targets = _targets(60, 40, 0.2, generator)
    scale = 2.0**10 / 60  # what a GradScaler and the division by the number of targets make of it

    def run(function, enabled=True):
        leaves = [t.clone().requires_grad_() for t in (hidden, weight)]
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            loss = function(*leaves)
        (loss * scale).backward()
        return loss.item(), [leaf.grad / scale for leaf in leaves]

    exact, exact_gradients = run(lambda h, w: _plain(F.linear(h, w), targets), enabled=False)
    plain, plain_gradients = run(lambda h, w: _plain(F.linear(h, w), targets))
    found, gradients = run(lambda h, w: headless_cross_entropy(h, w, None, targets))

    assert abs(found - exact) <= abs(plain - exact) + 1e-6 * exact
    for ours, theirs, truth in zip(gradients, plain_gradients, exact_gradients, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - truth).norm() <= 1.5 * (theirs - truth).norm()


def test_small_gradients_of_fp16_survive_the_loss_scale(small_pieces):
    """Probabilities of 1e-8 vanish in fp16 unless the scale goes in before they are rounded."""
    hidden, weight = torch.ones(4, 1), torch.tensor([[0.0], [-17.0], [-18.0]])
    targets = torch.zeros(4, dtype=torch.long)
    leaf = weight.clone().requires_grad_()

    with torch.autocast("cpu", dtype=torch.float16):
        loss = headless_cross_entropy(hidden, leaf, None, targets)
    (loss * 2.0**16).backward()

    assert (leaf.grad[1:] > 0).all()
    assert leaf.grad[1].item() == pytest.approx(4 * 2.0**16 * torch.tensor(-17.0).exp().item(), rel=0.05)


def test_evaluation_without_gradients_keeps_nothing_and_makes_none(monkeypatch):
    hidden, weight = torch.randn(10, 4), torch.nn.Parameter(torch.randn(6, 4))
    targets = torch.randint(0, 6, (10,))
    monkeypatch.setattr(cross_entropy, "_minus_target", lambda *_: pytest.fail("a gradient was made in vain"))

    with torch.no_grad():
        headless = headless_cross_entropy(hidden, weight, None, targets)
        rowwise = summed_cross_entropy(hidden @ weight.T, targets)

    assert not headless.requires_grad
    assert torch.allclose(headless, rowwise)


@given(st.integers(1, 300_000), st.sampled_from(["cpu", "cuda"]), st.booleans())
def test_a_piece_of_logits_stays_small_unless_the_vocabulary_alone_is_large(vocab_size, device, headless):
    rows = piece_rows(vocab_size, device, headless=headless)

    assert rows >= (128 if headless else 16)
    assert rows * vocab_size <= max(2**26, rows * vocab_size if rows <= 128 else 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("left_untraced", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_inside_a_compiled_program_the_losses_have_the_same_gradients(monkeypatch, small_pieces, dtype, left_untraced):
    generator = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(20, 8, generator=generator), torch.randn(30, 8, generator=generator)
    targets = _targets(20, 30, 0.2, generator)
    monkeypatch.setattr(cross_entropy, "_apply_headless", cross_entropy._apply_headless)
    monkeypatch.setattr(cross_entropy, "_apply_rowwise", cross_entropy._apply_rowwise)

    def loss_of(hidden, weight):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            return headless_cross_entropy(hidden.tanh(), weight, None, targets)

    def run(function):
        leaves = [t.clone().requires_grad_() for t in (hidden, weight)]
        function(*leaves).backward()
        return [leaf.grad for leaf in leaves]

    expected = run(loss_of)
    torch.compiler.reset()
    if left_untraced:
        cross_entropy.leave_untraced()
        once = cross_entropy._apply_rowwise, cross_entropy._apply_headless
        cross_entropy.leave_untraced()
        assert (cross_entropy._apply_rowwise, cross_entropy._apply_headless) == once
    for found, wanted in zip(run(torch.compile(loss_of, backend="aot_eager")), expected, strict=True):
        assert wanted.norm() > 1 and torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [5, 2**17])
@pytest.mark.parametrize("target", [-1, 5, -101])
def test_a_target_that_is_no_token_is_an_error_in_every_way_of_computing(size, target):
    logits, targets = torch.zeros(size, 5), torch.zeros(size, dtype=torch.long)
    targets[0] = target

    with pytest.raises((IndexError, RuntimeError)):
        summed_cross_entropy(logits, targets)
    with pytest.raises((IndexError, RuntimeError)):
        headless_cross_entropy(torch.zeros(size, 2), torch.zeros(5, 2), None, targets)
