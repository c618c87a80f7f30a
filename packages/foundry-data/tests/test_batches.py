"""Global batches and the stream of tensors: the same for any rank, worker and place to start from."""

import random
import threading
from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundry_config.errors import DataError
from foundry_data.batches import BatchPlan, rank_slice
from foundry_data.packing import packed_rows

torch_loader = pytest.importorskip("foundry_data.torch_loader", reason="needs the extra `torch`")
few = settings(max_examples=20, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def rows(make_store):
    return packed_rows(make_store(["the cat sat on a mat " * (i % 5) for i in range(60)]), 8)


@given(count=st.integers(1, 200), batch=st.integers(1, 60), drop_last=st.booleans(), start=st.integers(0, 50))
def test_an_epoch_visits_every_row_once_whatever_the_batch(count, batch, drop_last, start):
    if drop_last and count < batch:
        with pytest.raises(DataError, match="fewer than one global batch"):
            BatchPlan(count, global_batch=batch, seed=1, drop_last=True)
        return
    plan = BatchPlan(count, global_batch=batch, seed=1, drop_last=drop_last)

    places = [plan.at_step(start * plan.steps_per_epoch + step) for step in range(plan.steps_per_epoch)]
    visited = list(chain.from_iterable(plan.rows(place).tolist() for place in places))

    assert {place.epoch for place in places} == {start}
    assert len(visited) == len(set(visited)) == plan.sequences_per_epoch
    assert plan.sequences_per_epoch + plan.dropped_sequences == count
    assert plan.dropped_sequences == (count % batch if drop_last else 0)
    assert [plan.after(place) for place in places[:-1]] == places[1:]
    assert plan.after(places[-1]) == plan.at_step((start + 1) * plan.steps_per_epoch)


@given(size=st.integers(0, 100), world=st.integers(1, 12))
def test_ranks_share_a_batch_without_gap_or_overlap(size, world):
    shares = [range(size)[rank_slice(size, rank, world)] for rank in range(world)]

    assert list(chain.from_iterable(shares)) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_stream_that_starts_anywhere_gives_the_same_next_batch(rows, prefetch):
    options = {"global_batch": 7, "seed": 1, "prefetch": prefetch}
    with torch_loader.BatchStream(rows, **options) as reference:
        taken = [(reference.state, next(reference)) for _ in range(2 * reference.steps_per_epoch + 2)]

    for (epoch, position), expected in taken[::5]:
        with torch_loader.BatchStream(rows, epoch=epoch, position=position, **options) as stream:
            got = next(stream)
        assert got.input_ids.tolist() == expected.input_ids.tolist()
        assert (got.epoch, got.position, got.words) == (epoch, position, expected.words)


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_together_have_the_batches_of_one(rows, world):
    def stream(**share):
        return torch_loader.BatchStream(rows, global_batch=6, seed=5, prefetch=0, **share)

    alone = stream()
    ranks = [stream(rank=rank, world_size=world) for rank in range(world)]

    for whole, *parts in islice(zip(alone, *ranks, strict=True), alone.steps_per_epoch):
        assert list(chain.from_iterable(p.input_ids.tolist() for p in parts)) == whole.input_ids.tolist()
        for part in parts:
            assert (part.target_tokens, part.sequences, part.tokens, part.words) == (
                whole.target_tokens, whole.sequences, whole.tokens, whole.words
            )  # fmt: skip


@pytest.mark.parametrize("packing", ["concat", "best_fit", "document"])
def test_the_counts_of_a_batch_are_those_of_its_rows(make_store, packing):
    rows = packed_rows(make_store(["the cat sat " * (i % 4) for i in range(30)]), 12, packing=packing)

    with torch_loader.BatchStream(rows, global_batch=5, seed=1) as stream:
        for batch in islice(stream, stream.steps_per_epoch):
            assert batch.target_tokens == int((batch.labels[:, 1:] != -100).sum())
            assert batch.sequences == len(batch.input_ids) == len(batch.sequence_ids)
            assert batch.tokens == int(rows.tokens(batch.sequence_ids).sum())
            assert str(batch.input_ids.dtype) == str(batch.labels.dtype) == "torch.int64"


@pytest.mark.parametrize("drop_last", [False, True])
def test_words_seen_are_the_sum_over_the_batches(rows, drop_last):
    words = sequences = 0
    with torch_loader.BatchStream(rows, global_batch=7, seed=1, drop_last=drop_last, prefetch=0) as stream:
        for batch in islice(stream, 2 * stream.steps_per_epoch + 3):
            words += batch.words
            sequences += batch.sequences
            assert stream.words_after(sequences) == words
        assert stream.words_after(0) == 0


def test_without_shuffling_rows_come_as_they_lie(rows):
    with torch_loader.BatchStream(rows, global_batch=4, seed=1, shuffle=False) as stream:
        assert [next(stream).sequence_ids.tolist() for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_an_error_in_the_thread_is_raised_where_the_batch_is_taken(rows, mocker):
    mocker.patch.object(type(rows.store), "gather", side_effect=DataError("shard 3 is damaged"))

    with torch_loader.BatchStream(rows, global_batch=4, seed=1) as stream:
        for _ in range(2):
            with pytest.raises(DataError, match="shard 3"):
                next(stream)


@pytest.mark.parametrize("rank", [0, 1])
def test_batches_stay_what_they_are_while_later_ones_are_made(rows, rank):
    with torch_loader.BatchStream(rows, global_batch=3, seed=1, rank=rank, world_size=2, prefetch=0) as stream:
        blocks = [next(stream._blocks) for _ in range(3)]  # one in use, one that waits, one that is made
        batches = [batch for block in blocks for batch in block] + list(islice(stream, 50))

    assert len({tuple(batch.sequence_ids) for batch in batches[:3]}) == 3
    for batch in batches:
        assert batch.input_ids.tolist() == rows.gather(batch.sequence_ids).input_ids.tolist()
        assert batch.labels.tolist() == rows.gather(batch.sequence_ids).labels.tolist()


def test_memory_is_pinned_for_the_card_of_the_caller(rows, monkeypatch):
    cards: list[tuple[str, int]] = []
    torch = torch_loader.torch
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda card: cards.append((threading.current_thread().name, card)))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 0)

    with torch_loader.BatchStream(rows, global_batch=2, seed=1, pin_memory=True) as pinned:
        found = [next(pinned).input_ids.tolist() for _ in range(5)]

    with torch_loader.BatchStream(rows, global_batch=2, seed=1) as plain:
        assert found == [next(plain).input_ids.tolist() for _ in range(5)]
    assert cards == [("prefetch-batches", 3)]


