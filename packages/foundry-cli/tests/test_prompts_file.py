"""A file of prompts: one prompt a line, whatever wrote the file."""

from pathlib import Path

import pytest

from foundry_cli.commands.generate import _read_prompts
from foundry_config import DataError


def test_a_prompts_file_is_cut_at_newlines_only_and_its_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffThe\r\n\r\na\u2028b\x0cc\n".encode())

    assert _read_prompts(path) == ["The", "", "a\u2028b\x0cc"]


def test_an_empty_prompts_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.touch()

    with pytest.raises(DataError, match=r"prompts\.txt is empty"):
        _read_prompts(path)
