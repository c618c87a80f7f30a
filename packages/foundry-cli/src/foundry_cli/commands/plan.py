"""`foundry plan`: what a config adds up to, before anything heavy runs."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry_cli.console import say, say_facts, say_json, say_table
from foundry_cli.figures import count, scaled, size
from foundry_cli.options import DEFAULT_CONFIG, BaseDirOption, ConfigArgument, JsonOption, SetOption

if TYPE_CHECKING:
    from foundry_cli.experiments import Experiment
    from foundry_config import CorpusCounts, ExperimentConfig, TrainingPlan

COLUMNS = ("step", "label", "epoch", "tokens", "words", "why")
LEFT = ("label", "why")
LINES_SHOWN = 40  # longer schedules are cut in the middle; --json has them whole

PrepareOption = Annotated[
    bool,
    typer.Option("--prepare", help="Prepare the data first, as `foundry preprocess`, so that all counts are exact."),
]


def plan(
    config: ConfigArgument = DEFAULT_CONFIG,
    set_: SetOption = [],  # noqa: B006 (typer copies it)
    prepare: PrepareOption = False,
    base_dir: BaseDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show what CONFIG adds up to: steps, parameters, operations, memory, disk, and every scheduled checkpoint.

    Nothing is written unless --prepare is given; without it, the size of the corpus is estimated.
    """
    from foundry_cli.experiments import check_tokenizer_source, load_experiment

    experiment = load_experiment(config, overrides=set_, base_dir=base_dir)
    check_tokenizer_source(experiment)
    facts = plan_facts(experiment, prepare=prepare)
    if json:
        say_json(facts)
    else:
        _show(experiment.config, facts)