def test_closing_ends_the_thread_and_the_stream(rows):
    stream = torch_loader.BatchStream(rows, global_batch=4, seed=1)
    next(stream)

    stream.close()
    stream.close()

    assert not stream._prefetcher._thread.is_alive()
    with pytest.raises(StopIteration):
        next(stream)


def test_impossible_places_and_ranks_are_refused(rows):
    with pytest.raises(ValueError, match="at least one sequence"):
        BatchPlan(5, global_batch=0, seed=0)
    with pytest.raises(ValueError, match="position 99999"):
        torch_loader.BatchStream(rows, global_batch=4, seed=1, position=99999)
    with pytest.raises(ValueError, match="no rank 2 among 2"):
        torch_loader.BatchStream(rows, global_batch=4, seed=1, rank=2, world_size=2)


def test_dataloader_shuffles_and_has_the_correct_batch_size(rows):
    one, two = ([b["input_ids"] for b in torch_loader.make_dataloader(rows, batch_size=7, seed=1)] for _ in range(2))
    unshuffled = next(iter(torch_loader.make_dataloader(rows, batch_size=7, seed=1, shuffle=False)))["input_ids"]

    assert [len(b) for b in one[:-1]] == [7] * (len(one) - 1)
    assert sum(map(len, one)) == len(rows)
    assert [b.tolist() for b in one] == [b.tolist() for b in two]
    assert one[0].tolist() != unshuffled.tolist()


@pytest.mark.slow
def test_multiple_workers_do_not_cause_issues(rows):
    one, two = (
        [b["input_ids"].tolist() for b in torch_loader.make_dataloader(rows, batch_size=7, seed=1, num_workers=n)]
        for n in (0, 2)
    )

    assert one == two


def test_worker_init_sets_different_seeds():
    states = random.getstate(), np.random.get_state()
    drawn = set()
    for worker in range(3):
        torch_loader.seed_worker(worker)
        drawn.add((random.random(), float(np.random.random())))
    random.setstate(states[0])
    np.random.set_state(states[1])

    assert len(drawn) == 3


def test_a_dataset_of_rows_has_positions_where_documents_are_masked(make_store):
    dataset = torch_loader.RowDataset(packed_rows(make_store(["the cat"] * 9), 6, document_mask=True))

    assert set(dataset[0]) == {"input_ids", "labels", "position_ids"}
    with pytest.raises(IndexError, match="no sequence"):
        dataset[len(dataset)]
