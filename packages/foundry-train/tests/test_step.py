"""One update: exact under every cut of the batch, and harmless when something goes wrong."""

import hashlib
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foundry_config import TrainingConfig
from foundry_config.errors import MemoryExhaustedError
from foundry_data.torch_loader import GlobalBatch
from foundry_model.loss import TokenLoss
from foundry_train import step
from foundry_train.distributed import World
from foundry_train.optimizers import OptimizerGroup, make_optimizer
from foundry_train.precision import make_precision
from foundry_train.step import Outcome, Updater

CPU = torch.device("cpu")
VOCABULARY, WIDTH, LENGTH = 13, 16, 6


class Output:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class TinyModel(nn.Module):
    """A bigram model with dropout, which looks like a causal language model."""

    def __init__(self, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(VOCABULARY, WIDTH)
            self.dropout = nn.Dropout(dropout)
            self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: torch.Tensor) -> Output:
        return Output(self.head(self.dropout(self.embedding(input_ids))))


def make_batch(rows: int = 8, *, seed: int = 0, ignored: float = 0.0) -> GlobalBatch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (rows, LENGTH), generator=generator)
    labels = ids.masked_fill(torch.rand(ids.shape, generator=generator) < ignored, -100)
    return GlobalBatch(
        input_ids=ids,
        labels=labels,
        position_ids=None,
        attention_mask=None,
        target_tokens=int((labels[:, 1:] != -100).sum()),
        sequences=rows,
        tokens=ids.numel(),
        words=ids.numel(),
        sequence_ids=np.arange(rows),
        epoch=0,
        position=0,
    )


def make_updater(
    model: nn.Module,
    *,
    loss=None,
    precision: str = "fp32",
    micro_batch: int = 8,
    optimizer: str | OptimizerGroup = "sgd",
    **changes,
) -> Updater:
    if isinstance(optimizer, str):
        training = TrainingConfig(output_dir="run", learning_rate=0.1, optimizer=optimizer, adam_beta1=0.0)
        optimizer = make_optimizer(model, training, CPU)
    return Updater(
        loss or TokenLoss(model),
        model,
        optimizer,
        world=World(),
        precision=make_precision(precision, CPU),
        micro_batch=micro_batch,
        **({"max_grad_norm": None} | changes),
    )


def digest(model: nn.Module) -> str:
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


class Failing:
    """A loss function that raises or changes its result in chosen calls."""

    def __init__(self, model: nn.Module, calls: set[int], what: Exception | float) -> None:
        self.inner, self.calls, self.what, self.count = TokenLoss(model), calls, what, 0

    def __call__(self, *tensors):
        self.count += 1
        loss, targets = self.inner(*tensors)
        if self.count not in self.calls:
            return loss, targets
        if isinstance(self.what, Exception):
            raise self.what
        return loss * self.what, targets


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.floats(0, 0.9), st.integers(0, 1000))
def test_loss_and_gradient_do_not_depend_on_the_micro_batch(rows, micro_batch, ignored, seed):
    batch = make_batch(rows, seed=seed, ignored=ignored)
    whole, cut = TinyModel(), TinyModel()

    expected = make_updater(whole, micro_batch=rows).gradients(batch)
    found = make_updater(cut, micro_batch=micro_batch).gradients(batch)

    assert found == pytest.approx(expected, rel=1e-6)
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-7)


def test_loss_and_gradient_equal_the_mean_cross_entropy_of_torch():
    batch, model, reference = make_batch(ignored=0.3), TinyModel(), TinyModel()

    loss = make_updater(model, micro_batch=3).gradients(batch)
    logits = reference(batch.input_ids).logits[:, :-1].reshape(-1, VOCABULARY)
    expected = nn.functional.cross_entropy(logits, batch.labels[:, 1:].reshape(-1))
    expected.backward()

    assert loss == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(model.head.weight.grad, reference.head.weight.grad, rtol=1e-5, atol=1e-7)


def test_a_single_training_step_updates_the_weights_along_the_gradient():
    batch, model, reference = make_batch(), TinyModel(), TinyModel()
    make_updater(reference).gradients(batch)

    result = make_updater(model).update(batch)

    assert result.outcome is Outcome.UPDATED
    torch.testing.assert_close(model.head.weight, reference.head.weight - 0.1 * reference.head.weight.grad)


