"""A manifest reads back as it was written, and nothing else reads as a manifest."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_train.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    ManifestError,
    NewerFormatError,
    ParentLink,
    WeightsSummary,
    canonical_bytes,
    is_allowed,
    parse_manifest,
    read_manifest,
    seal,
)


def manifest(**changes: Any) -> Manifest:
    plain = Manifest(
        run_id="r",
        step=3,
        kind="full",
        parent=ParentLink(2, "sha256:p"),
        files={"model.safetensors": FileEntry(10, "0" * 64)},
        weights=WeightsSummary("sha256:w", 1, 4),
        loss=4.1588830833596715,
        experiment_name="ünï",
    )
    return msgspec.structs.replace(plain, **changes)


def resealed(**changes: Any) -> bytes:
    """A manifest whose digest is right, with other fields than the struct allows."""
    values = msgspec.to_builtins(manifest()) | changes
    return seal_values({key: value for key, value in values.items() if value is not ...})


def seal_values(values: dict[str, Any]) -> bytes:
    values.pop("self", None)
    values["self"] = "sha256:" + hashlib.sha256(canonical_bytes(values)).hexdigest()
    return canonical_bytes(values)


def test_a_manifest_reads_back_equal_with_its_digest() -> None:
    sealed, data = seal(manifest())

    assert parse_manifest(data) == sealed
    assert sealed.self_digest.startswith("sha256:")
    assert json.loads(data)["loss"] == 4.1588830833596715


SEALED = seal(manifest())[1]


@given(st.integers(0, len(SEALED) - 1), st.integers(0, 7))
def test_every_flipped_bit_is_noticed(position: int, bit: int) -> None:
    data = bytearray(SEALED)
    data[position] ^= 1 << bit

    with pytest.raises(ManifestError):
        parse_manifest(bytes(data))


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"1", b'{"self": NaN}', SEALED + b"\n", SEALED[:-1], b"[" * 9999]
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"step": "3"},
        {"kind": "half"},
        {"files": ...},
        {"files": {"../canary": {"bytes": 1, "sha256": ""}}},
        {"files": {"/etc/passwd": {"bytes": 1, "sha256": ""}}},
        {"files": {"trainer/../../x.safetensors": {"bytes": 1, "sha256": ""}}},
        {"files": {"pytorch_model.bin": {"bytes": 1, "sha256": ""}}},
        {"files": {"modeling.py": {"bytes": 1, "sha256": ""}}},
        {"format": "other/1"},
        {"format": None},
    ],
)
def test_a_genuine_manifest_that_says_what_it_must_not_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestError) as raised:
        parse_manifest(resealed(**changes))

    assert not isinstance(raised.value, NewerFormatError)


def test_a_manifest_of_a_newer_format_is_told_apart_from_a_damaged_one() -> None:
    with pytest.raises(NewerFormatError, match=r"foundry.checkpoint/2.*update"):
        parse_manifest(resealed(format="foundry.checkpoint/2", novelty={"a": 1}))


def test_a_manifest_is_not_read_through_a_symlink_nor_if_huge_nor_if_no_file(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(SEALED)
    path = tmp_path / MANIFEST_NAME
    with pytest.raises(ManifestError, match="missing: the checkpoint was never finished"):
        read_manifest(tmp_path)
    path.symlink_to("real")
    with pytest.raises(ManifestError, match="cannot be opened"):
        read_manifest(tmp_path)
    path.unlink()
    path.write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
    with pytest.raises(ManifestError, match="over the limit"):
        read_manifest(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ManifestError, match="not a regular file"):
        read_manifest(tmp_path)


def test_canonical_json_has_sorted_keys_no_spaces_and_no_nan() -> None:
    assert canonical_bytes({"b": 0.1, "a": [1, "é"]}) == '{"a":[1,"é"],"b":0.1}'.encode()
    with pytest.raises(ValueError):
        canonical_bytes(float("nan"))


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("model.safetensors", True),
        ("model-00001-of-00002.safetensors", True),
        ("trainer/rng-00007.safetensors", True),
        ("tokenizer.model", True),
        ("MANIFEST.json", False),
        ("model.safetensors\n", False),
        ("trainer/x.safetensors", False),
        ("./model.safetensors", False),
    ],
)
def test_only_the_files_of_a_checkpoint_are_allowed(name: str, allowed: bool) -> None:
    assert is_allowed(name) is allowed
