"""Packing over real stores: no token lost or doubled, and every count that of the rows themselves."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundry_config.errors import ConfigError, DataError
from foundry_data import packing as packing_module
from foundry_data.packing import IGNORED, packed_rows
from foundry_data.row_index import _fill_rows

texts = st.lists(st.lists(st.sampled_from(["the", "cat", "sat", "on"]), max_size=15).map(" ".join), max_size=8)
packings = st.sampled_from(["concat", "best_fit", "document"])
few = settings(max_examples=20, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@given(st.lists(st.integers(1, 16), max_size=60))
def test_best_fit_fills_no_row_beyond_its_room_and_wastes_little(lengths):
    sizes = np.array(lengths, dtype=np.int64)

    rows = _fill_rows(sizes, 16)

    filled = np.bincount(rows, weights=sizes) if len(rows) else np.zeros(0)
    assert ((filled > 0) & (filled <= 16)).all()
    # Best-fit decreasing never needs more than 11/9 of the optimum and one row (Johnson, 1974).
    lower = max(-(-int(sizes.sum()) // 16), int((sizes > 8).sum()))
    optimum = _smallest_packing(lengths) if len(lengths) <= 8 else None
    assert len(filled) >= lower
    assert optimum is None or len(filled) <= 11 / 9 * optimum + 1


def _smallest_packing(lengths, rows=()):
    """Rows of 16 that the lengths need at least, by trying everything."""
    if not lengths:
        return len(rows)
    head, *rest = lengths
    choices = [
        _smallest_packing(rest, (*rows[:i], filled + head, *rows[i + 1 :]))
        for i, filled in enumerate(rows)
        if filled + head <= 16 and filled not in rows[:i]
    ]
    return min([*choices, _smallest_packing(rest, (*rows, head))])


@pytest.mark.slow
@few
@given(documents=texts, length=st.integers(2, 40), packing=packings, mask=st.booleans())
def test_every_token_is_in_exactly_one_row_or_counted_as_left_out(make_store, documents, length, packing, mask):
    store = make_store(documents, shard_tokens=37)
    rows = packed_rows(store, length, packing=packing, document_mask=mask)
    every = np.arange(len(rows))

    batch = rows.gather(every)
    tokens = rows.tokens(every)
    real = [row[:n].tolist() for row, n in zip(batch.input_ids, tokens.tolist(), strict=True)]

    stream = store.read(0, len(store)).tolist()
    assert sum(map(len, real)) + rows.left_out == len(store)
    assert rows.padding == len(rows) * length - tokens.sum()
    assert rows.losses == {"dropped_tokens": rows.left_out, "padding": rows.padding}
    if packing == "concat":
        assert list(chain.from_iterable(real)) == stream[: len(stream) - rows.left_out]
    else:
        assert rows.left_out == 0
        assert sorted(chain.from_iterable(real)) == sorted(stream)


@pytest.mark.slow
@few
@given(documents=texts, length=st.integers(2, 40), packing=packings, mask=st.booleans())
def test_counts_of_targets_words_and_bytes_are_those_of_the_rows(make_store, documents, length, packing, mask):
    store = make_store([*documents, "the cat sat on a mat " * 8])
    rows = packed_rows(store, length, packing=packing, document_mask=mask)
    every = np.arange(len(rows))[::-1]

    batch = rows.gather(every)

    assert rows.targets(every).tolist() == (batch.labels[:, 1:] != IGNORED).sum(axis=1).tolist()
    assert int(rows.words(every).sum()) == store.words_between(0, len(store) - rows.left_out)
    table = store.token_bytes.astype(int)
    upper = np.where(batch.labels[:, 1:] == IGNORED, 0, table[batch.input_ids[:, 1:]]).sum(axis=1)
    assert (rows.target_bytes(every) <= upper).all()
    assert (rows.target_bytes(every) >= upper - (batch.input_ids == 3).sum(axis=1) - 1).all()


@pytest.mark.slow
@few
@given(documents=texts, length=st.integers(2, 24), packing=packings)
def test_masked_documents_begin_anew_and_predict_no_first_token(make_store, documents, length, packing):
    store = make_store([*documents, "the cat sat on a mat " * 4])
    rows = packed_rows(store, length, packing=packing, document_mask=True)

    batch = rows.gather(np.arange(len(rows)))

    assert batch.position_ids is not None
    counts = rows.tokens(np.arange(len(rows))).tolist()
    for ids, positions, labels, count in zip(batch.input_ids, batch.position_ids, batch.labels, counts, strict=True):
        assert positions[0] == 0
        for column in range(1, count):
            begins = ids[column - 1] == 3
            assert positions[column] == (0 if begins else positions[column - 1] + 1)
            assert labels[column] == (IGNORED if begins else ids[column])
        assert (labels[count:] == IGNORED).all()


def test_best_fit_keeps_documents_whole_where_they_fit(make_store):
    store = make_store(["the cat", "sat", "the cat sat on", "on"])
    lengths = np.diff(store.document_starts)

    rows = packed_rows(store, int(lengths.max()), packing="best_fit")

    assert sorted(rows.index.lengths.tolist()) == sorted(lengths.tolist())


def test_the_best_fit_index_is_kept_and_made_again_when_it_is_damaged(make_store, mocker):
    store = make_store(["the cat sat " * (i % 5) for i in range(20)])
    made = mocker.spy(packing_module, "best_fit_index")
    first = packed_rows(store, 16, packing="best_fit")

    again = packed_rows(store, 16, packing="best_fit")
    assert made.call_count == 1
    assert all((a == b).all() for a, b in zip(again.index, first.index, strict=True))

    path = store.folder / "packing-best_fit-16" / "starts.bin"
    path.write_bytes(path.read_bytes()[::-1])
    repaired = packed_rows(store, 16, packing="best_fit")
    assert made.call_count == 2
    assert all((a == b).all() for a, b in zip(repaired.index, first.index, strict=True))


def test_a_store_that_cannot_be_written_is_packed_all_the_same(make_store, mocker, caplog):
    store = make_store(["the cat sat"] * 5)
    mocker.patch("foundry_data.row_index_cache.fs.write_new", side_effect=OSError(30, "Read-only file system"))

    assert len(packed_rows(store, 16, packing="best_fit")) > 0
    assert "is not kept for next time" in caplog.text


def test_unmasked_labels_are_the_tokens_without_a_copy(make_store):
    batch = packed_rows(make_store(["the cat sat " * 9]), 8).gather(np.array([0, 1]))

    assert batch.labels is batch.input_ids
    assert batch.position_ids is None


def test_padding_needs_a_pad_token(make_store, mocker):
    store = make_store(["the cat"])
    mocker.patch.object(store, "manifest", mocker.Mock(pad_id=None))

    with pytest.raises(DataError, match="without a pad token"):
        packed_rows(store, 4, packing="document")


def test_an_unknown_packing_is_refused(make_store):
    with pytest.raises(ConfigError, match="Did you mean 'concat'"):
        packed_rows(make_store(["the cat"]), 4, packing="concatt")
