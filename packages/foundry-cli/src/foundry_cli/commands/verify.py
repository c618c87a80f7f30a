"""`foundry verify`: prove that a run, an export, a checkpoint or prepared data is what it claims to be."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foundry_cli.console import say, say_json
from foundry_cli.figures import count, counted, plain, size
from foundry_cli.options import DEFAULT_CONFIG, BaseDirOption, JsonOption

if TYPE_CHECKING:
    from foundry_train.findings import VerifyReport

TargetArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run, a checkpoint, an exported or downloaded model, prepared data, or the experiment's config file.",
        show_default="foundry.yaml",
    ),
]
ReplayOption = Annotated[
    int, typer.Option("--replay", min=0, metavar="STEPS", help="Train up to so many steps again and compare weights.")
]
AgainstOption = Annotated[
    Path | None, typer.Option("--against", metavar="RUN2", help="Name the first step and tensor that differ.")
]


def verify(
    run: TargetArgument = DEFAULT_CONFIG,
    replay: ReplayOption = 0,
    against: AgainstOption = None,
    base_dir: BaseDirOption = None,
    json: JsonOption = False,
) -> None:
    """Check every file against its hash, the chain of checkpoints, and that no weights appear twice.

    Ends with 4 if something is wrong; what cannot be told is a note.
    """
    report = verified(run, replay=replay, against=against, base_dir=base_dir)
    if json:
        say_json({**report._asdict(), "ok": report.ok, "findings": [item._asdict() for item in report.findings]})
    else:
        _show(report)
    if not report.ok:
        from foundry_config import CheckpointError

        errors = [item for item in report.findings if item.is_error]
        lines = "".join(f"\n  {item.where}: {item.message}" for item in errors)
        if all(item.of_comparison for item in errors):
            raise CheckpointError(f"{run} is sound, and is not the same as {against}:{lines}")
        raise CheckpointError(f"{run} is not what it claims to be:{lines}")


def verified(target: Path, *, replay: int, against: Path | None, base_dir: Path | None) -> "VerifyReport":
    """Verify what `target` names: a whole run, or one folder."""
    from foundry_cli.targets import base_dir_of, find_run, is_run
    from foundry_config import ConfigError
    from foundry_train.verify import verify_folder, verify_run

    if target.is_dir() and not is_run(target):
        if replay or against:
            raise ConfigError(f"--replay and --against compare runs, but {target} is none")
        return verify_folder(target)
    run = find_run(target, base_dir=base_dir)
    other = find_run(against, base_dir=base_dir) if against else None
    if not replay:
        return verify_run(run, against=other)
    from foundry_train.replay import trainer_replay  # loads the trainer, which takes seconds

    return verify_run(run, replay=replay, replayer=trainer_replay(run, base_dir or base_dir_of(run)), against=other)


def _show(report: "VerifyReport") -> None:
    for finding in report.findings:
        if not finding.is_error:
            say(plain(str(finding)))
    if report.replayed:
        say(f"trained again from step {count(report.replayed[0])} to step {count(report.replayed[1])}")
    sound = all(item.of_comparison for item in report.findings if item.is_error)
    state = "all as they should be" if sound else "NOT all as they should be"
    what = f"{counted(report.checkpoints, 'checkpoint')}, " if report.checkpoints else ""
    say(f"{what}{counted(report.files, 'file')}, {size(report.bytes)}: {state}")
