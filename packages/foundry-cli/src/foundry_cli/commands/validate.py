"""`foundry validate`: say whether a config can be used, and every problem at once if it cannot."""

from foundry_cli.console import say
from foundry_cli.figures import counted
from foundry_cli.options import DEFAULT_CONFIG, BaseDirOption, ConfigArgument, SetOption


def validate(config: ConfigArgument = DEFAULT_CONFIG, set_: SetOption = [], base_dir: BaseDirOption = None) -> None:  # noqa: B006 (typer copies it)
    """Check a config file, reporting every problem at once with its line; nothing is run or written."""
    from foundry_cli.experiments import check_experiment, load_experiment, matrix_runs

    experiment = load_experiment(config, overrides=set_, base_dir=base_dir)
    check_experiment(experiment)
    runs = len(matrix_runs(experiment))
    matrix = f", {counted(runs, 'run')} in its matrix" if runs else ""
    say(f"{config}: valid, experiment {experiment.config.experiment_name!r}{matrix}")
    say(f"`foundry plan {config}` shows what it adds up to")
