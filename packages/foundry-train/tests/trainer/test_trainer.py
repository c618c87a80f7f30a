"""The whole way from text to a trained model, with a module small enough to run it a hundred times."""

import hashlib
import json
import logging
import os
import threading

import pytest
import torch

from foundry_config.errors import ConfigError, DataError, MemoryExhaustedError, NonFiniteError
from foundry_train import Hook, Moment, Trainer

pytestmark = pytest.mark.slow


class RaiseAt(Hook):
    """Fails after a step, as a bug in a user's hook would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, moment: Moment) -> None:
        if moment.step == self.step:
            raise ZeroDivisionError("a bug in a hook")


def test_trainer_initializes_with_a_valid_config_and_touches_nothing(project, tmp_path):
    trainer = Trainer(project.config(tmp_path / "run"), project.folder)

    assert trainer.paths.run == tmp_path / "run" and not trainer.paths.run.exists()
    assert trainer.resume == "auto"


def test_training_executes_to_the_end_and_sums_itself_up(project, tmp_path):
    summary = project.train(project.config(tmp_path / "run", train_steps=60))

    assert summary.steps == summary.total_steps == 60 and not summary.already_done and summary.exit_code == 0
    assert summary.final_loss < summary.first_loss
    assert summary.test_loss_after < summary.test_loss_before
    assert summary.bits_per_byte > 0 and summary.bits_per_word > summary.bits_per_byte
    assert summary.tokens == 60 * 8 * 16 and summary.words > 0
    assert summary.tokens_per_second > 0 and summary.seconds > 0 and summary.peak_memory_bytes > 0
    assert summary.sample and summary.checkpoint.name == "step-00000060"
    saved = json.loads((summary.run_dir / "summary.json").read_bytes())
    assert saved["final_loss"] == summary.final_loss


def test_training_parameters_are_calculated_from_the_prepared_data_and_written_down(project, read, tmp_path):
    summary = project.train(project.config(tmp_path / "run", train_steps=None, epochs=1, warmup_steps=None))

    plan = json.loads((summary.run_dir / "plan.json").read_bytes())
    steps = read.records(summary.run_dir, "step")
    assert plan["total_steps"] == plan["steps_per_epoch"] == len(steps) == summary.steps
    assert plan["tokens_per_step"] == 8 * 16 and summary.epochs == 1.0
    assert {record["epoch"] for record in steps} == {0}


def test_run_directory_holds_everything_that_the_format_promises(project, tmp_path):
    summary = project.train(project.config(tmp_path / "run", checkpoint_schedule=(0, 4), save_every_steps=5))

    run = summary.run_dir
    assert {"run.json", "config.json", "plan.json", "environment.json", "status.json", "lineage.jsonl"} <= {
        path.name for path in run.iterdir()
    }
    assert sorted(path.name for path in (run / "checkpoints").glob("step-*")) == [
        "step-00000000",
        "step-00000004",
        "step-00000005",
        "step-00000010",
        "step-00000012",
    ]
    status = json.loads((run / "status.json").read_bytes())
    assert (status["phase"], status["step"], status["resumable"]) == ("done", 12, False)
    assert (run / "latest").resolve() == summary.checkpoint


def test_tokenizer_is_loaded_and_stored_with_every_checkpoint(project, tmp_path):
    summary = project.train(project.config(tmp_path / "run"))

    names = {path.name for path in summary.checkpoint.iterdir()}
    assert {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"} <= names


def test_environment_snapshot_is_saved(project, tmp_path):
    summary = project.train(project.config(tmp_path / "run"))

    snapshot = json.loads((summary.run_dir / "environment.json").read_bytes())
    assert snapshot["packages"]["numpy"] and snapshot["hardware"]["cpu"] and snapshot["command"]


def test_the_same_config_twice_gives_the_same_bits(project, read, tmp_path):
    first = project.train(project.config(tmp_path / "a"))
    second = project.train(project.config(tmp_path / "b"))

    assert read.losses(first) == read.losses(second) and read.weights(first) == read.weights(second)


def test_another_seed_gives_other_weights(project, read, tmp_path):
    first = project.train(project.config(tmp_path / "a"))
    second = project.train(project.config(tmp_path / "b", changes={"random_seed": 8}))

    assert read.weights(first) != read.weights(second)


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation": {"every_steps": 1, "sample_every_steps": 1, "sample_prompts": ("the", "a")}},
        {"evaluation": {"at_checkpoints": True, "max_sequences": 3, "batch_size": 1}},
        {"evaluation": {"sample_tokens": 0}},
        {"data": {"prefetch_batches": 0}},
        {"logging": {"sinks": ("logging:getLogger",)}},
    ],
    ids=["often", "checkpoints", "none", "no prefetch", "broken sink"],
)
def test_evaluation_samples_sinks_and_prefetch_leave_the_weights_unchanged(project, read, tmp_path, changes):
    plain = project.train(project.config(tmp_path / "plain"))
    other = project.train(project.config(tmp_path / "other", changes=changes))

    assert read.losses(plain) == read.losses(other) and read.weights(plain) == read.weights(other)


def test_evaluations_and_samples_are_recorded_at_their_steps(project, read, tmp_path):
    changes = {"evaluation": {"every_steps": 5, "sample_every_steps": 6, "at_checkpoints": True}}
    summary = project.train(project.config(tmp_path / "run", changes=changes, checkpoint_schedule=(0, 7)))

    assert [record["step"] for record in read.records(summary.run_dir, "evaluation")] == [0, 5, 7, 10, 12]
    assert [record["step"] for record in read.records(summary.run_dir, "sample")] == [6, 12]
    last = read.records(summary.run_dir, "evaluation")[-1]
    assert {"loss", "perplexity", "bits_per_byte", "bits_per_word", "suite"} <= set(last)


def test_errors_are_logged_with_the_step_and_raised_as_one_message(project, tmp_path, caplog):
    with caplog.at_level(logging.ERROR), pytest.raises(RuntimeError, match="step 3") as caught:
        project.train(project.config(tmp_path / "run"), hooks=[RaiseAt(3)])

    assert "training failed after step 3" in caplog.text
    assert "training failed after step 3" in (tmp_path / "run" / "logs" / "trainer-test.log").read_text()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    status = json.loads((tmp_path / "run" / "status.json").read_bytes())
    assert status["phase"] == "failed" and "a bug in a hook" in status["exit_reason"]


def test_running_out_of_memory_anywhere_has_its_own_exit_code(project, tmp_path):
    class Greedy(Hook):
        def on_step(self, moment: Moment) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(MemoryExhaustedError, match=r"after step 1.*smaller model") as caught:
        project.train(project.config(tmp_path / "run"), hooks=[Greedy()])

    assert caught.value.exit_code == 9


def test_the_log_file_tells_the_run_at_the_intervals_and_level_of_the_config(project, tmp_path):
    changes = {"logging": {"dir": str(tmp_path / "own"), "log_every_steps": 4}}
    project.train(project.config(tmp_path / "run", changes=changes))

    text = (tmp_path / "own" / "trainer-test.log").read_text()
    assert [f"step {step}/12" in text for step in range(1, 13)] == [step % 4 == 0 or step == 1 for step in range(1, 13)]
    assert "INFO" in text and "plan: 12 steps" in text and not (tmp_path / "run" / "logs").exists()


def test_non_finite_loss_ends_with_its_own_error_and_exit_code(project, tmp_path):
    class Poison(Hook):
        def on_step(self, moment: Moment) -> None:
            if moment.step == 4:
                moment.model.head.bias.data.fill_(float("nan"))

    with pytest.raises(NonFiniteError, match="step 5") as caught:
        project.train(project.config(tmp_path / "run"), hooks=[Poison()])

    assert caught.value.exit_code == 8


def test_a_tokenizer_of_another_size_is_refused_before_anything_is_built(project, tmp_path):
    first = project.train(project.config(tmp_path / "first"))
    changes = {"tokenizer": {"source": str(first.checkpoint), "vocab_size": 33}}

    with pytest.raises((DataError, ConfigError), match="vocab_size"):
        project.train(project.config(tmp_path / "second", changes=changes))


def test_a_corpus_smaller_than_a_sequence_is_refused(project, tmp_path):
    changes = {"data": {"max_sequence_length": 100_000}}

    with pytest.raises(DataError, match="max_sequence_length"):
        project.train(project.config(tmp_path / "run", changes=changes))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_too(project, tmp_path, precision):
    summary = project.train(project.config(tmp_path / "run", precision=precision, train_steps=30))

    assert summary.final_loss < summary.first_loss


def test_gradient_accumulation_uses_the_whole_global_batch(project, read, tmp_path):
    one = project.config(tmp_path / "one", changes={"model": {"dropout": 0.0}}, optimizer="sgd")
    four = project.config(
        tmp_path / "four",
        changes={"model": {"dropout": 0.0}, "data": {"batch_size": 2}},
        optimizer="sgd",
        gradient_accumulation_steps=4,
    )

    first, second = project.train(one), project.train(four)

    assert [r["loss"] for r in read.records(second.run_dir, "step")] == pytest.approx(
        [r["loss"] for r in read.records(first.run_dir, "step")], rel=1e-5
    )
    assert {r["micro_batch"] for r in read.records(second.run_dir, "step")} == {2}


def test_micro_batch_auto_takes_the_whole_share_where_memory_allows_and_remembers(project, read, tmp_path):
    config = project.config(tmp_path / "run", micro_batch_size=4)
    summary = project.train(config)

    assert {r["micro_batch"] for r in read.records(summary.run_dir, "step")} == {4}


def test_two_runs_leave_no_threads_behind(project, tmp_path):
    project.train(project.config(tmp_path / "a"))
    before = threading.active_count()
    project.train(project.config(tmp_path / "b"))

    assert threading.active_count() <= before


def test_milestones_carry_their_labels_and_words(project, read, tmp_path):
    summary = project.train(project.config(tmp_path / "run", checkpoint_schedule=({"every_words": 200},)))

    manifests = [
        json.loads(path.read_bytes()) for path in (summary.run_dir / "checkpoints").glob("step-*/MANIFEST.json")
    ]
    words = {record["step"]: record["words"] for record in read.records(summary.run_dir, "step")}
    for manifest in manifests:
        assert manifest["consumed"]["words"] == words[manifest["step"]]
        assert manifest["consumed"]["tokens"] == manifest["step"] * 8 * 16


def test_git_commit_of_the_project_is_in_every_manifest(project, tmp_path, monkeypatch):
    monkeypatch.setattr("foundry_train.trainer.get_git_commit_hash", lambda path: "c0ffee")

    summary = project.train(project.config(tmp_path / "run"))

    assert json.loads((summary.checkpoint / "MANIFEST.json").read_bytes())["git_commit"] == "c0ffee"


def test_no_file_of_a_run_holds_a_secret_of_the_environment(project, tmp_path, monkeypatch):
    canary = hashlib.sha256(b"secret").hexdigest()
    monkeypatch.setenv("WANDB_API_KEY", canary)
    monkeypatch.setenv("HF_TOKEN", canary)

    summary = project.train(project.config(tmp_path / "run"))

    files = [path for path in summary.run_dir.rglob("*") if path.is_file()]
    assert files and not any(canary.encode() in path.read_bytes() for path in files)


class FailAtTheEnd(Hook):
    def on_end(self, moment):
        raise ZeroDivisionError("a bug in a hook")


def test_an_error_at_the_end_of_a_run_loses_nothing_that_was_trained(project, read, tmp_path):
    config = project.config(tmp_path / "run")
    with pytest.raises(RuntimeError, match="after step 12: ZeroDivisionError"):
        project.train(config, hooks=[FailAtTheEnd()])

    assert (tmp_path / "run" / "checkpoints" / "step-00000012" / "MANIFEST.json").is_file()
    summary = project.train(config)
    assert summary.resumed_from == 12 and summary.steps == 12
    assert len([r for r in read.records(summary.run_dir, "evaluation") if r["step"] == 12]) == 1


POSITIONS = """
import torch
from tiny_trainer_model import Output

