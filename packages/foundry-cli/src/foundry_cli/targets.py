"""What a RUN or MODEL on the command line names: a run folder, a checkpoint, a model folder, or a config file.

runs/quickstart                              a run: its newest checkpoint, or the one that --checkpoint names
runs/quickstart/checkpoints/step-00000350    that checkpoint
foundry.yaml                                 the run of that experiment
some/model                                   any folder that transformers can open
"""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from foundry_cli.experiments import CONFIG_SUFFIXES, load_experiment, missing_config
from foundry_config import CheckpointError, ConfigError

if TYPE_CHECKING:
    from foundry_train.checkpoint_list import CheckpointInfo

CHECKPOINTS = "checkpoints"
LATEST = "latest"
Result = TypeVar("Result")


def find_run(target: Path, *, base_dir: Path | None = None) -> Path:
    """Return the run folder that `target` names.

    Raises:
        CheckpointError: There is no such folder, or it is no run.
        ConfigError: `target` is a config file that cannot be used.
    """
    if target.is_file():
        return _run_of_config(target, base_dir)
    if is_run(target):
        return target
    if target.parent.name == CHECKPOINTS and is_run(target.parent.parent):
        return target.parent.parent
    raise _missing(target)


def find_model(target: Path, checkpoint: str, *, base_dir: Path | None = None) -> Path:
    """Return the model folder that `target` names, and `checkpoint` (latest, a step, a label) within a run.

    Raises:
        CheckpointError: There is no such run, checkpoint or model.
        ConfigError: `target` is a config file that cannot be used, or `checkpoint` names one of what is no run.
    """
    if target.is_dir() and not is_run(target) and (target / "config.json").is_file():
        if checkpoint != LATEST:
            raise ConfigError(
                f"--checkpoint {checkpoint}: {target} is one model; leave the option out, or name its run"
            )
        return target
    run = find_run(target, base_dir=base_dir)
    if target.parent.name == CHECKPOINTS and run == target.parent.parent:
        if target.is_dir():
            return target  # a model that transformers cannot open: who reads it says why
        raise CheckpointError(f"{target} does not exist; `foundry checkpoints {shlex.quote(str(run))}` lists what does")
    return find_checkpoint(run, checkpoint).path


def read_model(
    target: Path, checkpoint: str, read: Callable[[Path], Result], *, base_dir: Path | None = None
) -> Result:
    """Return what `read` makes of the model folder that `find_model` finds.

    Where a run that trains removes its latest checkpoint meanwhile, `read` gets the one that is the latest by then.

    Raises:
        CheckpointError: As `find_model` and `read`; the checkpoint that was named was removed while it was read.
        ConfigError: As `find_model`.
    """
    from foundry_train.latest_link import is_latest_link
    from foundry_train.vanishing import read_chosen, reading

    def choose() -> Path:
        found = find_model(target, checkpoint, base_dir=base_dir)
        return found.resolve() if is_latest_link(found) else found  # the link may point elsewhere in the midst of it

    def read_whole(folder: Path) -> Result:
        with reading(folder):
            return read(folder)

    chosen = choose()
    return read_chosen(chosen, read_whole, again=choose if checkpoint == LATEST and chosen != target else None)


def find_checkpoint(run: Path, which: str) -> "CheckpointInfo":
    """Return the sound checkpoint of a run that `which` (latest, a step, a label) names.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    from foundry_train.checkpoint_list import list_checkpoints
    from foundry_train.run_record import why_not_begun

    found = list_checkpoints(run / CHECKPOINTS)
    wanted = [info for info in found if _chooser(which)(info)]
    usable = [info for info in wanted if info.problem is None]
    if usable:
        return usable[-1]
    if wanted:
        raise CheckpointError(f"{wanted[-1].path}: {wanted[-1].problem}")
    if not found:
        reason = why_not_begun(run) or "holds no checkpoint; train first, or look at another run"
        raise CheckpointError(f"{run} {reason}")
    names = ", ".join(info.label or str(info.step) for info in found[-8:])
    raise CheckpointError(f"{run} holds no checkpoint {which!r}; it has {'... ' if len(found) > 8 else ''}{names}")


def find_fork(text: str, *, child: Path) -> Path:
    """Return the checkpoint folder that `RUN@STEP` names (or `RUN@LABEL`), or the run folder of a bare `RUN`.

    Args:
        text: What to fork from.
        child: The fork; once it has a full checkpoint of its own, it goes on from there, and the source may be gone.

    Raises:
        CheckpointError: There is no such run or checkpoint.
    """
    name, at, which = text.rpartition("@")
    try:
        if not at:
            return find_run(Path(text)).resolve()
        return find_checkpoint(find_run(Path(name)), which).path.resolve()
    except CheckpointError:
        if not any((child / CHECKPOINTS).glob("step-*/trainer")):
            raise
        return Path(name if at else text).resolve()


def base_dir_of(run: Path) -> Path:
    """Return the folder that the relative paths of a run's config count from.

    A run at `a/b/runs/x` whose config says `output_dir: runs/x` was made from `a/b`. For one that was moved it is the
    project around it, or else the current folder.
    """
    import json

    from foundry_config import find_project_root

    folder = run.resolve()
    try:
        output_dir = Path(json.loads((run / "config.json").read_text(encoding="utf-8"))["training"]["output_dir"])
    except (OSError, ValueError, KeyError, TypeError):
        return find_project_root(folder)
    for parent in folder.parents:
        if (parent / output_dir).resolve() == folder:
            return parent
    root = find_project_root(folder)
    return Path.cwd() if root == folder else root  # it was moved to where no project is, and is not the place to write


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run: it says so, it holds checkpoints, or a trainer has at least begun in it."""
    return any((folder / name).is_file() for name in ("run.json", "status.json")) or (folder / CHECKPOINTS).is_dir()


def _chooser(which: str) -> "Callable[[CheckpointInfo], bool]":
    if which == LATEST:
        return lambda info: info.problem is None
    if which.isdecimal():
        return lambda info: info.step == int(which)
    return lambda info: info.label == which


def _run_of_config(path: Path, base_dir: Path | None) -> Path:
    run = load_experiment(path, base_dir=base_dir).paths.run
    if not is_run(run):
        raise CheckpointError(
            f"{path} was not trained yet, there is no run in {run}; run `foundry train {shlex.quote(str(path))}` first"
        )
    return run


def _missing(target: Path) -> CheckpointError | ConfigError:
    if target.suffix.lower() in CONFIG_SUFFIXES and not target.exists():
        return ConfigError(missing_config(target))
    if not target.exists():
        return CheckpointError(f"{target} does not exist; give a run folder, such as runs/quickstart")
    return CheckpointError(f"{target} is no run: it holds neither run.json nor checkpoints")
