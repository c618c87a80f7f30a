"""All steps together: the same for any number of workers, and receipts that tell the truth."""

import json
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_config.errors import DataError, WorkerError
from foundry_data.documents import Document
from foundry_data.receipts import StreamCount, read_receipt
from foundry_data.transform_runner import run_manipulation
from foundry_data.words import count_words

pytestmark = pytest.mark.usefixtures("unsynced")

MODULE = """
import os, signal

def reverse(documents):
    return reversed(list(documents))

def texts(documents):
    for document in documents:
        yield document.text

def fails(documents):
    yield next(documents)
    1 / 0

def gives_numbers(documents):
    yield 3

def gives_nothing(documents):
    yield None

def forgets_to_return(documents):
    list(documents)

class ByNumber:
    def __getitem__(self, number):
        return ["one", "two"][number]

def by_number(documents):
    return ByNumber()

def not_iterable(documents):
    return 3

def a_text(documents):
    return "abc"

def one_document(documents):
    return next(documents)

def exits(documents):
    raise SystemExit(3)

def exits_on(text):
    raise SystemExit(3)

def shout(text):
    return text.upper()

def substitute(text):
    import re
    return re.sub("a", "b", text)

def quote(text):
    return "'" + text

def takes_documents_for_texts(documents):
    for document in documents:
        yield document.upper()

def first_two(documents):
    yield next(documents)
    yield next(documents)

def blank_out(documents):
    for document in documents:
        yield document._replace(text=" ")

def die(text):
    if text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return text
"""
STEPS = [
    "lowercase",
    {"name": "regex_drop", "pattern": "bad"},
    {"name": "shuffle_words", "window": 3},
    "deduplicate",
    {"name": "sample", "fraction": 0.8},
    {"name": "deduplicate_minhash", "similarity": 0.6, "ngram": 2},
]

corpora = st.lists(
    st.lists(st.sampled_from(["One", "two", "bad", "é", "four five"]), min_size=1, max_size=4).map(" ".join),
    max_size=25,
).map(lambda texts: [Document(text, f"x:{number}") for number, text in enumerate(texts, 1)])


@pytest.fixture
def project(tmp_path):
    """A project folder with a module of steps."""
    (tmp_path / "run_steps.py").write_text(MODULE)
    sys.modules.pop("run_steps", None)
    yield tmp_path
    sys.modules.pop("run_steps", None)


def run(documents, steps, folder, *, workers=1, seed=7, **options):
    manipulated = run_manipulation(
        documents,
        steps,
        seed=seed,
        num_workers=workers,
        receipts_dir=folder / f"receipts-{workers}",
        base_dir=folder,
        **options,
    )
    return list(manipulated), manipulated.receipts


def count(documents):
    counted = StreamCount()
    for document in documents:
        counted.add(document.text, count_words(document.text))
    return counted.result()


def without_time(path):
    receipt = json.loads(path.read_text())
    del receipt["seconds"]
    return receipt


@pytest.mark.slow
@settings(max_examples=10)
@given(corpora, st.integers(2, 3), st.integers(0, 3))
def test_documents_and_receipts_are_the_same_for_any_number_of_workers(tmp_path_factory, documents, workers, seed):
    folder = tmp_path_factory.mktemp("project")

    alone, receipts = run(documents, STEPS, folder, seed=seed)
    together, others = run(documents, STEPS, folder, workers=workers, seed=seed)

    assert together == alone
    assert [without_time(path) for path in others] == [without_time(path) for path in receipts]


