"""The long table: one line per number, conditions named, sums over files."""

import csv
import sys

import pytest

from foundry_config import ConfigError, StorageError, parse_config, replace_fields
from foundry_data import fs
from foundry_model.evaluation import item_name
from foundry_model.minimal_pairs import Accuracy
from foundry_train.evaluate_runs import Evaluated
from foundry_train.evaluation_cache import CheckpointFacts, Count, Result, remember_newest, write_result
from foundry_train.evaluation_targets import find_models
from foundry_train.results_table import (
    COLUMNS,
    TableRow,
    condition_names,
    evaluated_values,
    long_table,
    values_of,
    write_table,
)

ROWS = [
    TableRow("a", 1, "study", 4, 128, 80, "minimal_pairs", "overall", 0.5),
    TableRow("b", None, "foreign, model", None, None, None, "corpus/dev", "loss", 1.25),
]


def pairs(name, n, correct, *, step=4, settings=None, weights="sha256:1"):
    counts = [Count(group, label, "sum", n, correct, 0) for group, label in (("file", name), ("overall", ""))]
    counts.append(Count("field", "syntax", "per_token", n, correct, 1))
    return Result(
        suite="minimal_pairs",
        name=name,
        key=name,
        settings=settings or {"method": "sentence", "unknown": "refuse", "input": "x"},
        checkpoint=CheckpointFacts(weights=weights, step=step, tokens=128, words=80),
        values={"sum": correct / n},
        counts=counts,
    )


def test_accuracies_are_added_up_over_files():
    found = values_of([pairs("a", 10, 5.0), pairs("b", 30, 27.0)])

    assert {(value.suite, value.item): value.value for value in found} == {
        ("minimal_pairs", "a"): 0.5,
        ("minimal_pairs", "b"): 0.9,
        ("minimal_pairs_per_token", "field=syntax"): 0.8,
        ("minimal_pairs", "overall"): 0.8,
    }


@pytest.mark.parametrize(("group", "name"), [("file", "a"), ("field", "syntax"), ("term", "binding"), ("overall", "")])
def test_items_are_called_as_during_training(group, name):
    assert Count(group, name, "sum", 1, 1.0, 0).item == item_name(Accuracy(group, name, "sum", 1, 1.0, 0, 0.2, 1.0))


def test_other_settings_are_another_suite():
    prefix = pairs("a", 10, 5.0, settings={"method": "one_prefix", "input": "x"})

    assert {value.suite for value in values_of([pairs("a", 10, 9.0), prefix])} == {
        "minimal_pairs",
        "minimal_pairs_per_token",
        "minimal_pairs[method=one_prefix]",
        "minimal_pairs[method=one_prefix]_per_token",
    }


def test_every_number_is_a_row_with_its_run_seed_and_step(make_run):
    run = make_run("r1", seed=7)
    (model,), _ = find_models(run)
    corpus = Result(
        suite="corpus",
        name="dev",
        key="k",
        settings={"window": None},
        checkpoint=CheckpointFacts(weights="w", step=4, tokens=128, words=80),
        values={"loss": 1.5},
    )

    rows = long_table([Evaluated(model, pairs("a", 4, 3.0), run, True), Evaluated(model, corpus, run, True)])

    assert rows[0] == ("r1", 7, "study", 4, 128, 80, "corpus/dev", "loss", 1.5)
    assert ("r1", 7, "study", 4, 128, 80, "minimal_pairs", "overall", 0.75) in rows


def test_runs_of_one_name_are_told_apart_by_their_path(make_run):
    runs = [make_run("a/run"), make_run("b/run", seed=2)]
    models = [find_models(run)[0][0] for run in runs]

    rows = long_table([Evaluated(model, pairs("a", 4, 3.0), model.path, True) for model in models])

    assert {(row.run, row.seed) for row in rows} == {(str(runs[0]), 1), (str(runs[1]), 2)}


