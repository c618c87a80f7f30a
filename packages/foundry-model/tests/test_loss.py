"""The token loss on models small enough to be written by hand."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foundry_model import TokenLoss, isolates_documents, supports_chunked_loss, token_loss
from foundry_model.loss import next_tokens, unwrapped


class Bag(nn.Module):
    """Mixes every token with the mean of those before it; `.base_model` and a head, like a model of transformers."""

    def __init__(self, vocab_size=11, width=6, cap=None):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.dropout = nn.Dropout(0.5)
        self.cap = cap
        self.calls = []

    @property
    def base_model(self):
        return self.trunk

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.head

    def trunk(self, input_ids, use_cache=True, position_ids=None, attention_mask=None):
        self.calls.append({"use_cache": use_cache, "attention_mask": attention_mask})
        x = self.dropout(self.embedding(input_ids))
        count = torch.arange(1, x.shape[1] + 1)[:, None]
        return (torch.tanh(x + x.cumsum(1) / count),)

    def forward(self, input_ids, use_cache=True, position_ids=None, attention_mask=None):
        logits = self.head(self.trunk(input_ids, use_cache, position_ids, attention_mask)[0])
        return SimpleNamespace(logits=logits if self.cap is None else self.cap * torch.tanh(logits / self.cap))


class Isolated(Bag):
    """Starts again where the position ids do."""

    def trunk(self, input_ids, use_cache=True, position_ids=None, attention_mask=None):
        if position_ids is None:
            return super().trunk(input_ids)
        starts = [*(position_ids == 0).nonzero()[:, 1].tolist(), input_ids.shape[1]]
        parts = [super(Isolated, self).trunk(input_ids[:, a:b])[0] for a, b in pairwise(starts)]
        return (torch.cat(parts, dim=1),)


class LogitsOnly(nn.Module):
    """The least that is asked of a model."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(11, 11))

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.table[input_ids])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Bag().eval()


labels_with_gaps = st.lists(
    st.lists(st.sampled_from([-100, 1, 4, 7, 10]), min_size=6, max_size=6), min_size=1, max_size=8
)


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(labels_with_gaps, st.integers(0, 2**20))
def test_the_loss_is_the_sum_over_targets_and_the_count_their_number(labels, seed):
    torch.manual_seed(seed)
    model, labels = Bag().eval(), torch.tensor(labels)
    ids = torch.randint(0, 11, labels.shape)

    loss, count = token_loss(model, ids, labels)

    logits = model(ids).logits[:, :-1].reshape(-1, 11)
    expected = F.cross_entropy(logits, labels[:, 1:].reshape(-1), ignore_index=-100, reduction="sum")
    assert torch.allclose(loss, expected, atol=1e-5)
    assert count.item() == (labels[:, 1:] != -100).sum().item()


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(labels_with_gaps.filter(lambda rows: len(rows) % 4 == 0), st.booleans(), st.integers(0, 2**20))
def test_any_cut_into_micro_batches_gives_the_gradient_of_the_whole_batch(labels, chunked, seed):
    torch.manual_seed(seed)
    model, labels = Bag().eval(), torch.tensor(labels)
    ids = torch.randint(0, 11, labels.shape)
    targets = (labels[:, 1:] != -100).sum().clamp(min=1)

    def gradient(micro_batch):
        model.zero_grad()
        for rows in torch.arange(len(ids)).split(micro_batch):
            loss, _ = token_loss(model, ids[rows], labels[rows], chunked=chunked)
            (loss / targets).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    whole = gradient(len(ids))

    for micro_batch in (len(ids) // 2, 1):
        assert torch.allclose(gradient(micro_batch), whole, rtol=1e-6, atol=1e-7)


def test_next_tokens_shifts_by_one_and_leaves_the_end_without_a_target():
    assert next_tokens(torch.tensor([[1, 2, -100, 4]])).tolist() == [[2, -100, 4, -100]]


def test_a_batch_without_targets_has_loss_zero_and_a_gradient_of_zeros(model):
    ids = torch.zeros(2, 4, dtype=torch.long)

    loss, count = token_loss(model, ids, torch.full((2, 4), -100))
    loss.backward()

    assert (loss.item(), count.item()) == (0.0, 0)
    assert all(not p.grad.any() for p in model.parameters())


def test_the_cache_is_off_and_no_mask_is_passed_unless_given(model):
    ids = torch.zeros(1, 4, dtype=torch.long)

    token_loss(model, ids, ids)
    token_loss(model, ids, ids, attention_mask=torch.ones(1, 4))

    assert [call["use_cache"] for call in model.calls] == [False, False]
    assert model.calls[0]["attention_mask"] is None
    assert model.calls[1]["attention_mask"] is not None


def test_a_model_that_only_returns_logits_is_enough():
    ids = torch.randint(0, 11, (2, 5))

    loss, count = token_loss(LogitsOnly(), ids, ids)

    assert loss.requires_grad
    assert count.item() == 8


def test_the_chunked_loss_equals_the_plain_one_with_its_gradients(model):
    ids = torch.randint(0, 11, (3, 7))

    def run(chunked):
        model.zero_grad()
        loss, _ = token_loss(model, ids, ids, chunked=chunked)
        loss.backward()
        return loss, [p.grad.clone() for p in model.parameters()]

    (plain, plain_gradients), (chunked, chunked_gradients) = run(False), run(True)

    assert torch.allclose(plain, chunked, rtol=1e-6)
    for a, b in zip(plain_gradients, chunked_gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_chunked_fp16_training_with_a_grad_scaler_follows_plain_fp16_training():
    def train(chunked):
        torch.manual_seed(0)
        model = Bag().eval()
        optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.5), torch.amp.GradScaler("cpu")
        ids = torch.randint(0, 11, (4, 8))
        for _ in range(5):
            with torch.autocast("cpu", dtype=torch.float16):
                loss, count = token_loss(model, ids, ids, chunked=chunked)
            scaler.scale(loss / count).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        return loss.item()

    assert train(chunked=True) == pytest.approx(train(chunked=False), rel=2e-3)


def test_chunked_loss_is_allowed_only_where_the_head_alone_makes_the_logits(model):
    assert supports_chunked_loss(model)
    assert not supports_chunked_loss(Bag(cap=0.05))
    assert not supports_chunked_loss(Bag(cap=30.0))  # far above the logits of a new model
    assert not supports_chunked_loss(LogitsOnly())


def test_chunked_loss_is_not_allowed_where_the_head_reads_something_wider_than_the_last_block():
    class Widened(Bag):
        def __init__(self):
            super().__init__()
            self.widen, self.head = nn.Linear(6, 9), nn.Linear(9, 11)

        def forward(self, input_ids):
            return SimpleNamespace(logits=self.head(self.widen(self.base_model(input_ids)[0])))

    assert not supports_chunked_loss(Widened())


def test_a_model_is_tried_once_whatever_wraps_it(model):
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))

    assert supports_chunked_loss(model)
    assert supports_chunked_loss(nn.parallel.DataParallel(model))
    assert len(calls) == 1