def test_gradient_norm_is_reported_before_clipping_and_clipping_bounds_the_update():
    batch, model, reference = make_batch(), TinyModel(), TinyModel()
    make_updater(reference).gradients(batch)
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in reference.parameters()))

    result = make_updater(model, max_grad_norm=norm / 10).update(batch)

    assert result.grad_norm == pytest.approx(norm, rel=1e-6)
    moved = [(a - b).square().sum().item() for a, b in zip(model.parameters(), TinyModel().parameters(), strict=True)]
    assert math.sqrt(sum(moved)) == pytest.approx(0.1 * norm / 10, rel=1e-4)


@pytest.mark.parametrize("max_grad_norm", [None, 0, 1e9])
def test_gradients_below_the_limit_are_not_touched(max_grad_norm):
    clipped, free = TinyModel(), TinyModel()

    make_updater(clipped, max_grad_norm=max_grad_norm).update(make_batch())
    make_updater(free).update(make_batch())

    assert digest(clipped) == digest(free)


def test_dropout_draws_anew_in_every_update_but_equally_in_every_run():
    digests = []
    for _ in range(2):
        torch.manual_seed(5)
        model = TinyModel(dropout=0.5)
        updater = make_updater(model)
        losses = [updater.update(make_batch()).loss for _ in range(3)]
        digests.append((digest(model), tuple(losses)))

    assert digests[0] == digests[1] and len(set(digests[0][1])) == 3


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu"])
@pytest.mark.parametrize("call", [1, 2])
def test_out_of_memory_halves_the_micro_batch_and_replays_the_same_batch(error, call):
    batch, model, reference = make_batch(8), TinyModel(dropout=0.5), TinyModel(dropout=0.5)
    torch.manual_seed(1)
    updater = make_updater(model, loss=Failing(model, {call}, error), micro_batch=4)
    result = updater.update(batch)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    expected = make_updater(reference, micro_batch=2).update(batch)

    assert updater.micro_batch == 2
    assert result == expected and digest(model) == digest(reference)
    assert torch.equal(after, torch.get_rng_state())


def test_out_of_memory_goes_on_halving_from_what_the_batch_really_holds():
    model = TinyModel()
    updater = make_updater(model, loss=Failing(model, {1, 2}, OUT_OF_MEMORY[0]), micro_batch=64)

    updater.update(make_batch(8))

    assert updater.micro_batch == 2


def test_out_of_memory_with_one_sequence_stops_with_advice_and_leaves_the_weights():
    model = TinyModel()
    before = digest(model)
    updater = make_updater(model, loss=Failing(model, set(range(99)), OUT_OF_MEMORY[1]), micro_batch=4)

    with pytest.raises(MemoryExhaustedError, match="gradient_checkpointing"):
        updater.update(make_batch())

    assert digest(model) == before and updater.micro_batch == 1
    assert all(p.grad is None for p in model.parameters())


def test_out_of_memory_in_the_optimizer_is_not_replayed():
    model = TinyModel()
    updater = make_updater(model)

    class Full(OptimizerGroup):
        def step(self) -> None:
            raise OUT_OF_MEMORY[0]

    updater._optimizer = Full(updater._optimizer.optimizers)

    with pytest.raises(MemoryExhaustedError, match="adafactor"):
        updater.update(make_batch())


def test_other_errors_are_not_mistaken_for_missing_memory():
    model = TinyModel()

    with pytest.raises(RuntimeError, match="shapes"):
        make_updater(model, loss=Failing(model, {1}, RuntimeError("shapes do not fit"))).update(make_batch())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("call", [1, 3])
def test_non_finite_loss_is_never_stepped_on(value, call):
    model = TinyModel()
    before = digest(model)

    result = make_updater(model, loss=Failing(model, {call}, value), micro_batch=2).update(make_batch())

    assert result.outcome is Outcome.NONFINITE and not math.isfinite(result.loss)
    assert digest(model) == before and all(p.grad is None for p in model.parameters())


def test_non_finite_gradient_of_a_finite_loss_is_never_stepped_on():
    model = TinyModel()
    before = digest(model)
    model.head.weight.register_hook(lambda gradient: gradient * math.inf)

    result = make_updater(model).update(make_batch())

    assert result.outcome is Outcome.NONFINITE and math.isfinite(result.loss)
    assert digest(model) == before