def test_kept_results_of_a_run_are_found_again(tmp_path):
    run = tmp_path / "run"
    for step, name in ((4, "a"), (4, "b"), (2, "a")):
        write_result(run / "evaluations" / f"step-{step}" / name, pairs(name, 4, 2.0, step=step), {})

    found = evaluated_values(run)

    overall = [(result.checkpoint.step, value.value) for result, value in found if value.item == "overall"]
    assert overall == [(2, 0.5), (4, 0.5)]
    assert evaluated_values(tmp_path / "nothing") == []


def test_overall_is_over_the_files_that_every_checkpoint_has(tmp_path):
    run = tmp_path / "run"
    for step, name, correct in ((2, "a", 1.0), (4, "a", 3.0), (4, "b", 0.0)):
        write_result(run / "evaluations" / f"step-{step}" / name, pairs(name, 4, correct, step=step), {})

    values = [(result.checkpoint.step, v.item, v.value) for result, v in evaluated_values(run)]

    assert (4, "b", 0.0) in values
    assert [value for value in values if value[1] == "overall"] == [(2, "overall", 0.25), (4, "overall", 0.75)]


def test_a_changed_file_of_pairs_counts_once_and_the_one_asked_for_last_is_shown(tmp_path):
    run = tmp_path / "run"
    place = run / "evaluations" / "step-4"
    results = [pairs("a", 4, correct, settings={"input": digest}) for correct, digest in ((1.0, "old"), (3.0, "new"))]
    for folder, result in zip(("z", "y"), results, strict=True):
        write_result(place / folder, result, {})

    remember_newest([place / "z"], results[:1])
    remember_newest([place / "y"], results[1:])
    assert [v.value for _, v in evaluated_values(run) if v.item == "overall"] == [0.75]
    remember_newest([place / "z"], results[:1])
    assert [v.value for _, v in evaluated_values(run) if v.item == "overall"] == [0.25]


def test_a_condition_is_the_experiment_and_says_what_else_differs():
    base = parse_config(
        """
experiment_name: study
data: {source_corpus: "builtin:python-docs", batch_size: 2, max_sequence_length: 16}
tokenizer: {vocab_size: 300}
model: {layers: 1, embedding_size: 8, hidden_size: 8, intermediate_hidden_size: 16, attention_heads: 2}
training: {output_dir: runs/study, learning_rate: 1e-3, train_steps: 4}
"""
    )
    configs = {
        "s1": replace_fields(base, {"random_seed": 1}),
        "s2": replace_fields(base, {"random_seed": 2, "training.output_dir": "elsewhere"}),
        "fast": replace_fields(base, {"training.learning_rate": 0.01}),
        "other": replace_fields(base, {"experiment_name": "other"}),
        "ablated": replace_fields(base, {"dataset_manipulation": [{"name": "drop_words", "words": ["a", "the"]}]}),
    }

    assert condition_names(configs) == {
        "s1": "study",
        "s2": "study",
        "fast": "study (training.learning_rate=0.01)",
        "other": "other",
        "ablated": 'study (dataset_manipulation=[{"name":"drop_words","words":["a","the"]}])',
    }


def test_csv_and_parquet_hold_the_same(tmp_path):
    import pyarrow.parquet

    as_csv, as_parquet = (write_table(ROWS, tmp_path / "deep" / name) for name in ("t.csv", "t.parquet"))

    with as_csv.open(newline="") as file:
        lines = list(csv.DictReader(file))
    table = pyarrow.parquet.read_table(as_parquet).to_pylist()
    assert list(lines[0]) == list(COLUMNS) == list(table[0])
    assert [TableRow(**record) for record in table] == ROWS
    assert lines[1]["condition"] == "foreign, model"
    assert (lines[1]["seed"], float(lines[1]["value"])) == ("", 1.25)


def test_a_table_of_another_kind_or_without_its_library_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"written as .csv or .parquet"):
        write_table(ROWS, tmp_path / "t.xlsx")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="needs pyarrow"):
        write_table(ROWS, tmp_path / "t.parquet")


def test_a_full_disk_is_one_message(tmp_path):
    class Full(fs.Backend):
        def open_new(self, path):
            raise OSError(28, "No space left on device")

    with fs.using(Full()), pytest.raises(StorageError, match=r"t.csv: the table cannot be written"):
        write_table(ROWS, tmp_path / "t.csv")
