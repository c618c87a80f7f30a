"""The plan: steps, warm-up and checkpoints as arithmetic."""

import json
import math
from fractions import Fraction

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from foundry_config import ConfigError, CorpusCounts, parse_config, plan_training, replace_fields
from foundry_config.plan import first_step_reaching

BASE = parse_config("""
experiment_name: base
data: {source_corpus: x, batch_size: 2, max_sequence_length: 32}
tokenizer: {vocab_size: 1000}
model: {layers: 2, embedding_size: 64, hidden_size: 64, intermediate_hidden_size: 128, attention_heads: 2}
training: {output_dir: out, learning_rate: 1e-4}
""")


def corpus(sequences, *, words=None, words_after=None):
    return CorpusCounts(
        sequences=sequences, tokens=32 * sequences, words=words or 20 * sequences, words_after=words_after
    )


def plan(sequences=1000, *, words=None, words_after=None, **changes):
    fields = {f"training.{key}" if "__" not in key else key.replace("__", "."): v for key, v in changes.items()}
    return plan_training(replace_fields(BASE, fields), corpus(sequences, words=words, words_after=words_after))


def test_without_any_limit_a_run_is_one_epoch_and_saves_its_end():
    found = plan(1000)

    assert (found.steps_per_epoch, found.total_steps, found.epochs) == (500, 500, 1.0)
    assert [(m.step, m.reasons) for m in found.checkpoints] == [(500, ("end of training",))]
    assert (found.global_batch, found.tokens_per_step, found.warmup_steps) == (2, 64, 0)


def test_train_steps_within_the_epochs_decide(tiny_config):
    found = plan_training(tiny_config, corpus(1000))

    assert (found.total_steps, found.warmup_steps) == (10, 2)


def test_train_steps_that_the_epochs_do_not_reach_are_refused_with_both_numbers():
    with pytest.raises(
        ConfigError, match=r"training.train_steps: 501 steps do not fit into epochs: 1, .* after 500 steps"
    ):
        plan(1000, epochs=1, train_steps=501)


def test_without_epochs_only_the_given_length_limits():
    assert plan(1000, train_steps=1234).total_steps == 1234
    assert plan(1000, train_steps=1234).epochs == 1234 / 500


def test_tokens_and_words_are_reached_by_a_whole_step_and_end_with_the_epochs():
    assert plan(1000, train_tokens=6400).total_steps == 100
    assert plan(1000, train_tokens=6401).total_steps == 101
    assert plan(1000, train_words=41).total_steps == 2
    assert plan(1000, train_words=10**9, epochs=2).total_steps == 1000
    assert plan(1000, train_words=100_000).total_steps == 2500


def test_shares_of_epochs_are_counted_in_decimals():
    assert plan(20, epochs=0.1).total_steps == 1
    assert plan(666, epochs=0.5).total_steps == math.ceil(333 / 2)
    assert plan(20, epochs=0.3).total_steps == 3


def test_a_last_short_batch_is_a_step_unless_it_is_dropped():
    assert plan(667, epochs=2).total_steps == 668
    assert plan(667, epochs=2, data__drop_last=True).total_steps == 666
    assert plan(667, epochs=2).sequences_after(335) == 669
    assert plan(667, epochs=2, data__drop_last=True).sequences_after(334) == 668


def test_accumulation_makes_the_global_batch_larger():
    found = plan(1000, gradient_accumulation_steps=4)

    assert (found.global_batch, found.tokens_per_step, found.total_steps) == (8, 256, 125)


@pytest.mark.parametrize(("fields", "steps"), [({"warmup_steps": 7}, 7), ({"warmup_ratio": 0.1}, 50), ({}, 0)])
def test_warmup_comes_from_steps_or_a_share(fields, steps):
    assert plan(1000, **fields).warmup_steps == steps


def test_a_share_of_warmup_is_rounded_up_and_exact_in_decimals():
    assert plan(20, warmup_ratio=0.1).warmup_steps == 1
    assert plan(22, warmup_ratio=0.1).warmup_steps == 2
    assert plan(20, warmup_ratio=1.0).warmup_steps == 10


@pytest.mark.parametrize(
    ("sequences", "fields", "message"),
    [
        (0, {}, "not one sequence of 32; shorten the sequences or add text"),
        (1, {"data__drop_last": True}, "1 sequences, fewer than one global batch of 2"),
        (10, {"warmup_steps": 6}, "6 steps of warm-up are longer than the run of 5"),
        (
            20,
            {"warmup_steps": 9, "lr_schedule": "wsd"},
            "9 steps of warm-up and 2 of decay are longer than the run of 10",
        ),
        (10, {"checkpoint_schedule": [3, 6]}, "step 6 lies beyond the end of the run at 5"),
    ],
)
def test_what_does_not_fit_the_corpus_is_refused_with_the_numbers(sequences, fields, message):
    with pytest.raises(ConfigError, match=message):
        plan(sequences, **fields)


