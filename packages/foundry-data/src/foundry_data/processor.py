"""All of this package behind one experiment's config: corpus in, tokenizer and token stores out.

    processor = DataProcessor(config, base_dir)
    prepared = processor.preprocess()            # reads, ablates, trains the tokenizer, tokenizes; reuses what is there
    rows = processor.train_rows(prepared)        # what batches are made of

    prepared/
    ├─ digests.json           SHA-256 of corpus and token files, as long as they do not change
    ├─ reading-3c1e....json   counts of the first reading: empty documents, duplicate files, ...
    ├─ overlap-8d20....json   what `data.test_corpus` shares with the training corpus
    ├─ text-5b0c.../          ablated training documents and receipts; only with `dataset_manipulation`
    ├─ tokenizer-91fe.../     the tokenizer, unless it has a folder of its own
    ├─ train-1f0c.../         token store of the training split
    └─ test-77ab.../          token store of the held-out split

A folder is named by the fingerprint of all that went into it and appears only when it is finished, so it is right
whenever it is there: runs of a matrix share what they have in common, and nothing stale is taken for new.

The only module here that knows `ExperimentConfig`.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from foundry_config import ExperimentConfig, ExperimentPaths
from foundry_config.errors import DataError
from foundry_data import fs
from foundry_data.batches import BatchPlan
from foundry_data.chunking import chunk_stream
from foundry_data.digests import DigestCache
from foundry_data.documents import ReadSettings
from foundry_data.fingerprint import fingerprint
from foundry_data.overlap import kept_overlap
from foundry_data.packing import Rows, packed_rows
from foundry_data.progress import Progress, no_progress
from foundry_data.readers import DocumentStream
from foundry_data.sentencepiece_training import TrainingSettings
from foundry_data.splits import Corpus, Split, split_corpus, stage_folder
from foundry_data.stages import remove_trash, storage_errors
from foundry_data.stats import document_lengths, row_counts, row_texts, store_counts
from foundry_data.store import ChunkStore
from foundry_data.store_build import Part, build_store_from_ids
from foundry_data.store_stage import SplitStore, StoreStage, join_parts, make_store, open_checked, warn_of_unknown
from foundry_data.text_stage import Ablated, Ablation, ablate
from foundry_data.tokenized_dataset import (
    TokenizedSplits,
    check_tokenized,
    find_tokenized,
    open_tokenized,
    refuse_steps,
    token_sequences,
    tokenized_fingerprint,
)
from foundry_data.tokenizer import Tokenizer
from foundry_data.tokenizer_loading import load_tokenizer
from foundry_data.tokenizer_stage import MadeTokenizer, TokenizerStage, make_tokenizer

if TYPE_CHECKING:
    from foundry_data.torch_loader import Loader

logger = logging.getLogger(__name__)

OWN_FOLDER = "data/prepared"


class PreparedData(NamedTuple):
    """Everything that training needs of the data."""

    train: ChunkStore
    test: ChunkStore | None
    """None where nothing is held out."""
    tokenizer: Tokenizer
    tokenizer_dir: Path
    data_digest: str
    """Of all that decides the token ids of both splits; the same wherever they lie."""
    tokenizer_digest: str
    receipts: list[Path]
    """One JSON file for each step of `dataset_manipulation`."""
    report: dict[str, Any]
    """Counts for people."""


class DataProcessor:
    """Prepares the data of one experiment."""

    def __init__(self, config: ExperimentConfig, base_dir: str | Path) -> None:
        """Look at the config only.

        Args:
            config: The experiment.
            base_dir: Relative paths of the config count from here.
        """
        self.config = config
        self.base_dir = Path(base_dir)
        self._paths = ExperimentPaths(config, base_dir)
        corpus = config.data.training_corpus
        self._tokenized = find_tokenized(self._paths.resolve(corpus)) if corpus else None
        self.prepared_dir = self._paths.resolve(OWN_FOLDER) if self._tokenized else self._paths.prepared
        self._digests = DigestCache(self.prepared_dir / "digests.json")

    def preprocess(
        self, force: bool = False, progress: Progress | None = None, *, part: Part | None = None
    ) -> PreparedData:
        """Make what is missing of tokenizer and token stores, and open them.

        Args:
            force: Make all of it again even if it is there.
            progress: Told what is being done; an exception that it raises ends the work, which can be taken up later.
            part: Tokenize only this part of the training split, for an array of machines; `merge` joins them.

        Raises:
            DataError: The corpus is missing, empty, damaged or unfit; or a folder holds something else.
            ConfigError: A step of `dataset_manipulation` cannot be used.
            StorageError: The disk is full or cannot be written.
            WorkerError: A worker process was killed.
        """
        progress = progress or no_progress
        self.check_tokenizer_source()
        remove_trash(self.prepared_dir)
        if self._tokenized is not None:
            return self._from_tokenized(self._tokenized, progress, force=force)
        corpus, texts, test = self._splits(progress)
        overlap = None
        if test is not None and self.config.data.test_corpus and part is None:
            overlap = msgspec.structs.asdict(kept_overlap(texts, test, self.prepared_dir, progress))
        ablated = self._ablated(texts, test, progress, force=force)
        made = make_tokenizer(ablated.split, self.prepared_dir, self._tokenizer_stage(), progress, force=force)
        _check_vocabulary(self.config, made.tokenizer)
        train = self._store("train", ablated.split, made.tokenizer)
        train_store = make_store(train, progress, part=part, force=force)
        if not len(train_store) and part is None:
            raise DataError(
                f"no document of {self.config.data.source_corpus!r} fell into the training split; "
                "set data.test_fraction: 0, or data.text_documents: line"
            )
        held_out = None if test is None or part is not None else self._store("test", test, made.tokenizer)
        test_store = None if held_out is None else self._held_out(held_out, progress, force=force)
        warn_of_unknown(train_store)
        identity = fingerprint([train.identity, None if held_out is None else held_out.identity])
        report = {"source": self._reading(corpus), "overlap": overlap} | _report(train_store, test_store, made)
        return PreparedData(
            train_store, test_store, *made, identity, made.tokenizer.fingerprint, ablated.receipts, report
        )

    def check_tokenizer_source(self) -> None:
        """Refuse a `tokenizer.source` that the model is not built for, before any text is read.

        One that is not there is left to `preprocess`.

        Raises:
            DataError: It cannot be read, or its size is not `tokenizer.vocab_size`.
        """
        source = self.config.tokenizer.source
        if source is not None and self._paths.resolve(source).exists():
            _check_vocabulary(self.config, load_tokenizer(self._paths.resolve(source)))

    def merge(self, progress: Progress | None = None) -> PreparedData:
        """Join the parts that `preprocess(part=...)` made, and prepare the rest.

        Raises:
            DataError: A part is missing or damaged.
        """
        progress = progress or no_progress
        _, texts, test = self._splits(progress)
        ablated = self._ablated(texts, test, progress)
        made = make_tokenizer(ablated.split, self.prepared_dir, self._tokenizer_stage(), progress)
        join_parts(self._store("train", ablated.split, made.tokenizer), progress)
        return self.preprocess(progress=progress)

    def train_rows(self, prepared: PreparedData) -> Rows:
        """Return the training split as rows of `data.max_sequence_length` tokens, packed as `data.packing` says.

        Raises:
            DataError: The corpus is smaller than one sequence.
        """
        rows = self._rows(prepared.train)
        if not len(rows):
            length = self.config.data.max_sequence_length
            raise DataError(
                f"the training split has {len(prepared.train):,} tokens, too few for one sequence of {length:,}; "
                "use more text, a smaller data.max_sequence_length, or data.packing: document"
            )
        return rows

    def test_rows(self, prepared: PreparedData) -> Rows | None:
        """Return the held-out split as rows; None if there is none, or it is smaller than one sequence."""
        rows = None if prepared.test is None else self._rows(prepared.test)
        return rows if rows is not None and len(rows) else None

    def create_dataloader(self, prepared: PreparedData | None = None, *, split: str = "train") -> "Loader | None":
        """Return a standard PyTorch `DataLoader` of `data.batch_size` sequences; None if nothing is held out.

        Raises:
            DataError: As `preprocess`, or no such split.
        """
        from foundry_data.torch_loader import make_dataloader  # needs the extra `torch`

        if split not in ("train", "test"):
            raise DataError(f"there is no split {split!r}; the splits are train and test")
        prepared = prepared or self.preprocess()
        rows = self.train_rows(prepared) if split == "train" else self.test_rows(prepared)
        if rows is None:
            return None
        data = self.config.data
        return make_dataloader(
            rows,
            batch_size=data.batch_size,
            seed=self.config.random_seed,
            shuffle=data.shuffle and split == "train",
            drop_last=data.drop_last and split == "train",
        )

    def batch_plan(self, prepared: PreparedData) -> BatchPlan:
        """Return which rows make up each global batch of the training."""
        data, training = self.config.data, self.config.training
        return BatchPlan(
            len(self.train_rows(prepared)),
            global_batch=data.batch_size * training.gradient_accumulation_steps,
            seed=self.config.random_seed,
            shuffle=data.shuffle,
            drop_last=data.drop_last,
        )

    def steps_per_epoch(self, prepared: PreparedData | None = None) -> int:
        """Return the optimizer updates in one pass over the training split."""
        return self.batch_plan(prepared or self.preprocess()).steps_per_epoch

    def batch_texts(self, step: int, prepared: PreparedData | None = None) -> list[str]:
        """Return the texts that update number `step`, counted from 0, is computed on, in the order of the batch."""
        prepared = prepared or self.preprocess()
        plan = self.batch_plan(prepared)
        return row_texts(self.train_rows(prepared), prepared.tokenizer, plan.rows(plan.at_step(step)).tolist())

    def statistics(self, prepared: PreparedData | None = None) -> dict[str, Any]:
        """Return counts of both splits: documents, words, bytes, tokens, sequences, padding, tokens left out."""
        prepared = prepared or self.preprocess()
        test_rows = self.test_rows(prepared)
        held_out = {} if test_rows is None else row_counts(test_rows)
        return {
            "source": prepared.report.get("source"),
            "overlap": prepared.report.get("overlap"),
            "train": store_counts(prepared.train) | row_counts(self.train_rows(prepared)),
            "test": None if prepared.test is None else store_counts(prepared.test) | held_out,
            "document_tokens": document_lengths(prepared.train),
            "vocab_size": prepared.tokenizer.vocab_size,
        }

    def validate_tokenized_dataset(self, dataset: Any) -> dict[str, Any]:
        """Check a tokenized dataset (`datasets.Dataset` with `input_ids`, or any sequence of mappings); returns counts.

        Raises:
            DataError: It has no such column or no row, or an id is not in the vocabulary; names the row.
        """
        return check_tokenized(dataset, self.config.tokenizer.vocab_size)

    def _create_chunked_dataset_streaming(
        self, dataset: Any, chunk_size: int
    ) -> Iterable[npt.NDArray[np.integer[Any]]]:
        """Yield the chunks of `chunk_size` tokens of a tokenized dataset; the last, short remainder is left out."""
        return chunk_stream(token_sequences(dataset), chunk_size)

    def _rows(self, store: ChunkStore) -> Rows:
        data = self.config.data
        return packed_rows(store, data.max_sequence_length, packing=data.packing, document_mask=data.document_mask)

    def _corpus(self, source: str) -> Corpus:
        data = self.config.data
        settings = ReadSettings(
            text_documents=data.text_documents,
            text_field=data.text_field,
            encoding_errors=data.encoding_errors,
            empty_documents=data.empty_documents,
            duplicate_files=data.duplicate_files,
        )
        place = source if source.startswith("builtin:") else self._paths.resolve(source)  # a function too
        return Corpus(DocumentStream(place, settings, (self.prepared_dir, self._paths.run)), self._digests)

    def _splits(self, progress: Progress) -> tuple[Corpus, Split, Split | None]:
        """Return the corpus, its training documents before any ablation, and the held-out ones."""
        data = self.config.data
        progress("reading", 0, None)
        corpus = self._corpus(data.source_corpus)
        fraction = 0.0 if data.test_corpus else data.test_fraction
        # a seed that decides nothing is left out of the fingerprint, so that runs of several seeds share the stage
        train, test = split_corpus(corpus, fraction=fraction, seed=self.config.random_seed if fraction else 0)
        if data.test_corpus:
            test, _ = split_corpus(self._corpus(data.test_corpus), fraction=0.0, seed=0)
        return corpus, train, test

    def _ablated(self, texts: Split, test: Split | None, progress: Progress, *, force: bool = False) -> Ablated:
        config = self.config
        pool = None if config.data.replacement_corpus is None else self._corpus(config.data.replacement_corpus)
        steps, seed, workers = config.dataset_manipulation, config.random_seed, config.data.num_workers
        ablation = Ablation(steps, seed, workers, self.base_dir, pool, test, self._digests)
        return ablate(texts, self.prepared_dir, ablation, progress, force=force)

    def _store(self, name: str, split: Split, tokenizer: Tokenizer) -> SplitStore:
        data = self.config.data
        threads = data.num_workers or os.cpu_count() or 1
        stage = StoreStage(data.add_bos, data.add_eos, data.shard_tokens, threads)
        return SplitStore(name, split, tokenizer, self.prepared_dir, stage, self._digests)

    def _held_out(self, wanted: SplitStore, progress: Progress, *, force: bool) -> ChunkStore | None:
        store = make_store(wanted, progress, force=force)
        if len(store):
            return store
        logger.warning(
            "nothing is held out: none of the documents fell into the share data.test_fraction: %s; %s",
            self.config.data.test_fraction,
            "a larger share holds out some of them"
            if self.config.data.text_documents == "line"
            else "data.text_documents: line makes more documents of a text file",
        )
        return None

    def _reading(self, corpus: Corpus) -> dict[str, Any] | None:
        """Return the counts of the first reading of the corpus, kept beside the stages."""
        path = stage_folder(self.prepared_dir, "reading", corpus.fingerprint).with_suffix(".json")
        if corpus.report is not None and not path.is_file():
            with storage_errors(path):
                counts = {name: value for name, value in corpus.report.to_dict().items() if name != "words"}
                fs.write_atomic(path, msgspec.json.encode(counts))
        return msgspec.json.decode(path.read_bytes()) if path.is_file() else None

    def _tokenizer_stage(self) -> TokenizerStage:
        tokenizer, data = self.config.tokenizer, self.config.data
        same = {name: getattr(tokenizer, name) for name in TrainingSettings.__struct_fields__ if name != "seed"}
        return TokenizerStage(
            TrainingSettings(**same, seed=self.config.random_seed if tokenizer.max_training_sentences else 0),
            folder=self._paths.resolve(tokenizer.output_dir) if tokenizer.output_dir else None,
            source=self._paths.resolve(tokenizer.source) if tokenizer.source else None,
            add_bos=data.add_bos,
            model_max_length=self.config.model.max_position_embeddings or data.max_sequence_length,
        )

    def _from_tokenized(self, splits: TokenizedSplits, progress: Progress, *, force: bool) -> PreparedData:
        """Use a dataset that was tokenized elsewhere, with the tokenizer that made it."""
        refuse_steps(splits, self.config.dataset_manipulation)
        place = self.config.tokenizer.source or self.config.tokenizer.output_dir
        if place is None:
            raise DataError(
                f"data.training_corpus {str(splits.train)!r} is already tokenized; name the tokenizer that did it in "
                "tokenizer.source"
            )
        made = MadeTokenizer(load_tokenizer(self._paths.resolve(place)), self._paths.resolve(place))
        _check_vocabulary(self.config, made.tokenizer)
        stores = [
            None if folder is None else self._store_of_ids(name, folder, made.tokenizer, progress, force=force)
            for name, folder in zip(splits._fields, splits, strict=True)
        ]
        train, test = stores
        assert train is not None
        identity = fingerprint([None if store is None else store.manifest.source for store in stores])
        return PreparedData(
            train, test, *made, identity, made.tokenizer.fingerprint, [], _report(train, test, made)
        )  # fmt: skip

    def _store_of_ids(
        self, name: str, folder: Path, tokenizer: Tokenizer, progress: Progress, *, force: bool
    ) -> ChunkStore:
        identity = fingerprint([tokenized_fingerprint(folder, self._digests), tokenizer.fingerprint])
        target = stage_folder(self.prepared_dir, name, identity)
        if target.exists() and not force:
            return open_checked(target, self._digests, progress)
        return build_store_from_ids(
            token_sequences(open_tokenized(folder)),
            tokenizer,
            target,
            shard_tokens=self.config.data.shard_tokens,
            source=identity,
            replace=force,
            progress=lambda done: progress(f"copying {name}", done, None),
        )


def _check_vocabulary(config: ExperimentConfig, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that is not the one the model is built for."""
    size, wanted = tokenizer.vocab_size, config.tokenizer.vocab_size
    if size != wanted:
        place = f" {config.tokenizer.source!r}" if config.tokenizer.source is not None else ""
        raise DataError(
            f"the tokenizer{place} has {size:,} entries, but the config says tokenizer.vocab_size: {wanted:,}; set it "
            f"to {size}"
        )


def _report(train: ChunkStore, test: ChunkStore | None, made: MadeTokenizer) -> dict[str, Any]:
    return {
        "train": store_counts(train),
        "test": None if test is None else store_counts(test),
        "tokenizer": {"folder": str(made.folder), "vocab_size": made.tokenizer.vocab_size},
    }
