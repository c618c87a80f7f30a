"""`foundry inspect data`: the exact texts of a batch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry_cli.console import say, say_json
from foundry_cli.figures import count
from foundry_cli.options import BaseDirOption, JsonOption

if TYPE_CHECKING:
    from foundry_cli.experiments import Experiment
    from foundry_data import BatchPlan
    from foundry_data.packing import Rows

TargetArgument = Annotated[
    Path,
    typer.Argument(metavar="CONFIG|RUN", help="A config file, or the folder of a run.", show_default="foundry.yaml"),
]
StepOption = Annotated[int | None, typer.Option("--step", min=1, help="The batch of this update, counted from 1.")]
PositionOption = Annotated[
    int | None,
    typer.Option(
        "--position", min=0, metavar="N", help="The batch that holds the sequence at this place of the epoch, from 0."
    ),
]
EpochOption = Annotated[
    int | None, typer.Option("--epoch", min=0, help="With --position: the epoch, from 0.", show_default="0")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Show so many sequences only.")]


def data(
    target: TargetArgument = Path("foundry.yaml"),
    step: StepOption = None,
    position: PositionOption = None,
    epoch: EpochOption = None,
    limit: LimitOption = None,
    base_dir: BaseDirOption = None,
    json: JsonOption = False,
) -> None:
    """Print the texts that the batch of one update is made of, in its order; prepares the data if that was not done."""
    from foundry_config import ConfigError

    if (step is None) == (position is None):
        raise ConfigError("say which batch: --step N, or --position N (and --epoch E)")
    if step is not None and epoch is not None:
        raise ConfigError(f"--step {step} is in one epoch only; --epoch goes with --position")
    experiment = _experiment(target, base_dir)
    rows = batch_texts(experiment, step=step, epoch=epoch or 0, position=position, limit=limit)
    if json:
        say_json(rows)
        return
    for row in rows:
        say(f"--- sequence {count(row['sequence'])} (epoch {row['epoch']}, position {count(row['position'])})")
        say(row["text"])


def batch_texts(
    experiment: "Experiment", *, step: int | None, epoch: int, position: int | None, limit: int | None
) -> list[dict[str, Any]]:
    """Return the sequences of a batch with their texts, in the order in which training sees them.

    Args:
        experiment: Whose data to show.
        step: Update that the batch is for, counted from 1.
        epoch, position: Or a sequence that is in it: the place in an epoch, both counted from 0.
        limit: Most sequences to return.

    Raises:
        ConfigError: Training ends before this batch, or never sees the position.
    """
    from foundry_cli.commands.preprocess import prepare
    from foundry_data.stats import row_texts

    processor, prepared = prepare(experiment)
    rows, plan = processor.train_rows(prepared), processor.batch_plan(prepared)
    if step is None:
        assert position is not None, "one of the two is given"
        step = _step_of(plan, epoch, position)
        asked = f"--epoch {epoch} --position {position}"
    else:
        asked = f"--step {step}"
    _require_step(experiment, rows, plan, step, asked)
    place = plan.at_step(step - 1)
    ids = plan.rows(place).tolist()[:limit]
    texts = row_texts(rows, prepared.tokenizer, ids)
    return [
        {"epoch": place.epoch, "position": place.position + offset, "sequence": sequence, "text": text}
        for offset, (sequence, text) in enumerate(zip(ids, texts, strict=True))
    ]


def _step_of(plan: "BatchPlan", epoch: int, position: int) -> int:
    """Return the update, counted from 1, whose batch holds the sequence at this position.

    Raises:
        ConfigError: No update of an epoch does.
    """
    from foundry_config import ConfigError

    if position >= plan.sequences_per_epoch:
        dropped = f", and data.drop_last leaves out {count(plan.dropped_sequences)} more" * bool(plan.dropped_sequences)
        raise ConfigError(
            f"--position {position} is not in an epoch: one trains on {count(plan.sequences_per_epoch)} sequences"
            f"{dropped}; give a position from 0 to {plan.sequences_per_epoch - 1}"
        )
    return epoch * plan.steps_per_epoch + position // plan.global_batch + 1


def _require_step(experiment: "Experiment", rows: "Rows", plan: "BatchPlan", step: int, asked: str) -> None:
    """Refuse an update that the training does not come to.

    Raises:
        ConfigError: It ends before.
    """
    from foundry_config import ConfigError, CorpusCounts, plan_training
    from foundry_data.word_budget import WordCounter

    tokens = len(rows.store) - rows.losses["dropped_tokens"]
    words_after = WordCounter(rows, plan).words_after
    counts = CorpusCounts(len(rows), tokens, rows.store.manifest.words, words_after)
    total = plan_training(experiment.config, counts).total_steps
    if step > total:
        per_epoch = count(plan.steps_per_epoch)
        raise ConfigError(
            f"{asked} is past the end of the training, which has {count(total)} steps ({per_epoch} per epoch); "
            f"give a step from 1 to {total}, or a position in one"
        )


def _experiment(target: Path, base_dir: Path | None) -> "Experiment":
    """Return the experiment of a config file, or of the `config.json` that a run keeps."""
    from foundry_cli.experiments import Experiment, load_experiment
    from foundry_cli.targets import base_dir_of, find_run
    from foundry_config import CheckpointError, config_from_dict

    if not target.is_dir():
        return load_experiment(target, base_dir=base_dir)
    import msgspec

    run = find_run(target)
    try:
        config = config_from_dict(msgspec.json.decode((run / "config.json").read_bytes()))
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{run / 'config.json'} cannot be read: {error}") from error
    return Experiment(config, base_dir or base_dir_of(run), run / "config.json")
