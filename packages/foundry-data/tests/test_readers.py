"""Whole corpora: mixed folders, policies, counts, and everything that a corpus can be instead of text."""

import gzip
import json
import os
import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_config.errors import DataError
from foundry_data.documents import Document, ReadReport, ReadSettings
from foundry_data.readers import READERS, iter_documents, list_sources, read_blocks, read_documents

texts = st.lists(st.text(alphabet="ab é\U0001f600", min_size=1, max_size=6).filter(str.strip), min_size=1, max_size=6)


@pytest.fixture
def mixed(tmp_path):
    """A folder with a file of every kind that needs no extra package."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "moon.txt").write_text("one small step\n\nfor a man\n")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n')
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "four"}\n'))
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"five\n"))
    (tmp_path / "e.csv").write_text("not,read\n")
    return tmp_path


def test_a_mixed_folder_is_read_in_the_order_of_the_names(mixed):
    assert list(read_documents(mixed, text_documents="line")) == [
        Document("one small step", "a/moon.txt:1"),
        Document("for a man", "a/moon.txt:3"),
        Document("two", "b.jsonl:1"),
        Document("three", "b.jsonl:2"),
        Document("four", "c.jsonl.gz:1"),
        Document("five", "d.txt.gz:1"),
    ]


def test_the_report_counts_everything_that_was_met(mixed):
    (mixed / "f.txt").write_text("")
    (mixed / "g.txt").write_text("one small step\n\nfor a man\n")
    stream = read_documents(mixed, text_documents="line")

    documents = list(stream)

    report = stream.report
    assert (report.files, report.documents, report.words) == (5, len(documents), 10)
    assert (report.empty_documents, report.duplicate_files, report.ignored_files) == (2, ["g.txt"], {".csv": 1})
    assert str(report) == (
        "6 documents, 82 bytes in 5 files; 2 empty documents left out; 1 duplicate file left out; "
        "1 file ignored (.csv 1)"
    )


def test_every_iteration_starts_a_new_report(mixed):
    stream = read_documents(mixed)

    first, report = list(stream), stream.report
    second = list(stream)

    assert (second, stream.report) == (first, report)
    assert json.loads(json.dumps(report.to_dict()))["documents"] == len(first)


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(texts, min_size=1, max_size=4), st.sampled_from(["txt", "jsonl", "txt.gz", "jsonl.gz"]))
def test_a_folder_is_its_files_one_after_the_other(tmp_path_factory, files, kind):
    folder = tmp_path_factory.mktemp("corpus")
    for number, lines in enumerate(files):
        content = [json.dumps({"text": line}) for line in lines] if "jsonl" in kind else lines
        data = "".join(line + "\n" for line in content).encode()
        (folder / f"{number}.{kind}").write_bytes(gzip.compress(data) if kind.endswith("gz") else data)

    stream = read_documents(folder, text_documents="line", duplicate_files="keep")
    found = [document.text for document in stream]

    assert found == [line for lines in files for line in lines]
    assert stream.report.words == sum(len(line.split()) for line in found)


def test_reports_of_several_processes_add_up_to_one(mixed):
    files = list_sources(mixed)
    total = ReadReport()
    for file in files:
        report = ReadReport()
        list(iter_documents(file, ReadSettings(), report))
        total.add(report)

    stream = read_documents(mixed)
    list(stream.blocks())

    assert (total.documents, total.bytes) == (stream.report.documents, stream.report.bytes)


def test_reports_add_names_and_suffixes_too():
    report = ReadReport(duplicate_files=["a"], ignored_files={".csv": 1})

    report.add(ReadReport(duplicate_files=["b"], ignored_files={".csv": 2, ".md": 1}, words=3))

    assert report == ReadReport(duplicate_files=["a", "b"], ignored_files={".csv": 3, ".md": 1}, words=3)


@pytest.mark.parametrize("content", ["", " \n\t\n", "\ufeff", "\r\n"])
@pytest.mark.parametrize("granularity", ["file", "line", "paragraph"])
def test_a_corpus_without_text_is_refused(tmp_path, content, granularity):
    (tmp_path / "a.txt").write_text(content, newline="")

    with pytest.raises(
        DataError, match=r"has no text \(0 documents, .*empty document.*name another data.source_corpus"
    ):
        list(read_documents(tmp_path, text_documents=granularity))


@pytest.mark.parametrize("granularity", ["file", "line", "paragraph"])
def test_an_empty_file_among_others_is_one_empty_document(tmp_path, granularity):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.txt").write_text("")

    stream = read_documents(tmp_path, text_documents=granularity)

    assert len(list(stream)) == 1
    assert (stream.report.empty_documents, stream.report.duplicate_files) == (2, [])
    with pytest.raises(DataError, match=r"b\.txt has no text; remove it, or set data\.empty_documents to skip"):
        list(read_documents(tmp_path, text_documents=granularity, empty_documents="refuse"))


@pytest.mark.slow
def test_a_hundred_megabyte_line_is_read(tmp_path):
    with (tmp_path / "a.txt").open("wb") as file:
        for _ in range(10):
            file.write(b"words " * 1_666_667)
    block = next(read_blocks(list_sources(tmp_path)[0], ReadSettings(text_documents="line"), ReadReport()))

    assert [len(text) for text in block.texts] == [10 * 1_666_667 * 6]


@pytest.mark.slow
def test_a_gzip_bomb_ends_with_a_message_before_it_fills_the_memory(tmp_path):
    with gzip.open(tmp_path / "bomb.txt.gz", "wb", compresslevel=9) as file:
        for _ in range(64):
            file.write(bytes(2**20))

    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb\.txt\.gz: a document of more than 2,097,152 bytes"):
        list(read_documents(tmp_path, max_document_bytes=2**21))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 2**24


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")

    with pytest.raises(DataError, match="is a FIFO, not a regular file"):
        read_documents(tmp_path / "pipe.txt")


def test_a_file_that_grows_between_the_listing_and_the_end_is_noticed(tmp_path):
    (tmp_path / "a.txt").write_text("one\n" * 40_000)
    (tmp_path / "b.txt").write_text("two\n")
    stream = iter(read_documents(tmp_path, text_documents="line"))
    next(stream)

    with (tmp_path / "b.txt").open("a") as file:
        file.write("three\n")

    with pytest.raises(DataError, match=r"b\.txt changed while it was read \(4 bytes before, 10 now\)"):
        list(stream)


def test_escape_sequences_in_names_are_spelled_out_in_sources_and_messages(tmp_path):
    (tmp_path / "a\x1b]0;x\x07.txt").write_bytes(b"ok\n\xff\n")

    document = next(iter(read_documents(tmp_path, text_documents="line", encoding_errors="skip")))
    with pytest.raises(DataError) as caught:
        list(read_documents(tmp_path, text_documents="line"))

    assert document.source == "a\\x1b]0;x\\x07.txt:1"
    assert not any(ord(character) < 32 for character in str(caught.value))


def test_every_suffix_has_a_reader_that_refuses_rubbish_or_reads_it(tmp_path):
    for suffix in READERS:
        if not suffix.startswith("."):
            continue
        path = tmp_path / f"rubbish{suffix}"
        path.write_bytes(b"\x93\xfa\x00 rubbish")
        try:
            list(read_documents(path))
        except DataError as error:
            assert f"rubbish{suffix}" in str(error)
        else:
            pytest.fail(f"{suffix} accepted rubbish")


@pytest.mark.slow
def test_reading_imports_nothing_heavy(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    program = (
        "import sys\n"
        "from foundry_data.readers import read_documents\n"
        "from foundry_data.transform_runner import run_manipulation\n"
        f"list(read_documents({str(tmp_path)!r}))\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'pandas', 'zstandard', 'yaml'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")
