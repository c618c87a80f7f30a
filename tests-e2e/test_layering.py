"""What importing a package really loads, seen in `sys.modules` of a fresh interpreter (never by the clock)."""

import json
import subprocess
import sys

import pytest

HEAVY = ("numpy", "torch", "transformers", "datasets", "pyarrow", "wandb", "pandas", "yaml", "rich", "sentencepiece")


def modules_after(code: str) -> set[str]:
    program = f"import sys\n{code}\nimport json\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import foundry_config", HEAVY),
        ("import foundry_data", ("torch", "transformers", "datasets", "pyarrow", "yaml", "foundry_model")),
        pytest.param(
            "import foundry_model",
            ("transformers.models.llama.modeling_llama", "foundry_data", "foundry_train"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "import foundry_train", ("typer", "rich", "foundry_cli", "wandb", "tensorboard"), marks=pytest.mark.slow
        ),
        ("import foundry_cli.main", (*HEAVY, "foundry_train", "foundry_model", "foundry_data", "foundry_config")),
        (
            "from foundry_cli.main import run\nassert run(['--help']) == 0",
            (*HEAVY, "foundry_train", "foundry_model", "foundry_data"),
        ),
        (
            "from foundry_cli.main import run\nassert run(['schema']) == 0",
            ("numpy", "torch", "transformers", "foundry_train", "foundry_model", "foundry_data"),
        ),
    ],
)
def test_importing_loads_nothing_that_is_not_needed(code, absent):
    loaded = modules_after(code)

    assert loaded & set(absent) == set()


def test_validating_a_config_loads_neither_torch_nor_numpy(tmp_path):
    code = (
        "from foundry_cli.main import run\nassert run(['init', 'a.yaml']) == 0\nassert run(['validate', 'a.yaml']) == 0"
    )

    loaded = modules_after(f"import os\nos.chdir({str(tmp_path)!r})\n{code}")

    assert loaded & {"torch", "numpy", "transformers", "foundry_train", "foundry_data"} == set()