@pytest.mark.parametrize("stop_at", [1, 2, 4])
def test_a_stop_between_micro_batches_leaves_weights_gradients_and_generators_as_they_were(stop_at):
    model = TinyModel(dropout=0.5)
    asked = iter([False] * (stop_at - 1) + [True] * 9)
    updater = make_updater(model, micro_batch=2, should_stop=lambda: next(asked))
    before, generators = digest(model), torch.get_rng_state()

    result = updater.update(make_batch(8))

    assert result.outcome is Outcome.STOPPED
    assert digest(model) == before and torch.equal(generators, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


class RestlessModel(TinyModel):
    """Keeps running statistics, counts in a buffer that it replaces, and draws from every generator there is."""

    def __init__(self) -> None:
        super().__init__(dropout=0.5)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("constant", torch.ones(2))

    def forward(self, input_ids: torch.Tensor) -> Output:
        self.calls = self.calls + 1
        hidden = self.norm(self.dropout(self.embedding(input_ids)).transpose(1, 2)).transpose(1, 2)
        return Output(self.head(hidden * random.random() * np.random.random()))

    def everything(self) -> list:
        buffers = [buffer.tolist() for buffer in self.buffers()]
        return [buffers, torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]


@pytest.mark.parametrize("updates_before", [0, 1, 3])
@pytest.mark.parametrize("trouble", ["stop", "memory", "nan"])
def test_what_a_model_keeps_and_draws_is_as_it_was_when_an_update_is_not_made(trouble, updates_before):
    model, stop = RestlessModel(), [False]
    loss = Failing(model, {updates_before * 2 + 2}, math.nan if trouble == "nan" else OUT_OF_MEMORY[0])
    loss.calls = loss.calls if trouble != "stop" else set()
    updater = make_updater(model, loss=loss, micro_batch=4, should_stop=lambda: stop[0] and model.calls > calls)
    for _ in range(updates_before):
        updater.update(make_batch(8))
    before, calls = model.everything(), model.calls.item()
    stop[0] = trouble == "stop"

    result = updater.update(make_batch(8))

    if trouble == "memory":
        assert result.outcome is Outcome.UPDATED and updater.micro_batch == 2
        assert model.calls == calls + 4
    elif trouble == "nan":
        assert result.outcome is Outcome.NONFINITE and model.everything()[0] == before[0]
    else:
        assert result.outcome is Outcome.STOPPED and model.everything() == before


def test_what_the_first_update_left_alone_is_no_longer_copied():
    model = RestlessModel()
    updater = make_updater(model)

    updater.update(make_batch())

    assert {name for _, name in updater._rollback._places} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "calls",
    }


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_gradient_of_fp32(precision):
    batch, half, full = make_batch(), TinyModel(), TinyModel()

    result = make_updater(half, precision=precision).update(batch)
    expected = make_updater(full).update(batch)

    assert result.loss == pytest.approx(expected.loss, rel=2e-2)
    assert result.grad_norm == pytest.approx(expected.grad_norm, rel=5e-2)
    torch.testing.assert_close(half.head.weight, full.head.weight, rtol=0, atol=2e-3)


def test_fp16_scales_the_loss_up_and_the_gradient_down_again():
    model = TinyModel()
    seen = []
    model.head.weight.register_hook(lambda gradient: seen.append(gradient.norm().item()))
    updater = make_updater(model, precision="fp16")

    result = updater.update(make_batch())

    assert seen[0] > 1000 * result.grad_norm


def test_fp16_overflow_halves_the_scale_and_replays_the_batch():
    model, reference = TinyModel(dropout=0.5), TinyModel(dropout=0.5)
    torch.manual_seed(3)
    updater = make_updater(model, precision="fp16")
    scaler = updater._precision.scaler
    scaler._init_scale = 2.0**40  # overflows until it has come down to about 2**16
    result = updater.update(make_batch())
    final_scale = scaler.get_scale()
    torch.manual_seed(3)
    other = make_updater(reference, precision="fp16")
    other._precision.scaler._init_scale = final_scale
    expected = other.update(make_batch())

    assert result.outcome is Outcome.UPDATED and result.overflows == 40 - math.log2(final_scale) > 0
    assert digest(model) == digest(reference)
    assert result.loss == expected.loss and expected.overflows == 0


def test_fp16_gradient_that_is_infinite_at_any_scale_is_non_finite_and_not_replayed_for_ever():
    model = TinyModel()
    model.head.weight.register_hook(lambda gradient: gradient * math.inf)

    result = make_updater(model, precision="fp16").update(make_batch())

    assert result.outcome is Outcome.NONFINITE and result.overflows == 16


def test_fp16_loss_that_is_itself_infinite_is_not_blamed_on_the_scale():
    model = TinyModel()

    result = make_updater(model, precision="fp16", loss=Failing(model, {1}, math.inf)).update(make_batch())

    assert result.outcome is Outcome.NONFINITE and result.overflows == 0


