"""`foundry preprocess`: text to tokenizer and token store, without training anything."""

import re
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry_cli.console import note, say, say_facts, say_json
from foundry_cli.figures import count, duration, size
from foundry_cli.options import DEFAULT_CONFIG, BaseDirOption, ConfigArgument, JsonOption, SetOption

if TYPE_CHECKING:
    from foundry_cli.experiments import Experiment
    from foundry_data import DataProcessor, Part, PreparedData

ForceOption = Annotated[
    bool, typer.Option("--force", help="Make tokenizer and token stores again, even from the same inputs.")
]
ShardOption = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Tokenize only part I of N (I from 1), for an array of machines."),
]
MergeOption = Annotated[bool, typer.Option("--merge", help="Join the parts that --shard made, and make the rest.")]


def preprocess(
    config: ConfigArgument = DEFAULT_CONFIG,
    set_: SetOption = [],  # noqa: B006 (typer copies it)
    force: ForceOption = False,
    shard: ShardOption = None,
    merge: MergeOption = False,
    base_dir: BaseDirOption = None,
    json: JsonOption = False,
) -> None:
    """Read the corpus, train the tokenizer, and write the token stores, as `foundry train` would.

    Each stage is skipped when it was already made from the same inputs and settings; an interrupted one goes on.
    """
    note(f"foundry preprocess {config}")
    from foundry_cli.experiments import load_experiment
    from foundry_config import ConfigError

    if merge and (shard or force):
        raise ConfigError("--merge joins what --shard made: give it alone")
    part = _parse_shard(shard)
    experiment = load_experiment(config, overrides=set_, base_dir=base_dir)
    started = time.monotonic()
    processor, prepared = prepare(experiment, force=force, part=part, merge=merge)
    if part is not None:
        say(f"part {part.number} of {part.of}: {count(len(prepared.train))} tokens in {prepared.train.folder}")
        say("when all parts are made: `foundry preprocess --merge` joins them")
        return
    statistics = processor.statistics(prepared)
    statistics["tokenizer"] = {"folder": str(prepared.tokenizer_dir), "vocab_size": prepared.tokenizer.vocab_size}
    statistics["receipts"] = [str(path) for path in prepared.receipts]
    statistics["seconds"] = round(time.monotonic() - started, 3)
    if json:
        say_json(statistics)
    else:
        _show(experiment.config.experiment_name, statistics)


def prepare(
    experiment: "Experiment", *, force: bool = False, part: "Part | None" = None, merge: bool = False
) -> "tuple[DataProcessor, PreparedData]":
    """Make what is missing of the experiment's data, showing the progress on standard error."""
    from foundry_cli.reporters import make_reporter
    from foundry_data import DataProcessor

    processor = DataProcessor(experiment.config, experiment.base_dir)
    reporter = make_reporter(every_steps=1)
    try:
        if merge:
            return processor, processor.merge(progress=reporter.progress)
        return processor, processor.preprocess(force=force, part=part, progress=reporter.progress)
    finally:
        reporter.close()


def _parse_shard(text: str | None) -> "Part | None":
    if text is None:
        return None
    from foundry_config import ConfigError
    from foundry_data import Part

    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard {text!r} is no part of a whole; the third of sixteen is --shard 3/16")
    return Part(int(match[1]), int(match[2]))


def _show(name: str, statistics: dict[str, Any]) -> None:
    tokenizer = statistics["tokenizer"]
    rows = [("tokenizer", f"{count(tokenizer['vocab_size'])} entries in {tokenizer['folder']}")]
    for split in ("train", "test"):
        rows += _split_rows(split, statistics[split])
    rows += [("receipts", "\n".join(statistics["receipts"]))] if statistics["receipts"] else []
    rows.append(("time", duration(statistics["seconds"])))
    say_facts(name, rows)


def _split_rows(split: str, counts: dict[str, Any] | None) -> list[tuple[str, str]]:
    if counts is None:
        return [(split, "nothing is held out")] if split == "test" else []
    text = f"{count(counts['documents'])} documents, {count(counts['words'])} words, {size(counts['bytes'])}"
    tokens = f"{count(counts['tokens'])} tokens"
    if counts["bytes_per_token"]:
        tokens += f", {counts['bytes_per_token']:.2f} bytes each"
    if counts["unknown_tokens"]:
        tokens += f", {count(counts['unknown_tokens'])} of them unknown"
    others = ", ".join(
        f"{count(value)} {key.replace('_', ' ')}"
        for key, value in counts.items()
        if key not in _TOLD and value is not None
    )
    return [(split, "\n".join(line for line in (text, tokens, others, counts["folder"]) if line))]


_TOLD = {"folder", "documents", "words", "bytes", "tokens", "unknown_tokens", "bytes_per_token"}