def test_words_that_are_never_reached_are_refused():
    with pytest.raises(ConfigError, match="the corpus has no words to reach 5"):
        plan_training(replace_fields(BASE, {"training.train_words": 5}), CorpusCounts(10, 320, 0))


def test_the_automatic_schedule_is_the_worked_example():
    found = plan(666, epochs=3, auto_generate_checkpoints=True, checkpoint_schedule=[700])

    steps = [milestone.step for milestone in found.checkpoints]
    assert steps[:20] == [round(333 * i / 19) for i in range(20)]
    assert steps[20:29] == [334, 336, 340, 348, 364, 396, 460, 588, 666]
    assert 700 in steps
    assert steps[-1] == 999


def test_the_automatic_schedule_can_be_linear():
    fields = {"auto_generate_checkpoints": True, "first_epoch_checkpoints": 3, "subsequent_epochs_spacing": "linear"}

    assert [m.step for m in plan(200, epochs=2, **fields).checkpoints] == [0, 50, 100, 150, 200]
    assert [m.step for m in plan(200, epochs=2, linear_interval=40, **fields).checkpoints] == [
        0,
        50,
        100,
        140,
        180,
        200,
    ]


def test_checkpoints_by_words_are_the_first_step_at_which_the_words_were_seen():
    uneven = [5, 100, 1, 1, 900, 3, 3, 3, 3, 3]  # words of the sequences in their order
    after = [sum(uneven[:n]) for n in range(11)]

    found = plan(10, words=sum(uneven), words_after=after.__getitem__, checkpoint_schedule=[{"every_words": 500}])

    assert [(m.step, m.reasons) for m in found.checkpoints] == [(3, ("1,000 words",)), (5, ("end of training",))]
    assert not found.estimated


@pytest.mark.parametrize(
    ("fields", "exact", "estimated"),
    [
        ({"train_words": 5}, False, True),
        ({"train_words": 5}, True, False),
        ({"checkpoint_schedule": ["babylm-strict-small"]}, False, True),
        ({"checkpoint_schedule": [{"every_words": 5}]}, False, True),
        ({"checkpoint_schedule": [5, "pythia"]}, False, False),
        ({"train_tokens": 5}, False, False),
    ],
)
def test_a_plan_says_whether_it_rests_on_an_estimate(fields, exact, estimated):
    words_after = (lambda n: 20 * n) if exact else None

    assert plan(1000, words_after=words_after, **fields).estimated is estimated


def test_tokens_of_padded_sequences_are_an_estimate():
    config = replace_fields(BASE, {"training.train_tokens": 5})

    assert plan_training(config, CorpusCounts(sequences=10, tokens=200, words=5)).estimated


def test_a_plan_is_plain_data():
    data = json.loads(msgspec.json.encode(plan(1000, checkpoint_schedule=["pythia"])))

    assert data["total_steps"] == 500
    assert data["checkpoints"][1] == {"step": 1, "label": None, "reasons": ["power of two"]}


@given(
    sequences=st.integers(1, 5000),
    batch=st.integers(1, 60),
    accumulation=st.integers(1, 5),
    drop_last=st.booleans(),
    step=st.integers(0, 500),
)
def test_counts_after_a_step_equal_a_walk_over_the_epochs(sequences, batch, accumulation, drop_last, step):
    assume(not drop_last or sequences >= batch * accumulation)
    found = plan(
        sequences,
        data__batch_size=batch,
        gradient_accumulation_steps=accumulation,
        data__drop_last=drop_last,
        train_steps=500,
    )

    sizes = [min(found.global_batch, sequences - at) for at in range(0, sequences, found.global_batch)]
    sizes = [size for size in sizes if size == found.global_batch or not drop_last]
    walked = [sizes[index % len(sizes)] for index in range(step)]
    assert found.steps_per_epoch == len(sizes)
    assert found.sequences_after(step) == sum(walked)
    assert found.tokens_after(step) == 32 * sum(walked)
    assert found.epoch_of(step) == max(step - 1, 0) // len(sizes)


@pytest.mark.slow
@given(st.integers(1, 3000), st.fractions(min_value=Fraction(1, 100), max_value=20, max_denominator=100))
def test_a_run_of_some_epochs_is_their_share_of_steps_rounded_up(sequences, epochs):
    decimal = Fraction(repr(float(epochs)))

    found = plan(sequences, epochs=float(epochs))

    assert found.total_steps == math.ceil(decimal * found.steps_per_epoch)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50), st.integers(0, 300))
def test_bisection_finds_the_first_step_that_reaches_a_count(rises, target):
    counts = [sum(rises[:n]) for n in range(len(rises) + 1)]

    found = first_step_reaching(counts.__getitem__, target, limit=len(rises))

    assert found == next((step for step, count in enumerate(counts) if count >= target), None)
