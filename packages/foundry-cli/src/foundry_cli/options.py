"""The arguments and options that several commands share, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_CONFIG = Path("foundry.yaml")

ConfigArgument = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", help="The experiment: a YAML, TOML or JSON file.", readable=False),
]
RunArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run folder, or the config file of the experiment."),
]
ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A run folder, a checkpoint folder, any Hugging Face model folder, or a config file.",
    ),
]
SetOption = Annotated[
    list[str],
    typer.Option(
        "--set", "-s", metavar="FIELD=VALUE", help="Override a field, e.g. training.learning_rate=3e-4. Repeatable."
    ),
]
BaseDirOption = Annotated[
    Path | None,
    typer.Option(
        "--base-dir",
        metavar="DIR",
        help="Folder that relative paths of the config count from.",
        show_default="the project root",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
MatrixIndexOption = Annotated[
    int | None, typer.Option("--index", metavar="I", help="Take run I of the config's `matrix:`, counted from 0.")
]
CheckpointOption = Annotated[
    str,
    typer.Option("--checkpoint", "-c", metavar="WHICH", help="latest, a step (500), or a label (chck_10M)."),
]
