"""Lines of a plan that are the same whether its corpus is there or not."""

from typing import TYPE_CHECKING, Any

from foundry_cli.figures import count, operations, scaled, size

if TYPE_CHECKING:
    from foundry_config import ExperimentConfig

COLUMNS = ("step", "label", "epoch", "tokens", "words", "why")
LEFT = ("label", "why")
LINES_SHOWN = 40  # longer schedules are cut in the middle; --json has them whole


def batch_row(config: "ExperimentConfig", facts: dict[str, Any]) -> tuple[str, str]:
    """Say what one step reads."""
    data, accumulation = config.data, config.training.gradient_accumulation_steps
    return (
        "batch",
        f"{count(data.batch_size)} sequences x {count(data.max_sequence_length)} tokens x {accumulation} accumulation "
        f"= {count(facts['tokens_per_step'])} tokens per step",
    )


def model_row(config: "ExperimentConfig", facts: dict[str, Any]) -> tuple[str, str]:
    """Say how large the model is."""
    parameters = facts["parameters"]
    return (
        "model",
        f"{config.model.architecture}, {count(parameters['total'])} parameters "
        f"({count(parameters['non_embedding'])} without embeddings)",
    )


def compute_row(facts: dict[str, Any], in_all: str) -> tuple[str, str]:
    """Say how much is computed for a token, and in all."""
    per_token = facts["flops_per_token"]
    if per_token is None:
        return "compute", "not known for a model that is no family of transformers"
    return "compute", f"{operations(per_token)} per token{in_all}"


def memory_row(facts: dict[str, Any]) -> tuple[str, str]:
    """Say what a step takes of the memory, or why that is not known."""
    memory = facts["memory_bytes"]
    if memory is None:
        return "memory", f"not known: {facts['memory_unknown']}"
    return "memory", sum_of(memory, "besides PyTorch itself")


def sum_of(parts: dict[str, int], remark: str = "") -> str:
    """Say a total and what it is made of. [bytes]"""
    summands = " + ".join(f"{name} {size(value)}" for name, value in parts.items() if name != "total")
    return f"about {size(parts['total'])}{remark and ', '}{remark}: {summands}"


def scheduled(checkpoints: list[dict[str, Any]]) -> str:
    """Say how many checkpoints a schedule has."""
    return f"{count(len(checkpoints))} scheduled checkpoint{'' if len(checkpoints) == 1 else 's'}"


def schedule_rows(checkpoints: list[dict[str, Any]]) -> list[list[str]]:
    """Return a line for every checkpoint, the middle of a long schedule left out."""
    rows = [
        [
            count(item["step"]),
            item["label"] or "",
            "" if item["epoch"] is None else str(item["epoch"]),
            *("" if item[unit] is None else scaled(item[unit]) for unit in ("tokens", "words")),
            ", ".join(item["reasons"]),
        ]
        for item in checkpoints
    ]
    if len(rows) <= LINES_SHOWN:
        return rows
    half = LINES_SHOWN // 2
    cut = [f"... {len(rows) - 2 * half} more", "", "", "", "", ""]
    return [*rows[:half], cut, *rows[-half:]]
