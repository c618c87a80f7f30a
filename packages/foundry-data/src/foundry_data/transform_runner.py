"""Run the steps of `dataset_manipulation` over a stream of documents, in parallel, in order, with a receipt for each.

    documents -> [lowercase -> regex_drop -> deduplicate] -> [my_steps:swap] -> documents
                  one pass, in num_workers processes          whole stream      receipts/00-lowercase.json, 01-...

The result depends on the documents, the steps and the seed; the number of workers only changes the time. Documents are
streamed: what is held at a time is a few megabytes per worker, the hashes of deduplication, and the receipts' samples.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from foundry_config.errors import DataError
from foundry_data.documents import Document
from foundry_data.receipts import Receipt, StreamCount, write_receipt
from foundry_data.step_records import StepRecord
from foundry_data.top_up import top_up
from foundry_data.transform_kinds import StreamTransform
from foundry_data.transform_passes import run_chain, run_stream
from foundry_data.transforms import Step, StepSpec, parse_steps


class ManipulatedDocuments:
    """The documents after all steps. Every iteration runs the steps afresh; `receipts` is filled when one is complete.

    Raises, while it is iterated:
        DataError: A step failed on a document; names both.
        WorkerError: A worker process was killed.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        steps: Sequence[Step],
        *,
        seed: int,
        num_workers: int,
        receipts_dir: Path,
        replacement: Iterable[Document] | None,
    ) -> None:
        self.documents = documents
        self.steps = list(steps)
        self.seed = seed
        self.num_workers = num_workers
        self.receipts_dir = receipts_dir
        self.replacement = replacement
        self.receipts: list[Path] = []
        self._counts: list[StreamCount] = []

    def __iter__(self) -> Iterator[Document]:
        self.receipts = []
        if not self.steps:
            yield from self.documents
            return
        counts = self._counts = [StreamCount() for _ in range(len(self.steps) + 1)]
        records = [StepRecord(step) for step in self.steps]
        stream = self._run(iter(self.documents), records, counts)
        if self.replacement is None:
            yield from stream
        else:
            yield from self._topped_up(stream, counts[0])
        self._write_receipts(records, counts)

    def why_empty(self) -> str:
        """Say of a complete iteration that gave no document where the last ones went, and what to do."""
        if not self._counts[0].documents:
            return (
                "dataset_manipulation got no document: none fell into the training split; set data.test_fraction: 0, "
                "or data.text_documents: line"
            )
        for step, before, after in zip(self.steps, self._counts, self._counts[1:]):
            if not after.documents:
                went_in = f"{before.documents:,} of the {self._counts[0].documents:,} documents went in"
                return (
                    f"{step.label} removed every document that was left: {went_in}, none came out; "
                    f"{step.transform.if_all_removed}"
                )
        raise AssertionError("there are documents")

    def _run(
        self, stream: Iterator[Document], records: list[StepRecord], counts: list[StreamCount]
    ) -> Iterator[Document]:
        """Chain the passes: consecutive steps on single documents share one."""
        first = 0
        for is_stream, group in groupby(records, key=lambda record: isinstance(record.step.transform, StreamTransform)):
            for together in ([record] for record in group) if is_stream else [list(group)]:
                after = counts[first + 1 : first + 1 + len(together)]
                before = None if first else counts[0]  # later passes begin with what the one before has counted
                if is_stream:
                    stream = run_stream(stream, together[0], before, after[0])
                else:
                    stream = run_chain(stream, together, before, after, num_workers=self.num_workers, seed=self.seed)
                first += len(together)
        return stream

    def _topped_up(self, stream: Iterator[Document], original: StreamCount) -> Iterator[Document]:
        assert self.replacement is not None
        pool = ManipulatedDocuments(
            self.replacement,
            self.steps,
            seed=self.seed,
            num_workers=self.num_workers,
            receipts_dir=self.receipts_dir / "replacement",
            replacement=None,
        )
        name = f"{len(self.steps):02d}-top-up"
        try:
            yield from top_up(
                stream, pool, lambda: original.words, seed=self.seed, receipts_dir=self.receipts_dir, name=name
            )
        except DataError as error:
            gone = not (self._counts[-1].documents or pool._counts[-1].documents)
            if gone and pool.receipts:  # the steps have been through all of the pool: they are at fault, not its size
                raise DataError(self.why_empty()) from error
            raise

    def _write_receipts(self, records: list[StepRecord], counts: list[StreamCount]) -> None:
        for record, before, after in zip(records, counts, counts[1:]):
            step = record.step
            receipt = Receipt(
                step=step.index,
                name=step.name,
                settings=step.settings,
                code=step.transform.code(step.context),
                seed=step.context.seed,
                before=before.result(),
                after=after.result(),
                changed_documents=record.changed,
                removed_documents=record.removed,
                notes=record.notes,
                seconds=round(record.seconds, 3),
                pairs=record.pairs,
            )
            self.receipts.append(write_receipt(self.receipts_dir, receipt, name=receipt_name(step)))
        if self.replacement is not None:
            self.receipts.append(self.receipts_dir / f"{len(self.steps):02d}-top-up.json")


def run_manipulation(
    documents: Iterable[Document],
    steps: Sequence[StepSpec],
    *,
    seed: int,
    num_workers: int,
    receipts_dir: Path,
    replacement: Iterable[Document] | None = None,
    base_dir: Path | None = None,
) -> ManipulatedDocuments:
    """Prepare the steps; iterate over what is returned to run them.

    Args:
        documents: The corpus; iterated once per iteration of the result.
        steps: As in the config.
        seed: `random_seed` of the experiment.
        num_workers: Processes; 0 means one per core.
        receipts_dir: Folder for one JSON file per step, written when the last document has been delivered.
        replacement: Pool of documents that goes through the same steps (receipts in `replacement/`) and then tops the
            corpus up to the words it had before the first step. Read twice, so not a generator.
        base_dir: Folder that programs, their files and modules are found in; the current one if not given.

    Raises:
        ConfigError: Lists every step that cannot be used, and why.
    """
    return ManipulatedDocuments(
        documents,
        parse_steps(steps, seed=seed, base_dir=base_dir),
        seed=seed,
        num_workers=num_workers,
        receipts_dir=receipts_dir,
        replacement=replacement,
    )


def receipt_name(step: Step) -> str:
    """Return the name of a step's receipt without `.json`, as in `03-my_steps-swap`."""
    return f"{step.index:02d}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', step.name)[:80]}"
