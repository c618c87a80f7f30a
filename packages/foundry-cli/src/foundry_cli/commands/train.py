"""`foundry train`: from a config to a finished model, or on from where the run stopped."""

import contextlib
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry_cli.console import note, say_json, say_table
from foundry_cli.failures import STOPPED_BY_SIGNAL, report_failure
from foundry_cli.options import DEFAULT_CONFIG, BaseDirOption, ConfigArgument, JsonOption, SetOption
from foundry_cli.ranks import is_alone, is_first_rank

if TYPE_CHECKING:
    from foundry_cli.experiments import Experiment
    from foundry_config.errors import FoundryError
    from foundry_train import TrainingSummary
    from foundry_train.matrix import Cell

RESUME = re.compile(r"auto|never|must|step=\d{1,18}")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

ResumeOption = Annotated[
    str,
    typer.Option(
        "--resume",
        metavar="auto|never|must|step=N",
        help="Go on where the run stopped, if it did; refuse to; insist on it; or go on from one checkpoint.",
    ),
]
StopAfterOption = Annotated[
    str | None, typer.Option("--stop-after", metavar="3h50m", help="Save and stop after this time; run again to go on.")
]
DriftOption = Annotated[
    bool,
    typer.Option(
        "--allow-numeric-drift",
        help="Resume on other hardware or versions, where results agree but not bit for bit; recorded in the run.",
    ),
]
ForkOption = Annotated[
    str | None,
    typer.Option(
        "--fork", metavar="RUN@STEP", help="Start a new run from a checkpoint of another, its parent recorded."
    ),
]
MatrixOption = Annotated[
    bool, typer.Option("--matrix", help="Train what is missing of the combinations in `matrix:`, one after another.")
]
ListOption = Annotated[bool, typer.Option("--list", help="With --matrix: show the runs and how far they are.")]
IndexOption = Annotated[
    int | None, typer.Option("--index", metavar="I", help="With --matrix: train run I only, for a job array.")
]


def train(
    config: ConfigArgument = DEFAULT_CONFIG,
    set_: SetOption = [],  # noqa: B006 (typer copies it)
    resume: ResumeOption = "auto",
    stop_after: StopAfterOption = None,
    fork: ForkOption = None,
    allow_numeric_drift: DriftOption = False,
    matrix: MatrixOption = False,
    list_: ListOption = False,
    index: IndexOption = None,
    base_dir: BaseDirOption = None,
    json: JsonOption = False,
) -> None:
    """Train the experiment that CONFIG describes, from raw text to a finished model.

    Run again, it goes on where it stopped, or says that it is done; stages already made from the same inputs are
    reused. The run folder (`training.output_dir`) receives everything.
    """
    _tell(f"foundry train {config}")
    # after the first line: even reading a config takes a moment
    from foundry_cli.experiments import load_experiment, note_matrix
    from foundry_cli.targets import find_fork
    from foundry_config import ConfigError

    if not RESUME.fullmatch(resume):
        raise ConfigError(f"--resume {resume!r} is none of auto, never, must, step=N (for example --resume step=400)")
    overrides = set_ if stop_after is None else [*set_, f"training.stop_after={_checked_time(stop_after)}"]
    experiment = load_experiment(config, overrides=overrides, base_dir=base_dir)
    if (list_ or index is not None) and not matrix:
        raise ConfigError("--list and --index go with --matrix")
    source = find_fork(fork, child=experiment.paths.run) if fork else None
    options = {"resume": resume, "fork": source, "allow_numeric_drift": allow_numeric_drift}
    again = command_again(
        config,
        [*(("--set", text) for text in set_), ("--stop-after", stop_after), ("--fork", fork), ("--base-dir", base_dir)],
        {"--allow-numeric-drift": allow_numeric_drift, "--matrix": matrix},
    )
    with deaf_to_hangup(), ending_with_its_code():
        if matrix:
            code = train_matrix(experiment, list_only=list_, index=index, as_json=json, again=again, **options)
        else:
            note_matrix(experiment, "training")
            code = train_one(experiment, as_json=json, again=again, **options)
    raise typer.Exit(code)


def _checked_time(stop_after: str) -> str:
    from foundry_config import ConfigError, parse_duration

    try:
        parse_duration(stop_after)
    except ConfigError as error:
        raise ConfigError(f"--stop-after {error}") from None
    return stop_after


def command_again(config: Path, values: Iterable[tuple[str, object]], flags: Mapping[str, bool]) -> str:
    """Return the command that goes on with a training, without the program; `--resume` was for this time only.

    >>> command_again(Path("my.yaml"), [("--set", "random_seed=2"), ("--fork", None)], {"--matrix": True})
    'train my.yaml --set random_seed=2 --matrix'
    """
    words = ["train", str(config)]
    words += [word for name, value in values if value is not None for word in (name, str(value))]
    words += [name for name, wanted in flags.items() if wanted]
    return shlex.join(words)


def train_one(experiment: "Experiment", *, as_json: bool, again: str, **options: Any) -> int:
    """Train an experiment, say how it went, and return the exit code."""
    summary = run_training(experiment, **options)
    if is_first_rank():
        _show(summary, again, as_json=as_json)
    return summary.exit_code


