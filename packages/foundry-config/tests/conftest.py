"""A small valid experiment, as structs and as YAML."""

import pytest
from hypothesis import settings

from foundry_config import (
    DataConfig,
    ExperimentConfig,
    LoggingConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
)

# how long an example takes says more about the machine than about the code
settings.register_profile("foundry-config", deadline=None, max_examples=60)
settings.load_profile("foundry-config")

TINY_YAML = """\
experiment_name: test_exp
data:
  source_corpus: test/data
  training_corpus: test/data/train
  batch_size: 2
  max_sequence_length: 32
tokenizer:
  output_dir: test/tokenizer
  vocab_size: 1000
model:
  layers: 2
  embedding_size: 64
  hidden_size: 64
  intermediate_hidden_size: 128
  attention_heads: 2
  activation_function: gelu
  dropout: 0.1
  attention_dropout: 0.1
training:
  output_dir: test/output
  learning_rate: 1e-4
  adam_beta1: 0.9
  adam_beta2: 0.999
  adam_epsilon: 1e-8
  epochs: 1
  train_steps: 10
  warmup_steps: 2
logging:
  level: INFO
  dir: test/logs
  use_wandb: false
random_seed: 42
"""


@pytest.fixture
def tiny_yaml() -> str:
    return TINY_YAML


@pytest.fixture
def tiny_config() -> ExperimentConfig:
    """Minimal valid configuration for fast tests."""
    return ExperimentConfig(
        experiment_name="test_exp",
        data=DataConfig(
            source_corpus="test/data",
            training_corpus="test/data/train",
            batch_size=2,
            max_sequence_length=32,
        ),
        tokenizer=TokenizerConfig(output_dir="test/tokenizer", vocab_size=1000),
        model=ModelConfig(
            layers=2,
            embedding_size=64,
            hidden_size=64,
            intermediate_hidden_size=128,
            attention_heads=2,
            activation_function="gelu",
            dropout=0.1,
            attention_dropout=0.1,
        ),
        training=TrainingConfig(
            output_dir="test/output",
            learning_rate=1e-4,
            adam_beta1=0.9,
            adam_beta2=0.999,
            adam_epsilon=1e-8,
            epochs=1,
            train_steps=10,
            warmup_steps=2,
        ),
        logging=LoggingConfig(level="INFO", dir="test/logs", use_wandb=False),
        random_seed=42,
    )