def plan_facts(experiment: "Experiment", *, prepare: bool) -> dict[str, Any]:
    """Return the plan of an experiment as plain data."""
    from foundry_config import plan_training

    corpus, counts = _prepared_corpus(experiment) if prepare else _estimated_corpus(experiment)
    plan = plan_training(experiment.config, counts)
    words_after = counts.words_after or (lambda n: counts.words * n // counts.sequences)
    milestones = [
        {
            "step": item.step,
            "label": item.label,
            "epoch": plan.epoch_of(item.step),
            "tokens": plan.tokens_after(item.step),
            "words": words_after(plan.sequences_after(item.step)),
            "reasons": list(item.reasons),
        }
        for item in plan.checkpoints
    ]
    return {
        "experiment_name": experiment.config.experiment_name,
        "estimated": not prepare,
        "corpus": corpus,
        "steps_per_epoch": plan.steps_per_epoch,
        "total_steps": plan.total_steps,
        "epochs": plan.epochs,
        "warmup_steps": plan.warmup_steps,
        "global_batch": plan.global_batch,
        "tokens_per_step": plan.tokens_per_step,
        "tokens": plan.tokens_after(plan.total_steps),
        "words": words_after(plan.sequences_after(plan.total_steps)),
        **_model_facts(experiment.config, plan),
        "checkpoints": milestones,
    }


def _prepared_corpus(experiment: "Experiment") -> "tuple[dict[str, Any], CorpusCounts]":
    from foundry_cli.commands.preprocess import prepare
    from foundry_config import CorpusCounts
    from foundry_data.torch_loader import BatchStream

    processor, prepared = prepare(experiment)
    rows = processor.train_rows(prepared)
    data, training = experiment.config.data, experiment.config.training
    batches = BatchStream(
        rows,
        global_batch=data.batch_size * training.gradient_accumulation_steps,
        seed=experiment.config.random_seed,
        shuffle=data.shuffle,
        drop_last=data.drop_last,
        prefetch=0,
    )
    tokens = len(prepared.train) - rows.losses["dropped_tokens"]
    manifest = prepared.train.manifest
    facts = {
        "documents": manifest.documents,
        "words": manifest.words,
        "bytes": manifest.bytes,
        "tokens": len(prepared.train),
        "sequences": len(rows),
    }
    return facts, CorpusCounts(len(rows), tokens, manifest.words, batches.words_after)


def _estimated_corpus(experiment: "Experiment") -> "tuple[dict[str, Any], CorpusCounts]":
    from foundry_cli.corpus_estimate import estimate_corpus, sequences_of
    from foundry_config import CorpusCounts

    found = estimate_corpus(experiment)
    data = experiment.config.data
    sequences = sequences_of(found, data.max_sequence_length, packing=data.packing)
    return {**found._asdict(), "sequences": sequences}, CorpusCounts(sequences, found.tokens, found.words)


def _model_facts(config: "ExperimentConfig", plan: "TrainingPlan") -> dict[str, Any]:
    """Return parameters, operations, memory and disk, from shapes alone."""
    from dataclasses import asdict

    from foundry_model import count_parameters, create_model, flops_per_token
    from foundry_model.memory import estimate_memory

    model = create_model(config, device="meta")
    per_token = flops_per_token(model, config.data.max_sequence_length)
    memory = estimate_memory(config)
    weights, full = memory.weights, memory.weights + memory.optimizer
    kept_full = config.training.keep_checkpoints + 1
    milestone = full if config.training.milestones == "full" else weights
    return {
        "parameters": asdict(count_parameters(model)),
        "flops_per_token": per_token,
        "flops": per_token * plan.tokens_after(plan.total_steps),
        "memory_bytes": asdict(memory),
        "disk_bytes": {
            "milestones": len(plan.checkpoints) * milestone,
            "rolling": kept_full * full,
            "total": len(plan.checkpoints) * milestone + kept_full * full,
        },
    }


def _show(config: "ExperimentConfig", facts: dict[str, Any]) -> None:
    about = "about " if facts["estimated"] else ""
    corpus, parameters, memory, disk = (facts[name] for name in ("corpus", "parameters", "memory_bytes", "disk_bytes"))
    data, training = config.data, config.training
    rows = [
        (
            "corpus",
            f"{about}{count(corpus['documents'])} documents, {count(corpus['words'])} words, "
            f"{count(corpus['tokens'])} tokens, {count(corpus['sequences'])} sequences in {data.source_corpus}",
        ),
        (
            "batch",
            f"{count(data.batch_size)} sequences x {count(data.max_sequence_length)} tokens x "
            f"{training.gradient_accumulation_steps} accumulation = {count(facts['tokens_per_step'])} tokens per step",
        ),
        (
            "steps",
            f"{count(facts['total_steps'])}, {about}{facts['epochs']:.3g} epochs of {count(facts['steps_per_epoch'])}; "
            f"{count(facts['warmup_steps'])} of them warm-up, {training.lr_schedule} from {training.learning_rate:g}",
        ),
        ("sees", f"{about}{count(facts['tokens'])} tokens, {count(facts['words'])} words"),
        (
            "model",
            f"{config.model.architecture}, {count(parameters['total'])} parameters "
            f"({count(parameters['non_embedding'])} without embeddings)",
        ),
        ("compute", f"{scaled(facts['flops_per_token'])}FLOP per token, {scaled(facts['flops'])}FLOP in all"),
        ("memory", _sum_of(memory)),
        ("disk", _sum_of(disk)),
    ]
    say_facts(f"{config.experiment_name}: {count(facts['total_steps'])} steps", rows)
    say()
    say(f"{count(len(facts['checkpoints']))} scheduled checkpoints ({training.milestones})")
    say_table(COLUMNS, _schedule_rows(facts["checkpoints"]), left=LEFT)
    if facts["estimated"]:
        say()
        say("The size of the corpus is an estimate; --prepare makes the data, and every number exact.")


def _sum_of(parts: dict[str, int]) -> str:
    summands = " + ".join(f"{name} {size(value)}" for name, value in parts.items() if name != "total")
    return f"about {size(parts['total'])}: {summands}"


def _schedule_rows(checkpoints: list[dict[str, Any]]) -> list[list[str]]:
    rows = [
        [
            count(item["step"]),
            item["label"] or "",
            str(item["epoch"]),
            scaled(item["tokens"]),
            scaled(item["words"]),
            ", ".join(item["reasons"]),
        ]
        for item in checkpoints
    ]
    if len(rows) <= LINES_SHOWN:
        return rows
    half = LINES_SHOWN // 2
    cut = [f"... {len(rows) - 2 * half} more", "", "", "", "", ""]
    return [*rows[:half], cut, *rows[-half:]]
