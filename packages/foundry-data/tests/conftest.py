"""Settings and fixtures shared by the tests of foundry-data."""

from pathlib import Path
from pydoc_data.topics import topics

import pytest
from hypothesis import settings

from foundry_data import fs
from foundry_data.sentencepiece_tokenizer import SentencePieceTokenizer
from foundry_data.sentencepiece_training import train_tokenizer
from foundry_data.store_build import build_store

# A busy machine makes an example slow without making it wrong.
settings.register_profile("patient", deadline=None, max_examples=50)
settings.load_profile("patient")

LINES = "\n".join(topics[name] for name in ("if", "while", "assert", "try")).split("\n")


class Unsynced(fs.Backend):
    """The real disk without the wait for it: for tests that write many files and are not about crashes."""

    def fsync(self, fd):
        pass

    def fsync_directory(self, path):
        pass


@pytest.fixture(scope="module")
def unsynced():
    """Leave out every fsync in the tests of a module."""
    with fs.using(Unsynced()):
        yield


@pytest.fixture(scope="session")
def lines() -> list[str]:
    """About 300 lines of real English prose with code and indentation."""
    return LINES


@pytest.fixture(scope="session")
def unigram() -> SentencePieceTokenizer:
    """The default kind: unigram with byte fallback, lossless."""
    return train_tokenizer(LINES, vocab_size=400)


@pytest.fixture(scope="session")
def bpe() -> SentencePieceTokenizer:
    """BPE with user symbols, digits apart, pieces of whitespace."""
    return train_tokenizer(
        LINES,
        vocab_size=400,
        model_type="bpe",
        split_digits=True,
        whitespace_pieces=True,
        user_defined_symbols=("<x>", "#"),
    )


@pytest.fixture(scope="session")
def without_bytes() -> SentencePieceTokenizer:
    """No byte fallback, so that rare characters are unknown."""
    return train_tokenizer(LINES, vocab_size=200, model_type="bpe", byte_fallback=False, character_coverage=0.98)


@pytest.fixture(scope="session")
def make_store(unigram, tmp_path_factory):
    """Build a store in a folder of its own."""

    def make(documents, *, tokenizer=unigram, **options):
        with fs.using(Unsynced()):
            return build_store(documents, tokenizer, Path(tmp_path_factory.mktemp("s")) / "store", **options)

    return make
