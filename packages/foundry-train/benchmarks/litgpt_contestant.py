"""LitGPT's model in LitGPT's kind of loop, in an environment of its own (its pins are not ours).

uv run --isolated --no-project --with litgpt litgpt_contestant.py small --steps 50
"""

import argparse
import json
import os
import time

import lightning
import torch
from litgpt import GPT, Config
from shapes import SHAPES, device_of

WARM_UP_STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--compile", choices=("off", "on"), default="off")
    task = parser.parse_args()
    shape = SHAPES[task.shape]
    if shape.threads:
        torch.set_num_threads(shape.threads)
    precision = "bf16-mixed" if shape.precision == "bf16" else "32-true"
    fabric = lightning.Fabric(accelerator=device_of(task.shape), devices=1, precision=precision)
    config = Config(
        block_size=shape.length,
        padded_vocab_size=shape.vocab,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.width,
        intermediate_size=shape.inner,
    )
    with fabric.init_module():
        model = GPT(config)
    if task.compile == "on":
        model = torch.compile(model)
    model = fabric.setup(model)
    optimizer = fabric.setup_optimizers(torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True))
    generator = torch.Generator().manual_seed(0)
    marks, first = [], None
    for _ in range(task.steps):
        ids = torch.randint(0, shape.vocab, (shape.batch, shape.length), generator=generator).to(fabric.device)
        logits = model(ids)[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        first = first or time.time()
        marks.append(time.perf_counter())
    timed = marks[WARM_UP_STEPS:]
    started = float(os.environ.get("FOUNDRY_BENCHMARK_STARTED", "nan"))
    rate = (len(timed) - 1) * shape.tokens / (timed[-1] - timed[0])
    print(json.dumps({"tokens_per_second": rate, "first_step_seconds": first - started, "peak_bytes": None}))


if __name__ == "__main__":
    main()
