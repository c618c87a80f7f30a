"""`foundry export`: models that leave their run, as a folder, an offline Hugging Face cache, or on the hub."""

from pathlib import Path
from typing import Annotated

import typer

from foundry_cli.console import note, say
from foundry_cli.options import DEFAULT_CONFIG, BaseDirOption, CheckpointOption, RunArgument

ToOption = Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Folder to write.")]
RevisionsOption = Annotated[
    bool, typer.Option("--revisions", help="All labelled checkpoints, as revisions of --repository in a cache folder.")
]
RepositoryOption = Annotated[
    str | None, typer.Option("--repository", metavar="NAME", help="Name of the model in the cache, such as me/babylm.")
]
PushOption = Annotated[
    str | None, typer.Option("--push", metavar="REPO", help="Upload the labelled checkpoints as branches of REPO.")
]


def export(
    run: RunArgument = DEFAULT_CONFIG,
    to: ToOption = None,
    checkpoint: CheckpointOption = "latest",
    revisions: RevisionsOption = False,
    repository: RepositoryOption = None,
    push: PushOption = None,
    base_dir: BaseDirOption = None,
) -> None:
    """Write a checkpoint of RUN as a clean Hugging Face folder with a model card, checked before it says done.

    With --revisions, `from_pretrained(NAME, revision="chck_10M")` reads the labelled checkpoints offline. A repository
    holds the revisions of one run.
    """
    from foundry_cli.targets import find_run, read_model
    from foundry_config import ConfigError

    folder = find_run(run, base_dir=base_dir)
    if push is not None:
        _push(folder, push)
    elif to is None:
        raise ConfigError("say where to write: --to DIR; or --push REPO to upload")
    elif revisions:
        _revisions(folder, to, repository)
    else:
        from foundry_train.export import export_checked

        read_model(run, checkpoint, lambda found: export_checked(found, to), base_dir=base_dir)
        say(f"wrote {to}; ids and logits are those of the checkpoint")


def _revisions(run: Path, cache: Path, repository: str | None) -> None:
    from foundry_config import ConfigError
    from foundry_train.export import export_revisions

    if repository is None:
        raise ConfigError("revisions belong to a model: name it, as --repository me/my-model")
    written = export_revisions(_milestones(run), cache, repository, progress=note)
    for name, snapshot in written.items():
        say(f"{name:<16} {snapshot}")


def _push(run: Path, repository: str) -> None:
    from foundry_train.export import push_revisions

    for name in push_revisions(_milestones(run), repository, progress=note):
        say(f"pushed {repository}@{name}")


def _milestones(run: Path) -> list[Path]:
    """Return the sound checkpoints of the schedule, in order of steps."""
    from foundry_cli.targets import CHECKPOINTS
    from foundry_config import CheckpointError
    from foundry_train.checkpoint_list import list_checkpoints

    found = [info for info in list_checkpoints(run / CHECKPOINTS) if info.milestone]
    damaged = next((info for info in found if info.problem is not None), None)
    if damaged is not None:
        raise CheckpointError(f"{damaged.path}: {damaged.problem}")
    if not found:
        raise CheckpointError(f"{run} holds no scheduled checkpoint; --checkpoint exports a single one")
    return [info.path for info in found]
