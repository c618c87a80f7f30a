"""One contestant in a process of its own: train a shape for some steps, print one line of JSON.

python contestants.py foundry tiny --steps 50 --folder bench --compile off
"""

import argparse
import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from plain_gpt import PlainGpt
from shapes import SHAPES, Shape, device_of
from workload import Stopwatch, make_config, random_batches

Result = dict[str, float | None]


class Task(argparse.Namespace):
    """The command line."""

    contestant: str
    shape: str
    steps: int
    folder: Path
    compile: str


def foundry(task: Task, shape: Shape) -> Result:
    """`Trainer` with everything on: metrics, progress, evaluation before and after, the last checkpoint."""
    from foundry_train import Hook, Moment, Trainer

    watch = Stopwatch(shape, torch.device(device_of(task.shape)))

    class Watch(Hook):
        def on_step(self, moment: Moment) -> None:
            watch.step()

    with tempfile.TemporaryDirectory(dir=task.folder) as run:
        config = make_config(task.shape, shape, task.folder, steps=task.steps, compile_mode=task.compile, run=run)
        Trainer(config, task.folder, hooks=[Watch()]).train()
    return watch.result()


def bare(task: Task, shape: Shape) -> Result:
    """The same model in the loop that one would write by hand: no files, no evaluation, the loss read every step."""
    from foundry_model import create_model

    config = make_config(task.shape, shape, task.folder, steps=task.steps, compile_mode="off", run="unused")
    model = create_model(config, device=device_of(task.shape))
    return _loop(task, shape, model, lambda ids: model(input_ids=ids, labels=ids, use_cache=False).loss)


def plain_gpt(task: Task, shape: Shape) -> Result:
    """A plain GPT in a plain loop, shaped like nanoGPT's: its own model, loss inside of it."""
    model = PlainGpt(shape).to(device_of(task.shape))
    return _loop(task, shape, model, model)


def hf_trainer(task: Task, shape: Shape) -> Result:
    """`transformers.Trainer` as its users have it: nothing of ours, no saving, no evaluation, no report."""
    config = make_config(task.shape, shape, task.folder, steps=task.steps, compile_mode="off", run="unused")
    return _hf_trainer(task, shape, lambda: transformers_model(shape, tied=config.model.tie_embeddings))


def hf_trainer_ours(task: Task, shape: Shape) -> Result:
    """`transformers.Trainer` on the model that we build, which has our kernels for activations."""
    from foundry_model import create_model

    config = make_config(task.shape, shape, task.folder, steps=task.steps, compile_mode="off", run="unused")
    return _hf_trainer(task, shape, lambda: create_model(config))


def _hf_trainer(task: Task, shape: Shape, build: Callable[[], torch.nn.Module]) -> Result:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    device = torch.device(device_of(task.shape))
    watch = Stopwatch(shape, device)

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step()

    class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        rows = torch.cat(random_batches(shape))

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"input_ids": self.rows[index], "labels": self.rows[index]}

    with tempfile.TemporaryDirectory(dir=task.folder) as output:
        arguments = TrainingArguments(
            output_dir=output,
            max_steps=task.steps,
            per_device_train_batch_size=shape.batch,
            learning_rate=3e-4,
            bf16=shape.precision == "bf16",
            use_cpu=device.type == "cpu",
            torch_compile=task.compile == "on",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        Trainer(build(), arguments, train_dataset=Rows(), callbacks=[Watch()]).train()
    return watch.result()


def transformers_model(shape: Shape, *, tied: bool) -> torch.nn.Module:
    """The model of transformers of that shape, with its own defaults but for dropout, which ours has not, and tying."""
    sizes: dict[str, Any] = {"tie_word_embeddings": tied}
    sizes |= {"vocab_size": shape.vocab, "max_position_embeddings": shape.length, "hidden_size": shape.width}
    sizes |= {"num_hidden_layers": shape.layers, "num_attention_heads": shape.heads}
    if shape.architecture == "llama":
        from transformers import LlamaConfig, LlamaForCausalLM

        return LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=shape.inner))
    from transformers import GPT2Config, GPT2LMHeadModel

    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(**sizes, n_inner=shape.inner, **dropout))


def _loop(task: Task, shape: Shape, model: torch.nn.Module, loss_of: Callable[[torch.Tensor], torch.Tensor]) -> Result:
    device = torch.device(device_of(task.shape))
    watch = Stopwatch(shape, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    autocast = contextlib.nullcontext
    if shape.precision == "bf16":
        autocast = lambda: torch.autocast(device.type, dtype=torch.bfloat16)  # noqa: E731
    if task.compile == "on":
        model.compile()
    batches = random_batches(shape)
    for step in range(task.steps):
        ids = batches[step % len(batches)].to(device, non_blocking=True)
        with autocast():
            loss = loss_of(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        watch.step()
    return watch.result()


CONTESTANTS = {
    "foundry": foundry,
    "bare": bare,
    "plain-gpt": plain_gpt,
    "hf-trainer": hf_trainer,
    "hf-trainer-ours": hf_trainer_ours,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--compile", choices=("off", "on"), default="off")
    task = parser.parse_args(namespace=Task())
    shape = SHAPES[task.shape]
    if shape.threads:
        torch.set_num_threads(shape.threads)
    print(json.dumps(CONTESTANTS[task.contestant](task, shape)))


if __name__ == "__main__":
    main()
