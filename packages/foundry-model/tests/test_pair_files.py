"""Finding and reading files of minimal pairs in every form they come in."""

import json

import pytest

from foundry_config.errors import DataError
from foundry_model.pair_files import find_pair_files, read_pair_file

BLIMP = {
    "sentence_good": "Who slept?",
    "sentence_bad": "Who sleep?",
    "field": "syntax/semantics",
    "linguistics_term": "binding",
    "UID": "principle_A_case_2",
    "simple_LM_method": True,
    "one_prefix_method": False,
    "pairID": "17",
}


def test_a_record_of_blimp_keeps_its_number_field_and_term(tmp_path):
    path = tmp_path / "principle_A_case_2.jsonl"
    path.write_text(json.dumps(BLIMP) + "\n\n")

    file = read_pair_file(path)

    (pair,) = file.pairs
    assert (file.name, file.left_out) == ("principle_A_case_2", 0)
    assert (pair.good.text, pair.bad.text) == ("Who slept?", "Who sleep?")
    assert (pair.pair_id, pair.field, pair.term) == ("17", "syntax_semantics", "binding")
    assert pair.where == f"{path}:1"


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_tables_are_read_with_quotes_byte_order_mark_and_line_numbers(tmp_path, name, separator):
    path = tmp_path / name
    rows = [["sentence_good", "sentence_bad"], ['"A, b"', "c"], ['"two\nlines"', "d"], ["e", "f"]]
    path.write_text("\ufeff" + "".join(separator.join(row) + "\r\n" for row in rows), encoding="utf-8", newline="")

    pairs = read_pair_file(path).pairs

    assert [(pair.good.text, pair.bad.text) for pair in pairs] == [("A, b", "c"), ("two\nlines", "d"), ("e", "f")]
    assert pairs[2].where == f"{path}:5"


def test_folders_stand_for_the_pair_files_in_them(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.jsonl", "a.csv", "deep/c.tsv", "notes.md"):
        (tmp_path / name).write_text("")

    found = find_pair_files([tmp_path, tmp_path / "a.csv"])

    assert [path.name for path in found] == ["a.csv", "b.jsonl", "c.tsv"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda folder: folder / "blimp.jsnl",
            r"no such file or folder of minimal pairs. Did you mean 'blimp.jsonl'\?",
        ),
        (lambda folder: folder / "notes.md", "are read from files ending in .jsonl"),
        (lambda folder: folder / "empty", "no minimal pairs in this folder"),
    ],
)
def test_a_path_without_pairs_is_refused(tmp_path, make, message):
    (tmp_path / "blimp.jsonl").write_text("")
    (tmp_path / "notes.md").write_text("")
    (tmp_path / "empty").mkdir()

    with pytest.raises(DataError, match=message):
        find_pair_files([make(tmp_path)])


def test_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("a.jsonl", "more/a.csv"):
        (tmp_path / name).write_text("")

    with pytest.raises(DataError, match=r"both called .a., and so would their results; rename one"):
        find_pair_files([tmp_path])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"{broken", "a.jsonl:1: not valid JSON"),
        ("a.jsonl", b"\xff\xfe", "a.jsonl: not UTF-8 text"),
        ("a.jsonl", b"\n", "a.jsonl: no minimal pairs in this file"),
        ("a.csv", b"sentence_good,sentence_bad\na,b,c\n", "a.csv:2: more values than the header has columns"),
        ("a.csv", b"sentence_good,sentence_bad\na\n", "a.csv:2: no field 'sentence_bad'"),
        ("a.csv", b'sentence_good,sentence_bad\n"a,b\n', "not a valid table"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(DataError, match=message):
        read_pair_file(path)


def test_a_file_that_vanished_is_one_message(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_pair_file(tmp_path / "gone.jsonl")


def test_prefix_records_need_no_flag(tmp_path):
    path = tmp_path / "a.jsonl"
    record = {"one_prefix_prefix": "the", "one_prefix_word_good": "dog", "one_prefix_word_bad": "dogs"}
    path.write_text(json.dumps(record) + "\n" + json.dumps(BLIMP))

    file = read_pair_file(path, method="one_prefix")

    assert [pair.good.text for pair in file.pairs] == ["the dog"]
    assert file.left_out == 1
