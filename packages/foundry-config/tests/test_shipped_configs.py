"""The experiments that come with the project validate and plan."""

import re
from pathlib import Path

import pytest

from foundry_config import CorpusCounts, load_config, plan_training

CONFIGS = Path(__file__).parents[3] / "configs"
NAMES = ["babylm-strict-small", "gpt2-124m", "llama-60m", "pythia-14m", "template", "tiny"]


def plan(name: str):
    config = load_config(CONFIGS / f"{name}.yaml", environ={})
    length = config.data.max_sequence_length
    words = 10_000_000
    sequences = 13_000_000 // length
    exact = CorpusCounts(sequences, sequences * length, words, words_after=lambda n: words * n // sequences)
    return config, plan_training(config, exact)


def test_the_list_is_complete():
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_experiment_validates_and_plans(name):
    config, found = plan(name)

    assert config.experiment_name == name
    assert found.total_steps > 0
    assert found.checkpoints[-1].step == found.total_steps


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_experiment_names_the_schema_for_editors(name):
    first = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    schema = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)

    assert schema is not None
    assert (CONFIGS / schema[1]).is_file()


def test_babylm_saves_every_revision_that_its_evaluation_asks_for():
    _, found = plan("babylm-strict-small")

    labels = [milestone.label for milestone in found.checkpoints if milestone.label]
    assert labels == [f"chck_{n}M" for n in [*range(1, 11), *range(20, 101, 10)]]


def test_pythia_saves_its_154_checkpoints():
    assert len(plan("pythia-14m")[1].checkpoints) == 154


@pytest.mark.parametrize(
    ("name", "tokens"), [("gpt2-124m", 524_288), ("pythia-14m", 2_097_152), ("llama-60m", 262_144)]
)
def test_tokens_per_step_are_those_that_the_comments_say(name, tokens):
    assert plan(name)[1].tokens_per_step == tokens
    assert f"{tokens:,} tokens per step" in (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
