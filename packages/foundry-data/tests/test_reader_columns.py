"""Parquet files and saved datasets."""

import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_config.errors import DataError
from foundry_data.documents import ReadReport, ReadSettings
from foundry_data.readers import iter_documents, list_sources, read_documents, split_source

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

texts = st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=30)


def write_parquet(path, values, **options):
    parquet.write_table(
        pyarrow.table({"id": list(range(len(values))), "text": pyarrow.array(values, "string")}), path, **options
    )


def write_arrow(path, table):
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


@pytest.mark.slow  # building its tables makes pyarrow import pandas
@settings(max_examples=25)
@given(texts, st.integers(1, 7), st.integers(1, 10_000))
def test_every_row_of_a_parquet_file_is_read_once_whole_or_in_parts(tmp_path_factory, values, group, part_bytes):
    path = tmp_path_factory.mktemp("corpus") / "a.parquet"
    write_parquet(path, values, row_group_size=group)
    (file,) = list_sources(path)

    whole = list(iter_documents(file, ReadSettings(), ReadReport()))
    parts = split_source(file, ReadSettings(), part_bytes=part_bytes)
    pieces = [document for part in parts for document in iter_documents(part, ReadSettings(), ReadReport())]

    expected = [(text, f"a.parquet:{row}") for row, text in enumerate(values, 1) if text and text.strip()]
    assert [tuple(document) for document in whole] == expected
    assert pieces == whole


def test_missing_and_empty_texts_are_counted(tmp_path):
    write_parquet(tmp_path / "a.parquet", ["x", None, "", " "])

    stream = read_documents(tmp_path / "a.parquet")

    assert [document.text for document in stream] == ["x"]
    assert stream.report.empty_documents == 3


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_every_kind_of_text_column_is_read(tmp_path, kind):
    array = pyarrow.array(["one", "two", "one"], "string" if kind == "dictionary" else kind)
    table = pyarrow.table({"text": array.dictionary_encode() if kind == "dictionary" else array})
    parquet.write_table(table, tmp_path / "a.parquet")
    write_arrow(tmp_path / "a.arrow", table)

    for name in ("a.parquet", "a.arrow"):
        assert [document.text for document in read_documents(tmp_path / name)] == ["one", "two", "one"]


def test_invalid_utf8_in_a_column_follows_the_policy(tmp_path):
    bad = pyarrow.array([b"fine", b"b\xffd"], "binary").view("string")
    parquet.write_table(pyarrow.table({"text": bad}), tmp_path / "a.parquet")

    with pytest.raises(DataError, match=r"a\.parquet:2 is not valid UTF-8"):
        list(read_documents(tmp_path / "a.parquet"))
    kept = [document.text for document in read_documents(tmp_path / "a.parquet", encoding_errors="replace")]

    assert kept == ["fine", "b\ufffdd"]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("content", "field", "said"),
    [
        ("text", "txt", r"no column 'txt'\. Did you mean 'text'\? It has: id, text; set data\.text_field"),
        ("text", "id", "column 'id' holds int64, not text"),
        ("damaged", "text", "is damaged or of another format"),
    ],
)
def test_an_unfit_file_is_named_with_what_to_do(tmp_path, suffix, content, field, said):
    path = tmp_path / f"a.{suffix}"
    table = pyarrow.table({"id": [1], "text": ["x"]})
    if content == "damaged":
        path.write_bytes(b"PAR1 this is not what it says")
    elif suffix == "parquet":
        parquet.write_table(table, path)
    else:
        write_arrow(path, table)

    with pytest.raises(DataError, match=said):
        list(read_documents(path, text_field=field))


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    parquet.write_table(pyarrow.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "a.parquet")

    with pytest.raises(DataError, match=r"a\.parquet has 2 columns 'text'; rename all but one"):
        list(read_documents(tmp_path / "a.parquet"))


def test_a_flipped_byte_in_a_page_is_damage_not_a_matter_of_permissions(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["some text", "more"]}), path)
    data = bytearray(path.read_bytes())
    for place in range(4, 24):
        data[place] ^= 0xFF
    path.write_bytes(data)

    with pytest.raises(DataError, match="is damaged or of another format"):
        list(read_documents(path))


def test_a_row_over_the_limit_is_refused(tmp_path):
    write_parquet(tmp_path / "a.parquet", ["x" * 10, "x" * 11])

    with pytest.raises(DataError, match=r"a\.parquet:2: a document of more than 10 bytes; split it into several rows"):
        list(read_documents(tmp_path / "a.parquet", max_document_bytes=10))


@pytest.mark.slow
def test_a_dataset_truncated_while_it_is_read_is_named_and_does_not_kill_the_process(tmp_path):
    table = pyarrow.table({"text": [f"text {number} " * 500 for number in range(5000)]})
    write_arrow(tmp_path / "a.arrow", table)
    documents = iter(read_documents(tmp_path / "a.arrow"))
    next(documents)

    os.truncate(tmp_path / "a.arrow", 4096)

    with pytest.raises(DataError, match=r"a\.arrow (is damaged or of another format|changed while it was read)"):
        list(documents)


def test_pyarrow_is_asked_for_by_name_when_it_is_missing(tmp_path, monkeypatch):
    write_parquet(tmp_path / "a.parquet", ["x"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(DataError, match=r"install foundry-data\[parquet\]"):
        list(read_documents(tmp_path / "a.parquet"))


@pytest.mark.slow
def test_a_saved_dataset_is_read_as_the_library_that_wrote_it_reads_it(tmp_path):
    datasets = pytest.importorskip("datasets")
    saved = datasets.Dataset.from_dict({"text": [f"text {n}" for n in range(50)], "n": list(range(50))})
    saved.save_to_disk(tmp_path / "saved", num_shards=3)

    found = [document.text for document in read_documents(tmp_path / "saved")]

    assert found == datasets.load_from_disk(tmp_path / "saved")["text"][:]
