"""Our files are safetensors to the library, equal bytes for equal tensors, and proven while they are read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from foundry_config.errors import CheckpointError, NonFiniteError, ResumeMismatchError
from foundry_model.safetensors_header import DTYPES
from foundry_train.safetensors_reader import load_into, load_new
from foundry_train.safetensors_writer import (
    check_finite,
    file_chunks,
    is_finite,
    plan_layout,
    raw_bytes,
    shard,
    shard_names,
    weights_digest,
)

shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n != "__metadata__")


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    found = {}
    for name in draw(st.lists(names, max_size=6, unique=True)):
        shape, dtype = draw(shapes), draw(st.sampled_from(list(DTYPES.values())))
        values = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
        found[name] = values.to(dtype)
    return found


def write(path: Path, content: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    layout = plan_layout(content, metadata or {})
    path.write_bytes(b"".join(file_chunks(layout, content)))
    assert path.stat().st_size == layout.size
    return path


@pytest.mark.slow
@settings(max_examples=60)
@given(tensors())
def test_the_library_reads_what_we_write_and_so_do_we(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, torch.Tensor]
) -> None:
    path = write(tmp_path_factory.mktemp("st") / "x.safetensors", content, {"format": "pt", "step": "7"})

    ours = load_new(path)

    for loaded in (load_file(path), ours.tensors):
        assert loaded.keys() == content.keys()
        assert all(
            torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype for name, tensor in content.items()
        )
    assert ours.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "step": "7"}


def test_the_order_of_the_dictionary_does_not_change_a_byte(tmp_path: Path) -> None:
    a, b = torch.ones(2), torch.zeros(3, dtype=torch.int64)

    first, second = write(tmp_path / "1", {"a": a, "b": b}), write(tmp_path / "2", {"b": b, "a": a})

    assert first.read_bytes() == second.read_bytes()


def test_data_begin_aligned_and_large_tensors_are_not_copied() -> None:
    large = torch.zeros(2**16)
    layout = plan_layout({"large": large}, {})

    *_, chunk = file_chunks(layout, {"large": large})

    assert len(layout.prefix) % 64 == 0
    large[0] = 1.0
    assert bytes(chunk[:4]) != bytes(4)


def test_tensors_that_are_not_contiguous_or_need_gradients_are_written_as_they_look(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).reshape(2, 3).requires_grad_()

    path = write(tmp_path / "x", {"t": matrix.t()})

    assert torch.equal(load_file(path)["t"], matrix.detach().t())


def test_the_digest_of_the_weights_is_that_of_names_types_shapes_and_bytes_in_order_of_name() -> None:
    content = {"b": torch.tensor([1.5]), "a": torch.tensor(2, dtype=torch.int64)}
    expected = hashlib.sha256(
        b'["a","I64",[]]\n' + raw_bytes(content["a"]) + b'["b","F32",[1]]\n' + raw_bytes(content["b"])
    )

    assert weights_digest(content) == "sha256:" + expected.hexdigest()
    assert weights_digest({"a": content["a"].reshape(1), "b": content["b"]}) != weights_digest(content)


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="complex64"):
        plan_layout({"c": torch.zeros(1, dtype=torch.complex64)}, {})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_number_that_is_not_finite_is_found_anywhere(value: float, dtype: torch.dtype) -> None:
    tensor = torch.zeros(1000, dtype=dtype)
    assert is_finite(tensor)
    tensor[777] = value

    assert not is_finite(tensor)
    with pytest.raises(NonFiniteError, match="the weights hold NaN or infinite numbers in w; nothing was saved"):
        check_finite({"ok": torch.ones(2), "w": tensor}, what="the weights")


def test_integers_empty_tensors_and_eight_bit_floats_count_as_finite() -> None:
    assert is_finite(torch.tensor([1, 2]))
    assert is_finite(torch.zeros(0))
    assert is_finite(torch.zeros(3).to(torch.float8_e4m3fn))


def test_shards_hold_everything_once_within_the_limit() -> None:
    content = {name: torch.zeros(size) for name, size in [("a", 3), ("b", 3), ("c", 100), ("d", 1)]}

    groups = shard(content, limit=24)

    assert groups == [["a", "b"], ["c"], ["d"]]
    assert shard_names(3)[2] == "model-00003-of-00003.safetensors"
    assert shard_names(1) == ["model.safetensors"]


def test_loading_into_tensors_fills_them_in_place_whatever_their_strides(tmp_path: Path) -> None:
    values = torch.arange(6.0).reshape(2, 3)
    path = write(tmp_path / "x", {"w": values})
    target = torch.zeros(3, 2).t()

    load_into(path, {"w": target, "other": torch.zeros(1)})

    assert torch.equal(target, values)


@pytest.mark.parametrize("target", [torch.zeros(4), torch.zeros(3, dtype=torch.float64)])
def test_another_shape_or_type_is_refused_before_anything_is_written(tmp_path: Path, target: torch.Tensor) -> None:
    path = write(tmp_path / "x", {"a": torch.ones(1), "w": torch.ones(3)})
    first = torch.zeros(1)

    with pytest.raises(ResumeMismatchError, match="tensor 'w' is"):
        load_into(path, {"a": first, "w": target})
    with pytest.raises(ResumeMismatchError, match="'w' is not one of the model's"):
        load_into(path, {"a": first})

    assert first.item() == 0


def test_a_header_of_74_megabytes_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.safetensors"
    with path.open("wb") as file:
        file.write((74_000_000).to_bytes(8, "little"))
        file.truncate(74_000_008)

    with pytest.raises(CheckpointError, match="74,000,000"):
        load_new(path)


def test_a_file_cut_after_its_header_was_checked_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x", {"w": torch.ones(100)})
    from foundry_train import safetensors_reader

    checked = safetensors_reader.read_safetensors_header(path)
    monkeypatch.setattr(safetensors_reader, "read_safetensors_header", lambda _: checked)
    path.write_bytes(path.read_bytes()[:-4])

    with pytest.raises(CheckpointError, match="ended while it was read"):
        load_new(path)


def test_the_index_of_shards_is_json_that_transformers_reads() -> None:
    from foundry_train.checkpoint_files import _index

    index = json.loads(_index({"a": torch.zeros(2), "b": torch.zeros(1)}, [["a"], ["b"]], shard_names(2)))

    assert index["weight_map"] == {"a": shard_names(2)[0], "b": shard_names(2)[1]}
    assert index["metadata"] == {"total_size": 12}