def test_isolation_of_documents_is_found_out_by_trying(model):
    assert isolates_documents(Isolated().eval())
    assert not isolates_documents(model)
    assert not isolates_documents(LogitsOnly())


def test_probing_leaves_modes_gradients_and_random_state_alone(model):
    model.train()
    model.dropout.eval()
    before = torch.get_rng_state()

    supports_chunked_loss(model)
    isolates_documents(model)

    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not model.dropout.training
    assert all(p.grad is None for p in model.parameters())


def test_the_loss_as_a_module_equals_the_function_and_keeps_the_names_of_the_model(model):
    ids = torch.randint(0, 11, (2, 5))
    wrapped = TokenLoss(model, chunked=True)

    loss, count = wrapped(ids, ids)

    expected, expected_count = token_loss(model, ids, ids, chunked=True)
    assert torch.equal(loss, expected)
    assert count == expected_count
    assert {name.removeprefix("model.") for name in wrapped.state_dict()} == set(model.state_dict())


def test_wrappers_are_looked_through():
    model = LogitsOnly()
    compiled = SimpleNamespace(_orig_mod=model)

    assert unwrapped(model) is model
    assert unwrapped(compiled) is model


@pytest.mark.gpu
def test_the_chunked_loss_in_bf16_on_cuda_is_near_the_plain_one():
    torch.manual_seed(0)
    hidden = torch.randn(512, 64, device="cuda", requires_grad=True)
    head = nn.Linear(64, 5000, bias=False, device="cuda")
    targets = torch.randint(0, 5000, (512,), device="cuda")
    from foundry_model.cross_entropy import headless_cross_entropy, summed_cross_entropy

    with torch.autocast("cuda", dtype=torch.bfloat16):
        plain = summed_cross_entropy(head(hidden), targets)
        chunked = headless_cross_entropy(hidden, head.weight, None, targets)

    assert chunked.item() == pytest.approx(plain.item(), rel=1e-4)
