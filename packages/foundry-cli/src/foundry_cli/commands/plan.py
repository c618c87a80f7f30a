"""`foundry plan`: what a config adds up to, before anything heavy runs."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry_cli.console import say, say_facts, say_json, say_table
from foundry_cli.figures import count, operations
from foundry_cli.options import DEFAULT_CONFIG, BaseDirOption, ConfigArgument, JsonOption, MatrixIndexOption, SetOption
from foundry_cli.plan_rows import (
    COLUMNS,
    LEFT,
    batch_row,
    compute_row,
    memory_row,
    model_row,
    schedule_rows,
    scheduled,
    sum_of,
)

if TYPE_CHECKING:
    from foundry_cli.experiments import Experiment
    from foundry_config import CorpusCounts, ExperimentConfig

PrepareOption = Annotated[
    bool,
    typer.Option("--prepare", help="Prepare the data first, as `foundry preprocess`, so that all counts are exact."),
]


def plan(
    config: ConfigArgument = DEFAULT_CONFIG,
    set_: SetOption = [],  # noqa: B006 (typer copies it)
    prepare: PrepareOption = False,
    index: MatrixIndexOption = None,
    base_dir: BaseDirOption = None,
    json: JsonOption = False,
) -> None:
    """Show what CONFIG adds up to: steps, parameters, operations, memory, disk, and every scheduled checkpoint.

    Nothing is written unless --prepare is given; without it, the size of the corpus is estimated. Where the corpus is
    not there yet, only what does not depend on it is shown. Of a config with a `matrix:`, one run is shown.
    """
    from foundry_cli.experiments import check_experiment, load_experiment, matrix_runs, pick_run

    experiment = load_experiment(config, overrides=set_, base_dir=base_dir)
    check_experiment(experiment)
    runs = matrix_runs(experiment)
    if runs or index is not None:
        experiment = pick_run(experiment, index or 0)
    facts = plan_facts(experiment, prepare=prepare)
    facts["matrix"] = {"index": index or 0, "runs": [run.name for run in runs]} if runs else None
    if runs and not json:
        say(f"run {index or 0} of {count(len(runs))} in the matrix, {runs[index or 0].name}; --index shows another")
        say()
    if json:
        say_json(facts)
    elif facts["missing_corpus"] is not None:
        from foundry_cli.corpus_free_plan import show_plan_without_corpus

        show_plan_without_corpus(experiment.config, facts)
    else:
        _show(experiment.config, facts)


def plan_facts(experiment: "Experiment", *, prepare: bool) -> dict[str, Any]:
    """Return the plan of an experiment as plain data; without a corpus, what depends on it is None."""
    from foundry_config import plan_training
    from foundry_config.errors import MissingCorpusError

    try:
        corpus, counts = _prepared_corpus(experiment) if prepare else _estimated_corpus(experiment)
    except MissingCorpusError as error:
        if prepare:
            raise
        return _facts_without_corpus(experiment.config, str(error))
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
        **_model_facts(experiment.config, tokens=plan.tokens_after(plan.total_steps), checkpoints=len(milestones)),
        "checkpoints": milestones,
        "missing_corpus": None,
        "unplanned_checkpoints": [],
    }


def _facts_without_corpus(config: "ExperimentConfig", reason: str) -> dict[str, Any]:
    from foundry_config.corpus_free_plan import plan_without_corpus

    plan = plan_without_corpus(config)
    blank = {"epoch": None, "tokens": None, "words": None}
    milestones = [
        {"step": item.step, "label": item.label, **blank, "reasons": list(item.reasons)} for item in plan.checkpoints
    ]
    whole = plan.total_steps is not None and not plan.unplanned
    return {
        "experiment_name": config.experiment_name,
        "estimated": True,
        "corpus": None,
        "steps_per_epoch": None,
        "total_steps": plan.total_steps,
        "epochs": config.training.epochs if plan.total_steps is None else None,
        "warmup_steps": plan.warmup_steps,
        "global_batch": plan.global_batch,
        "tokens_per_step": plan.tokens_per_step,
        "tokens": plan.tokens,
        "words": plan.words,
        **_model_facts(config, tokens=plan.tokens, checkpoints=len(milestones) if whole else None),
        "checkpoints": milestones,
        "missing_corpus": reason,
        "unplanned_checkpoints": list(plan.unplanned),
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


def _model_facts(config: "ExperimentConfig", *, tokens: int | None, checkpoints: int | None) -> dict[str, Any]:
    """Return parameters, operations, memory and disk, from shapes alone; None where tokens or checkpoints are."""
    from dataclasses import asdict

    from foundry_cli.libraries import load_libraries

    load_libraries()
    from foundry_config import ConfigError
    from foundry_model import count_parameters, create_model
    from foundry_model.cost import known_flops_per_token
    from foundry_model.memory import estimate_memory

    model = create_model(config, device="meta")
    per_token = known_flops_per_token(config, config.data.max_sequence_length)
    try:
        memory, unknown = asdict(estimate_memory(config)), None
    except ConfigError as error:  # the model is there, so only its memory cannot be told
        memory, unknown = None, str(error)
    weights = 4 * count_parameters(model).total  # as checkpoints hold them
    full = weights + (2 * weights if memory is None else memory["optimizer"])
    kept_full = config.training.keep_checkpoints + 1
    milestone = full if config.training.milestones == "full" else weights
    return {
        "parameters": asdict(count_parameters(model)),
        "flops_per_token": per_token,
        "flops": None if tokens is None or per_token is None else per_token * tokens,
        "memory_bytes": memory,
        "memory_unknown": unknown,
        "disk_bytes": {
            "milestones": None if checkpoints is None else checkpoints * milestone,
            "rolling": kept_full * full,
            "total": None if checkpoints is None else checkpoints * milestone + kept_full * full,
        },
    }


def _show(config: "ExperimentConfig", facts: dict[str, Any]) -> None:
    about = "about " if facts["estimated"] else ""
    corpus = facts["corpus"]
    data, training = config.data, config.training
    rows = [
        (
            "corpus",
            f"{about}{count(corpus['documents'])} documents, {count(corpus['words'])} words, "
            f"{count(corpus['tokens'])} tokens, {count(corpus['sequences'])} sequences in {data.source_corpus}",
        ),
        batch_row(config, facts),
        (
            "steps",
            f"{count(facts['total_steps'])}, {about}{facts['epochs']:.3g} epochs of {count(facts['steps_per_epoch'])}; "
            f"{count(facts['warmup_steps'])} of them warm-up, {training.lr_schedule} from {training.learning_rate:g}",
        ),
        ("sees", f"{about}{count(facts['tokens'])} tokens, {count(facts['words'])} words"),
        model_row(config, facts),
        compute_row(facts, f", {operations(facts['flops'])} in all" if facts["flops"] is not None else ""),
        memory_row(facts),
        ("disk", sum_of(facts["disk_bytes"])),
    ]
    say_facts(f"{config.experiment_name}: {count(facts['total_steps'])} steps", rows)
    say()
    say(f"{scheduled(facts['checkpoints'])} ({training.milestones})")
    say_table(COLUMNS, schedule_rows(facts["checkpoints"]), left=LEFT)
    if facts["estimated"]:
        say()
        say("The size of the corpus is an estimate; --prepare makes the data, and every number exact.")
