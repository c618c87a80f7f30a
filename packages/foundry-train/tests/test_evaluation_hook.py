"""Evaluations happen at their moments, can be interrupted, and leave the model as it was."""

import numpy as np
import pytest
import torch
from torch import nn

from foundry_config import EvaluationConfig
from foundry_train.evaluation_hook import (
    PAIRS,
    TEST,
    EvaluationHook,
    HeldOut,
    describe_values,
    held_out_suite,
    interruptible,
    minimal_pair_suite,
    text_sampler,
)
from foundry_train.evaluation_hook import Interrupted as Stop
from foundry_train.held_out import HeldOutBatch, held_out_of
from foundry_train.hooks import Moment

MODEL = nn.Linear(1, 1)


class Log:
    def __init__(self) -> None:
        self.records: list[dict] = []

    def moment(self, step: int) -> Moment:
        return Moment(None, step, MODEL, self.records.append)


def make_hook(
    suites=None, *, total_steps: int = 100, messages: list | None = None, recorded=(), **settings
) -> EvaluationHook:
    suites = {TEST: lambda model: {"loss": 2.0, "perplexity": 7.4}} if suites is None else suites
    return EvaluationHook(
        EvaluationConfig(**settings),
        suites,
        lambda model, step: [{"prompt": "the ", "text": f"cat {step}"}],
        total_steps=total_steps,
        recorded=recorded,
        message=(messages if messages is not None else []).append,
    )


def test_the_untrained_and_the_trained_model_are_always_measured_and_only_the_last_one_speaks():
    log, hook = Log(), make_hook()

    hook.on_start(log.moment(0))
    hook.on_end(log.moment(100))

    assert [(r["kind"], r.get("suite")) for r in log.records] == [
        ("evaluation", "test"),
        ("evaluation", "test"),
        ("sample", None),
    ]
    assert hook.before == hook.after == {"loss": 2.0, "perplexity": 7.4} and hook.sample == "the cat 100"


def test_a_resumed_run_does_not_measure_at_its_start():
    log, hook = Log(), make_hook()

    hook.on_start(log.moment(50))

    assert log.records == []


@pytest.mark.parametrize(
    ("settings", "due"),
    [
        ({}, []),
        ({"every_steps": 4}, [4, 8]),
        ({"every_steps": 4, "sample_every_steps": 6}, [4, 6, 8]),
        ({"every_steps": 10}, []),
    ],
)
def test_steps_in_between_cost_nothing_and_the_last_one_is_left_to_the_end(settings, due):
    hook = make_hook(total_steps=10, **settings)

    assert [step for step in range(1, 11) if hook.is_due(step)] == due


def test_a_step_is_measured_once_however_many_reasons_there_are():
    log, hook = Log(), make_hook(every_steps=5, at_checkpoints=True)

    hook.on_step(log.moment(5))
    hook.on_checkpoint(log.moment(5))

    assert len(log.records) == 1


def test_what_an_earlier_process_has_recorded_is_measured_again_but_not_written_again():
    suites = {TEST: lambda model: {"loss": 2.0}, PAIRS: lambda model: {"agreement": 0.75, "overall": 0.5}}
    first, second = Log(), Log()
    make_hook(suites).on_end(first.moment(100))
    recorded = [{**record, "step": 100} for record in first.records if record.get("item") != "overall"]

    hook = make_hook(suites, recorded=recorded)
    hook.on_end(second.moment(100))

    assert second.records == [record for record in first.records if record.get("item") == "overall"]
    assert hook.after == {"loss": 2.0} and hook.sample == "the cat 100"


def test_a_model_that_cannot_write_goes_on_training_without_a_sample(caplog):
    def sampler(model, step):
        raise IndexError("index out of range in self")

    log, hook = Log(), make_hook()
    hook._sampler = sampler
    hook.on_end(log.moment(100))

    assert [record["kind"] for record in log.records] == ["evaluation"] and hook.sample is None
    assert "step 100: no text sample (IndexError: index out of range in self)" in caplog.text


def test_checkpoints_are_measured_only_if_asked_for():
    log = Log()

    make_hook().on_checkpoint(log.moment(5))

    assert log.records == []


def test_minimal_pairs_are_one_record_for_each_item():
    log = Log()
    hook = make_hook({PAIRS: lambda model: {"agreement": 0.75, "overall": 0.5}}, every_steps=1)

    hook.on_step(log.moment(1))

    assert log.records == [
        {"kind": "evaluation", "suite": "minimal_pairs", "item": "agreement", "accuracy": 0.75},
        {"kind": "evaluation", "suite": "minimal_pairs", "item": "overall", "accuracy": 0.5},
    ]


def test_every_result_is_announced_in_one_line():
    messages: list[str] = []

    make_hook(messages=messages).on_start(Log().moment(0))

    assert messages == ["step 0: test loss 2, perplexity 7.4"]
    assert describe_values("test", 3, {"bits_per_byte": 1.23456, "tokens": 5}) == "step 3: test bits per byte 1.235"


def test_an_interrupted_evaluation_leaves_no_record_and_is_made_again_later():
    answers = iter([True, False])
    log = Log()

    def suite(model):
        if next(answers):
            raise Stop
        return {"loss": 1.0}

    hook = make_hook({TEST: suite}, every_steps=5)
    hook.on_step(log.moment(5))
    assert log.records == []
    hook.on_step(log.moment(5))

    assert len(log.records) == 1


