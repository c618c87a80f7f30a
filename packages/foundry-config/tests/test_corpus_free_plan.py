"""What a config says about its run before the corpus is there: never more than the plan on a real corpus says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_config import ConfigError, CorpusCounts, parse_config, plan_training, replace_fields
from foundry_config.corpus_free_plan import plan_without_corpus


@pytest.fixture(scope="module")
def tiny():
    """2 sequences of 32 tokens make a step."""
    return parse_config(
        """
experiment_name: tiny
data: {source_corpus: nowhere, batch_size: 2, max_sequence_length: 32}
tokenizer: {vocab_size: 300}
model: {layers: 1, embedding_size: 8, hidden_size: 8, intermediate_hidden_size: 16, attention_heads: 2}
training: {output_dir: runs/tiny, learning_rate: 1e-3}
"""
    )


def config_of(tiny, **training):
    """The tiny config with another length and schedule."""
    plain = {"train_steps": None, "epochs": None, "warmup_steps": None, "warmup_ratio": None}
    return replace_fields(tiny, {f"training.{name}": value for name, value in (plain | training).items()})


def real(config, *, sequences):
    return plan_training(config, CorpusCounts(sequences, sequences * 32, sequences * 20))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(1, 400), st.sampled_from([None, 0.1]))
def test_steps_decide_all_but_the_words(tiny, steps, sequences, ratio):
    config = config_of(tiny, train_steps=steps, warmup_ratio=ratio, checkpoint_schedule=["pythia", {"every_steps": 7}])

    free, full = plan_without_corpus(config), real(config, sequences=sequences)

    assert (free.total_steps, free.warmup_steps) == (full.total_steps, full.warmup_steps)
    assert (free.global_batch, free.tokens_per_step) == (full.global_batch, full.tokens_per_step)
    assert free.checkpoints == full.checkpoints
    assert free.tokens is not None and free.tokens >= full.tokens_after(steps)
    assert (free.words, free.unplanned) == (None, ())


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20_000), st.integers(1, 400))
def test_tokens_give_the_least_number_of_steps(tiny, tokens, sequences):
    config = config_of(tiny, train_tokens=tokens, checkpoint_schedule=[{"every_tokens": 5000}])

    free, full = plan_without_corpus(config), real(config, sequences=sequences)

    assert free.total_steps is not None and free.total_steps <= full.total_steps
    if sequences % full.global_batch == 0:  # all steps are full
        assert (free.total_steps, free.checkpoints) == (full.total_steps, full.checkpoints)


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({}, None),
        ({"epochs": 2.0}, None),
        ({"train_words": 1000}, 1000),
        ({"train_words": 1000, "epochs": 1.0}, None),
        ({"train_tokens": 1000, "epochs": 1.0}, None),
    ],
)
def test_words_and_epochs_leave_the_length_open(tiny, training, words):
    schedule = [9, {"every_steps": 7}, 0]
    free = plan_without_corpus(config_of(tiny, warmup_ratio=0.1, checkpoint_schedule=schedule, **training))

    assert (free.total_steps, free.warmup_steps, free.tokens) == (None, None, None)
    assert [item.step for item in free.checkpoints] == [0, 9]
    assert (free.words, free.unplanned) == (words, ("{every_steps: 7}",))


def test_what_the_schedule_leaves_to_the_corpus_is_named(tiny):
    schedule = [3, {"evenly": 4, "min_interval": 2}, "epochs", {"every_words": 100}, {"powers_of_two": 4}]
    config = config_of(tiny, train_steps=10, checkpoint_schedule=schedule, auto_generate_checkpoints=True)

    free = plan_without_corpus(config)

    assert [item.step for item in free.checkpoints] == [0, 1, 2, 3, 4, 10]
    assert free.unplanned == (
        "auto_generate_checkpoints",
        "{evenly: 4, min_interval: 2}",
        "epochs",
        "{every_words: 100}",
    )


def test_a_warmup_that_does_not_fit_is_refused_without_a_corpus_too(tiny):
    with pytest.raises(ConfigError, match="longer than the run"):
        plan_without_corpus(config_of(tiny, train_tokens=64, warmup_steps=2))