def test_a_batch_without_any_target_changes_nothing_and_has_loss_zero():
    model = TinyModel()
    before = digest(model)

    result = make_updater(model).update(make_batch(ignored=1.1))

    assert result.loss == 0.0 and result.grad_norm == 0.0 and digest(model) == before


def test_parameters_that_no_optimizer_holds_gather_no_gradient_and_are_not_clipped_for():
    model, alone = TinyModel(), TinyModel()
    updater, expected = (
        make_updater(
            each, optimizer=OptimizerGroup([torch.optim.SGD(each.head.parameters(), lr=0.1)]), max_grad_norm=0.1
        )
        for each in (model, alone)
    )
    alone.embedding.requires_grad_(False)

    norms = [updater.update(make_batch(seed=3)).grad_norm for _ in range(5)]

    assert norms == [expected.update(make_batch(seed=3)).grad_norm for _ in range(5)]
    assert digest(model) == digest(alone)


def test_a_gradient_of_zero_is_said_once(caplog):
    model = TinyModel()
    updater = make_updater(
        model, loss=lambda *tensors: (lambda s, n: (s.detach() + s * 0.0, n))(*TokenLoss(model)(*tensors))
    )

    for _ in range(3):
        updater.update(make_batch())
    make_updater(TinyModel()).update(make_batch())
    make_updater(TinyModel()).update(make_batch(ignored=1.0))

    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("the gradient is zero everywhere although the loss is 2.")


@pytest.mark.parametrize("max_grad_norm", [None, 1e-3, 1e3])
def test_an_update_that_the_device_decides_about_is_the_same(monkeypatch, max_grad_norm):
    def train(on_device):
        monkeypatch.setattr(step, "decides_on_device", lambda *_: on_device)
        model = TinyModel()
        updater = make_updater(model, optimizer="adamw", max_grad_norm=max_grad_norm)
        results = [updater.update(make_batch(seed=seed)) for seed in range(4)]
        return results, digest(model)

    assert train(on_device=True) == train(on_device=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("call", [1, 3])
def test_a_device_that_decides_does_not_step_on_numbers_that_are_not_finite(monkeypatch, value, call):
    monkeypatch.setattr(step, "decides_on_device", lambda *_: True)
    model, plain = TinyModel(), TinyModel()
    updater = make_updater(model, loss=Failing(model, {call}, value), optimizer="adamw", max_grad_norm=1.0)
    expected = make_updater(plain, optimizer="adamw", max_grad_norm=1.0)

    outcomes = [updater.update(make_batch(seed=seed)).outcome for seed in range(4)]
    for seed in range(4):
        if seed != call - 1:
            expected.update(make_batch(seed=seed))

    assert outcomes == [Outcome.NONFINITE if seed == call - 1 else Outcome.UPDATED for seed in range(4)]
    assert digest(model) == digest(plain)


def test_only_the_kernel_of_adamw_on_cuda_decides_on_the_device():
    cuda = torch.device("cuda:0")

    def group(name):
        training = TrainingConfig(output_dir="run", learning_rate=0.1, optimizer=name)
        return make_optimizer(TinyModel(), training, CPU)

    assert step.decides_on_device(group("adamw"), cuda)
    assert not step.decides_on_device(group("adamw"), CPU)
    assert not step.decides_on_device(group("sgd"), cuda) and not step.decides_on_device(group("adafactor"), cuda)


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.parametrize("call", [1, 3])
def test_a_gpu_does_not_step_on_numbers_that_are_not_finite(call):
    model, plain = TinyModel().cuda(), TinyModel().cuda()

    def on_the_card(model, loss):
        training = TrainingConfig(output_dir="run", learning_rate=0.1)
        device = torch.device("cuda:0")
        optimizer = make_optimizer(model, training, device)
        return Updater(
            loss,
            model,
            optimizer,
            world=World(device=device),
            precision=make_precision("fp32", device),
            micro_batch=8,
            max_grad_norm=1.0,
        )

    updater = on_the_card(model, Failing(model, {call}, math.nan))
    expected = on_the_card(plain, TokenLoss(plain))
    outcomes = [updater.update(make_batch(seed=seed)).outcome for seed in range(4)]
    for seed in range(4):
        if seed != call - 1:
            expected.update(make_batch(seed=seed))

    assert outcomes == [Outcome.NONFINITE if seed == call - 1 else Outcome.UPDATED for seed in range(4)]
    assert digest(model.cpu()) == digest(plain.cpu())
