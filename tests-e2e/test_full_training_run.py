"""The seed's end-to-end test: 1000 sequences, 2 layers, 64 hidden units, 10 steps, 2 checkpoints."""

import json
import math

import pytest
import torch

pytestmark = pytest.mark.slow

GIB = 2**30


def test_training_completes(trained):
    assert trained.summary["steps"] == trained.summary["total_steps"] == 10
    assert [record["step"] for record in trained.steps] == list(range(1, 11))


def test_the_corpus_has_1000_sequences(trained, foundry):
    plan = foundry("plan", trained.config, "--prepare", "--json").json

    assert plan["corpus"]["sequences"] == 1000


def test_the_loss_falls(trained):
    losses = [record["loss"] for record in trained.steps]

    assert all(math.isfinite(loss) for loss in losses)
    assert losses[0] == pytest.approx(
        math.log(300), rel=0.15
    )  # an untrained model knows only the size of its vocabulary
    assert losses[-1] < losses[0] - 0.5


def test_both_checkpoints_open_in_plain_transformers(trained):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for step in (5, 10):
        folder = trained.run / "checkpoints" / f"step-{step:08d}"
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        batch = tokenizer("the cat sees a red house", return_tensors="pt")

        with torch.no_grad():
            logits = model(batch["input_ids"]).logits

        assert logits.shape == (1, batch["input_ids"].shape[1], 300)
        assert torch.isfinite(logits).all()
        assert tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True).strip() == "the cat sees a red house"


def test_the_two_checkpoints_hold_different_weights(trained):
    digests = {
        json.loads((folder / "MANIFEST.json").read_text())["weights"]["digest"]
        for folder in (trained.run / "checkpoints").glob("step-*")
    }

    assert len(digests) == 2


def test_text_can_be_generated(trained, foundry):
    answer = foundry("generate", trained.run, "--prompt", "the cat", "--max-tokens", 12, "--greedy", "--json")

    assert answer.code == 0, answer.err
    assert len(answer.json[0]["text"]) > 0


def test_memory_stays_in_bounds(trained):
    assert 0 < trained.summary["peak_memory_bytes"] < 3 * GIB


def test_run_again_it_says_that_it_is_done_and_changes_nothing(trained, foundry):
    before = {path: path.read_bytes() for path in (trained.run / "checkpoints").rglob("*") if path.is_file()}

    answer = foundry("train", trained.config)

    assert answer.code == 0
    assert "done" in answer.out
    assert {path: path.read_bytes() for path in (trained.run / "checkpoints").rglob("*") if path.is_file()} == before


def test_a_run_is_verified_from_end_to_end(trained, foundry):
    answer = foundry("verify", trained.run)

    assert answer.code == 0, answer.err


def test_no_pickle_is_in_the_run(trained):
    kinds = {path.suffix for path in trained.run.rglob("*") if path.is_file()}

    assert kinds & {".pt", ".pth", ".bin", ".pkl", ".ckpt"} == set()
