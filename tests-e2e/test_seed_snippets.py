"""The snippets of the seed document, with only their imports changed: its names, signatures and behaviours hold."""

import pytest
import torch

from foundry_data import DataProcessor
from foundry_model import create_model
from foundry_train import CheckpointManager

pytestmark = pytest.mark.slow  # the first model imports transformers' model classes, which takes seconds


def test_model_forward_pass(tiny_config):
    model = create_model(tiny_config)
    batch = torch.randint(0, 1000, (2, 32))
    output = model(batch)
    assert output.logits.shape == (2, 32, 1000)


@pytest.fixture
def config(tiny_config):
    return tiny_config


@pytest.fixture
def base_dir(temp_workspace):
    return temp_workspace


@pytest.mark.parametrize(
    ("chunk_size", "num_sequences"),
    [
        (32, 100),
        (64, 50),
        (128, 25),
    ],
)
def test_chunking(chunk_size, num_sequences, tiny_dataset, config, base_dir):
    processor = DataProcessor(config, base_dir)
    chunks = processor._create_chunked_dataset_streaming(tiny_dataset, chunk_size)
    assert all(len(chunk) == chunk_size for chunk in chunks)


@pytest.fixture
def tiny_model(tiny_config):
    return create_model(tiny_config)


@pytest.fixture
def optimizer(tiny_model):
    return torch.optim.AdamW(tiny_model.parameters(), lr=1e-4)


@pytest.fixture
def scheduler(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


@pytest.fixture
def tokenizer(mock_tokenizer):
    return mock_tokenizer


def test_checkpoint_roundtrip(tiny_config, temp_workspace, tiny_model, tokenizer, optimizer, scheduler):
    manager = CheckpointManager(tiny_config, temp_workspace, "test_hash")

    # Save
    manager.save_checkpoint(tiny_model, tokenizer, optimizer, scheduler, global_step=10, epoch=1)

    # Load
    loaded_model, _, step, epoch = manager.load_checkpoint(
        model_factory=lambda: create_model(tiny_config),
        device=torch.device("cpu"),
        optimizer=optimizer,
        lr_scheduler=scheduler,
    )

    assert step == 10
    assert epoch == 1
    # Verify weights match
    for p1, p2 in zip(tiny_model.parameters(), loaded_model.parameters(), strict=True):
        assert torch.allclose(p1, p2)


def test_chunks_of_the_seeds_dataset_keep_every_token_but_the_last_remainder(tiny_dataset, config, base_dir):
    chunks = list(DataProcessor(config, base_dir)._create_chunked_dataset_streaming(tiny_dataset, 64))

    assert len(chunks) == 5000 // 64
    assert [int(token) for chunk in chunks[:2] for token in chunk][:10] == [1, 2, 3, 4, 5] * 2
