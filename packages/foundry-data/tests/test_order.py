"""The order of an epoch: every sequence once, any position at once, no trace of the corpus order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_data.order import epoch_order


@given(st.integers(0, 3000), st.integers(0, 2**63 - 1), st.integers(0, 1000))
def test_the_order_of_an_epoch_is_a_bijection(count, seed, epoch):
    visited = epoch_order(count, seed, epoch)(np.arange(count))

    assert sorted(visited.tolist()) == list(range(count))


@given(st.integers(1, 10**12), st.integers(0, 100), st.data())
def test_a_position_means_the_same_sequence_however_it_is_reached(count, seed, data):
    position = data.draw(st.integers(0, count - 1))
    order = epoch_order(count, seed, epoch=3)

    alone = order([position])
    among = order(np.array([[0, position], [count - 1, position]]))

    assert among.shape == (2, 2)
    assert alone[0] == among[0, 1] == among[1, 1]
    assert 0 <= alone[0] < count


def test_epochs_and_seeds_have_other_orders():
    orders = [epoch_order(1000, seed, epoch)(np.arange(1000)).tolist() for seed in (1, 2) for epoch in (0, 1)]

    assert len({tuple(order) for order in orders}) == 4


def test_the_order_shows_no_trace_of_the_corpus_order():
    visited = epoch_order(50_000, 1, 0)(np.arange(50_000)).astype(float)

    assert abs(np.corrcoef(visited[:-1], visited[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(visited, np.arange(50_000))[0, 1]) < 0.02


@pytest.mark.parametrize("position", [-1, 10])
def test_a_position_outside_the_epoch_is_refused(position):
    with pytest.raises(IndexError, match="positions from 0 to 9"):
        epoch_order(10, 0, 0)([position])


def test_a_negative_length_is_refused():
    with pytest.raises(ValueError, match="-1 sequences"):
        epoch_order(-1, 0, 0)


@pytest.mark.parametrize("length", [1, 10, 37])
def test_a_single_position_is_as_good_as_many(length):
    order = epoch_order(length, seed=1, epoch=0)

    assert [int(order(place)) for place in range(length)] == order(np.arange(length)).tolist()
    assert order(np.arange(length).reshape(1, -1, 1)).shape == (1, length, 1)
