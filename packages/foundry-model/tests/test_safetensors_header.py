"""Hostile and damaged safetensors files: each is refused by name, at once and without memory."""

import json
import os
import struct
import time
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from foundry_config import CheckpointError
from foundry_model import read_safetensors_header, read_safetensors_metadata
from foundry_model.safetensors_header import MAX_HEADER_BYTES, read_tensor_into


def _write(path, header, data=b"", *, length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def _tensor(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE = {
    "a length of 2^63": ({}, b"", {"length": 2**63}, "claims 9,223,372,036,854,775,808 bytes"),
    "a length beyond the limit": ({}, b"", {"length": MAX_HEADER_BYTES + 1}, "more than 8,388,608 are not read"),
    "a length beyond the file": ({}, b"", {"length": 100}, "claims 100 bytes, and only 2 follow"),
    "overlapping tensors": ({"a": _tensor([2], 0, 8), "b": _tensor([2], 0, 8)}, b"\0" * 8, {}, "overlaps another"),
    "bytes after the last tensor": ({"a": _tensor([2], 0, 8)}, b"\0" * 16, {}, "and the file has"),
    "a hole": ({"a": _tensor([2], 8, 16)}, b"\0" * 16, {}, "leaves a hole"),
    "a shape that overflows": ({"a": _tensor([2**62, 4], 0, 8)}, b"\0" * 8, {}, "needs 73786976294838206464 bytes"),
    "a negative length": ({"a": _tensor([-1], 0, 8)}, b"\0" * 8, {}, "not counts"),
    "a true length": ({"a": _tensor([True], 0, 4)}, b"\0" * 4, {}, "not counts"),
    "backward offsets": ({"a": _tensor([2], 8, 0)}, b"\0" * 8, {}, "needs 8 bytes and has -8"),
    "an unknown type": ({"a": _tensor([2], 0, 8, "F99")}, b"\0" * 8, {}, "unknown type 'F99'"),
    "a field too many": ({"a": {**_tensor([2], 0, 8), "code": "x"}}, b"\0" * 8, {}, "not described by"),
    "a name twice": (b'{"a":{},"a":{}}', b"", {}, "has 'a' twice"),
    "metadata that is no text": ({"__metadata__": {"x": 1}}, b"", {}, "not a map of strings"),
    "deep nesting": (b'{"a":' + b"[" * 500_000, b"", {}, "not JSON"),
    "a list": ([1], b"", {}, "not a JSON object"),
    "no JSON": (b"\xff\xfe", b"", {}, "not JSON"),
    "UTF-16": ('{"__metadata__":{}}'.encode("utf-16"), b"", {}, "not JSON"),
    "a mark of byte order": ('{"__metadata__":{}}'.encode("utf-8-sig"), b"", {}, "not JSON: .*BOM"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused_with_its_reason(tmp_path, case):
    header, data, options, reason = HOSTILE[case]
    path = _write(tmp_path / "weights.safetensors", header, data, **options)

    with pytest.raises(CheckpointError, match=f"weights.safetensors: not a valid safetensors file: .*{reason}"):
        read_safetensors_header(path)


@pytest.mark.parametrize("content", [b"", b"\0\0\0"])
def test_a_file_too_short_for_its_length_is_refused(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=f"it has {len(content)} bytes"):
        read_safetensors_header(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone.safetensors: cannot be read: No such file"):
        read_safetensors_header(tmp_path / "gone.safetensors")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "weights.safetensors")

    with pytest.raises(CheckpointError, match=r"weights.safetensors: not a plain file"):
        read_safetensors_header(tmp_path / "weights.safetensors")


def test_a_path_may_be_text(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"step": "7"})

    assert read_safetensors_header(str(path)) == read_safetensors_header(path)
    assert read_safetensors_metadata(str(path)) == {"step": "7"}


def test_a_header_of_74_megabytes_is_refused_in_50_milliseconds_and_5_mebibytes(tmp_path):
    path = tmp_path / "bomb.safetensors"
    entry = b'"%07x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 74_000_000))
        file.write((entry % 1) * 10)
        file.truncate(74_000_008)  # the rest is a hole on the disk: no byte of it may be read

    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"claims 74,000,000 bytes"):
        read_safetensors_header(path)
    elapsed, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert elapsed < 0.05
    assert peak < 5 * 2**20


shapes = st.lists(st.integers(0, 4), max_size=3)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool])
tensors = st.dictionaries(st.text("abc.", min_size=1, max_size=6), st.tuples(shapes, dtypes), max_size=5)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(tensors)
def test_files_of_the_library_read_back_to_the_same_tensors(tmp_path_factory, described):
    content = {name: (torch.rand(shape) * 9).to(dtype) for name, (shape, dtype) in described.items()}
    path = tmp_path_factory.mktemp("st") / "weights.safetensors"
    save_file(content, path, metadata={"step": "7"})

    header = read_safetensors_header(path)

    assert read_safetensors_metadata(path) == {"step": "7"}
    assert header.keys() == content.keys()
    with path.open("rb", buffering=0) as file:
        for name, tensor in content.items():
            target = torch.zeros_like(tensor)
            read_tensor_into(file, header[name], target)
            assert torch.equal(target, tensor)
            assert (header[name].dtype, header[name].shape) == (tensor.dtype, tuple(tensor.shape))


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_header_with_flipped_bytes_is_refused_or_still_describes_the_whole_file(tmp_path_factory, data):
    raw = bytearray(save({"a": torch.zeros(3), "b": torch.zeros(2, 2)}))
    length = 8 + struct.unpack("<Q", raw[:8])[0]
    for position in data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=4)):
        raw[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("flip") / "weights.safetensors"
    path.write_bytes(raw)

    try:
        header = read_safetensors_header(path)
    except CheckpointError:
        return
    assert sum(entry.bytes for entry in header.values()) <= len(raw) - 8
    assert all(entry.offset + entry.bytes <= len(raw) for entry in header.values())


def test_a_tensor_is_converted_to_the_type_and_layout_of_its_target(tmp_path):
    path = tmp_path / "weights.safetensors"
    source = torch.randn(3, 4)
    save_file({"a": source}, path)
    entry = read_safetensors_header(path)["a"]
    lower, transposed = torch.zeros(3, 4, dtype=torch.bfloat16), torch.zeros(4, 3).T

    with path.open("rb", buffering=0) as file:
        read_tensor_into(file, entry, lower)
        read_tensor_into(file, entry, transposed)

    assert torch.equal(lower, source.bfloat16())
    assert torch.equal(transposed, source)


def test_a_file_that_is_cut_off_while_it_is_read_is_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(8)}, path)
    entry = read_safetensors_header(path)["a"]
    with path.open("r+b") as file:
        file.truncate(entry.offset + 12)

    with path.open("rb", buffering=0) as file, pytest.raises(CheckpointError, match="ended 20 bytes too early"):
        read_tensor_into(file, entry, torch.zeros(8))