def test_batches_end_as_soon_as_a_stop_is_asked_for():
    asked = iter([False, True])

    with pytest.raises(Stop):
        list(interruptible(iter([1, 2, 3]), lambda: next(asked)))
    with pytest.raises(Stop):
        minimal_pair_suite(None, [], should_stop=lambda: True)(MODEL)


class Bigram(nn.Module):
    """Knows that the next token is always one higher."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(50.0))

    def forward(self, input_ids, **ignored):
        logits = nn.functional.one_hot((input_ids + 1) % 10, 10) * self.scale
        return type("Output", (), {"logits": logits})()


class FakeRows:
    """Ten rows that count upwards; two bytes and half a word for each token."""

    def __len__(self) -> int:
        return 10

    def gather(self, indices):
        ids = (np.asarray(indices)[:, None] + np.arange(5)) % 10
        return HeldOutBatch(ids, ids, None)

    def words(self, indices):
        return np.full(len(indices), 2)

    def target_bytes(self, indices):
        return np.full(len(indices), 8.0)


def test_held_out_rows_are_spread_over_the_split_and_the_same_every_time():
    held_out = held_out_of(FakeRows(), max_sequences=4, batch_size=3)

    first = [batch.input_ids[:, 0].tolist() for batch in held_out.batches()]

    assert first == [[0, 3, 6], [9]] == [batch.input_ids[:, 0].tolist() for batch in held_out.batches()]
    assert (held_out.words, held_out.bytes) == (8, 32)
    assert held_out_of(type("Empty", (), {"__len__": lambda self: 0})(), max_sequences=4, batch_size=2) is None


def test_held_out_loss_of_a_perfect_model_is_zero_and_of_an_ignorant_one_the_entropy():
    model = Bigram()
    held_out = held_out_of(FakeRows(), max_sequences=10, batch_size=4)
    suite = held_out_suite(held_out, batch_size=2, should_stop=lambda: False)

    perfect = suite(model)
    model.scale.data.fill_(0.0)
    ignorant = suite(model)

    assert perfect["loss"] == pytest.approx(0.0, abs=1e-6) and perfect["tokens"] == 40
    assert ignorant["loss"] == pytest.approx(np.log(10)) and ignorant["perplexity"] == pytest.approx(10)
    assert ignorant["bits_per_byte"] == pytest.approx(40 * np.log2(10) / 80)
    assert ignorant["bits_per_word"] == pytest.approx(40 * np.log2(10) / 20)
    assert model.training


class Hungry(Bigram):
    """Runs out of memory when it reads more than `fits` sequences at a time."""

    fits = 3

    def forward(self, input_ids, **ignored):
        self.read = [*getattr(self, "read", []), len(input_ids)]
        if len(input_ids) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(input_ids)


def test_an_evaluation_that_runs_out_of_memory_reads_fewer_sequences_at_a_time_from_then_on(caplog):
    held_out = held_out_of(FakeRows(), max_sequences=10, batch_size=8)
    suite = held_out_suite(held_out, batch_size=8, should_stop=lambda: False)
    model = Hungry()

    first, tried = suite(model), model.read
    model.read = []
    second = suite(model)

    assert first == second == held_out_suite(held_out, batch_size=8, should_stop=lambda: False)(Bigram())
    assert 8 in tried and max(model.read) == 2
    assert caplog.messages == [
        "out of memory: evaluations read 4 instead of 8 sequences at a time",
        "out of memory: evaluations read 2 instead of 4 sequences at a time",
    ]


def test_an_evaluation_that_cannot_read_a_single_sequence_says_so():
    held_out = held_out_of(FakeRows(), max_sequences=10, batch_size=8)
    model = Hungry()
    model.fits = 0

    with pytest.raises(torch.OutOfMemoryError):
        held_out_suite(held_out, batch_size=2, should_stop=lambda: False)(model)


def test_a_stop_during_the_held_out_loss_is_heard_between_batches():
    held_out = HeldOut(held_out_of(FakeRows(), max_sequences=10, batch_size=2).batches)
    asked = iter([False, False, True])

    with pytest.raises(Stop):
        held_out_suite(held_out, batch_size=2, should_stop=lambda: next(asked))(Bigram())


def test_a_sample_depends_on_seed_and_step_alone_and_can_be_turned_off(monkeypatch):
    calls = []

    def generate(model, tokenizer, prompts, **settings):
        calls.append((prompts, settings["seed"], settings["max_new_tokens"]))
        return ["x"] * len(prompts)

    monkeypatch.setattr("foundry_train.evaluation_hook.generate_text", generate)
    settings = EvaluationConfig(sample_prompts=("", "a"), sample_tokens=7)

    found = text_sampler(None, settings, seed=100)(MODEL, 5)

    assert found == [{"prompt": "", "text": "x"}, {"prompt": "a", "text": "x"}]
    assert calls == [(["", "a"], 105, 7)]
    assert text_sampler(None, EvaluationConfig(sample_tokens=0), seed=1)(MODEL, 5) == []
    assert text_sampler(None, EvaluationConfig(sample_prompts=()), seed=1)(MODEL, 5) == []
