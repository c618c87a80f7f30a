"""The corpus that comes with Python."""

import pytest

from foundry_config.errors import DataError
from foundry_data.documents import ReadReport, ReadSettings
from foundry_data.python_docs import PythonDocsFile, docstrings, library_files, python_docs_file
from foundry_data.readers import iter_documents, list_sources, read_documents, split_source
from foundry_data.words import count_words

SOURCE = '''"""Module text."""
import os

class Thing:
    """Class text,
        with a second line.
    """

    async def method(self):
        r"""Method \\d text."""
        def inner(): "Inner text."

if os:
    try:
        def conditional():
            """Conditional text."""
    except Exception:
        def fallback():
            "Fallback text."

def nothing():
    return "not a docstring"

def surrogate():
    "half \\ud800 a pair"
'''


@pytest.fixture
def library(tmp_path):
    """A standard library in small."""
    files = {
        "pydoc_data/topics.py": (
            "topics = {'if': 'The if statement is used for conditional execution of code.\\n', 'x': 'short'}"
        ),
        "b.py": '"""One two three four five six seven eight."""\n"""not a docstring, though it has many words in it"""',
        "a/c.py": 'def f():\n    """One two three four five six seven eight nine."""',
        "a.py": "x = 1",
        "broken.py": '"""One two three four five six seven eight.""" (',
        "test/test_a.py": '"""One two three four five six seven eight."""',
        "site-packages/p.py": '"""One two three four five six seven eight."""',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return PythonDocsFile(path=str(tmp_path), name="builtin:python-docs", suffix="builtin:python-docs")


def test_docstrings_finds_every_docstring_in_the_order_of_the_source():
    assert docstrings(SOURCE.encode()) == [
        (1, "Module text."),
        (5, "Class text,\nwith a second line."),
        (10, "Method \\d text."),
        (11, "Inner text."),
        (16, "Conditional text."),
        (19, "Fallback text."),
    ]


@pytest.mark.parametrize("source", [b"", b"x = 1", b"'''unclosed", b"def (: '", b"\0'"])
def test_docstrings_of_sources_without_any_or_that_do_not_parse_are_none(source):
    assert docstrings(source) == []


def test_topics_come_first_then_modules_by_name_without_tests_and_packages(library):
    report = ReadReport()

    documents = list(iter_documents(library, ReadSettings(), report))

    assert [(document.text, document.source) for document in documents] == [
        ("The if statement is used for conditional execution of code.", "python-docs/pydoc_data/topics.py:1"),
        ("One two three four five six seven eight nine.", "python-docs/a/c.py:2"),
        ("One two three four five six seven eight.", "python-docs/b.py:1"),
    ]
    assert report.documents == 3


def test_the_digest_covers_names_and_content(library, tmp_path):
    before = library.digest()

    (tmp_path / "a.py").write_text("x = 2")
    changed = library.digest()
    (tmp_path / "a.py").rename(tmp_path / "d.py")
    library_files.cache_clear()

    assert len({before, changed, library.digest()}) == 3


def test_a_python_without_sources_is_refused_with_advice(tmp_path):
    file = PythonDocsFile(path=str(tmp_path), name="builtin:python-docs", suffix="builtin:python-docs")

    with pytest.raises(DataError, match=r"use a full Python installation, or name a corpus of your own"):
        list(iter_documents(file, ReadSettings(), ReadReport()))


def test_an_unknown_builtin_is_refused_with_the_nearest():
    with pytest.raises(DataError, match=r"unknown corpus 'builtin:python-doc'\. Did you mean 'builtin:python-docs'\?"):
        list_sources("builtin:python-doc")


def test_the_running_interpreter_has_the_files_and_a_stable_digest():
    file = python_docs_file()
    names = library_files(__import__("pathlib").Path(file.path))

    assert len(names) > 200
    assert not any("site-packages" in name or "/test" in name for name in names)
    assert file.digest() == python_docs_file().digest()


@pytest.mark.slow
def test_the_corpus_is_about_two_megabytes_in_thousands_of_documents_and_the_same_in_parts():
    stream = read_documents("builtin:python-docs")

    documents = list(stream)
    parts = split_source(stream.files[0], stream.settings)
    pieces = [document for part in parts for document in iter_documents(part, stream.settings, ReadReport())]

    assert len(documents) > 4000
    assert 1_500_000 < stream.report.bytes < 4_000_000
    assert min(count_words(document.text) for document in documents) >= 8
    assert pieces == documents
    assert len(parts) > 5