@pytest.mark.slow
@settings(max_examples=30)
@given(corpora)
def test_receipts_count_what_went_in_and_out_of_each_step(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("project")

    result, paths = run(documents, STEPS, folder)

    receipts = [read_receipt(path) for path in paths]
    assert receipts[0].before == count(documents)
    assert receipts[-1].after == count(result)
    for one, next_one in pairwise(receipts):
        assert one.after == next_one.before
    for receipt in receipts:
        assert receipt.before.documents - receipt.removed_documents == receipt.after.documents
        assert len(receipt.pairs) == min(receipt.before.documents, 50)
        assert sum(pair.after is None for pair in receipt.pairs) == min(receipt.removed_documents, 50)


@pytest.mark.slow
@settings(max_examples=20)
@given(corpora)
def test_steps_in_one_pass_do_what_they_do_one_after_the_other(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("project")

    together, _ = run(documents, STEPS, folder)
    stepwise = documents
    for step in STEPS:
        stepwise, _ = run(stepwise, [step], folder)

    assert together == stepwise


def test_a_golden_example(tmp_path):
    documents = [
        Document("The CAT sat. It was bad.", "a:1"),
        Document("bad luck", "a:2"),
        Document("the cat sat.", "a:3"),
    ]
    steps = [
        "lowercase",
        {"name": "drop_sentences", "pattern": "bad"},
        {"name": "drop_words", "words": ["the"]},
        "deduplicate",
    ]

    result, paths = run(documents, steps, tmp_path)

    assert result == [("cat sat. ", "a:1"), ("cat sat.", "a:3")]
    assert [path.name for path in paths] == [
        "00-lowercase.json",
        "01-drop_sentences.json",
        "02-drop_words.json",
        "03-deduplicate.json",
    ]
    second = read_receipt(paths[1])
    assert (second.changed_documents, second.removed_documents) == (1, 1)
    assert [(pair.before, pair.after) for pair in second.pairs] == [
        ("the cat sat. it was bad.", "the cat sat. "),
        ("bad luck", None),
        ("the cat sat.", "the cat sat."),
    ]
    assert second.settings == {"pattern": "bad", "ignore_case": False, "drop": "matching"}
    assert second.code.startswith("sha256:")


def test_no_steps_pass_everything_and_leave_no_receipt(tmp_path):
    result, receipts = run([Document("A")], [], tmp_path)

    assert (result, receipts) == ([Document("A")], [])
    assert list(tmp_path.iterdir()) == []


def test_documents_are_streamed(tmp_path):
    taken = []

    def endless():
        number = 0
        while True:
            taken.append(number)
            yield Document(f"document {number}")
            number += 1

    stream = iter(run_manipulation(endless(), ["lowercase"], seed=0, num_workers=1, receipts_dir=tmp_path))
    first = next(stream)
    stream.close()

    assert first.text == "document 0"
    assert len(taken) <= 256
    assert list(tmp_path.iterdir()) == []  # no receipt for work that was not finished


@pytest.mark.slow
def test_functions_on_the_stream_stand_between_steps(project):
    documents = [Document(text, f"x:{number}") for number, text in enumerate("ABCA", 1)]

    result, paths = run(documents, ["lowercase", "run_steps:reverse", "deduplicate"], project, workers=2)

    receipts = [read_receipt(path) for path in paths]
    assert [document.text for document in result] == ["a", "c", "b"]
    assert [path.name for path in paths] == ["00-lowercase.json", "01-run_steps-reverse.json", "02-deduplicate.json"]
    assert receipts[0].after == receipts[1].before
    assert receipts[1].after == receipts[2].before
    assert (receipts[1].changed_documents, receipts[1].removed_documents) == (None, None)
    assert [(pair.before, pair.after) for pair in receipts[1].pairs] == [(letter, letter) for letter in "abca"]


def test_a_function_may_come_first(project):
    result, (path,) = run([Document("a b", "x:1")], ["run_steps:reverse"], project)

    assert read_receipt(path).before == count(result)


def test_texts_without_a_source_are_noted_in_the_receipt(project):
    result, (path,) = run([Document("a", "x:1")], ["run_steps:texts"], project)

    receipt = read_receipt(path)
    assert result == [("a", "run_steps:texts:1")]
    assert "separate samples" in receipt.notes["pairs"]
    assert [(pair.before, pair.after) for pair in receipt.pairs] == [("a", None), (None, "a")]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("fails", "'run_steps:fails' failed: ZeroDivisionError: division by zero"),
        ("gives_numbers", "gave int as number run_steps:gives_numbers:1; it must give documents or texts"),
        ("gives_nothing", "gave NoneType"),
        ("forgets_to_return", "gave nothing; it must `yield` documents or texts, or `return` a list of them"),
        ("not_iterable", "gave a value of type int; it must `yield` documents or texts"),
        ("a_text", "gave a single str for all documents; it must give documents or texts; .* `per: document`"),
        ("one_document", "gave a single Document for all documents"),
        ("exits", "failed: SystemExit: 3"),
        ("shout", "no attribute 'upper'; a function that takes one text at a time needs `per: document`"),
        ("substitute", "TypeError: .*; a function that takes one text at a time needs `per: document`"),
        ("quote", "TypeError: .*; a function that takes one text at a time needs `per: document`"),
        ("takes_documents_for_texts", "no attribute 'upper'; the text of a document is `document.text`"),
    ],
)
def test_a_function_that_fails_is_named(project, function, said):
    with pytest.raises(DataError, match=said):
        run([Document("a"), Document("b")], [f"run_steps:{function}"], project)


