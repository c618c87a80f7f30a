import math
import re
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_example_of_the_readme_prints_parameters_and_the_loss_of_an_untrained_model(capsys, recwarn):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)

    exec(compile(example[1], "README.md", "exec"), {})

    parameters, loss = capsys.readouterr().out.split()
    width, block = 32, 12 * 32 * 32 + 13 * 32  # matrices of GPT-2 with 4 D units, then biases and norms; here 2 D
    assert int(parameters) == (300 + 16) * width + 2 * (block - 4 * 32 * 32 - 2 * 32) + 2 * width
    assert float(loss) == pytest.approx(math.log(300), abs=0.2)
    assert [str(w.message) for w in recwarn if "requires_grad" in str(w.message)] == []
