"""What the README shows is what happens."""

import re
from pathlib import Path

import pytest

from foundry_config import ConfigError, parse_config

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)

FOUR_MISTAKES = """\
experiment_name: tiny
data:
  source_corpus: text.txt
  batchsize: 8
  batch_size: 8
  max_sequence_length: 128
tokenizer:
  vocab_size: 4096
model:
  layers: 4
  embedding_size: 128
  hidden_size: 128
  intermediate_hidden_size: 512
  attention_heads: 5
training:
  output_dir: runs/tiny
  epochs: 1
  optimizer: adamv
"""


def test_the_example_runs_and_prints_what_is_shown(capsys):
    exec(BLOCKS[0][1], {})

    assert capsys.readouterr().out == BLOCKS[1][1]


def test_the_errors_are_those_that_are_shown():
    with pytest.raises(ConfigError) as caught:
        parse_config(FOUR_MISTAKES, name="tiny.yaml", overrides=["training.learning_rate=-1"])

    assert str(caught.value) == BLOCKS[2][1].strip()
