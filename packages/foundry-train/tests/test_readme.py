"""The example of the README runs as it is written."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
def test_the_example_of_the_readme_trains(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)

    exec(compile(code, str(README), "exec"), {})

    assert (tmp_path / "run" / "latest" / "model.safetensors").is_file()
    assert "step-00000003" in capsys.readouterr().out
