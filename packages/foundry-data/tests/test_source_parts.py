"""Parts of files: together they are the file, whoever reads them."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_data.documents import ReadReport, ReadSettings
from foundry_data.readers import iter_documents, list_sources, split_source

lines = st.lists(st.sampled_from(["", " ", "a", "bb b", "é\U0001f600", '{"text": "x"}']), max_size=30)


def read(parts, how):
    report = ReadReport()
    documents = [document for part in parts for document in iter_documents(part, how, report)]
    return documents, report


@pytest.mark.slow
@settings(max_examples=60)
@given(
    lines, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 12), st.sampled_from(["line", "paragraph"])
)
def test_the_parts_of_a_text_file_give_its_documents_and_counts(
    tmp_path_factory, texts, ending, closed, part_bytes, granularity
):
    path = tmp_path_factory.mktemp("corpus") / "a.txt"
    path.write_bytes((ending.join(texts) + (ending if closed else "")).encode())
    (file,) = list_sources(path)
    how = ReadSettings(text_documents=granularity)

    whole = read([file], how)
    parts = split_source(file, how, part_bytes=part_bytes)

    documents, report = read(parts, how)
    assert documents == whole[0]
    if documents:  # a file without any document counts as an empty one, its parts do not
        assert report == whole[1]


@settings(max_examples=20)
@given(st.lists(st.sampled_from(['{"text": "x"}', "", '{"text": ""}']), min_size=1, max_size=20), st.integers(1, 40))
def test_the_parts_of_json_lines_give_the_documents_of_the_file(tmp_path_factory, texts, part_bytes):
    path = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    path.write_text("\n".join(texts))
    (file,) = list_sources(path)

    documents, _ = read([file], ReadSettings())
    pieces, _ = read(split_source(file, ReadSettings(), part_bytes=part_bytes), ReadSettings())

    assert pieces == documents


def test_parts_are_of_about_the_asked_size_and_know_their_first_line(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"line {n:4}\n" for n in range(1, 1001)))  # 10 bytes each
    (file,) = list_sources(tmp_path)

    parts = split_source(file, ReadSettings(text_documents="line"), part_bytes=2500)

    assert [(part.start, part.stop, part.first_record) for part in parts] == [
        (0, 2500, 1), (2500, 5000, 251), (5000, 7500, 501), (7500, 10000, 751),
    ]  # fmt: skip


def test_compressed_files_and_whole_file_documents_are_one_part(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"line\n" * 1000))
    (tmp_path / "b.txt").write_bytes(b"line\n" * 1000)
    compressed, plain = list_sources(tmp_path)

    assert len(split_source(compressed, ReadSettings(text_documents="line"), part_bytes=10)) == 1
    assert len(split_source(plain, ReadSettings(text_documents="file"), part_bytes=10)) == 1
    assert len(split_source(plain, ReadSettings(text_documents="line"), part_bytes=10)) == 500
