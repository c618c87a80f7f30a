"""Export every labelled checkpoint of a run: as an offline Hugging Face cache, or as branches of a hub repository.

A revision is called by the label of its checkpoint (`chck_10M`), or `step-00001000` where it has none; the newest one
is `main` as well.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from foundry_config.errors import CheckpointError
from foundry_train.export.check import export_checked
from foundry_train.export.hub_cache import add_revision, check_single_run, repository_folder
from foundry_train.export.push import HubApi, push_folders
from foundry_train.manifest import ManifestError, is_revision, read_manifest

Progress = Callable[[str], None]


def revision_names(checkpoints: Sequence[Path]) -> dict[str, Path]:
    """Return revision -> checkpoint folder, in order of steps, ending with `main`.

    Raises:
        CheckpointError: There is none, one is damaged, two carry the same label, or a label cannot name a revision.
    """
    if not checkpoints:
        raise CheckpointError("there is no checkpoint to export; see `foundry checkpoints`")
    found: list[tuple[int, str, Path]] = []
    for folder in checkpoints:
        try:
            manifest = read_manifest(folder)
        except ManifestError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        name = manifest.label or f"step-{manifest.step:08d}"
        if not is_revision(name) or name == "main":
            reason = "is what the newest one is called" if name == "main" else "cannot name a revision"
            raise CheckpointError(f"{folder}: its label {name!r:.80} {reason}; leave that checkpoint out")
        found.append((manifest.step, name, folder))
    named: dict[str, Path] = {}
    for _, name, folder in sorted(found):
        if name in named:
            raise CheckpointError(f"{folder} and {named[name]} are both called {name!r}")
        named[name] = folder
    return {**named, "main": sorted(found)[-1][2]}


def export_revisions(
    checkpoints: Sequence[Path], cache: Path, repository: str, *, progress: Progress | None = None
) -> dict[str, Path]:
    """Write the checkpoints into the Hugging Face cache folder `cache` as revisions of `repository`.

    Returns:
        Revision -> its snapshot folder.

    Raises:
        CheckpointError: A checkpoint is damaged, or its export does not give the same logits and ids.
        ConfigError: `repository` or a label cannot be a name on the hub, or it holds revisions of another run.
    """
    folder = repository_folder(cache, repository)
    named = revision_names(checkpoints)
    check_single_run(folder, read_manifest(named["main"]).run_id)
    snapshots: dict[str, Path] = {}
    with _exported(named, progress) as folders:
        for name, exported in folders.items():
            snapshots[name] = add_revision(folder, name, {file.name: file for file in exported.iterdir()})
    return snapshots


def push_revisions(
    checkpoints: Sequence[Path], repository: str, *, api: HubApi | None = None, progress: Progress | None = None
) -> list[str]:
    """Upload the checkpoints as branches of the hub repository `repository`; everything is checked before the first.

    Raises:
        CheckpointError: A checkpoint is damaged, or its export does not give the same logits and ids.
        StorageError: The hub refused or could not be reached.
    """
    with _exported(revision_names(checkpoints), None) as folders:
        return push_folders(folders, repository, api=api, progress=progress)


@contextmanager
def _exported(named: Mapping[str, Path], progress: Progress | None) -> Iterator[dict[str, Path]]:
    """Export and check each checkpoint once, in a temporary folder, under all of its names."""
    with tempfile.TemporaryDirectory(prefix="foundry-export-") as temporary:
        made: dict[Path, Path] = {}
        for name, checkpoint in named.items():
            if progress is not None:
                progress(name)
            if checkpoint not in made:
                made[checkpoint] = Path(temporary) / str(len(made))
                export_checked(checkpoint, made[checkpoint])
        yield {name: made[checkpoint] for name, checkpoint in named.items()}
