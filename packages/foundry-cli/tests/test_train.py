"""`foundry train`: what reaches the trainer, and what is said at the end; the training itself is a stand-in."""

import json
import os
import signal
from pathlib import Path
from typing import ClassVar

import pytest

from foundry_cli.commands.train import STOP_SIGNALS, deaf_to_hangup, ending_with_its_code
from foundry_cli.summary import facts, headline, next_commands, program, shown_path
from foundry_config import CheckpointError
from foundry_config.errors import WorkerError
from foundry_train.summary import TrainingSummary


def summary(**changes) -> TrainingSummary:
    values = {
        "experiment_name": "quickstart", "run_dir": Path("runs/quickstart"), "steps": 350, "total_steps": 350,
        "epochs": 1.2,
        "first_loss": 8.3, "final_loss": 4.2, "test_loss_before": 8.33, "test_loss_after": 4.5, "test_perplexity": 90.0,
        "bits_per_byte": 2.1, "bits_per_word": 12.0, "tokens": 716_800, "words": 400_000, "tokens_per_second": 9000.0,
        "seconds": 100.0, "peak_memory_bytes": 2**30, "sample": "Return the\nvalue \x1b[31m", "exit_code": 0,
        "checkpoint": Path("runs/quickstart/checkpoints/step-00000350"),
    }  # fmt: skip
    return TrainingSummary(**{**values, **changes})


@pytest.fixture
def trainer(foundry, monkeypatch):
    """A trainer that notes how it was called, and returns `trainer.result`."""
    import foundry_train

    class Trainer:
        calls: ClassVar[list[tuple]] = []
        result = summary()

        def __init__(self, config, base_dir, **options):
            self.calls.append((config, base_dir, options))

        def train(self):
            if isinstance(self.result, Exception):
                raise self.result
            return self.result

    monkeypatch.setitem(vars(foundry_train), "Trainer", Trainer)
    foundry("init")
    return Trainer


def test_options_reach_the_trainer(foundry, trainer, tmp_path, run_folder):
    answer = foundry(
        "train", "--set", "training.train_steps=7", "--resume", "step=4", "--stop-after", "3h50m",
        "--fork", "runs/small@chck_1M", "--allow-numeric-drift",
    )  # fmt: skip

    ((config, base_dir, options),) = trainer.calls[-1:]
    assert answer.code == 0
    assert (config.training.train_steps, config.training.stop_after) == (7, "3h50m")
    assert base_dir == tmp_path
    assert options["fork"] == run_folder / "checkpoints" / "step-00000016"
    assert (options["resume"], options["allow_numeric_drift"]) == ("step=4", True)


@pytest.mark.parametrize("time", ["", "3", "3 hours", "-1h", "null"])
def test_a_time_to_stop_after_that_is_none_is_refused_by_the_name_of_its_option(foundry, trainer, time):
    answer = foundry("train", f"--stop-after={time}")

    assert answer.code == 2
    assert f"error: --stop-after {time!r} is no duration; write numbers with units, such as 90s" in answer.err


@pytest.mark.parametrize(("fork", "word"), [("runs/no@4", "runs/no"), ("runs/small@7", "'7'"), ("runs/no", "runs/no")])
def test_a_fork_of_what_does_not_exist_is_refused(foundry, trainer, run_folder, fork, word):
    answer = foundry("train", "--fork", fork)

    assert answer.code == 4
    assert word in answer.err


def test_a_fork_goes_on_without_the_run_that_it_came_from(foundry, trainer, tmp_path):
    (tmp_path / "runs/mine/checkpoints/step-00000016/trainer").mkdir(parents=True)

    answer = foundry("train", "--fork", "runs/no@4", "--set", "training.output_dir=runs/mine")

    assert answer.code == 0
    assert trainer.calls[-1][2]["fork"].name == "no"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_while_pytorch_is_loaded_ends_at_once_with_its_code(number):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with ending_with_its_code():
            os.kill(os.getpid(), number)
        os._exit(0)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + number


@pytest.mark.slow
@pytest.mark.parametrize(("error", "told"), [(RuntimeError, True), (ImportError, False), (None, False)])
def test_a_signal_cuts_no_error_of_a_rank_off(monkeypatch, error, told):
    monkeypatch.setenv("WORLD_SIZE", "2")
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with ending_with_its_code():
            try:
                if error is not None:
                    raise error
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(0)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (0 if told else 143)


def test_the_first_line_comes_before_the_config_is_read(foundry, trainer):
    assert foundry("train", "missing.yaml").err.splitlines()[0] == "foundry train missing.yaml"


def test_the_summary_says_how_it_went_where_it_lies_and_what_to_type_next(foundry, trainer):
    out = foundry("train").out

    for words in (
        "350 of 350 steps",
        "8.3300 -> 4.5000",
        "2.100 bits per byte",
        "9,000 tokens per second",
        "step-00000350",
    ):
        assert words in out
    assert "Return the↵value \\x1b[31m" in out
    assert out.count("foundry ") >= 3


def test_the_summary_as_json_is_all_of_it(foundry, trainer):
    answer = foundry("train", "--json")

    assert json.loads(answer.out)["test_loss_after"] == 4.5


