"""Matrices: every combination once, under names that never change, and only what is missing is run."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_config import ConfigError, ExperimentPaths, parse_config
from foundry_train.matrix import cell_state, expand_matrix, pending_cells, pick_cell, read_value

BASE = """
experiment_name: study
data: {source_corpus: "builtin:python-docs", batch_size: 2, max_sequence_length: 8}
tokenizer: {vocab_size: 300}
model: {layers: 1, embedding_size: 8, hidden_size: 8, intermediate_hidden_size: 16, attention_heads: 2}
training: {output_dir: runs/study, learning_rate: 1e-3, train_steps: 4}
"""


def study(**matrix):
    return parse_config(BASE + "matrix: " + json.dumps({path.replace("__", "."): v for path, v in matrix.items()}))


def test_every_combination_is_a_run_with_the_seed_last():
    steps = [{"name": "drop_words", "words": ["the"]}]

    cells = expand_matrix(study(random_seed=[1, 2], dataset_manipulation=[[], steps]))

    assert [(cell.index, cell.name) for cell in cells] == [
        (0, "none_seed-1"),
        (1, "none_seed-2"),
        (2, "drop_words_seed-1"),
        (3, "drop_words_seed-2"),
    ]
    assert [cell.config.random_seed for cell in cells] == [1, 2, 1, 2]
    assert [cell.config.training.output_dir for cell in cells][2] == "runs/study/drop_words_seed-1"
    assert [cell.config.experiment_name for cell in cells] == ["study-none"] * 2 + ["study-drop_words"] * 2
    assert cells[3].config.dataset_manipulation == tuple(steps)
    assert cells[3].config.matrix == {}


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=4, unique=True),
    st.lists(st.floats(1e-6, 1, exclude_min=True), min_size=1, max_size=3, unique=True),
)
def test_names_are_unique_safe_and_the_same_whatever_the_order_of_the_fields(seeds, rates):
    cells = expand_matrix(study(random_seed=seeds, training__learning_rate=rates))
    again = expand_matrix(study(training__learning_rate=rates, random_seed=seeds))

    assert [(cell.name, cell.config) for cell in cells] == [(cell.name, cell.config) for cell in again]
    assert len({cell.name for cell in cells}) == len(cells) == len(seeds) * len(rates)
    assert all(cell.name.replace("_", "").replace("-", "").replace(".", "").isalnum() for cell in cells)


def test_only_ablated_runs_are_topped_up():
    pool = BASE.replace("batch_size: 2", "batch_size: 2, replacement_corpus: pool.txt")

    plain, ablated = expand_matrix(parse_config(pool + "matrix: {dataset_manipulation: [none, lowercase]}"))

    assert (plain.config.data.replacement_corpus, ablated.config.data.replacement_corpus) == (None, "pool.txt")


def test_a_config_without_a_matrix_is_its_own_only_run():
    config = parse_config(BASE)

    (cell,) = expand_matrix(config)

    assert cell.config is config


def test_seeds_alone_leave_the_name_of_the_experiment():
    cells = expand_matrix(study(random_seed=[1, 2]))

    assert {cell.config.experiment_name for cell in cells} == {"study"}
    assert [cell.name for cell in cells] == ["seed-1", "seed-2"]


@pytest.mark.parametrize(
    ("path", "raw", "name", "value"),
    [
        ("dataset_manipulation", "none", "none", []),
        ("dataset_manipulation", [], "none", []),
        ("dataset_manipulation", "lowercase", "lowercase", ["lowercase"]),
        ("dataset_manipulation", {"no-articles": [{"name": "drop_words"}]}, "no-articles", [{"name": "drop_words"}]),
        ("dataset_manipulation", {"name": "sample", "share": 0.5}, "sample", [{"name": "sample", "share": 0.5}]),
        ("dataset_manipulation", ["lowercase", "my.mod:fn"], "lowercase+fn", ["lowercase", "my.mod:fn"]),
        ("dataset_manipulation", {"command": ["/bin/tr", "a"]}, "tr", [{"command": ["/bin/tr", "a"]}]),
        ("random_seed", 7, "seed-7", 7),
        ("model.architecture", "hf:gpt2", "architecture-hf-gpt2", "hf:gpt2"),
        ("model.tie_embeddings", True, "tie_embeddings-true", True),
    ],
)
def test_values_are_named_after_what_they_are(path, raw, name, value):
    assert read_value(path, raw) == (name, value)


def test_values_that_would_be_named_alike_are_told_apart():
    articles = [{"name": "drop_words", "words": ["the"]}]
    pronouns = [{"name": "drop_words", "words": ["she"]}]

    names = [cell.name for cell in expand_matrix(study(dataset_manipulation=[articles, pronouns]))]

    assert len(set(names)) == 2
    assert all(name.startswith("drop_words-") for name in names)


def test_a_long_name_is_cut_and_stays_its_own():
    steps = [[f"my.module:{'long_name_' * 12}{i}"] for i in range(2)]

    names = [cell.name for cell in expand_matrix(study(dataset_manipulation=steps))]

    assert len(set(names)) == 2
    assert all(len(name) <= 100 for name in names)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ({"random_seed": [1, 1]}, "matrix.random_seed: 1 stands there twice"),
        ({"model.attention_heads": [2, 3]}, r"run 1 of the matrix \(attention_heads-3\)"),
    ],
)
def test_a_matrix_that_cannot_be_run_is_a_config_error(matrix, message):
    with pytest.raises(ConfigError, match=message):
        expand_matrix(study(**matrix))


def test_runs_with_different_text_cannot_share_a_tokenizer_folder():
    text = BASE.replace("{vocab_size: 300}", "{vocab_size: 300, output_dir: tok}")
    config = parse_config(text + "matrix: {dataset_manipulation: [[], [lowercase]]}")

    with pytest.raises(
        ConfigError, match=r"tokenizer.output_dir: the runs of the matrix differ in dataset_manipulation"
    ):
        expand_matrix(config)


def test_an_index_names_one_run():
    config = study(random_seed=[1, 2, 3])

    assert pick_cell(config, 2).name == "seed-3"
    with pytest.raises(ConfigError, match="the matrix has 3 runs, 0 to 2"):
        pick_cell(config, 3)


def test_runs_that_are_done_are_not_pending(tmp_path):
    config = study(random_seed=[1, 2, 3, 4])
    for cell, status in zip(expand_matrix(config), ['{"phase":"done"}', '{"phase":"stopped"}', "{bro"], strict=False):
        paths = ExperimentPaths(cell.config, tmp_path)
        paths.run.mkdir(parents=True)
        paths.status.write_text(status)

    states = [cell_state(cell, tmp_path) for cell in expand_matrix(config)]

    assert states == ["done", "unfinished", "unfinished", "missing"]
    assert [cell.index for cell in pending_cells(config, tmp_path)] == [1, 2, 3]
