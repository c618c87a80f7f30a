"""One experiment's data from text to batches: stages reused by content, refusals that teach."""

import hashlib
import logging
import os
import time

import msgspec
import numpy as np
import pytest
from msgspec.structs import asdict

from foundry_config import DataConfig, ExperimentConfig, ModelConfig, TokenizerConfig, TrainingConfig
from foundry_config.errors import ConfigError, DataError
from foundry_data import digests
from foundry_data.overlap import Overlap
from foundry_data.processor import DataProcessor
from foundry_data.sources import SourceFile
from foundry_data.store_build import Part
from foundry_data.tokenizer_loading import load_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unsynced")]


def experiment(*, tokenizer=None, steps=(), **data):
    data = {"source_corpus": "corpus.txt", "text_documents": "line", "batch_size": 2, "max_sequence_length": 16} | data
    return ExperimentConfig(
        experiment_name="test",
        dataset_manipulation=steps,
        data=DataConfig(**data),
        tokenizer=TokenizerConfig(**({"vocab_size": 400} | (tokenizer or {}))),
        model=ModelConfig(
            layers=1, embedding_size=8, hidden_size=8, intermediate_hidden_size=16, attention_heads=1
        ),
        training=TrainingConfig(output_dir="run", learning_rate=1e-3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, lines, unsynced):
    """A folder with a corpus whose stages many tests share; none of them changes it."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "corpus.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def processor(workspace):
    return DataProcessor(experiment(), workspace)


@pytest.fixture(scope="module")
def prepared(processor):
    return processor.preprocess()


@pytest.fixture
def copy(tmp_path, workspace):
    (tmp_path / "corpus.txt").write_bytes((workspace / "corpus.txt").read_bytes())
    return tmp_path


def test_both_splits_hold_every_document_once(prepared, lines):
    documents = [line for line in lines if line.strip()]

    texts = [
        prepared.tokenizer.decode(store.document(i))
        for store in (prepared.train, prepared.test)
        for i in range(store.manifest.documents)
    ]

    assert sorted(texts) == sorted(documents)
    assert prepared.report["source"]["documents"] == len(documents)
    assert prepared.train.manifest.words + prepared.test.manifest.words == sum(len(d.split()) for d in documents)


def test_a_source_with_a_colon_counts_from_the_base_folder_too(copy, monkeypatch):
    monkeypatch.chdir("/")
    (copy / "odd:name").mkdir()
    (copy / "corpus.txt").rename(copy / "odd:name" / "corpus.txt")

    by_path = DataProcessor(experiment(source_corpus="odd:name/corpus.txt"), copy).preprocess()
    monkeypatch.chdir(copy / "odd:name")
    (copy / "my_source.py").write_text("def texts():\n    return open('corpus.txt').read().split('\\n')")
    by_function = DataProcessor(experiment(source_corpus="my_source:texts"), copy).preprocess()

    assert by_path.train.manifest.documents == by_function.train.manifest.documents


def stage_stamps(folder):
    """When each file was written, but for the memory of digests, which learns of files once they are at rest."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "digests.json")
    return {path: path.stat().st_mtime_ns for path in files}


def test_everything_is_reused_when_nothing_changed(processor, prepared, workspace):
    stamps = stage_stamps(workspace / "data")

    again = DataProcessor(processor.config, workspace).preprocess()

    assert stage_stamps(workspace / "data") == stamps
    assert again.data_digest == prepared.data_digest
    assert again.tokenizer_digest == prepared.tokenizer_digest
    assert again.report == prepared.report


def test_a_changed_corpus_is_noticed_even_if_its_size_is_the_same(copy):
    before = DataProcessor(experiment(), copy).preprocess()
    path = copy / "corpus.txt"
    path.write_text(path.read_text().replace("The", "Tha"))

    after = DataProcessor(experiment(), copy).preprocess()

    assert after.data_digest != before.data_digest
    assert after.train.folder != before.train.folder


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_prepared_store_with_a_flipped_bit_is_refused_by_the_name_of_the_file(copy, split):
    store = getattr(DataProcessor(experiment(), copy).preprocess(), split)
    path = store.folder / "tokens-00000.bin"
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    with pytest.raises(DataError, match=rf"{store.folder} is damaged: tokens-00000\.bin differs from what was written"):
        DataProcessor(experiment(), copy).preprocess()

    again = DataProcessor(experiment(), copy).preprocess(force=True)
    assert getattr(again, split).manifest == store.manifest


def test_a_prepared_store_that_did_not_change_is_read_through_once(copy, monkeypatch, mocker):
    now = time.time_ns
    monkeypatch.setattr(digests.time, "time_ns", lambda: now() + 10**10)  # all files are at rest
    made = DataProcessor(experiment(), copy).preprocess()
    DataProcessor(experiment(), copy).preprocess()
    read = mocker.patch.object(SourceFile, "digest", side_effect=AssertionError("was read"))

    again = DataProcessor(experiment(), copy).preprocess()

    assert again.train.manifest == made.train.manifest
    read.assert_not_called()


@pytest.mark.parametrize(
    "change", [{"add_bos": True}, {"add_eos": False}, {"test_fraction": 0.2}, {"text_documents": "paragraph"}]
)
def test_a_setting_that_changes_the_tokens_changes_the_digest(workspace, prepared, change):
    assert DataProcessor(experiment(**change), workspace).preprocess().data_digest != prepared.data_digest


@pytest.mark.parametrize(
    "change",
    [{"max_sequence_length": 32}, {"batch_size": 4}, {"packing": "document"}, {"num_workers": 3}, {"shard_tokens": 99}],
)
def test_a_setting_that_leaves_the_tokens_alone_reuses_the_store(workspace, prepared, change):
    again = DataProcessor(experiment(**change), workspace).preprocess()

    assert again.data_digest == prepared.data_digest
    assert again.train.folder == prepared.train.folder


def test_another_sequence_length_has_a_tokenizer_folder_of_its_own_without_training(workspace, prepared, mocker):
    trained = mocker.patch("foundry_data.tokenizer_stage.train_tokenizer")

    longer = DataProcessor(experiment(max_sequence_length=64), workspace).preprocess()

    trained.assert_not_called()
    assert longer.tokenizer_dir != prepared.tokenizer_dir
    assert longer.tokenizer_digest == prepared.tokenizer_digest
    assert '"model_max_length": 64' in (longer.tokenizer_dir / "tokenizer_config.json").read_text()


def test_force_makes_everything_again_with_the_same_bytes(copy):
    first = DataProcessor(experiment(), copy).preprocess()
    stamp = (first.train.folder / "manifest.json").stat().st_ino

    again = DataProcessor(experiment(), copy).preprocess(force=True)

    assert (again.train.folder / "manifest.json").stat().st_ino != stamp
    assert again.train.manifest == first.train.manifest
    assert not list(again.train.folder.parent.glob(".*.trash"))


def test_parts_and_merge_give_the_store_of_one_machine(copy, prepared, monkeypatch):
    processor = DataProcessor(experiment(), copy)
    with pytest.raises(DataError, match="no parts"):
        processor.merge()

    parts = [processor.preprocess(part=Part(i, 3)) for i in (1, 2, 3)]
    merged = processor.merge()

    assert all(part.test is None for part in parts)
    assert merged.train.manifest.files == prepared.train.manifest.files
    assert merged.data_digest == prepared.data_digest


def test_merging_takes_the_parts_that_are_complete_and_names_what_lacks(copy, prepared):
    processor = DataProcessor(experiment(), copy)
    processor.preprocess(part=Part(2, 3))
    with pytest.raises(DataError, match=r"parts 1, 3 of 3 are missing .*--shard 1/3"):
        processor.merge()

    with pytest.raises(DataError, match=r"no parts of .*part-2-of-3 was made from other inputs or settings"):
        DataProcessor(experiment(add_bos=True), copy).merge()

    processor.preprocess(part=Part(1, 1))
    assert processor.merge().train.manifest.files == prepared.train.manifest.files


def test_the_tokenizer_goes_where_the_config_says(copy):
    config = experiment(tokenizer={"output_dir": "tok"})

    prepared = DataProcessor(config, copy).preprocess()

    assert prepared.tokenizer_dir == copy / "tok"
    assert load_tokenizer(copy / "tok").fingerprint == prepared.tokenizer_digest
    other = experiment(tokenizer={"output_dir": "tok", "vocab_size": 390})
    with pytest.raises(DataError, match=r"made from other inputs.*--force"):
        DataProcessor(other, copy).preprocess()
    assert DataProcessor(other, copy).preprocess(force=True).tokenizer.vocab_size == 390


def test_a_folder_with_other_files_is_never_replaced_by_a_tokenizer(copy):
    (copy / "tok").mkdir()
    (copy / "tok" / "thesis.tex").write_text("precious")

    for force in (False, True):
        with pytest.raises(DataError, match=r"holds 'thesis\.tex'"):
            DataProcessor(experiment(tokenizer={"output_dir": "tok"}), copy).preprocess(force=force)

    assert (copy / "tok" / "thesis.tex").read_text() == "precious"


def test_an_existing_tokenizer_is_used_instead_of_training(copy, bpe):
    (copy / "my.model").write_bytes(bpe.model_bytes)

    prepared = DataProcessor(experiment(tokenizer={"source": "my.model"}), copy).preprocess()

    assert prepared.tokenizer_digest == bpe.fingerprint
    assert (prepared.tokenizer_dir / "tokenizer.json").is_file()


def lowercased():
    config = experiment()
    return ExperimentConfig(
        experiment_name="a", data=config.data, tokenizer=config.tokenizer, model=config.model,
        training=config.training, dataset_manipulation=("lowercase",),
    )  # fmt: skip


def test_ablations_change_the_training_split_only_and_leave_receipts(copy, prepared):
    ablated = lowercased()

    result = DataProcessor(ablated, copy).preprocess()

    assert len(result.receipts) == 1
    assert result.receipts[0].is_file()
    text = result.tokenizer.decode(result.train.read(0, len(result.train)))
    assert text == text.lower()
    assert result.test.manifest.words == prepared.test.manifest.words
    assert DataProcessor(ablated, copy).preprocess().data_digest == result.data_digest


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_an_ablated_text_that_changed_is_refused_by_name_and_made_again_when_asked(copy, damage):
    made = DataProcessor(lowercased(), copy).preprocess()
    (text,) = (copy / "data").rglob("text-*/documents.jsonl")
    content = text.read_bytes()
    assert f"{hashlib.sha256(content).hexdigest()}  documents.jsonl\n" == text.with_suffix(".sha256").read_text()
    text.unlink()
    if damage == "flipped":
        text.write_bytes(content.replace(b"the", b"tha", 1))

    with pytest.raises(DataError, match=rf"^{text} is damaged: it differs from what was written"):
        DataProcessor(lowercased(), copy).preprocess()

    again = DataProcessor(lowercased(), copy).preprocess(force=True)
    assert again.train.manifest == made.train.manifest


def test_a_named_test_corpus_is_the_held_out_split(copy):
    (copy / "held.txt").write_text("forty dogs\nand a cat\n")

    prepared = DataProcessor(experiment(test_corpus="held.txt"), copy).preprocess()

    assert prepared.test.manifest.documents == 2


def test_what_a_test_corpus_shares_with_the_training_corpus_is_told(copy, lines, caplog):
    texts = [line for line in lines if line.strip()][:3]
    (copy / "held.txt").write_text("\n".join([*texts, texts[0], "forty dogs and a cat"]))
    steps = ({"name": "lowercase"},)

    reports = [
        DataProcessor(experiment(test_corpus="held.txt", steps=steps), copy).preprocess().report for _ in range(2)
    ]

    words = [len(text.split()) for text in texts]
    shared = sum(words) + words[0]
    assert reports[0]["overlap"] == reports[1]["overlap"] == asdict(Overlap(5, shared + 5, 4, shared))
    told = [record.message for record in caplog.records if "data.test_corpus" in record.message]
    assert len(told) == 2
    assert told[0].startswith("data.test_corpus: 4 of its 5 documents (")


def test_a_damaged_record_of_what_is_shared_is_made_anew(copy, lines):
    (copy / "held.txt").write_text(next(line for line in lines if line.strip()) + "\n")
    processor = DataProcessor(experiment(test_corpus="held.txt"), copy)
    made = processor.preprocess().report["overlap"]
    (kept,) = (copy / "data" / "prepared").glob("overlap-*.json")
    kept.write_bytes(kept.read_bytes()[:-9])

    assert processor.preprocess().report["overlap"] == made


def test_a_share_of_one_corpus_is_not_compared(copy):
    prepared = DataProcessor(experiment(test_fraction=0.2), copy).preprocess()

    assert prepared.report["overlap"] is None
    assert not list((copy / "data" / "prepared").glob("overlap-*"))


def test_handle_missing_test_dataset_gracefully(copy, caplog):
    (copy / "one.txt").write_text("the only document there is " * 20)
    nothing_wanted = DataProcessor(experiment(test_fraction=0.0), copy)
    one_document = DataProcessor(
        experiment(source_corpus="one.txt", text_documents="file", test_fraction=0.0001, tokenizer={"vocab_size": 275}),
        copy,
    )

    assert nothing_wanted.preprocess().test is None
    assert nothing_wanted.test_rows(nothing_wanted.preprocess()) is None
    assert nothing_wanted.create_dataloader(split="test") is None
    with caplog.at_level(logging.WARNING):
        assert one_document.preprocess().test is None
    assert "nothing is held out" in caplog.text


def test_create_dataloader_with_correct_batch_size(processor, prepared):
    batch = next(iter(processor.create_dataloader(prepared)))

    assert batch["input_ids"].shape == batch["labels"].shape == (2, 16)
    assert next(iter(processor.create_dataloader(prepared, split="test")))["input_ids"].shape == (2, 16)
    with pytest.raises(DataError, match="no split 'dev'"):
        processor.create_dataloader(prepared, split="dev")


def test_calculate_correct_steps_per_epoch(processor, prepared):
    rows = processor.train_rows(prepared)

    assert len(rows) == len(prepared.train) // 16
    assert processor.steps_per_epoch(prepared) == -(-len(rows) // 2)


def test_statistics_are_those_of_the_rows(processor, prepared):
    statistics = processor.statistics(prepared)

    assert statistics["train"]["tokens"] == len(prepared.train)
    assert statistics["train"]["sequences"] * 16 + statistics["train"]["dropped_tokens"] == len(prepared.train)
    assert statistics["document_tokens"]["longest"] == int(np.diff(prepared.train.document_starts).max())
    assert statistics["vocab_size"] == 400


def test_the_texts_of_a_step_are_those_of_its_batch(processor, prepared):
    plan = processor.batch_plan(prepared)

    texts = processor.batch_texts(3, prepared)

    rows = processor.train_rows(prepared).gather(plan.rows(plan.at_step(3))).input_ids
    assert texts == [prepared.tokenizer.decode(row, skip_special_tokens=False) for row in rows]


def test_a_corpus_smaller_than_one_sequence_is_refused(processor, workspace):
    small = DataProcessor(experiment(max_sequence_length=2**20), workspace)

    with pytest.raises(DataError, match="too few for one sequence of 1,048,576"):
        small.train_rows(small.preprocess())


@pytest.mark.parametrize(("text", "message"), [(None, "there is no"), ("", "no text"), (" \n \n", "no text")])
def test_a_missing_or_empty_corpus_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "corpus.txt").write_text(text)

    with pytest.raises(DataError, match=message):
        DataProcessor(experiment(), tmp_path).preprocess()


def test_what_the_progress_raises_ends_the_work_and_it_can_be_taken_up(copy, prepared):
    class Stop(Exception):
        pass

    def stop(stage, done, total):
        if stage == "tokenizing train":
            raise Stop

    with pytest.raises(Stop):
        DataProcessor(experiment(), copy).preprocess(progress=stop)

    assert DataProcessor(experiment(), copy).preprocess().train.manifest == prepared.train.manifest


@pytest.mark.parametrize("chunk_size", [7, 32, 64, 128])
def test_chunk_sequences_with_exact_size(processor, chunk_size):
    dataset = [{"input_ids": [1, 2, 3, 4, 5] * 10} for _ in range(100)]

    chunks = list(processor._create_chunked_dataset_streaming(dataset, chunk_size))

    assert all(len(chunk) == chunk_size for chunk in chunks)
    assert len(chunks) == 5000 // chunk_size
    assert [t for c in chunks for t in c.tolist()] == ([1, 2, 3, 4, 5] * 1000)[: len(chunks) * chunk_size]


def test_validate_tokenized_dataset_structure(processor):
    counts = processor.validate_tokenized_dataset([{"input_ids": [1, 2]}, {"input_ids": []}, {"input_ids": [3] * 7}])

    assert (counts["sequences"], counts["tokens"], counts["shortest"], counts["longest"]) == (3, 9, 0, 7)
    for dataset, message in [
        ([], "is empty"),
        ([{"input_idz": [1]}], r"no column 'input_ids'\. Did you mean 'input_idz'"),
        ([{"input_ids": [1]}, {"input_ids": [400]}], "row 1 of the tokenized dataset holds ids from 400"),
        ([{"input_ids": ["a"]}], "not a list of integers"),
    ]:
        with pytest.raises(DataError, match=message):
            processor.validate_tokenized_dataset(dataset)


def test_a_hugging_face_dataset_can_be_the_training_corpus(copy, unigram):
    datasets = pytest.importorskip("datasets", reason="needs the extra `hf`")
    saved = datasets.Dataset.from_dict({"input_ids": [[5, 6, 7, 8, 3] * 10 for _ in range(100)]})
    saved.save_to_disk(copy / "tokenized")
    unigram.save(_made(copy / "tok"))
    config = experiment(training_corpus="tokenized", tokenizer={"source": "tok"})
    processor = DataProcessor(config, copy)

    prepared = processor.preprocess()

    assert prepared.train.manifest.documents == 100
    assert prepared.train.read(0, 50).tolist() == [5, 6, 7, 8, 3] * 10
    assert DataProcessor(config, copy).preprocess().data_digest == prepared.data_digest
    chunks = list(processor._create_chunked_dataset_streaming(saved, 32))
    assert all(len(chunk) == 32 for chunk in chunks)
    assert len(chunks) == 5000 // 32
    with pytest.raises(DataError, match=r"name the tokenizer that did it in tokenizer\.source"):
        DataProcessor(experiment(training_corpus="tokenized"), copy).preprocess()


def test_steps_on_a_dataset_that_is_tokenized_already_are_refused_before_it_is_read(copy):
    (copy / "tokenized").mkdir()
    (copy / "tokenized" / "dataset_info.json").write_text("{}")

    with pytest.raises(ConfigError, match=r"dataset_manipulation changes text, but .*tokenized' is already tokenized"):
        DataProcessor(experiment(training_corpus="tokenized", steps=["lowercase"]), copy).preprocess()


def _made(folder):
    folder.mkdir()
    return folder


def test_seeds_share_what_does_not_depend_on_them(copy, lines):
    (copy / "held_out.txt").write_text("\n".join(lines[:20]))

    def prepared(seed, **data):
        config = experiment(**data)
        return DataProcessor(msgspec.structs.replace(config, random_seed=seed), copy).preprocess()

    first, second = (prepared(seed, test_corpus="held_out.txt") for seed in (1, 2))
    assert (first.tokenizer_dir, first.data_digest) == (second.tokenizer_dir, second.data_digest)
    assert prepared(1).tokenizer_dir != prepared(2).tokenizer_dir  # each holds out other documents


def test_a_tokenizer_of_another_size_is_refused_before_any_text_is_read(copy, prepared):
    config = experiment(source_corpus="not there", tokenizer={"source": str(prepared.tokenizer_dir), "vocab_size": 401})

    with pytest.raises(
        DataError, match=r"tokenizer '.+' has 400 entries, but .* tokenizer\.vocab_size: 401; set it to 400"
    ):
        DataProcessor(config, copy).preprocess()

    assert not (copy / "data").exists()


def test_a_tokenizer_that_is_not_there_yet_is_left_to_the_preprocessing(copy):
    DataProcessor(experiment(tokenizer={"source": "later.model"}), copy).check_tokenizer_source()


@pytest.mark.parametrize("test_corpus", [None, "held.txt"])
def test_what_is_held_out_never_comes_back_through_the_replacement_corpus(copy, lines, test_corpus):
    steps = ({"name": "sample", "fraction": 0.97},)
    (copy / "pool.txt").write_text("\n".join([*lines, *(f"{line} again" for line in lines[:50])]))
    config = experiment(replacement_corpus="pool.txt", test_fraction=0.2, steps=steps)
    if test_corpus:
        (copy / test_corpus).write_text("\n".join(lines[::10]))
        (copy / "corpus.txt").write_text("\n".join(line for line in lines if line not in set(lines[::10])))
        config = experiment(replacement_corpus="pool.txt", test_corpus=test_corpus, steps=steps)

    prepared = DataProcessor(config, copy).preprocess()

    train, test = (
        {prepared.tokenizer.decode(store.document(i)) for i in range(store.manifest.documents)}
        for store in (prepared.train, prepared.test)
    )
    assert test and train.isdisjoint(test)


def test_tokens_that_are_unknown_are_warned_about(copy, caplog):
    (copy / "corpus.txt").write_text("abc def\n" * 200 + "Ж\n")

    tokenizer = {"vocab_size": 11, "byte_fallback": False, "model_type": "char", "character_coverage": 0.99}
    DataProcessor(experiment(tokenizer=tokenizer, test_fraction=0.0), copy).preprocess()

    assert "training tokens" in caplog.text and "are unknown to the tokenizer" in caplog.text
