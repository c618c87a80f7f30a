import re
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_example_of_the_readme_runs(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict[str, object] = {}

    exec(compile(example[1], "README.md", "exec"), scope)

    assert int(capsys.readouterr().out) > 100_000
    assert all(p.grad is not None for p in scope["model"].parameters())
