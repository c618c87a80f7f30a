"""`foundry info`: the program and this machine, or what is known of a run."""

import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from foundry_cli.console import say, say_facts, say_json
from foundry_cli.options import BaseDirOption, JsonOption
from foundry_cli.run_overview import overview, state_of

PACKAGES = (
    "foundry-cli",
    "foundry-config",
    "foundry-data",
    "foundry-model",
    "foundry-train",
    "torch",
    "transformers",
    "sentencepiece",
    "tokenizers",
    "safetensors",
    "numpy",
)
EXTRAS = ("datasets", "pyarrow", "zstandard", "wandb", "tensorboard", "liger-kernel")


def info(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A run folder, or the config file of the experiment.")
    ] = None,
    base_dir: BaseDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show the versions and devices of this machine; or, of RUN, its state, its last step, and its environment."""
    if run is None:
        facts = environment_facts()
        title, rows = "This machine", [(name, _shown(value)) for name, value in facts.items()]
    else:
        facts = run_facts(run, base_dir)
        title, rows = str(run), overview(facts)
    if json:
        say_json(facts)
        return
    say_facts(title, rows)
    if run is not None:
        say("--json tells all of it, every package version included")


def environment_facts() -> dict[str, Any]:
    """Return versions and devices; what is not installed is None."""
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "extras": {name: _version(name) for name in EXTRAS},
        "devices": _devices(),
    }


def run_facts(run: Path, base_dir: Path | None) -> dict[str, Any]:
    """Return what the files of a run say about it, and whether a trainer works in it now."""
    import msgspec

    from foundry_cli.targets import CHECKPOINTS, find_run
    from foundry_train.checkpoint_list import list_checkpoints
    from foundry_train.lock import living_holder
    from foundry_train.metrics_log import read_metrics

    folder = find_run(run, base_dir=base_dir)
    facts: dict[str, Any] = {"folder": str(folder)}
    for name in ("run", "status", "config", "plan", "environment"):
        path = folder / f"{name}.json"
        if path.is_file():
            try:
                facts[name] = msgspec.json.decode(path.read_bytes())
            except msgspec.DecodeError as error:
                facts[name] = f"{path} is damaged: {error}"
    found = list_checkpoints(folder / CHECKPOINTS)
    facts["checkpoints"] = [item.label or str(item.step) for item in found]
    steps = [record for record in read_metrics(folder / "metrics.jsonl") if record.get("kind") == "step"]
    facts["last_step"] = steps[-1] if steps else None
    facts["trainer"] = living_holder(folder)
    return {**facts, "state": state_of(facts)}


def _devices() -> list[str]:
    import torch

    cuda = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, f"cpu ({torch.get_num_threads()} threads)"]


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _shown(value: Any) -> str:
    """Write the versions of packages one a line, a list on one."""
    if isinstance(value, dict):
        return "\n".join(f"{name} {item or 'is not installed'}" for name, item in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)
