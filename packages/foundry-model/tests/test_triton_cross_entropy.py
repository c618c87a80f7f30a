"""The kernels of Triton against PyTorch's cross-entropy: on a GPU, and elsewhere in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="comes with torch where there may be a GPU")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def compare(device: str, rows: int, vocab_size: int, dtype: torch.dtype) -> None:
    """Fail unless losses, log-sum-exps and gradients are those of PyTorch; every third row is no target."""
    from foundry_model import triton_cross_entropy as kernels

    generator = torch.Generator().manual_seed(vocab_size)
    logits = (torch.randn(rows, vocab_size, generator=generator) * 5).to(dtype).to(device).requires_grad_()
    targets = torch.randint(0, vocab_size, (rows,), generator=generator).to(device)
    targets[1::3] = -100
    expected = F.cross_entropy(logits.float(), targets, ignore_index=-100, reduction="none")
    (expected.sum() * 3.0).backward()
    given = logits.detach().clone()

    losses, lses = kernels.row_losses(given, targets)
    factor = torch.tensor(3.0, device=device)
    gradients = kernels.row_gradients(given, targets, lses, factor, out=torch.empty_like(given))
    in_place = kernels.row_gradients(given, targets, lses, factor, out=given)

    torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lses, logits.detach().float().logsumexp(-1), rtol=1e-5, atol=1e-5)
    # one rounding of the type, and what fp32 makes of an exponent of 20
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradients, logits.grad, rtol=eps + 1e-5, atol=1e-6 if dtype == torch.float32 else 1e-4)
    assert torch.equal(gradients, in_place) and not gradients[1::3].any()


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab_size", [1, 7, 1000, 8192, 32_000, 50_304])
def test_losses_and_gradients_are_those_of_pytorch_on_a_gpu(vocab_size, dtype):
    compare("cuda", 37, vocab_size, dtype)


@pytest.mark.slow
@pytest.mark.gpu
def test_more_numbers_than_32_bits_can_count_are_no_trouble():
    from foundry_model import triton_cross_entropy as kernels

    rows, vocab_size = 2**16 + 1, 2**15  # 2 ** 31 numbers and one more row
    logits = torch.zeros(rows, vocab_size, dtype=torch.bfloat16, device="cuda")
    logits[-1, 5] = 10.0
    targets = torch.full((rows,), 5, device="cuda")

    losses, lses = kernels.row_losses(logits, targets)
    kernels.row_gradients(logits, targets, lses, torch.ones((), device="cuda"), out=logits)

    assert losses[0].item() == pytest.approx(torch.tensor(float(vocab_size)).log().item(), rel=1e-5)
    assert losses[-1].item() == pytest.approx((torch.tensor(10.0).exp() + vocab_size - 1).log().item() - 10.0, rel=1e-4)
    assert logits[-1, 5].item() == pytest.approx(losses[-1].neg().exp().item() - 1.0, rel=0.01)


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_losses_of_a_gpu_are_made_by_the_kernels_and_as_near_to_the_truth_as_the_plain_one(dtype):
    from foundry_model.cross_entropy import gpu_kernels, headless_cross_entropy, summed_cross_entropy

    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(600, 64, generator=generator), torch.randn(5000, 64, generator=generator) * 0.2
    targets = torch.randint(0, 5000, (600,), generator=generator).cuda()
    targets[::7] = -100

    def run(function, enabled=True):
        leaves = [t.cuda().requires_grad_() for t in (hidden, weight)]
        with torch.autocast("cuda", dtype=dtype, enabled=enabled and dtype != torch.float32):
            loss = function(*leaves)
        (loss / 500).backward()
        return loss.item(), [leaf.grad for leaf in leaves]

    def plain(hidden, weight):
        return F.cross_entropy(F.linear(hidden, weight).float(), targets, ignore_index=-100, reduction="sum")

    exact, exact_gradients = run(plain, enabled=False)
    theirs, their_gradients = run(plain)
    for function in (
        lambda h, w: summed_cross_entropy(F.linear(h, w), targets),
        lambda h, w: summed_cross_entropy(F.linear(w, h).T, targets),  # whose rows lie apart
        lambda h, w: headless_cross_entropy(h, w, None, targets),
    ):
        found, gradients = run(function)
        assert abs(found - exact) <= abs(theirs - exact) + 2e-6 * exact
        for ours, other, truth in zip(gradients, their_gradients, exact_gradients, strict=True):
            assert (ours - truth).norm() <= 1.5 * (other - truth).norm() + 1e-5 * truth.norm()
    assert gpu_kernels(torch.device("cuda:0")) is not None


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_pytorch_in_the_interpreter():
    command = [sys.executable, "-W", "ignore", __file__]  # the variable counts when Triton is imported

    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_rows_whose_numbers_lie_apart_are_refused():
    from foundry_model import triton_cross_entropy as kernels

    with pytest.raises(ValueError, match="one after the other"):
        kernels.row_losses(torch.zeros(5, 3).T, torch.zeros(3, dtype=torch.long))


def test_without_a_gpu_there_are_no_kernels():
    from foundry_model.cross_entropy import gpu_kernels

    assert gpu_kernels(torch.device("cpu")) is None


def test_kernels_tried_on_a_full_device_are_not_given_up(monkeypatch):
    from foundry_model.cross_entropy import gpu_kernels

    def eye(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "eye", eye)

    with pytest.raises(torch.OutOfMemoryError):
        gpu_kernels.__wrapped__(torch.device("cuda:0"))


def test_kernels_that_cannot_be_built_are_done_without_and_that_is_said(monkeypatch, caplog):
    from foundry_model.cross_entropy import gpu_kernels

    def eye(*_, **__):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")

    monkeypatch.setattr(torch, "eye", eye)

    assert gpu_kernels.__wrapped__(torch.device("cuda:0")) is None
    assert caplog.messages == [
        "the loss runs without the kernels of Triton, three times slower: "
        "Failed to find C compiler. Please specify via CC environment variable."
    ]


if __name__ == "__main__":
    from foundry_model import triton_cross_entropy

    triton_cross_entropy.BLOCK = 64
    for dtype in DTYPES:
        for rows, vocab_size in ((5, 130), (3, 64), (0, 50), (4, 1)):
            compare("cpu", rows, vocab_size, dtype)
