"""The two ways through a stream of documents: a chain of steps on single documents, or a function on all of them.

    chain     blocks of documents -> workers -> trails, in order -> gates -> documents
    stream    documents -> function -> documents

Both count what goes in and out, and note pairs for the receipts.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

from foundry_config.errors import DataError, FoundryError
from foundry_data.document_chain import ChainResult, Change, DocumentChain, Outcome, Trail, check_text
from foundry_data.documents import Document, escaped
from foundry_data.keyed_random import keyed_hash
from foundry_data.ordered_workers import ordered_map
from foundry_data.receipts import StreamCount
from foundry_data.step_records import StepRecord
from foundry_data.stream_pairs import StreamPairs
from foundry_data.transform_command import stop_running_programs
from foundry_data.transform_kinds import SequentialFilter, StreamTransform
from foundry_data.transforms import Step
from foundry_data.words import count_words

BLOCK_DOCUMENTS = 256
BLOCK_CHARACTERS = 2**20
_END = object()


def run_chain(
    documents: Iterator[Document],
    records: Sequence[StepRecord],
    before: StreamCount | None,
    after: Sequence[StreamCount],
    *,
    num_workers: int,
    seed: int,
) -> Iterator[Document]:
    """Yield the documents that are left after consecutive steps.

    Args:
        documents: What goes in.
        records: One per step; what became of the documents is noted there.
        before: Counts what goes in, if nobody has yet.
        after: Counts what comes out of each step.
        num_workers: Processes; 0 means one per core.
        seed: Chooses the pairs of the receipts.

    Raises:
        DataError: A step failed on a document.
        WorkerError: A worker was killed.
    """
    chain = DocumentChain([record.step for record in records])
    gates = [_gate(record) for record in records]
    sent: deque[list[Document]] = deque()
    results = ordered_map(
        chain,
        _remembered(_blocks(documents), sent),
        num_workers=num_workers,
        item_type=list[Document],
        result_type=ChainResult,
        name=", ".join(record.step.label for record in records),
        describe=_place,
        on_orphaned=stop_running_programs,
    )
    with contextlib.closing(results):
        for result in results:
            for record, seconds in zip(records, result.seconds):
                record.seconds += seconds
            for document, trail in zip(sent.popleft(), result.trails, strict=True):
                if before is not None:
                    before.add(document.text, trail.words)
                priority = keyed_hash(seed, "receipt", document.text)
                left = _follow(document, trail, records, gates, after, priority)
                if left is not None:
                    yield left


def run_stream(
    documents: Iterator[Document], record: StepRecord, before: StreamCount | None, after: StreamCount
) -> Iterator[Document]:
    """Yield the documents that a function on the whole stream gives.

    Raises:
        DataError: The function failed, or gave something else than documents and texts.
    """
    step = record.step
    assert isinstance(step.transform, StreamTransform)
    record.changed = record.removed = None
    pairs = StreamPairs(step.context.seed)
    upstream_seconds = [0.0]
    inputs = _observed(documents, pairs, before, upstream_seconds)
    transform = step.transform
    outputs = _guarded(lambda: transform.apply(inputs, step.context), record)
    for number, output in enumerate(outputs, 1):
        document = _as_document(output, step, f"{escaped(step.name)}:{number}")
        if document.text and not document.text.isspace():
            pairs.comes_out(document, has_source=isinstance(output, Document))
            after.add(document.text, count_words(document.text))
            yield document
    for _ in inputs:  # what the function did not ask for is a part of the corpus before it, too
        pass
    record.seconds -= upstream_seconds[0]
    record.stream_pairs = pairs.result()
    if pairs.has_texts_without_source:
        record.notes["pairs"] = "the function gives texts without a source: before and after are separate samples"


def _as_document(output: object, step: Step, source: str) -> Document:
    """Return what a function gave as a document.

    Raises:
        DataError: It is neither a document nor a text, or not Unicode.
    """
    document = output if isinstance(output, Document) else Document(cast(str, output), source)
    if not isinstance(cast(object, document.text), str):
        kind = type(output).__name__
        raise DataError(f"{step.label} gave {kind} as number {source}; it must give documents or texts")
    check_text(document.text, step, document.source)
    return document


def _follow(
    document: Document,
    trail: Trail,
    records: Sequence[StepRecord],
    gates: Sequence[Callable[[bytes], bool]],
    after: Sequence[StreamCount],
    priority: int,
) -> Document | None:
    """Note what became of a document in each step; return it as it came out, or None."""
    text, words = document.text, trail.words
    for record, gate, count, outcome in zip(records, gates, after, trail.outcomes):
        new = _resolve(outcome, text, words, gate)
        record.passes(document.source, text, None if new is None else new.text, priority)
        if new is None:
            return None
        text, words = new
        count.add(text, words)
    return Document(text, document.source)


def _resolve(outcome: Outcome, text: str, words: int, gate: Callable[[bytes], bool]) -> Change | None:
    if isinstance(outcome, bytes):
        outcome = gate(outcome) or None
    if isinstance(outcome, Change):
        return outcome
    return Change(text, words) if outcome else None


def _gate(record: StepRecord) -> Callable[[bytes], bool]:
    """Return the decision of a sequential filter; other steps never ask for it."""
    transform = record.step.transform
    return transform.gate() if isinstance(transform, SequentialFilter) else bool


def _blocks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Group documents so that a block is worth the journey; the grouping has no influence on the result."""
    block: list[Document] = []
    characters = 0
    for document in documents:
        block.append(document)
        characters += len(document.text)
        if len(block) == BLOCK_DOCUMENTS or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _place(block: list[Document]) -> str:
    """Name the documents of a block by their sources."""
    first, last = block[0].source, block[-1].source
    return f"on {escaped(first)}" + (f" to {escaped(last)}" if len(block) > 1 else "")


