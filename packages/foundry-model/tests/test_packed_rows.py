"""The search for packed documents: spared where there can be none, made in every other call."""

import sys
import threading
from types import ModuleType

import pytest
import torch

from foundry_config import config_from_dict
from foundry_model import SpecialIds, TokenLoss, create_model, isolates_documents
from foundry_model.packed_rows import one_document_a_row


@pytest.fixture
def searched(monkeypatch) -> list[torch.Tensor]:
    """The position ids that the library's function was asked about; the function finds something in all of them."""
    asked: list[torch.Tensor] = []

    def search(position_ids):
        asked.append(position_ids)
        return "several documents"

    library = ModuleType("transformers.masking_utils")
    library.find_packed_sequence_indices = search
    monkeypatch.setitem(sys.modules, "transformers.masking_utils", library)
    return asked


def find(position_ids=None):
    return sys.modules["transformers.masking_utils"].find_packed_sequence_indices(position_ids)


def test_nothing_is_searched_inside_and_everything_outside(searched):
    before = find("before")
    with one_document_a_row():
        with one_document_a_row():
            innermost = find("innermost")
        inside = find("inside")
    after = find("after")

    assert (before, innermost, inside, after) == ("several documents", None, None, "several documents")
    assert searched == ["before", "after"]


def test_an_error_inside_ends_what_is_known(searched):
    with pytest.raises(RuntimeError), one_document_a_row():
        raise RuntimeError

    assert find() == "several documents"


def test_another_thread_still_searches(searched):
    found = []
    with one_document_a_row():
        thread = threading.Thread(target=lambda: found.append(find()))
        thread.start()
        thread.join()

    assert found == ["several documents"]


def test_standing_before_the_function_twice_asks_it_once(searched):
    for _ in range(3):
        with one_document_a_row():
            pass

    find()

    assert len(searched) == 1


def test_a_library_without_the_function_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.masking_utils", ModuleType("transformers.masking_utils"))

    with one_document_a_row():
        assert not vars(sys.modules["transformers.masking_utils"]).keys() & {"find_packed_sequence_indices"}


class Asking(torch.nn.Module):
    """A model that asks, like those of transformers, whether its rows hold several documents."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list = []

    def forward(self, input_ids, position_ids=None, use_cache=True):
        self.found.append(find(position_ids))
        logits = torch.nn.functional.one_hot(input_ids, 8).float().requires_grad_()
        return type("Output", (), {"logits": logits})


def test_the_loss_spares_the_search_exactly_when_no_position_ids_are_given(searched):
    model, ids = Asking(), torch.tensor([[1, 2, 3]])
    loss = TokenLoss(model)

    loss(ids, ids)
    loss(ids, ids, torch.tensor([[0, 1, 0]]))

    assert model.found == [None, "several documents"]


def gpt2():
    config = config_from_dict(
        {
            "experiment_name": "packed",
            "data": {"source_corpus": "none", "batch_size": 2, "max_sequence_length": 16},
            "tokenizer": {"vocab_size": 300},
            "model": {
                "layers": 2,
                "embedding_size": 16,
                "hidden_size": 16,
                "intermediate_hidden_size": 32,
                "attention_heads": 2,
                "dropout": 0.0,
            },
            "training": {"output_dir": "run", "learning_rate": 0.1},
        }
    )
    torch.manual_seed(1)
    return create_model(config, vocab_size=300, special_ids=SpecialIds(pad=0, unk=1, bos=2, eos=3))


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_a_real_model_computes_the_same_without_the_search_and_still_isolates_packed_documents(monkeypatch, compiled):
    model = gpt2()
    ids = torch.randint(4, 300, (2, 16))
    expected = torch.nn.functional.cross_entropy(
        model(input_ids=ids, use_cache=False).logits[:, :-1].reshape(-1, 300), ids[:, 1:].reshape(-1), reduction="sum"
    )
    restarting = torch.arange(8).repeat(2)[None].expand(2, -1)
    expected_isolated, _ = TokenLoss(model)(ids, ids, restarting)
    loss = TokenLoss(model)
    if compiled:
        loss.compile(dynamic=False, backend="eager")

    together, _ = loss(ids, ids)
    isolated, _ = loss(ids, ids, restarting)

    torch.testing.assert_close(together, expected)
    torch.testing.assert_close(isolated, expected_isolated)
    assert abs(together.item() - isolated.item()) > 1e-3
    assert isolates_documents(model)


@pytest.mark.slow
def test_a_compiled_model_attends_by_the_causal_kernel_without_a_mask():
    masks: list = []

    def look(program, _inputs):
        attention = torch.nn.functional.scaled_dot_product_attention
        calls = [node.kwargs for node in program.graph.nodes if node.target is attention]
        masks.extend((call["attn_mask"], call["is_causal"]) for call in calls)
        return program.forward

    ids = torch.randint(4, 300, (2, 16))
    loss = TokenLoss(gpt2())
    loss.compile(dynamic=False, backend=look)

    loss(ids, ids)
    plain, masks[:] = [*masks], []
    loss(ids, ids, torch.arange(8).repeat(2)[None].expand(2, -1))

    assert plain == [(None, True)] * 2
    assert len(masks) == 2 and all(mask is not None and not causal for mask, causal in masks)


@pytest.mark.slow
def test_a_compiled_loss_in_chunks_has_the_gradients_of_the_plain_one():
    ids = torch.randint(4, 300, (2, 16))

    def gradients(*, chunked, compiled):
        model = gpt2()
        loss = TokenLoss(model, chunked=chunked)
        if compiled:
            loss.compile(dynamic=False, backend="aot_eager")
        loss(ids, ids)[0].backward()
        return [parameter.grad for parameter in model.parameters()]

    expected = gradients(chunked=False, compiled=False)

    for found in (gradients(chunked=True, compiled=True), gradients(chunked=False, compiled=True)):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
