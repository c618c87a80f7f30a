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


def run(project, *steps, fraction=0.0):
    corpus = Corpus(DocumentStream(project / "corpus.txt", ReadSettings(text_documents="line"), ()))
    split, _ = split_corpus(corpus, fraction=fraction, seed=0)
    prepared = project / "prepared"
    ablation = Ablation(steps, 0, 1, project, None, None, DigestCache(None))
    return list(ablate(split, prepared, ablation, no_progress).split.documents())


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (
            [SHORT, {"name": "filter_length", "minimum": 9}, "lowercase"],
            r"dataset_manipulation\[1\] 'filter_length' removed every document that was left: 2 of the 3 documents went "
            r"in, none came out; loosen its options",
        ),
        (
            [SHORT, "emptying_steps:eat"],
            r"dataset_manipulation\[1\] 'emptying_steps:eat' removed .* 2 of the 3 .* it must `yield` the documents that "
            r"stay, or `return` a list of them; a function that takes one text at a time needs `per: document`",
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


def test_a_training_split_without_documents_is_not_blamed_on_the_steps(project):
    with pytest.raises(DataError, match=r"dataset_manipulation got no document: none fell into the training split"):
        run(project, SHORT, fraction=1.0)


def test_what_is_left_is_kept(project):
    assert [document.text for document in run(project, SHORT)] == ["one", "two words"]
