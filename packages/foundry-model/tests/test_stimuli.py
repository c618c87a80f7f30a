"""Reading the texts that surprisal is asked for."""

import pytest

from foundry_config.errors import DataError
from foundry_model.stimuli import read_stimuli, stimulus


def test_lines_are_texts_and_empty_ones_are_left_out(tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("The  dog barks.\n\n \t\nA\u00a0cat\n", encoding="utf-8")

    texts = read_stimuli(path)

    assert [text.words for text in texts] == [["The", "dog", "barks."], ["A\u00a0cat"]]
    assert [(text.number, text.where) for text in texts] == [(1, f"{path}:1"), (2, f"{path}:4")]


def test_rows_with_a_sentence_are_texts_and_keep_their_columns(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("item,sentence\n7,The dog\n8,A cat\n")

    texts = read_stimuli(path)

    assert [text.words for text in texts] == [["The", "dog"], ["A", "cat"]]
    assert texts[1].regions[0].columns == {"item": "8"}


def test_rows_with_a_region_are_joined_by_the_columns_that_name_their_text(tmp_path):
    path = tmp_path / "s.tsv"
    path.write_text("item\tcondition\tregion\trt\n1\ta\tThe old dog\t9\n1\ta\tbarks\t8\n1\tb\tThe\t7\n2\tb\tA\t6\n")

    texts = read_stimuli(path)

    assert [[region.text for region in text.regions] for text in texts] == [["The old dog", "barks"], ["The"], ["A"]]
    assert texts[0].words == ["The", "old", "dog", "barks"]
    assert texts[0].regions[1].columns == {"item": "1", "condition": "a", "rt": "8"}
    assert texts[0].regions[1].where == f"{path}:3"


def test_json_lines_hold_texts_too(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text('{"text": "The dog", "source": 3}\n')

    (text,) = read_stimuli(path)

    assert text.words == ["The", "dog"]
    assert text.regions[0].columns == {"source": "3"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.txt", b"\n \n", "s.txt: no text in this file"),
        ("s.txt", b"\xff", "s.txt: not UTF-8 text"),
        ("s.pdf", b"", "texts for surprisal are read from .txt"),
        ("s.csv", b"a,b\n1,2\n", "s.csv: no column named sentence, text, word, region. Found: a, b"),
        ("s.csv", b"item,sentence\n1,\n", "s.csv:2: the text is empty"),
        ("s.csv", b"item,word\n1,dog\n1, \n", "s.csv:3: 'word' is empty"),
        ("s.csv", b"rt,word\n1,dog\n", "needs another one that says which text a row is of"),
        ("s.jsonl", b'{"text": 4}\n', "s.jsonl:1: 'text' must be text, found 4"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(DataError, match=message):
        read_stimuli(path)


def test_a_missing_file_and_an_empty_text_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_stimuli(tmp_path / "gone.txt")
    with pytest.raises(DataError, match="the text is empty"):
        stimulus(" \n")
