"""The part of the work that is done for each document on its own."""

import msgspec
import pytest

from foundry_config.errors import DataError
from foundry_data.document_chain import ChainResult, Change, DocumentChain
from foundry_data.documents import Document
from foundry_data.transforms import parse_steps


def chain(*steps, base_dir=None):
    return DocumentChain(parse_steps(steps, seed=0, base_dir=base_dir))


def test_a_trail_tells_what_became_of_a_document_step_by_step():
    work = chain(
        "lowercase", "deduplicate", {"name": "regex_drop", "pattern": "bad"}, {"name": "drop_words", "words": ["a"]}
    )

    result = work([Document("A good one"), Document("bad"), Document("fine")])

    first, second, third = result.trails
    assert first.words == 3
    assert first.outcomes[0] == Change("a good one", 3)
    assert isinstance(first.outcomes[1], bytes)
    assert first.outcomes[2:] == [True, Change("good one", 2)]
    assert second.outcomes[2:] == [None]
    assert third.outcomes == [True, third.outcomes[1], True, True]
    assert len(result.seconds) == 4


def test_a_document_left_without_text_is_removed():
    (trail,) = chain({"name": "regex_replace", "pattern": "[a-z]"})([Document("a b")]).trails

    assert trail.outcomes == [None]


def test_results_survive_the_way_between_processes():
    result = chain("lowercase", "deduplicate")([Document("A\x00é"), Document("b")])

    copy = msgspec.msgpack.decode(msgspec.msgpack.encode(result), type=ChainResult)

    assert copy == result


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1/0", r"'failing:step' failed on x\.txt:3: ZeroDivisionError: division by zero"),
        ("return 3", r"'failing:step' gave int for x\.txt:3; it must give a text, or None to remove it"),
        ("return '\\ud800'", "gave half of a surrogate pair"),
    ],
)
def test_a_step_that_fails_is_named_with_the_document(tmp_path, monkeypatch, code, said):
    (tmp_path / "failing.py").write_text(f"def step(text):\n    {code}\n")
    monkeypatch.delitem(__import__("sys").modules, "failing", raising=False)
    work = chain({"name": "failing:step", "per": "document"}, base_dir=tmp_path)

    with pytest.raises(DataError, match=rf"dataset_manipulation\[0\] .*{said}"):
        work([Document("text", "x.txt:3")])


@pytest.mark.slow
def test_a_program_that_fails_is_named_with_the_document():
    work = chain({"command": ["false"]})

    with pytest.raises(DataError, match=r"dataset_manipulation\[0\] 'false' failed on x\.txt:3: .*ended with status 1"):
        work([Document("text", "x.txt:3")])
