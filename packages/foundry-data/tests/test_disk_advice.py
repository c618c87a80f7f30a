"""What a refusing disk is answered with."""

import errno
import os

import pytest

from foundry_config.errors import StorageError
from foundry_data.disk_advice import disk_advice
from foundry_data.stages import storage_errors


def failure(code: int, path) -> OSError:
    return OSError(code, os.strerror(code), str(path))


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "runs").write_text("mine")
    path = tmp_path / "runs" / "a" / "lock"

    advice = disk_advice(failure(errno.ENOTDIR, path), path)

    assert advice == f"'{tmp_path / 'runs'}' is a file where a folder should be: move it away, or choose another folder"


@pytest.mark.parametrize(
    ("code", "word"), [(errno.EACCES, "may write"), (errno.EROFS, "may write"), (errno.EDQUOT, "free some space")]
)
def test_what_to_do_depends_on_the_error(tmp_path, code, word):
    assert word in disk_advice(failure(code, tmp_path), tmp_path)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOTDIR])
def test_where_nothing_general_helps_nothing_is_said(tmp_path, code):
    assert disk_advice(failure(code, tmp_path / "x"), tmp_path / "x") == ""


def test_the_room_on_the_volume_is_told_only_when_there_is_none(tmp_path):
    with pytest.raises(StorageError) as refused, storage_errors(tmp_path):
        raise failure(errno.EACCES, tmp_path)

    assert "bytes are free" not in str(refused.value)
    assert "choose a folder that you may write to" in str(refused.value)
