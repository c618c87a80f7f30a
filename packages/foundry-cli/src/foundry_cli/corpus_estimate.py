"""How much text a corpus holds, before anything is tokenized.

read up to 64 MiB of text -> documents, words, bytes; the rest by the size of the files -> tokens by the vocabulary
"""

import math
from pathlib import Path
from typing import NamedTuple

from foundry_cli.experiments import Experiment

SAMPLE_BYTES = 64 * 2**20


class CorpusEstimate(NamedTuple):
    """What the training split is likely to hold; transforms of the text are not taken into account."""

    documents: int
    words: int
    bytes: int
    tokens: int


def estimate_corpus(experiment: Experiment) -> CorpusEstimate:
    """Estimate the training split of an experiment by reading the beginning of its corpus.

    Raises:
        DataError: The corpus is missing or cannot be read.
    """
    from foundry_data import count_words, read_documents

    data = experiment.config.data
    source = data.source_corpus
    stream = read_documents(
        source if ":" in source else experiment.paths.resolve(source),
        text_documents=data.text_documents,
        text_field=data.text_field,
        encoding_errors=data.encoding_errors,
        empty_documents=data.empty_documents,
        duplicate_files="keep",  # telling duplicates apart would read every file
        exclude=(experiment.paths.prepared, experiment.paths.run),
    )
    documents = words = size = 0
    for document in stream:
        documents += 1
        words += count_words(document.text)
        size += len(document.text.encode("utf-8", "surrogatepass"))
        if size >= SAMPLE_BYTES:
            size_of_all = sum(Path(file.path).stat().st_size for file in stream.files if Path(file.path).is_file())
            factor = max(1.0, size_of_all / size)
            documents, words, size = (round(number * factor) for number in (documents, words, size))
            break
    share = 1.0 if data.test_corpus else 1.0 - data.test_fraction
    kept = [round(number * share) for number in (documents, words, size)]
    tokens = round(kept[2] / bytes_per_token(experiment.config.tokenizer.vocab_size)) + kept[0] * data.add_eos
    return CorpusEstimate(*kept, tokens=max(tokens, 1))


def bytes_per_token(vocab_size: int) -> float:
    """Return the bytes of English prose that a token of such a vocabulary stands for, as a rule of thumb.

    A line through what SentencePiece gave on English text: 2.8 bytes for 1,000 entries, 3.5 for 4,000, 4.5 for 32,000.
    """
    return max(1.0, 0.33 * math.log2(vocab_size) - 0.5)


def sequences_of(estimate: CorpusEstimate, length: int, *, packing: str = "concat") -> int:
    """Return how many sequences of `length` tokens the estimated tokens fill."""
    if packing != "document":
        return estimate.tokens // length
    return estimate.documents * math.ceil(estimate.tokens / max(1, estimate.documents) / length)
