"""The study of docs/evaluation.md, run as it is written: two conditions, three seeds, from nothing to a report."""

import csv
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pytest

from foundry_train.evaluation_cache import read_results

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # six runs: a minute, or several on a busy machine

PAGE = Path(__file__).resolve().parent.parent / "docs" / "evaluation.md"
CONDITIONS = {"articles-none", "articles-no-articles"}
SEEDS = {"1", "2", "3"}
CHECKPOINTS = {0, 1, 2, 4, 8, 16, 32, 64, 128, 200}


class Study(NamedTuple):
    """The folder that the commands were typed in, and what each of them said on standard output."""

    folder: Path
    said: list[str]


def study_blocks(language: str = "bash") -> list[str]:
    """The blocks of the section in one language, from its heading to the next of its level."""
    text = PAGE.read_text(encoding="utf-8")
    section = re.search(r"^## A study: .*?(?=^## )", text, re.DOTALL | re.MULTILINE)
    assert section, "the page has no study any more"
    return re.findall(rf"^```{language}\n(.*?)^```", section.group(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """Type every block into a shell, in an empty folder, with the `foundry` of this environment."""
    folder = tmp_path_factory.mktemp("study")
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": scripts + os.pathsep + os.environ["PATH"]}
    said = []
    for block in study_blocks():
        answer = subprocess.run(
            ["bash", "-e", "-u", "-o", "pipefail", "-c", block],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, f"{block}\n{answer.stderr}"
        assert "Traceback" not in answer.stderr
        said.append(answer.stdout)
    return Study(folder, said)


@pytest.fixture(scope="module")
def table(study) -> list[dict[str, str]]:
    with (study.folder / "articles.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_shows_the_whole_way():
    text = "\n".join(study_blocks())

    for command in (
        "train study.yaml --matrix --list",
        "train study.yaml --matrix\n",
        "evaluate runs/",
        "report runs/",
    ):
        assert f"foundry {command}" in text


def test_the_six_runs_are_complete(study, foundry):
    cells = foundry("train", study.folder / "study.yaml", "--matrix", "--list", "--json").json

    assert [cell["state"] for cell in cells] == ["done"] * 6
    assert all(f"runs/articles/{cell['name']}" in "".join(study.said) for cell in cells)
    assert "6 of 6 runs of the matrix are done" in "".join(study.said)


def test_the_table_has_every_condition_seed_and_checkpoint(table):
    found = {(row["condition"], row["seed"], int(row["step"])) for row in table}

    assert found == {(c, s, step) for c in CONDITIONS for s in SEEDS for step in CHECKPOINTS}
    assert all(0 <= float(row["value"]) <= 1 for row in table)
    words = {(row["run"], int(row["step"])): int(row["words"]) for row in table}
    assert all((words[run, step] == 0) == (step == 0) for run, step in words)


def test_the_means_of_the_page_can_be_computed_as_it_says(study, monkeypatch, table):
    pytest.importorskip("pandas", reason="the example uses it")
    monkeypatch.chdir(study.folder)
    [code] = study_blocks("python")
    *before, last = code.strip().splitlines()
    names: dict = {}

    exec("\n".join(before), names)
    means = eval(last, names)["mean"]

    assert len(means) == len(CONDITIONS) * len(CHECKPOINTS)


def test_only_models_that_read_articles_learn_where_they_stand(table):
    accuracy = defaultdict(list)
    for row in table:
        if row["suite"] == "minimal_pairs" and row["item"] == "field=articles" and row["step"] == "200":
            accuracy[row["condition"]].append(float(row["value"]))

    assert fmean(accuracy["articles-none"]) > fmean(accuracy["articles-no-articles"]) + 0.1


def test_the_report_shows_both_conditions_with_their_seeds(study):
    page = (study.folder / "articles.html").read_text(encoding="utf-8")

    assert all(f"{condition} (mean of 3 seeds)" in page for condition in CONDITIONS)
    assert all(f"{condition}_seed-{seed}" in page for condition in ("none", "no-articles") for seed in SEEDS)


def test_the_other_measures_lie_where_the_page_says(study):
    run = study.folder / "runs" / "articles" / "none_seed-1"

    assert {result.suite for result in read_results(run / "evaluations")} >= {"surprisal", "corpus"}
    for name in ("words.csv", "tokens.csv"):
        [path] = run.glob(f"evaluations/*/surprisal.*/{name}")
        assert len(path.read_text(encoding="utf-8").splitlines()) > 10


def test_evaluating_again_computes_nothing(study, foundry, monkeypatch):
    monkeypatch.chdir(study.folder)
    runs = sorted(Path("runs/articles").iterdir())

    again = foundry("evaluate", *runs, "--checkpoints", "all", "--minimal-pairs", "pairs.csv")

    assert again.code == 0, again.err
    assert "60 results, 60 from before" in again.out
