"""The examples in the docstrings of the text modules hold."""

import doctest
import importlib

import pytest

MODULES = ["words", "fingerprint", "documents", "sources", "reader_text", "python_docs", "transform_texts"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name):
    failed, tried = doctest.testmod(importlib.import_module(f"foundry_data.{name}"))

    assert tried > 0
    assert failed == 0
