"""Write the README.md of an exported model from what the run recorded: nothing in it is typed by hand.

The front matter is what the Hugging Face hub reads; the rest tells a reader what the model saw, how it was trained, and
the digests by which anyone can check that these are the weights that were trained.
"""

from collections.abc import Iterator
from typing import Any

from foundry_train.report.charts import compact
from foundry_train.report.run_data import RunData

Manifest = dict[str, Any]


def model_card(manifest: Manifest, run: RunData | None) -> str:
    """Return the Markdown of the card.

    Args:
        manifest: `MANIFEST.json` of the checkpoint.
        run: The run it belongs to; without it, only what the manifest holds is told.
    """
    title = manifest.get("experiment_name") or (run.name if run else "model")
    label = f", {manifest['label']}" if manifest.get("label") else ""
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- model-foundry\n---\n",
        f"# {title}\n",
        f"Trained from scratch with Model Foundry; step {manifest['step']:,}{label}.\n",
        "## Use\n",
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")\n'
        'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")\n```\n',
        "## What it has seen\n",
        _table(_consumed(manifest)),
        "## Model\n",
        _table(_model(manifest)),
    ]
    if run is not None:
        parts += ["## Training\n", _table(_training(run)), *_data(run), *_curve(run)]
    parts += ["## Digests\n", _table(_digests(manifest))]
    return "\n".join(parts)


def _table(rows: Iterator[tuple[str, Any]]) -> str:
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"


def _cell(value: Any) -> str:
    shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return shown.replace("|", "\\|").replace("\n", " ")


def _consumed(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    consumed = manifest.get("consumed", {})
    yield "steps", manifest["step"]
    for name in ("samples", "tokens", "words", "epoch"):
        yield {"samples": "sequences"}.get(name, name), consumed.get(name)
    yield "training loss at this step (nats per token)", manifest.get("loss")


def _model(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    yield "parameters", manifest.get("weights", {}).get("params")
    yield from sorted((manifest.get("model_config") or {}).items())


def _training(run: RunData) -> Iterator[tuple[str, Any]]:
    yield "random seed", run.seed
    for section in ("data", "training"):
        for name, value in run.config.get(section, {}).items():
            if name in _TOLD:
                yield f"{section}.{name}", value


_TOLD = frozenset(
    {
        *("batch_size", "max_sequence_length", "packing"),
        *("learning_rate", "lr_schedule", "warmup_steps", "warmup_ratio", "optimizer", "weight_decay", "max_grad_norm"),
        *("epochs", "train_steps", "train_tokens", "train_words", "gradient_accumulation_steps", "precision"),
    }
)


def _data(run: RunData) -> Iterator[str]:
    if not run.receipts:
        return
    yield "## Ablations of the corpus\n"
    yield "| step | documents | words |\n|---|---|---|"
    for receipt in run.receipts:
        before, after = receipt.get("before", {}), receipt.get("after", {})
        yield (
            f"| {_cell(receipt.get('name', ''))} | {before.get('documents', 0):,} -> {after.get('documents', 0):,} "
            f"| {before.get('words', 0):,} -> {after.get('words', 0):,} |"
        )
    yield ""


def _curve(run: RunData) -> Iterator[str]:
    """Tell the loss at powers of two, which a reader can compare with other runs."""
    wanted = {2**power for power in range(40)} | {run.last_step}
    rows = [record for record in run.steps if record.get("step") in wanted]
    if rows:
        yield "## Training loss\n"
        yield "| step | tokens | loss (nats per token) |\n|---|---|---|"
        for record in rows:
            yield f"| {record['step']:,} | {compact(float(record.get('tokens') or 0))} | {record.get('loss')} |"
        yield ""


def _digests(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    yield "weights", manifest.get("weights", {}).get("digest")
    for name in ("config", "data", "tokenizer", "self"):
        yield {"self": "manifest"}.get(name, name), manifest.get(name)
    yield "run", manifest.get("run_id")
    yield "git commit", manifest.get("git_commit")
