"""Raw text -> tokenizer -> token store -> batches, as the pieces of foundry-data work together."""

import numpy as np
import pytest

from foundry_config import load_config
from foundry_data import DataProcessor
from foundry_data.torch_loader import BatchStream, make_dataloader

DOCUMENTS = 300


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, make_experiment):
    """Processor and prepared data of a corpus of 300 documents, end to end in sequences of 16 tokens."""
    folder = tmp_path_factory.mktemp("pipeline")
    config = load_config(
        make_experiment(folder, documents=DOCUMENTS, data__packing="concat", data__max_sequence_length=16)
    )
    processor = DataProcessor(config, folder)
    return processor, processor.preprocess(), folder


def epoch_of(rows, **options):
    """All batches of the first epoch."""
    stream = BatchStream(rows, global_batch=8, seed=1, **options)
    batches = [next(stream) for _ in range(stream.steps_per_epoch)]
    stream.close()
    return batches


def test_batches_have_the_shapes_that_training_needs(pipeline):
    processor, prepared, _ = pipeline

    batch = epoch_of(processor.train_rows(prepared))[0]

    assert tuple(batch.input_ids.shape) == tuple(batch.labels.shape) == (8, 16)
    assert int(batch.input_ids.max()) < prepared.tokenizer.vocab_size
    assert batch.target_tokens == int((batch.labels[:, 1:] != -100).sum())


def test_the_text_comes_back_out_of_the_token_store(pipeline):
    _, prepared, folder = pipeline
    lines = (folder / "corpus.txt").read_text().splitlines()

    chunks = prepared.train.chunks(16)
    tokens = [int(token) for index in range(len(chunks)) for token in chunks[index]]
    texts = prepared.tokenizer.decode(tokens[: tokens.index(prepared.tokenizer.eos_id)])

    assert texts == lines[0]


def test_no_token_of_the_corpus_is_lost_but_the_counted_remainder(pipeline):
    processor, prepared, folder = pipeline
    lines = (folder / "corpus.txt").read_text().splitlines()
    expected = sum(len(ids) + 1 for ids in prepared.tokenizer.encode_batch(lines))  # and one EOS each

    rows = processor.train_rows(prepared)

    assert len(prepared.train) == expected
    assert len(rows) * 16 + rows.left_out == expected


def test_an_epoch_visits_every_sequence_exactly_once(pipeline):
    processor, prepared, _ = pipeline
    rows = processor.train_rows(prepared)

    seen = np.concatenate([batch.sequence_ids for batch in epoch_of(rows)])

    assert sorted(seen.tolist()) == list(range(len(rows)))
    assert seen.tolist() != list(range(len(rows)))  # in another order than the corpus


def test_epochs_have_orders_of_their_own_and_the_same_ones_every_time(pipeline):
    processor, prepared, _ = pipeline
    rows = processor.train_rows(prepared)

    first, again, second = (
        np.concatenate([batch.sequence_ids for batch in epoch_of(rows, epoch=epoch)]).tolist() for epoch in (0, 0, 1)
    )

    assert first == again
    assert first != second


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_same_global_batches(pipeline, world_size):
    processor, prepared, _ = pipeline
    rows = processor.train_rows(prepared)

    alone = [batch.sequence_ids.tolist() for batch in epoch_of(rows)]
    ranks = [epoch_of(rows, rank=rank, world_size=world_size) for rank in range(world_size)]

    together = [np.concatenate([part.sequence_ids for part in parts]).tolist() for parts in zip(*ranks, strict=True)]
    assert together == alone


@pytest.mark.slow
def test_several_workers_give_the_batches_of_one(pipeline):
    processor, prepared, _ = pipeline
    rows = processor.train_rows(prepared)

    one, two = (
        [batch["input_ids"].tolist() for batch in make_dataloader(rows, batch_size=8, seed=1, num_workers=workers)]
        for workers in (0, 2)
    )

    assert one == two


def test_the_words_seen_are_those_of_the_text(pipeline):
    processor, prepared, folder = pipeline
    words = len((folder / "corpus.txt").read_text().split())

    batches = epoch_of(processor.train_rows(prepared))

    assert 0 <= words - sum(batch.words for batch in batches) <= 16  # those of the remainder


def test_the_same_inputs_are_not_prepared_twice_and_changed_ones_are(pipeline, make_experiment):
    processor, prepared, folder = pipeline
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "data").rglob("*") if path.is_file()}

    again = DataProcessor(processor.config, folder).preprocess()
    with_eos_only = load_config(folder / "tiny.json", overrides=["data.add_bos=true"])
    other = DataProcessor(with_eos_only, folder).preprocess()

    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert again.data_digest == prepared.data_digest != other.data_digest


def test_without_a_held_out_part_there_is_no_test_store(pipeline):
    _, prepared, _ = pipeline

    assert prepared.test is None
