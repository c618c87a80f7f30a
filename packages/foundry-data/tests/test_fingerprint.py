"""Fingerprints change exactly when content does."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_data.fingerprint import code_fingerprint, fingerprint, source_fingerprint
from foundry_data.readers import list_sources

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4))
def test_fingerprint_ignores_the_order_of_keys(mapping):
    assert fingerprint(mapping) == fingerprint(dict(reversed(mapping.items())))


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 9), min_size=1, max_size=4), st.data())
def test_fingerprint_changes_with_any_value(mapping, data):
    key = data.draw(st.sampled_from(sorted(mapping)))

    assert fingerprint(mapping) != fingerprint({**mapping, key: mapping[key] + 1})


def test_fingerprint_is_the_sha256_of_sorted_compact_json():
    # sha256 of {"a":[1,"x"],"b":null}
    assert fingerprint({"b": None, "a": [1, "x"]}) == (
        "sha256:" + __import__("hashlib").sha256(b'{"a":[1,"x"],"b":null}').hexdigest()
    )


def test_fingerprint_refuses_what_json_cannot_say():
    with pytest.raises(TypeError):
        fingerprint({"value": object()})


def test_source_fingerprint_survives_a_move_of_the_corpus(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("one")
        (tmp_path / name / "b.txt").write_text("two")

    here, there = (source_fingerprint(list_sources(tmp_path / name)) for name in ("here", "there"))

    assert here == there


@pytest.mark.parametrize("change", ["content", "order", "format", "added"])
def test_source_fingerprint_changes_with_the_corpus(tmp_path, change):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    before = source_fingerprint(list_sources(tmp_path))

    if change == "content":
        (tmp_path / "a.txt").write_text("One")
    elif change == "order":
        (tmp_path / "a.txt").rename(tmp_path / "c.txt")
    elif change == "format":
        (tmp_path / "a.txt").rename(tmp_path / "a.jsonl")
    else:
        (tmp_path / "c.txt").write_text("three")

    assert source_fingerprint(list_sources(tmp_path)) != before


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_bytes_that_are_to_be_unpacked_are_another_corpus(tmp_path, compression):
    prints = []
    for name in ("a.txt", f"b.txt{compression}"):
        (tmp_path / name).write_bytes(b"the same bytes")
        prints.append(source_fingerprint(list_sources(tmp_path / name)))

    assert prints[0] != prints[1]


def test_code_fingerprint_changes_with_any_line_of_the_module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "edited_steps.py").write_text("def helper(): return 1\ndef step(): return helper()\n")
    from edited_steps import step

    before = code_fingerprint(step)
    (tmp_path / "edited_steps.py").write_text("def helper(): return 2\ndef step(): return helper()\n")
    monkeypatch.delitem(sys.modules, "edited_steps")
    from edited_steps import step as edited

    assert code_fingerprint(edited) != before


def test_code_fingerprint_names_code_without_a_file_by_its_name():
    namespace = {"__name__": "typed_in"}
    exec("def step(): pass", namespace)

    assert code_fingerprint(namespace["step"]) == fingerprint("typed_in:step")
