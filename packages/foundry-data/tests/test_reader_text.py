"""Plain text: what a document is, and what lines end with."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config.errors import DataError
from foundry_data.documents import ReadSettings
from foundry_data.reader_text import batches, paragraphs, split_lines
from foundry_data.readers import read_documents

FIVE_LINES = "one\ntwo\n\n \t\nthree\n"


def read(path, content, granularity, **policies):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    stream = read_documents(path, text_documents=granularity, **policies)
    return [(document.text, document.source) for document in stream], stream.report


def test_a_file_is_one_document_kept_as_it_is(tmp_path):
    documents, report = read(tmp_path / "a.txt", FIVE_LINES, "file")

    assert documents == [(FIVE_LINES, "a.txt")]
    assert (report.documents, report.words, report.bytes, report.files) == (1, 3, len(FIVE_LINES), 1)


def test_each_line_is_a_document_and_blank_ones_are_counted(tmp_path):
    documents, report = read(tmp_path / "a.txt", FIVE_LINES, "line")

    assert documents == [("one", "a.txt:1"), ("two", "a.txt:2"), ("three", "a.txt:5")]
    assert (report.documents, report.empty_documents) == (3, 2)


def test_paragraphs_end_at_blank_lines_which_are_no_documents(tmp_path):
    documents, report = read(tmp_path / "a.txt", "\n" + FIVE_LINES, "paragraph")

    assert documents == [("one\ntwo", "a.txt:2"), ("three", "a.txt:6")]
    assert (report.documents, report.empty_documents) == (2, 0)


@pytest.mark.parametrize("granularity", ["file", "line", "paragraph"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_breaks_of_windows_and_byte_order_marks_make_no_difference(tmp_path, granularity, mark):
    plain, _ = read(tmp_path / "a.txt", FIVE_LINES, granularity)

    windows, _ = read(tmp_path / "a.txt", mark + FIVE_LINES.replace("\n", "\r\n").encode(), granularity)

    assert windows == plain


def test_a_byte_order_mark_inside_a_text_is_kept(tmp_path):
    documents, _ = read(tmp_path / "a.txt", "\ufeff\ufeffone\n\ufefftwo", "line")

    assert [text for text, _ in documents] == ["\ufeffone", "\ufefftwo"]


def test_other_line_separators_and_lone_carriage_returns_are_ordinary_characters(tmp_path):
    documents, _ = read(tmp_path / "a.txt", "a\u2028b\x0bc\x85d\re\n", "line")

    assert documents == [("a\u2028b\x0bc\x85d\re", "a.txt:1")]


def test_control_characters_are_kept_and_counted(tmp_path):
    documents, report = read(tmp_path / "a.txt", "a\x00b\x1b[31m\tc\x7f\n", "line")

    assert documents[0][0] == "a\x00b\x1b[31m\tc\x7f"
    assert report.control_characters == 3


def test_unusual_but_valid_unicode_is_kept(tmp_path):
    text = "\ue000 \U0001f600 \U0010ffff \ufffe e\u0301"

    documents, report = read(tmp_path / "a.txt", text, "line")

    assert documents == [(text, "a.txt:1")]
    assert report.invalid_documents == 0


lines = st.lists(st.text(alphabet="ab é\t\U0001f600", max_size=4), max_size=12)


@given(lines, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_split_lines_undoes_joining(texts, ending, closed):
    data = "".join(text + ending for text in texts).encode()
    if not closed and texts and texts[-1]:
        data = data.removesuffix(ending.encode())

    assert [line.decode() for line in split_lines(data)] == texts


@given(lines)
def test_paragraphs_are_what_blank_lines_separate(texts):
    numbered = [(number, text.encode()) for number, text in enumerate(texts, 1)]

    found = [data.decode() for _, data in paragraphs(numbered, max_bytes=10**6, label="x")]

    blocks = re.split(r"\n(?:[ \t]*\n)+", "\n" + "\n".join(texts) + "\n\n")
    expected = [block.removeprefix("\n") for block in blocks]
    assert found == [re.sub(r"\A(?:[ \t]*\n)+|(?:\n[ \t]*)+\Z", "", block) for block in expected if block.strip()]


@given(st.lists(st.tuples(st.integers(), st.binary(max_size=3)), max_size=20))
def test_batches_keep_everything_in_order(numbered):
    assert [pair for batch in batches(numbered) for pair in batch] == numbered


@pytest.mark.parametrize(
    ("granularity", "place"), [("file", r"a\.txt"), ("line", r"a\.txt:2"), ("paragraph", r"a\.txt:2")]
)
def test_a_document_over_the_limit_is_refused_with_advice(tmp_path, granularity, place):
    with pytest.raises(DataError, match=rf"{place}: a document of more than 20 bytes; .*(data\.text_documents|line)"):
        read(tmp_path / "a.txt", "\n" + "word " * 10, granularity, max_document_bytes=20)


def test_a_line_of_exactly_the_limit_is_read(tmp_path):
    documents, _ = read(tmp_path / "a.txt", "x" * 20 + "\n" + "y" * 20, "line", max_document_bytes=20)

    assert [len(text) for text, _ in documents] == [20, 20]


@pytest.mark.parametrize("granularity", ["file", "line", "paragraph"])
class TestInvalidUtf8:
    content = b"good\n\nb\xffd\n\nfine\n"

    def test_is_refused_with_the_place_and_the_byte(self, tmp_path, granularity):
        place = {"file": r"a\.txt", "line": r"a\.txt:3", "paragraph": r"a\.txt:3"}[granularity]
        position = {"file": 7, "line": 1, "paragraph": 1}[granularity]

        with pytest.raises(DataError, match=rf"^{place} is not valid UTF-8: byte 0xff at position {position}; convert"):
            read(tmp_path / "a.txt", self.content, granularity)

    def test_is_left_out_and_counted(self, tmp_path, granularity):
        (tmp_path / "a.txt").write_bytes(self.content)
        (tmp_path / "b.txt").write_bytes(b"other")

        stream = read_documents(tmp_path, text_documents=granularity, encoding_errors="skip")

        kept = [document.text for document in stream]
        assert kept == (["other"] if granularity == "file" else ["good", "fine", "other"])
        assert stream.report.invalid_documents == 1

    def test_is_replaced_and_counted(self, tmp_path, granularity):
        documents, report = read(tmp_path / "a.txt", self.content, granularity, encoding_errors="replace")

        assert any("b\ufffdd" in text for text, _ in documents)
        assert report.invalid_documents == 1


def test_utf16_is_recognised(tmp_path):
    with pytest.raises(DataError, match="looks like UTF-16"):
        read(tmp_path / "a.txt", "text".encode("utf-16"), "file")


@pytest.mark.parametrize("bad", [b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xc0\xaf", b"\xff"])
def test_surrogates_cut_and_overlong_sequences_are_invalid(tmp_path, bad):
    _, report = read(tmp_path / "a.txt", b"ok\n" + bad + b"\n", "line", encoding_errors="skip")

    assert report.invalid_documents == 1


@pytest.mark.parametrize("offset", range(-3, 4))
def test_characters_across_the_border_of_a_chunk_are_whole(tmp_path, offset):
    filler = "x" * (2**20 + offset) + "\U0001f600\r\n" + "y" * 10

    documents, report = read(tmp_path / "a.txt", filler, "line")

    assert [text for text, _ in documents] == filler.split("\r\n")
    assert report.bytes == len(filler.encode())


def test_settings_refuse_an_unknown_choice():
    from foundry_config.errors import ConfigError

    with pytest.raises(ConfigError, match=r"data\.text_documents: unknown choice 'lines'. Did you mean 'line'\?"):
        ReadSettings(text_documents="lines")
    with pytest.raises(ConfigError, match="at least 1"):
        ReadSettings(max_document_bytes=0)