def test_a_function_may_give_what_is_read_by_number(project):
    documents, _ = run([Document("a")], ["run_steps:by_number"], project)

    assert [document.text for document in documents] == ["one", "two"]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_function_on_a_text_that_exits_is_named(project, workers):
    with pytest.raises((DataError, WorkerError), match=r"'run_steps:exits_on' failed on x:1: SystemExit: 3"):
        run([Document("a", "x:1")], [{"name": "run_steps:exits_on", "per": "document"}], project, workers=workers)


def test_documents_that_a_function_does_not_ask_for_are_counted_before_it(project):
    documents = [Document(f"Text {number}", f"x:{number}") for number in range(600)]

    alone, receipts = run(documents, ["lowercase", "run_steps:first_two"], project)

    assert len(alone) == 2
    assert [read_receipt(path).before.documents for path in receipts] == [600, 600]
    assert read_receipt(receipts[1]).before == count(
        document._replace(text=document.text.lower()) for document in documents
    )


def test_an_error_of_the_reader_passes_through_a_function_unchanged(project):
    def documents():
        yield Document("a")
        raise DataError("x.txt:2 is not valid UTF-8")

    with pytest.raises(DataError, match=r"^x\.txt:2 is not valid UTF-8$"):
        run(documents(), ["lowercase", "run_steps:reverse"], project)


def test_documents_blanked_by_a_function_are_removed(project):
    result, (path,) = run([Document("a", "x:1")], ["run_steps:blank_out"], project)

    assert result == []
    assert read_receipt(path).after.documents == 0


@pytest.mark.slow
def test_a_killed_worker_is_named_with_the_steps_and_the_documents(project):
    steps = ["lowercase", {"name": "run_steps:die", "per": "document"}]

    with pytest.raises(
        WorkerError,
        match=r"^dataset_manipulation\[0\] 'lowercase', dataset_manipulation\[1\] 'run_steps:die', "
        r"on a\.txt:3 to a\.txt:4: worker process \d+ was killed by signal 9",
    ):
        run([Document("die", "a.txt:3"), Document("not", "a.txt:4")], steps, project, workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_program_stops_the_work_with_its_place(tmp_path, workers):
    with pytest.raises(DataError, match=r"dataset_manipulation\[0\] 'false' failed on x:1: .* ended with status 1"):
        run([Document("a", "x:1")], [{"command": ["false"]}], tmp_path, workers=workers)


@pytest.mark.slow
def test_an_ablated_corpus_is_topped_up_from_a_pool_that_went_through_the_same_steps(tmp_path):
    corpus = [Document(f"Text {number} with bad words inside", f"c:{number}") for number in range(60)]
    pool = [Document(f"Pool {number} bad text", f"p:{number}") for number in range(300)]
    steps = ["lowercase", {"name": "drop_words", "words": ["bad"]}]

    result, paths = run(corpus, steps, tmp_path, workers=2, replacement=pool)

    added = result[len(corpus) :]
    top_up = json.loads(paths[-1].read_text())
    assert paths[-1].name == "02-top-up.json"
    assert (top_up["target_words"], top_up["before"]["words"]) == (360, 300)
    assert abs(top_up["after"]["words"] - 360) <= 1
    assert len(added) == top_up["added_documents"] == 20
    assert not any("bad" in document.text for document in added)
    assert (paths[0].parent / "replacement" / "01-drop_words.json").is_file()


def test_the_work_can_be_repeated_by_iterating_again(tmp_path):
    manipulated = run_manipulation(
        [Document("A"), Document("a")], ["lowercase", "deduplicate"], seed=0, num_workers=1, receipts_dir=tmp_path
    )

    assert list(manipulated) == list(manipulated) == [Document("a")]
    assert len(manipulated.receipts) == 2