def _remembered(blocks: Iterable[list[Document]], sent: deque[list[Document]]) -> Iterator[list[Document]]:
    for block in blocks:
        sent.append(block)
        yield block


def _observed(
    documents: Iterator[Document], pairs: StreamPairs, before: StreamCount | None, seconds: list[float]
) -> Iterator[Document]:
    """Pass documents on to a function, noting them and the time that it took to get them."""
    while True:
        started = time.perf_counter()
        document = next(documents, None)
        if document is not None:
            pairs.goes_in(document)
            if before is not None:
                before.add(document.text, count_words(document.text))
        seconds[0] += time.perf_counter() - started
        if document is None:
            return
        yield document


def _guarded(call: Callable[[], Iterable[Document | str]], record: StepRecord) -> Iterator[object]:
    """Yield the outputs of a function, taking the time, and explaining what it raises.

    Raises:
        DataError: The function raised, or gave nothing that can be iterated.
    """
    outputs: Iterator[object] | None = None
    while True:
        started = time.perf_counter()
        try:
            outputs = _many(call(), record.step) if outputs is None else outputs
            output = next(outputs, _END)
        except FoundryError:  # from the steps before
            raise
        except (Exception, SystemExit) as error:  # a user's function may raise anything
            advice = _advice(error)
            raise DataError(f"{record.step.label} failed: {type(error).__name__}: {error}{advice}") from error
        finally:
            record.seconds += time.perf_counter() - started
        if output is _END:
            return
        yield output


def _many(outputs: object, step: Step) -> Iterator[object]:
    """Return an iterator over what a function gave for all documents.

    Raises:
        DataError: It is a single text or document, which Python would take apart, or nothing to iterate over.
    """
    if isinstance(outputs, str | Document):
        raise DataError(
            f"{step.label} gave a single {type(outputs).__name__} for all documents; it must give documents or texts"
            f"{_PER_DOCUMENT}"
        )
    if not any(hasattr(type(outputs), name) for name in ("__iter__", "__getitem__")):
        given = "nothing" if outputs is None else f"a value of type {type(outputs).__name__}"
        raise DataError(f"{step.label} gave {given}; it must `yield` documents or texts, or `return` a list of them")
    return iter(cast(Iterable[object], outputs))


def _advice(error: BaseException) -> str:
    """Tell an author who took the iterator over all documents for a text, or a document for its text, what it is."""
    if not isinstance(error, TypeError | AttributeError):
        return ""
    if "generator" in str(error):
        return _PER_DOCUMENT
    return "; the text of a document is `document.text`" if "Document" in str(error) else ""


_PER_DOCUMENT = "; a function that takes one text at a time needs `per: document`"