class WithPositions(torch.nn.Module):
    def __init__(self, vocab_size, positions):
        super().__init__()
        self.tokens, self.places = torch.nn.Embedding(vocab_size, 16), torch.nn.Embedding(positions, 16)
        self.head = torch.nn.Linear(16, vocab_size)

    def forward(self, input_ids, **ignored):
        return Output(self.head(self.tokens(input_ids) + self.places(torch.arange(input_ids.shape[1]))))

def build(request):
    return WithPositions(request.vocab_size, request.positions)
"""


def test_a_model_of_few_positions_writes_a_sample_longer_than_them(project, read, tmp_path, monkeypatch):
    (tmp_path / "few_positions.py").write_text(POSITIONS)
    monkeypatch.syspath_prepend(tmp_path)
    changes = {"model": {"architecture": "few_positions:build"}, "evaluation": {"sample_tokens": 60}}

    summary = project.train(project.config(tmp_path / "run", changes=changes))

    assert summary.steps == 12 and len(read.records(summary.run_dir, "sample")) == 1


class SettingsSeen(Hook):
    """Notes the settings of the process while a run trains."""

    def on_start(self, moment):
        self.seen = (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads())


def test_settings_of_one_run_do_not_reach_the_next_one_of_the_process(project, read, tmp_path, stop_at, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    threads = torch.get_num_threads()
    first, second = SettingsSeen(), SettingsSeen()

    project.train(project.config(tmp_path / "one", deterministic=True, threads=threads + 1), hooks=[first])
    config = project.config(tmp_path / "two")
    stopped = project.train(config, hooks=[second, stop_at(4)])

    assert first.seen == (True, threads + 1)
    assert second.seen == (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()) == (False, threads)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert project.train(config).resumed_from == 4 and stopped.exit_code == 143  # no numeric drift