def test_a_run_stopped_by_a_signal_ends_with_its_code_and_says_how_to_go_on(foundry, trainer, monkeypatch):
    monkeypatch.setattr(trainer, "result", summary(steps=100, stopped_by="SIGUSR1", exit_code=138))

    answer = foundry("train")

    assert answer.code == 138
    assert "run the same command again" in answer.out


def test_an_error_of_the_trainer_ends_the_command(foundry, trainer, monkeypatch):
    monkeypatch.setattr(trainer, "result", CheckpointError("nothing to resume from"))

    answer = foundry("train", "--resume", "must")

    assert answer.code == 4
    assert "error: nothing to resume from" in answer.err


def test_only_the_first_rank_speaks(foundry, trainer, monkeypatch):
    monkeypatch.setenv("RANK", "1")

    answer = foundry("train")

    assert answer.out == answer.err == ""


def test_an_error_of_another_rank_names_it(foundry, trainer, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(trainer, "result", CheckpointError("nothing to resume from"))

    assert foundry("train").err == "error of rank 1: nothing to resume from\n"


def test_a_done_run_says_so():
    assert "done" in headline(summary(already_done=True))


def test_a_resumed_run_says_where():
    assert "resumed at step 100" in headline(summary(resumed_from=100))


def test_what_is_unknown_is_left_out():
    bare = summary(
        test_loss_before=None, test_loss_after=None, test_perplexity=None, bits_per_byte=None, bits_per_word=None,
        first_loss=None, final_loss=None, sample=None, checkpoint=None, tokens=0,
        tokens_per_second=0.0, peak_memory_bytes=0,
    )  # fmt: skip

    assert [name for name, _ in facts(bare)] == ["run", "metrics"]


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"test_step": 350}, "8.3300 -> 4.5000  (90.0 perplexity, 2.100 bits per byte, 12.00 bits per word)"),
        (
            {"test_step": 100},
            "8.3300 -> 4.5000 at step 100  (90.0 perplexity, 2.100 bits per byte, 12.00 bits per word)",
        ),
        ({"test_step": 0, "test_loss_after": 8.33}, "8.3300 before training"),
    ],
)
def test_the_held_out_loss_says_of_which_step_it_is(changes, shown):
    assert dict(facts(summary(**changes)))["held-out loss"] == shown


def test_a_run_that_was_done_already_has_no_speed():
    assert "speed" not in dict(facts(summary(already_done=True)))


def test_updates_that_were_left_out_are_counted():
    assert ("left out", "3 updates (not finite)") in facts(summary(nonfinite_skips=3))


@pytest.mark.parametrize("stopped_by", [None, "SIGTERM"])
def test_there_are_three_next_commands(stopped_by):
    commands = next_commands(summary(stopped_by=stopped_by), "train 'my config.yaml'")

    assert len(commands) == 3 and any("generate" in command for command, _ in commands)


def test_a_stopped_run_is_gone_on_with_by_the_command_that_began_it(foundry, project, monkeypatch):
    from foundry_cli.commands import train as command

    monkeypatch.setattr(command, "run_training", lambda *_, **__: summary(stopped_by="SIGINT", exit_code=130))
    settings = ("--set", "training.output_dir=runs/my run", "--set", "random_seed=3", "--stop-after", "1h")

    answer = foundry("train", project, *settings, "--resume", "must", "--allow-numeric-drift")

    again = f"train {project} --set 'training.output_dir=runs/my run' --set random_seed=3 --stop-after 1h"
    assert f"{again} --allow-numeric-drift\n      go on with the training" in answer.out


def test_only_a_checkpoint_with_a_config_of_transformers_is_called_their_folder(tmp_path):
    own = summary(checkpoint=tmp_path)
    assert dict(facts(own))["model"] == str(tmp_path)
    assert not any("generate" in command for command, _ in next_commands(own, "train c.yaml"))

    (tmp_path / "config.json").touch()

    assert dict(facts(own))["model"] == f"{tmp_path}  (a finished Hugging Face folder)"


def test_the_next_commands_are_called_as_this_one_was(monkeypatch):
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert program() == "uv run foundry"
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH")
    assert program() == "foundry"


def test_paths_are_shown_as_short_as_they_can_be_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert shown_path(tmp_path / "runs" / "a") == "runs/a"
    assert shown_path(tmp_path.parent) == str(tmp_path.parent)


@pytest.mark.parametrize(("ranks", "ignored"), [("1", False), ("2", True)])
def test_an_error_of_a_rank_is_told_whatever_its_launcher_sends(foundry, trainer, monkeypatch, ranks, ignored):
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    monkeypatch.setenv("WORLD_SIZE", ranks)
    trainer.result = WorkerError("another process of this run ended")
    try:
        answer = foundry("train")
        after = {signal.getsignal(number) for number in STOP_SIGNALS}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    assert answer.code == WorkerError.exit_code and "error: another process of this run ended" in answer.err
    assert after == ({signal.SIG_IGN} if ignored else set(before.values()))


def test_a_closed_terminal_does_not_end_a_training():
    before = signal.getsignal(signal.SIGHUP)

    with deaf_to_hangup():
        signal.raise_signal(signal.SIGHUP)

    assert signal.getsignal(signal.SIGHUP) == before
