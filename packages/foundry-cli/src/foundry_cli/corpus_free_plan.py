"""A plan without its corpus: what is known is shown, what is not is named, and no number is made up."""

from typing import TYPE_CHECKING, Any

from foundry_cli.console import say, say_facts, say_table
from foundry_cli.figures import count, operations, size
from foundry_cli.plan_rows import LEFT, batch_row, compute_row, memory_row, model_row, schedule_rows, scheduled, sum_of

if TYPE_CHECKING:
    from foundry_config import ExperimentConfig

KNOWN_COLUMNS = ("step", "label", "why")


def show_plan_without_corpus(config: "ExperimentConfig", facts: dict[str, Any]) -> None:
    """Write the plan that `plan_facts` returned for a corpus that is not there."""
    rows = [
        ("corpus", f"missing: {facts['missing_corpus']}"),
        batch_row(config, facts),
        ("steps", _steps(config, facts)),
        ("sees", _seen(config, facts)),
        model_row(config, facts),
        compute_row(facts, _in_all(config, facts)),
        memory_row(facts),
        ("disk", _disk(config, facts)),
    ]
    say_facts(f"{config.experiment_name}: without its corpus, only what does not depend on it", rows)
    checkpoints = facts["checkpoints"]
    if checkpoints:
        say()
        known = " that are known already" if facts["unplanned_checkpoints"] else ""
        say(f"{scheduled(checkpoints)}{known} ({config.training.milestones})")
        shown = [[step, label, why] for step, label, _, _, _, why in schedule_rows(checkpoints)]
        say_table(KNOWN_COLUMNS, shown, left=LEFT)
    say()
    say(f"Not known without the corpus: {', '.join(_unknown(facts))}.")
    if config.training.train_steps is None and facts["total_steps"] is not None:
        say("Steps are counted as full ones; the last of an epoch is shorter and padding takes room, so more may come.")
    say("Put the corpus there, or name another with --set data.source_corpus=PATH; then the plan is whole.")


def _steps(config: "ExperimentConfig", facts: dict[str, Any]) -> str:
    training = config.training
    schedule = f"{training.lr_schedule} from {training.learning_rate:g}"
    if facts["total_steps"] is None:
        return f"not known, the run ends after {_end(config)}; {_warmup(config)}{schedule}"
    least = "at least " if training.train_steps is None else ""
    return f"{least}{count(facts['total_steps'])}; {least}{count(facts['warmup_steps'])} of them warm-up, {schedule}"


def _end(config: "ExperimentConfig") -> str:
    """What the run ends after, where that is no number of steps."""
    training = config.training
    limits = [("epochs", training.epochs), ("tokens", training.train_tokens), ("words", training.train_words)]
    return " or ".join(f"{value:,} {unit}" for unit, value in limits if value is not None) or "one epoch"


def _warmup(config: "ExperimentConfig") -> str:
    training = config.training
    if training.warmup_steps is not None:
        return f"{count(training.warmup_steps)} of them warm-up, "
    return f"{100 * training.warmup_ratio:g} % of them warm-up, " if training.warmup_ratio else ""


def _bound(config: "ExperimentConfig") -> str:
    """Full steps are the most that a number of steps reads; a number of tokens is met to within a step."""
    return "at most " if config.training.train_steps is not None else "about "


def _seen(config: "ExperimentConfig", facts: dict[str, Any]) -> str:
    if facts["tokens"] is not None:
        return f"{_bound(config)}{count(facts['tokens'])} tokens"
    return f"{count(facts['words'])} words, to within a step" if facts["words"] is not None else "not known"


def _in_all(config: "ExperimentConfig", facts: dict[str, Any]) -> str:
    return "" if facts["flops"] is None else f", {_bound(config)}{operations(facts['flops'])} in all"


def _disk(config: "ExperimentConfig", facts: dict[str, Any]) -> str:
    disk = facts["disk_bytes"]
    if disk["total"] is not None:
        return sum_of(disk)
    each = disk["rolling"] // (config.training.keep_checkpoints + 1)
    if config.training.milestones != "full":
        each = 4 * facts["parameters"]["total"]
    return f"about {size(disk['rolling'])} rolling, and {size(each)} for each scheduled checkpoint"


def _unknown(facts: dict[str, Any]) -> list[str]:
    names = ["sequences and steps of an epoch"]
    names += ["the number of steps"] if facts["total_steps"] is None else []
    names += ["words"] if facts["words"] is None else []
    waiting = facts["unplanned_checkpoints"]
    return names + ([f"checkpoints by {', '.join(waiting)}"] if waiting else [])
