"""What is said when steps leave no document: which one took the last, how many it got, and what to do."""

import sys

import pytest

from foundry_config.errors import DataError
from foundry_data.digests import DigestCache
from foundry_data.documents import ReadSettings
from foundry_data.progress import no_progress
from foundry_data.readers import DocumentStream
from foundry_data.splits import Corpus, split_corpus
from foundry_data.text_stage import Ablation, ablate

pytestmark = pytest.mark.usefixtures("unsynced")

MODULE = """
def eat(documents):
    for document in documents:
        document.text.upper()
    return []

def forget(text):
    text.upper()
"""
SHORT = {"name": "filter_length", "maximum": 2}


@pytest.fixture
def project(tmp_path):
    """A project folder with a corpus of three documents and a module of steps."""
    (tmp_path / "corpus.txt").write_text("one\ntwo words\nthree words here\n")
    (tmp_path / "emptying_steps.py").write_text(MODULE)
    yield tmp_path
    sys.modules.pop("emptying_steps", None)


def run(project, *steps, fraction=0.0, pool=None):
    corpus, replacement = (
        None if path is None else Corpus(DocumentStream(path, ReadSettings(text_documents="line"), ()))
        for path in (project / "corpus.txt", pool)
    )
    split, _ = split_corpus(corpus, fraction=fraction, seed=0)
    prepared = project / "prepared"
    ablation = Ablation(steps, 0, 1, project, replacement, None, DigestCache(None))
    return list(ablate(split, prepared, ablation, no_progress).split.documents())


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (
            [SHORT, {"name": "filter_length", "minimum": 9}, "lowercase"],
            r"dataset_manipulation\[1\] 'filter_length' removed every document that was left: 2 of the 3 documents "
            r"went in, none came out; loosen its options",
        ),
        (
            [SHORT, "emptying_steps:eat"],
            r"dataset_manipulation\[1\] 'emptying_steps:eat' removed .* 2 of the 3 .* it must `yield` the documents "
            r"that stay, or `return` a list of them; a function that takes one text at a time needs `per: document`",
        ),
        (
            [{"name": "emptying_steps:forget", "per": "document"}],
            r"'emptying_steps:forget' removed .* 3 of the 3 .* must return the text of every document that stays",
        ),
        pytest.param(
            [{"command": ["true"]}],
            r"\[0\] 'true' removed .* must write the text of every document that stays to its standard output",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_step_that_removed_the_last_documents_is_named_with_what_it_got_and_a_remedy(project, steps, said):
    with pytest.raises(DataError, match=said):
        run(project, *steps)


def test_the_pool_is_not_blamed_for_steps_that_leave_nothing_of_it_either(project):
    (project / "pool.txt").write_text("another pool\n")

    with pytest.raises(DataError, match=r"^dataset_manipulation\[0\] 'emptying_steps:eat' removed .* 3 of the 3"):
        run(project, "emptying_steps:eat", pool=project / "pool.txt")


def test_a_pool_that_keeps_too_few_words_is_too_small_whatever_is_left_of_the_corpus(project):
    (project / "pool.txt").write_text("another pool\n")

    with pytest.raises(DataError, match=r"data\.replacement_corpus has 2 words .* but 6 are missing"):
        run(project, {"name": "regex_drop", "pattern": "one|two|three"}, pool=project / "pool.txt")


def test_a_training_split_without_documents_is_not_blamed_on_the_steps(project):
    with pytest.raises(DataError, match=r"dataset_manipulation got no document: none fell into the training split"):
        run(project, SHORT, fraction=1.0)


def test_what_is_left_is_kept(project):
    assert [document.text for document in run(project, SHORT)] == ["one", "two words"]