def train_matrix(
    experiment: "Experiment", *, list_only: bool, index: int | None, as_json: bool, again: str, **options: Any
) -> int:
    """Train the cells of a matrix that are not done, and return the exit code of the first that failed.

    A stop, or a disk that is full, is the end of all; what is wrong with one run is said and keeps no other waiting.
    As JSON it is one list, of the runs that were trained now.
    """
    from foundry_cli.experiments import check_experiment, require_matrix
    from foundry_cli.summary import say_matrix, say_outcome, summary_json
    from foundry_config.errors import FoundryError
    from foundry_train.matrix import cell_state, expand_matrix, pending_cells, pick_cell

    config, base_dir = experiment.config, experiment.base_dir
    require_matrix(experiment)
    if list_only:
        rows = [(cell, cell_state(cell, base_dir)) for cell in expand_matrix(config)]
        cells = [(str(cell.index), cell.name, state) for cell, state in rows]
        if as_json:
            say_json([{"index": cell.index, "name": cell.name, "state": state, **cell.values} for cell, state in rows])
        else:
            say_table(
                ("index", "run", "state"), [(str(c.index), c.name, state) for c, state in rows], left=("run", "state")
            )
        return 0
    check_experiment(experiment)
    if index is not None:
        cell = pick_cell(config, index)
        _tell(cell.name)
        again = f"{again} --index {index}"
        return train_one(experiment._replace(config=cell.config), as_json=as_json, again=again, **options)
    cells = pending_cells(config, base_dir)
    if is_first_rank() and len(cells) > 1:
        rehearse_all(cells, base_dir)
    summaries: list[TrainingSummary] = []
    failed: dict[str, int] = {}
    for number, cell in enumerate(cells, 1):
        _tell(f"{cell.name} ({number} of {len(cells)})")
        try:
            summary = run_training(experiment._replace(config=cell.config), **options)
        except FoundryError as error:
            if not concerns_one_run(error):
                raise
            failed[cell.name] = report_failure(error, debug=False)
            continue
        summaries.append(summary)
        if is_first_rank() and not as_json:
            say_outcome(summary)
        if summary.exit_code:
            break
    if is_first_rank() and as_json:
        say_json([summary_json(summary) for summary in summaries])
    elif is_first_rank():
        states = [cell_state(cell, base_dir) for cell in expand_matrix(config)]
        say_matrix(states, experiment.source, experiment.paths.run, again=again, failed=list(failed))
    stopped = summaries[-1].exit_code if summaries else 0
    return stopped or next(iter(failed.values()), 0)


def concerns_one_run(error: "FoundryError") -> bool:
    """Whether the other runs of a matrix may go on after this one's error.

    Not after a stop, not on a disk that refuses; and of several ranks only this one knows of the error.
    """
    from foundry_config.errors import StorageError

    return is_alone() and not isinstance(error, StorageError) and error.exit_code < STOPPED_BY_SIGNAL


def rehearse_all(cells: "Sequence[Cell]", base_dir: Path) -> None:
    """Refuse a run of the matrix that cannot train before the first of them begins."""
    note(f"loading PyTorch, checking {len(cells)} runs")
    from foundry_cli.libraries import load_libraries

    load_libraries()
    from foundry_train.rehearsal import rehearse_matrix

    rehearse_matrix(cells, base_dir)


@contextlib.contextmanager
def deaf_to_hangup() -> Iterator[None]:
    """Let a terminal that is closed not end the training, as under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextlib.contextmanager
def ending_with_its_code() -> Iterator[None]:
    """Let a stop signal end the process at once with 128 + its number while the trainer is not there to obey it.

    That is while PyTorch is loaded, which takes seconds, and after the run has ended: there is nothing to save. Not an
    exception, since a half-made import may swallow it.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        if not is_alone() and not isinstance(sys.exception(), ImportError | None):
            return  # as `let_the_error_be_told`, which the error reaches next; an import handles others in passing
        os.write(2, f"stopped by {signal.Signals(number).name}; run the same command again to go on\n".encode())
        os._exit(128 + number)

    before = {number: signal.signal(number, leave) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is leave:  # else an error is about to be told, see below
                signal.signal(number, handler)


def let_the_error_be_told() -> None:
    """Of several ranks, ignore the stop signals from here to the end of the process.

    Where one rank fails, torchrun ends the others within moments: also those that are about to say what they saw.
    """
    if not is_alone():
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def run_training(
    experiment: "Experiment", *, resume: str = "auto", fork: Path | None = None, allow_numeric_drift: bool = False
) -> "TrainingSummary":
    """Train one experiment, showing its progress on standard error."""
    from foundry_cli.libraries import load_libraries
    from foundry_cli.reporters import ReporterHandler, make_reporter

    reporter = make_reporter(every_steps=experiment.config.logging.log_every_steps)
    try:
        if is_first_rank():
            reporter.stage("loading PyTorch")
        load_libraries()
        from foundry_train import Trainer

        trainer = Trainer(
            experiment.config,
            experiment.base_dir,
            resume=resume,
            reporter=reporter,
            console=ReporterHandler(reporter),
            allow_numeric_drift=allow_numeric_drift,
            fork=fork,
        )
        return trainer.train()
    except Exception:
        let_the_error_be_told()
        raise
    finally:
        reporter.close()


def _tell(text: str) -> None:
    if is_first_rank():
        note(text)


def _show(summary: "TrainingSummary", again: str, *, as_json: bool) -> None:
    from foundry_cli.summary import say_summary, summary_json

    if as_json:
        say_json(summary_json(summary))
    else:
        say_summary(summary, again)
