"""A corpus from a Python function."""

import pytest

from foundry_config.errors import ConfigError, DataError
from foundry_data.readers import read_documents


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with one module, removed from Python's memory afterwards."""
    monkeypatch.delitem(__import__("sys").modules, "my_corpus", raising=False)

    def write(source):
        (tmp_path / "my_corpus.py").write_text(source)
        return tmp_path / "my_corpus:texts"

    yield write
    __import__("sys").modules.pop("my_corpus", None)


def test_the_texts_of_a_function_are_documents(project):
    source = project("def texts():\n    for n in range(600): yield f'text {n}' if n % 3 else ' '")

    stream = read_documents(source)
    documents = list(stream)

    assert documents[0] == ("text 1", "my_corpus:texts:2")
    assert (stream.report.documents, stream.report.empty_documents) == (400, 200)


def test_the_fingerprint_follows_the_texts_not_the_code(project, monkeypatch):
    prints = []
    for code in ("yield 'a'; yield 'b'", "yield from 'ab'", "yield 'ab'"):
        source = project(f"def texts():\n    {code}")
        prints.append(read_documents(source).fingerprint())
        __import__("sys").modules.pop("my_corpus")

    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("def other(): pass", ConfigError, "has no 'texts'"),
        ("texts = 3", ConfigError, "is not a function but int"),
        ("def texts(n): yield 'x'", ConfigError, "cannot be called"),
        ("1/0", ConfigError, "cannot import module 'my_corpus': division by zero"),
        (
            "def texts():\n    yield 'x'\n    1/0",
            DataError,
            "my_corpus:texts failed: ZeroDivisionError: division by zero",
        ),
        ("def texts(): return 3", DataError, "failed: TypeError"),
        ("def texts(): yield 3", DataError, "gave int as number 1"),
        ("def texts(): yield 'x\\ud800'", DataError, "my_corpus:texts:1 is not valid UTF-8"),
        ("def texts(): yield from ()", DataError, "has no text"),
        ("def texts(): yield 'x' * 100", DataError, "more than 50 bytes"),
    ],
)
def test_an_unfit_function_is_named_with_what_is_wrong(project, code, error, said):
    source = project(code)

    with pytest.raises(error, match=said):
        list(read_documents(source, max_document_bytes=50))
