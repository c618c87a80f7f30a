"""Kept results: found again under the same key, whole or not at all."""

import math

import pytest

from foundry_config import StorageError
from foundry_config.spoken_numbers import speakable
from foundry_data import fs
from foundry_train.evaluation_cache import (
    CheckpointFacts,
    Count,
    Result,
    key_of,
    read_result,
    read_results,
    result_folder,
    write_result,
)


def result(key="k" * 64, **changes):
    fields = {
        "suite": "corpus",
        "name": "dev",
        "key": key,
        "settings": {"window": None},
        "checkpoint": CheckpointFacts(weights="sha256:1", step=5, tokens=10),
        "values": {"loss": 1.25},
    }
    return Result(**(fields | changes))


def test_what_is_written_is_read_back(tmp_path):
    folder = tmp_path / "step-00000005" / "corpus.dev.0"
    written = result(counts=[Count("file", "a", "sum", 3, 2.5, 1)], tables=["rows.csv"])

    write_result(folder, written, {"rows.csv": [b"a\n", b"1\n"]})

    assert read_result(folder, key="k" * 64) == written
    assert (folder / "rows.csv").read_bytes() == b"a\n1\n"
    assert read_results(tmp_path) == [written]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_another_key_another_format_and_damage_are_no_result(tmp_path):
    write_result(tmp_path / "x" / "a", result(), {})
    write_result(tmp_path / "x" / "b", result(format="foundry.evaluation/9"), {})
    (tmp_path / "x" / "c").mkdir()
    (tmp_path / "x" / "c" / "result.json").write_text('{"torn')

    assert read_result(tmp_path / "x" / "a", key="other") is None
    assert read_result(tmp_path / "x" / "b") is None
    assert read_result(tmp_path / "x" / "c") is None
    assert len(read_results(tmp_path)) == 1


def test_a_result_whose_table_is_gone_is_made_again(tmp_path):
    write_result(tmp_path / "x" / "a", result(tables=["rows.csv"]), {"rows.csv": [b"a\n"]})

    (tmp_path / "x" / "a" / "rows.csv").unlink()

    assert read_result(tmp_path / "x" / "a") is None


def test_a_damaged_result_is_replaced(tmp_path):
    folder = tmp_path / "x" / "a"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{")

    write_result(folder, result(), {})

    assert read_result(folder) == result()


class Refusing(fs.Backend):
    """A disk that takes no new file called `name`."""

    def __init__(self, name):
        self.name = name

    def open_new(self, path):
        if path.name == self.name:
            raise OSError(28, "No space left on device")
        return super().open_new(path)


@pytest.mark.parametrize("name", ["rows.csv", "result.json"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, name):
    folder = tmp_path / "step" / "a"

    with fs.using(Refusing(name)), pytest.raises(StorageError, match="No space left on device"):
        write_result(folder, result(), {"rows.csv": [b"a\n"]})

    assert list(folder.parent.iterdir()) == []


def test_numbers_that_are_not_finite_survive(tmp_path):
    values = speakable({"loss": 800.0, "perplexity": math.inf})

    write_result(tmp_path / "x" / "a", result(values=values), {})

    assert read_result(tmp_path / "x" / "a").number("perplexity") == math.inf


def test_names_of_folders_are_readable_and_keys_decide(tmp_path):
    one, two = key_of({"weights": "a"}), key_of({"weights": "b"})

    folder = result_folder(tmp_path, "step-00000005", "corpus", "my dev/set", one)

    assert folder == tmp_path / "step-00000005" / f"corpus.my_dev_set.{one[:12]}"
    assert one != two
