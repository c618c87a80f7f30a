"""JSON lines."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_config.errors import DataError
from foundry_data.documents import ReadReport, ReadSettings
from foundry_data.readers import iter_documents, list_sources, read_documents


def read(path, content, **settings):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    stream = read_documents(path, **settings)
    return [document.text for document in stream], stream.report


@pytest.mark.slow
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=10), ascii_only=st.booleans())
def test_texts_survive_json(tmp_path_factory, texts, ascii_only):
    path = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"id": 1, "text": text}, ensure_ascii=ascii_only) + "\n" for text in texts), newline=""
    )
    (file,) = list_sources(path)
    report = ReadReport()

    found = [document.text for document in iter_documents(file, ReadSettings(), report)]

    assert found == [text for text in texts if text.strip()]
    assert report.documents + report.empty_documents == max(len(texts), 1)


def test_the_field_can_be_any_key(tmp_path):
    found, _ = read(tmp_path / "a.jsonl", '{"a b": "one", "text": "no"}\n', text_field="a b")

    assert found == ["one"]


def test_sources_count_lines_and_blank_lines_mean_nothing(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n{"text": "two"}')

    stream = read_documents(tmp_path / "a.jsonl")

    assert [document.source for document in stream] == ["a.jsonl:1", "a.jsonl:3"]
    assert stream.report.empty_documents == 0


def test_a_null_is_a_document_without_text_by_the_same_policy(tmp_path):
    found, report = read(tmp_path / "a.jsonl", '{"text": null}\n{"text": "one"}\n')

    assert (found, report.empty_documents) == (["one"], 1)
    with pytest.raises(DataError, match=r"a\.jsonl:1 has no text"):
        read(tmp_path / "a.jsonl", '{"text": null}\n', empty_documents="refuse")


def test_strings_are_kept_as_they_are_written(tmp_path):
    found, report = read(
        tmp_path / "a.jsonl", '{"text": "a\\r\\nb\\u0000\\u001b"}\n{"text": "raw\x01 NaN", "x": NaN}\n'
    )

    assert found == ["a\r\nb\x00\x1b", "raw\x01 NaN"]
    assert report.control_characters == 3 + 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "cut', r"a\.jsonl:2 is not JSON"),
        ("plain text", r"a\.jsonl:2 is not JSON"),
        ('["text"]', r"a\.jsonl:2 holds an array, not an object; write \{\"text\": \.\.\.\}"),
        ('"text"', "holds a string"),
        (
            '{"texts": "x", "id": 1}',
            r"no field 'text'\. Did you mean 'texts'\? It has: texts, id; set data\.text_field",
        ),
        ('{"text": tru}', r"a\.jsonl:2 is not JSON: Expecting value: column 10 "),
        ('{"text": {"en": "x"}}', "an object under 'text'"),
        ('{"text": 3}', "a number under 'text'"),
        ('{"text": "a"} {"text": "b"}\n\n', r"a\.jsonl:2 is not JSON: Extra data"),
        ('{"text":\n"a"}', r"a\.jsonl:2 is not JSON"),
        ("[" * 200_000, "a.jsonl:2 is not JSON"),
        ('{"te\\u001bxt": "x"}', r"te\\x1bxt"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(tmp_path, line, said):
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path / "a.jsonl", '{"text": "fine"}\n' + line + "\n")

    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "line", [b'{"text": "b\xffd"}', b'{"text": "b\\ud800d"}', b'{"id": "\xff", "text": 3, "x": "\xff"}']
)
def test_invalid_unicode_follows_the_policy(tmp_path, line):
    content = b'{"text": "fine"}\n' + line + b"\n"

    with pytest.raises(DataError, match=r"a\.jsonl:2 is not valid UTF-8"):
        read(tmp_path / "a.jsonl", content)
    skipped, report = read(tmp_path / "a.jsonl", content, encoding_errors="skip")

    assert skipped == ["fine"]
    assert report.invalid_documents == 1


@pytest.mark.parametrize("line", [b'{"text": "b\xffd"}', b'{"text": "b\\ud800d"}'])
def test_invalid_unicode_can_be_replaced(tmp_path, line):
    (found,), report = read(tmp_path / "a.jsonl", line, encoding_errors="replace")

    assert found.strip("\ufffd")[0] == "b"
    assert "\ufffd" in found
    assert report.invalid_documents == 1


def test_text_without_words_is_an_empty_document(tmp_path):
    found, report = read(tmp_path / "a.jsonl", '{"text": ""}\n{"text": " \\n"}\n{"text": "x"}\n')

    assert found == ["x"]
    assert report.empty_documents == 2
    with pytest.raises(DataError, match=r"a\.jsonl:1 has no text"):
        read(tmp_path / "a.jsonl", '{"text": ""}\n', empty_documents="refuse")
