"""Real families of transformers resume at every step, bit for bit.

As in `test_resume_everywhere.py`: from each checkpoint of a 16-step run one more step must give the loss, gradient
norm, weights, moments and generators that the run had.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from foundry_config import replace_fields
from foundry_model import create_model
from foundry_train.checkpointing import CheckpointManager
from foundry_train.rng_state import capture_rng
from foundry_train.safetensors_writer import weights_digest
from foundry_train.state import TrainState
from foundry_train.tensor_tree import export_optimizer

STEPS, TOKENS = 16, 8
PRECISIONS = ["fp32", "bf16", "fp16"]
FIELDS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {"model.activation_function": "silu"},
    "mamba": {"model.activation_function": "silu"},
}
DROPOUT = {"gpt2": "model.dropout", "llama": "model.attention_dropout"}  # a mamba has none


class FamilyRun:
    """A tiny model of a family, trained on batches that are a function of the step."""

    def __init__(self, harness: ModuleType, architecture: str, variant: Any, root: Path) -> None:
        self.harness, self.variant = harness, variant
        config = harness.config_for(variant)
        fields = {"model.architecture": architecture, "tokenizer.vocab_size": 300, **FIELDS[architecture]}
        if architecture in DROPOUT:
            fields[DROPOUT[architecture]] = variant.dropout
        self.config = replace_fields(config, fields)
        torch.manual_seed(0)
        self.model = create_model(self.config).train()
        self.manager = CheckpointManager(self.config, root, "commit")
        self.reset()

    def reset(self) -> None:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
        enabled = self.variant.precision == "fp16"
        self.scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=2.0**18, growth_interval=3)

    def spoil(self) -> None:
        with torch.no_grad():
            for tensor in [*self.model.parameters()]:
                tensor.fill_(float("nan"))
        torch.manual_seed(987)
        self.reset()

    def step(self, step: int) -> tuple[str, ...]:
        generator = torch.Generator().manual_seed(1000 + step)
        batch = torch.randint(4, 300, (3, TOKENS), generator=generator)  # [B, T]
        self.optimizer.zero_grad()
        total = 0.0
        for micro in batch.tensor_split(self.variant.accumulation):
            with self.harness.autocast(self.variant):
                logits = self.model(input_ids=micro, use_cache=False).logits  # [B, T, V]
            flat, targets = logits.float()[:, :-1].flatten(0, 1), micro[:, 1:].flatten()
            loss = torch.nn.functional.cross_entropy(flat, targets, reduction="sum") / batch.numel()
            self.scaler.scale(loss).backward()
            total += loss.item()
        self.scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return total.hex(), norm.hex(), *self.digests()

    def digests(self) -> tuple[str, ...]:
        tree = export_optimizer(self.model, self.optimizer)
        weights = dict(self.model.state_dict())
        scaler = str(self.scaler.state_dict())
        return weights_digest(weights), weights_digest(tree.tensors), scaler, weights_digest(capture_rng().tensors)

    def save(self, step: int) -> None:
        details = {"global_step": step, "state": TrainState(step=step), "scaler": self.scaler}
        self.manager.save_async(self.model, None, self.optimizer, **details)


def check_every_step(harness: ModuleType, architecture: str, variant: Any, root: Path) -> int:
    run = FamilyRun(harness, architecture, variant, root)
    moments = {}
    for step in range(1, STEPS + 1):
        moments[step] = run.step(step)
        run.save(step)
    run.manager.wait()
    run.manager.raise_pending()
    for start in range(1, STEPS):
        run.spoil()
        run.manager.restore(run.model, run.optimizer, run.scaler, step=start)
        assert run.step(start + 1) == moments[start + 1], f"{architecture} {variant} after a resume at {start}"
    return STEPS - 1


@pytest.mark.slow
@pytest.mark.parametrize("architecture", FIELDS)
def test_a_family_resumes_at_every_step_bit_for_bit(
    harness: ModuleType, fast_path: Path, tell: Callable[[str], None], architecture: str
) -> None:
    resumes = 0
    dropouts = [0.0, 0.1] if architecture in DROPOUT else [0.0]
    combinations = list(itertools.product(dropouts, [1, 3], PRECISIONS, [False, True]))
    for number, (dropout, accumulation, precision, background) in enumerate(combinations):
        variant = harness.Variant(
            dropout=dropout, accumulation=accumulation, precision=precision, background=background, keep=STEPS
        )
        resumes += check_every_step(harness, architecture, variant, fast_path / str(number))

    tell(f"{architecture}: {resumes} resumes at every step of {len(combinations)} variants, all bit-equal")
