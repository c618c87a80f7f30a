"""Evaluation inside a training run: right numbers, and no trace in the run."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from foundry_model import evaluation
from foundry_model.evaluation import evaluate_minimal_pairs, evaluate_sequences
from foundry_model.loss import token_loss


def batch(rows, labels):
    return SimpleNamespace(input_ids=torch.tensor(rows), labels=torch.tensor(labels))


def test_the_loss_is_the_mean_over_all_targets_whatever_the_batches(bigram):
    table = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.1, 0.2, 0.7]])
    batches = [batch([[0, 1, 2], [1, 1, 0]], [[0, 1, 2], [1, 1, -100]]), batch([[2, 2, 2]], [[-100, -100, 2]])]

    score = evaluate_sequences(bigram(table), batches, batch_size=1, words=2, size=8)

    expected = -math.log(0.25 * 0.125 * 0.75 * 0.7)
    assert (score.tokens, score.words) == (4, 2)
    assert score.nats == pytest.approx(expected, abs=1e-5)
    assert score.values()["bits_per_byte"] == pytest.approx(expected / math.log(2) / 8, abs=1e-5)


@pytest.mark.parametrize(("at_once", "passes"), [(2**28, 1), (2 * 300 * 50, 2), (300 * 50, 4), (299 * 50, 0)])
def test_no_more_logits_exist_at_once_than_allowed(monkeypatch, tiny_attention, at_once, passes):
    torch.manual_seed(0)
    model = tiny_attention(50)
    rows = torch.randint(0, 50, (4, 300))
    expected = token_loss(model.eval(), rows, rows)[0].item()
    monkeypatch.setattr(evaluation, "LOGITS_AT_ONCE", at_once)
    sizes = []
    model.head.register_forward_hook(lambda _module, _given, logits: sizes.append(logits.numel()))

    score = evaluate_sequences(model, [SimpleNamespace(input_ids=rows, labels=rows)])

    assert score.nats == pytest.approx(expected, rel=1e-6)
    assert max(sizes) <= at_once
    assert sum(size >= 300 * 50 for size in sizes) == passes  # 0: not even one row, which is then read in pieces


def test_held_out_sequences_cost_two_tokens_more_than_they_have(tiny_attention):
    model = tiny_attention(50)

    evaluate_sequences(model, [batch([[1, 2, 3]], [[1, 2, 3]])])

    assert model.read_tokens == 2 + 3  # what only minimal pairs need is not found out


def test_sequences_without_a_target_are_refused(bigram):
    with pytest.raises(ValueError, match="no sequence with a target"):
        evaluate_sequences(bigram(torch.ones(3, 3) / 3), [])


def test_a_model_in_training_goes_on_as_if_nothing_had_been_asked(tmp_path, tiny_attention, toy_tokenizer):
    path = tmp_path / "agreement.jsonl"
    path.write_text(json.dumps({"sentence_good": "a b", "sentence_bad": "b", "field": "syntax"}) + "\n")
    tokenizer = toy_tokenizer([" a", " b"])

    def train(evaluate):
        torch.manual_seed(0)
        model = tiny_attention(tokenizer.vocab_size).train()
        for _ in range(3):
            if evaluate:
                evaluate_minimal_pairs(model, tokenizer, [path])
                evaluate_sequences(model, [batch([[1, 2, 3]], [[1, 2, 3]])])
            model(torch.tensor([[1, 2, 3, 4]])).logits.square().sum().backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.01 * parameter.grad
            model.zero_grad()
        return [parameter.detach().clone() for parameter in model.parameters()], torch.get_rng_state()

    plain, state = train(evaluate=False)
    evaluated, evaluated_state = train(evaluate=True)

    assert all(torch.equal(a, b) for a, b in zip(plain, evaluated, strict=True))
    assert torch.equal(state, evaluated_state)


def test_accuracies_are_named_for_tables(tmp_path, bigram, toy_tokenizer, probabilities):
    tokenizer = toy_tokenizer([" a", " b"])
    table = probabilities(6, {(row, 4): 0.5 for row in range(6)})
    records = [
        {"sentence_good": "a", "sentence_bad": "b", "field": "syntax", "linguistics_term": "binding"},
        {"sentence_good": "b b", "sentence_bad": "a a", "field": "syntax/semantics"},
    ]
    path = tmp_path / "case.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))

    found = evaluate_minimal_pairs(bigram(table), tokenizer, [tmp_path])

    assert found == {
        "case": 0.5,
        "field=syntax": 1.0,
        "field=syntax_semantics": 0.0,
        "term=binding": 1.0,
        "overall": 0.5,
    }
