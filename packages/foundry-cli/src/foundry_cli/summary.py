"""What `foundry train` says at its end: how it went, where everything lies, and what to type next."""

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry_cli.console import say, say_facts
from foundry_cli.figures import count, duration, one_line, size

if TYPE_CHECKING:
    from foundry_train import TrainingSummary

SAMPLE_CHARACTERS = 300


def say_summary(summary: "TrainingSummary", again: str) -> None:
    """Write the summary of a run to standard output; `again` is the command that goes on, without the program."""
    say_outcome(summary)
    _say_next(next_commands(summary, again))


def say_outcome(summary: "TrainingSummary") -> None:
    """Write how a run went, without what to do next: it may be one of many."""
    say()
    say_facts(headline(summary), facts(summary))


def say_matrix(states: Sequence[str], config: Path, folder: Path, *, again: str, failed: Sequence[str]) -> None:
    """Write how many runs of a matrix are done, and what to do next.

    Args:
        states: How far each run is, by `cell_state`.
        config: The config, as it was named.
        folder: Where the runs lie.
        again: The command that trains what is missing, without the program.
        failed: Names of the runs that failed now.
    """
    done = states.count("done")
    say()
    say(f"{config}: {count(done)} of {count(len(states))} runs of the matrix are done")
    if failed:
        say(f"{count(len(failed))} failed, for the reasons above: {', '.join(failed)}")
    foundry, runs = program(), f"{shlex.quote(shown_path(folder))}/*"
    going_on = [(f"{foundry} {again}", "train what is missing")]
    _say_next(
        [
            *(going_on if done < len(states) else []),
            (
                f"{foundry} evaluate {runs} --checkpoints all --minimal-pairs PATH --table results.csv",
                "measure them all",
            ),
            (f"{foundry} report {runs} --out report.html", "see the conditions, with a band between their seeds"),
        ]
    )


def _say_next(commands: Iterable[tuple[str, str]]) -> None:
    say()
    say("Next:")
    for command, meaning in commands:
        say(f"  {command}\n      {meaning}")


def summary_json(summary: "TrainingSummary") -> dict[str, Any]:
    """Return the summary as plain data; paths are absolute."""
    import msgspec

    return msgspec.to_builtins(summary, enc_hook=str)


def headline(summary: "TrainingSummary") -> str:
    """Say in one sentence whether the run is complete."""
    done = f"{summary.experiment_name}: {count(summary.steps)} of {count(summary.total_steps)} steps"
    if summary.already_done:
        return f"{done}; this run is done, nothing was left to do"
    if summary.stopped_by:
        return f"{done}; stopped by {summary.stopped_by} and saved, run the same command again to go on"
    resumed = f", resumed at step {count(summary.resumed_from)}" if summary.resumed_from is not None else ""
    return f"{done} in {duration(summary.seconds)}{resumed}"


def facts(summary: "TrainingSummary") -> list[tuple[str, str]]:
    """Return the lines of the summary as (name, value)."""
    kind = "  (a finished Hugging Face folder)" if _opens_in_transformers(summary) else ""
    rows = [
        ("held-out loss", _held_out(summary)),
        ("training loss", _from_to(summary.first_loss, summary.final_loss)),
        ("seen", f"{count(summary.tokens)} tokens, {count(summary.words)} words" if summary.tokens else ""),
        ("speed", _speed(summary)),
        ("memory", f"{size(summary.peak_memory_bytes)} at the peak" if summary.peak_memory_bytes else ""),
        ("left out", _skips(summary)),
        ("sample", one_line(summary.sample, limit=SAMPLE_CHARACTERS) if summary.sample else ""),
        ("run", shown_path(summary.run_dir)),
        ("model", f"{shown_path(summary.checkpoint)}{kind}" if summary.checkpoint else ""),
        ("metrics", shown_path(summary.run_dir / "metrics.jsonl")),
    ]
    return [(name, value) for name, value in rows if value]


def next_commands(summary: "TrainingSummary", again: str) -> list[tuple[str, str]]:
    """Return up to three commands worth typing now, each with what it does."""
    foundry, run = program(), shlex.quote(shown_path(summary.run_dir))
    first = [(f"{foundry} {again}", "go on with the training")] if summary.stopped_by else []
    writes = [(f"{foundry} generate {run} --prompt 'Return the'", "let the model write")]
    return [
        *first,
        *(writes if _opens_in_transformers(summary) else []),
        (f"{foundry} report {run}", "see the curves, in one HTML file"),
        (f"{foundry} checkpoints {run}", "list what was saved: steps, words, loss, size"),
    ][:3]


def _opens_in_transformers(summary: "TrainingSummary") -> bool:
    """Whether the model is of a family of theirs; a module that a user's function built leaves no config.json."""
    folder = summary.checkpoint
    return folder is None or not folder.is_dir() or (folder / "config.json").is_file()


def program() -> str:
    """Return how this program is called: `uv run foundry` inside `uv run`, else `foundry`."""
    return "uv run foundry" if "UV_RUN_RECURSION_DEPTH" in os.environ else "foundry"


def shown_path(path: Path) -> str:
    """Return a path as short as it can be typed: relative where it lies below the working directory."""
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)


def _from_to(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "" if after is None else f"{after:.4f}"
    return f"{before:.4f} -> {after:.4f}"


def _held_out(summary: "TrainingSummary") -> str:
    """Return the loss on the held-out split, and of which step it is if not of the last one."""
    if summary.test_step == 0 and summary.steps:
        return f"{summary.test_loss_after:.4f} before training" if summary.test_loss_after is not None else ""
    place = f" at step {count(summary.test_step)}" if summary.test_step not in (None, summary.steps) else ""
    return f"{_from_to(summary.test_loss_before, summary.test_loss_after)}{place}{_qualities(summary)}"


def _speed(summary: "TrainingSummary") -> str:
    """Return the average of this process; a run that was complete already went no further and has none."""
    if summary.already_done or not summary.tokens_per_second:
        return ""
    return f"{count(summary.tokens_per_second)} tokens per second"


def _qualities(summary: "TrainingSummary") -> str:
    parts = [
        f"{value:.{digits}f} {name}"
        for value, digits, name in (
            (summary.test_perplexity, 1, "perplexity"),
            (summary.bits_per_byte, 3, "bits per byte"),
            (summary.bits_per_word, 2, "bits per word"),
        )
        if value is not None
    ]
    return f"  ({', '.join(parts)})" if parts else ""


def _skips(summary: "TrainingSummary") -> str:
    return f"{count(summary.nonfinite_skips)} updates (not finite)" if summary.nonfinite_skips else ""
