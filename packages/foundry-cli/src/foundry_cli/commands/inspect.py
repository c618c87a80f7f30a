"""`foundry inspect data`: the exact texts of a batch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry_cli.console import say, say_json
from foundry_cli.figures import count
from foundry_cli.options import BaseDirOption, JsonOption

if TYPE_CHECKING:
    from foundry_cli.experiments import Experiment

TargetArgument = Annotated[
    Path,
    typer.Argument(metavar="CONFIG|RUN", help="A config file, or the folder of a run.", show_default="foundry.yaml"),
]
StepOption = Annotated[int | None, typer.Option("--step", min=1, help="The batch of this update, counted from 1.")]
PositionOption = Annotated[
    int | None, typer.Option("--position", min=0, metavar="N", help="The batch at this place of the epoch. [sequences]")
]
EpochOption = Annotated[int, typer.Option("--epoch", min=0, help="With --position: the epoch, from 0.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Show so many sequences only.")]


def data(
    target: TargetArgument = Path("foundry.yaml"),
    step: StepOption = None,
    position: PositionOption = None,
    epoch: EpochOption = 0,
    limit: LimitOption = None,
    base_dir: BaseDirOption = None,
    json: JsonOption = False,
) -> None:
    """Print the texts that the batch of one update is made of, in its order; prepares the data if that was not done."""
    from foundry_config import ConfigError

    if (step is None) == (position is None):
        raise ConfigError("say which batch: --step N, or --position N (and --epoch E)")
    rows = batch_texts(_experiment(target, base_dir), step=step, epoch=epoch, position=position, limit=limit)
    if json:
        say_json(rows)
        return
    for row in rows:
        say(f"--- sequence {count(row['sequence'])} (epoch {row['epoch']}, position {count(row['position'])})")
        say(row["text"])


def batch_texts(
    experiment: "Experiment", *, step: int | None, epoch: int, position: int | None, limit: int | None
) -> list[dict[str, Any]]:
    """Return the sequences of a batch with their texts, in the order in which training sees them."""
    from foundry_cli.commands.preprocess import prepare
    from foundry_data.torch_loader import BatchStream

    config = experiment.config
    processor, prepared = prepare(experiment)
    rows = processor.train_rows(prepared)
    order = {
        "global_batch": config.data.batch_size * config.training.gradient_accumulation_steps,
        "seed": config.random_seed,
        "shuffle": config.data.shuffle,
        "drop_last": config.data.drop_last,
        "prefetch": 0,
    }
    if step is not None:
        epoch, in_epoch = divmod(step - 1, BatchStream(rows, **order).steps_per_epoch)
        position = in_epoch * order["global_batch"]
    assert position is not None, "one of the two is given"
    stream = BatchStream(rows, epoch=epoch, position=position, **order)
    batch = next(stream)
    return [
        {
            "epoch": batch.epoch,
            "position": batch.position + place,
            "sequence": int(batch.sequence_ids[place]),
            "text": prepared.tokenizer.decode(batch.input_ids[place].tolist(), skip_special_tokens=False),
        }
        for place in range(min(batch.sequences, limit or batch.sequences))
    ]


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
