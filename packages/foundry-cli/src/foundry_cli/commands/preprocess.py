"""`foundry preprocess`: text to tokenizer and token store, without training anything."""

import re
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry_cli.console import note, say, say_facts, say_json, say_table
from foundry_cli.figures import count, duration, size
from foundry_cli.options import DEFAULT_CONFIG, BaseDirOption, ConfigArgument, JsonOption, MatrixIndexOption, SetOption

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
MatrixOption = Annotated[
    bool, typer.Option("--matrix", help="Prepare the data of every run in `matrix:`; what runs share is made once.")
]
MergeOption = Annotated[bool, typer.Option("--merge", help="Join the parts that --shard made, and make the rest.")]


def preprocess(
    config: ConfigArgument = DEFAULT_CONFIG,
    set_: SetOption = [],  # noqa: B006 (typer copies it)
    force: ForceOption = False,
    shard: ShardOption = None,
    merge: MergeOption = False,
    matrix: MatrixOption = False,
    index: MatrixIndexOption = None,
    base_dir: BaseDirOption = None,
    json: JsonOption = False,
) -> None:
    """Read the corpus, train the tokenizer, and write the token stores, as `foundry train` would.

    Each stage is skipped when it was already made from the same inputs and settings; an interrupted one goes on.
    """
    note(f"foundry preprocess {config}")
    from foundry_cli.experiments import check_experiment, load_experiment, note_matrix, pick_run
    from foundry_config import ConfigError

    if merge and (shard or force):
        raise ConfigError("--merge joins what --shard made: give it alone")
    if matrix and (merge or shard or force or index is not None):
        raise ConfigError("--matrix prepares every run as it stands; --shard, --merge and --force take one, by --index")
    part = _parse_shard(shard)
    experiment = load_experiment(config, overrides=set_, base_dir=base_dir)
    check_experiment(experiment)
    if matrix:
        _prepare_matrix(experiment, as_json=json)
        return
    if index is None:
        note_matrix(experiment, "preparing")
    else:
        experiment = pick_run(experiment, index)
    started = time.monotonic()
    processor, prepared = prepare(experiment, force=force, part=part, merge=merge)
    if part is not None:
        say(f"part {part.number} of {part.of}: {count(len(prepared.train))} tokens in {prepared.train.folder}")
        same_run = "" if index is None else f"--index {index} "
        say(f"when all parts are made: `foundry preprocess {same_run}--merge` joins them")
        return
    statistics = _statistics(processor, prepared, time.monotonic() - started)
    if json:
        say_json(statistics)
    else:
        _show(experiment.config.experiment_name, statistics, experiment.config.data.max_sequence_length)


def _prepare_matrix(experiment: "Experiment", *, as_json: bool) -> None:
    """Prepare the data of every run of a matrix, and show each; as JSON it is one list."""
    from foundry_cli.experiments import matrix_runs, require_matrix

    require_matrix(experiment)
    rows: list[dict[str, Any]] = []
    runs = matrix_runs(experiment)
    for number, run in enumerate(runs, 1):
        note(f"{run.name} ({number} of {len(runs)})")
        started = time.monotonic()
        processor, prepared = prepare(experiment._replace(config=run.config))
        statistics = _statistics(processor, prepared, time.monotonic() - started)
        rows.append({"index": run.index, "name": run.name, **statistics})
        if not as_json:
            _show(run.name, statistics, run.config.data.max_sequence_length)
            say()
    if as_json:
        say_json(rows)


def _statistics(processor: "DataProcessor", prepared: "PreparedData", seconds: float) -> dict[str, Any]:
    statistics = processor.statistics(prepared)
    statistics["tokenizer"] = {"folder": str(prepared.tokenizer_dir), "vocab_size": prepared.tokenizer.vocab_size}
    statistics["receipts"] = [str(path) for path in prepared.receipts]
    statistics["seconds"] = round(seconds, 3)
    return statistics


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


def _show(name: str, statistics: dict[str, Any], sequence_length: int) -> None:
    splits = {split: statistics[split] for split in ("train", "test") if statistics[split] is not None}
    say(name)
    say_table(["", *splits], _split_rows(list(splits.values()), sequence_length), left=[""])
    say()
    tokenizer = statistics["tokenizer"]
    facts = [*_source_facts(statistics["source"])]
    facts += [] if "test" in splits else [("test", "nothing is held out")]
    facts += _overlap_facts(statistics["overlap"])
    facts.append(("tokenizer", f"{count(tokenizer['vocab_size'])} entries in {tokenizer['folder']}"))
    facts += [(split, counts["folder"]) for split, counts in splits.items()]
    facts += [("receipts", "\n".join(statistics["receipts"]))] if statistics["receipts"] else []
    facts.append(("time", duration(statistics["seconds"])))
    say_facts("", facts)


def _split_rows(splits: list[dict[str, Any]], sequence_length: int) -> list[list[str]]:
    """Return the rows of the table; what is rare (padding, unknown tokens) only where there is some."""
    rows = [
        ["documents", *(count(split["documents"]) for split in splits)],
        ["words", *(count(split["words"]) for split in splits)],
        ["text", *(size(split["bytes"]) for split in splits)],
        ["tokens", *(count(split["tokens"]) for split in splits)],
        ["bytes per token", *(f"{split['bytes_per_token'] or 0:.2f}" for split in splits)],
        ["unknown tokens", *(count(split["unknown_tokens"]) for split in splits)],
        [f"chunks of {sequence_length}", *(count(split.get("sequences", 0)) for split in splits)],
        ["remainder [tokens]", *(count(split.get("dropped_tokens", split["tokens"])) for split in splits)],
        ["padding [tokens]", *(count(split.get("padding", 0)) for split in splits)],
    ]
    return [row for row in rows if row[0] not in _RARE or any(cell != "0" for cell in row[1:])]


def _source_facts(source: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return what was found in the corpus, and all that was left out or is odd."""
    if source is None:  # tokenized elsewhere
        return []
    duplicates = source["duplicate_files"]
    shown = ", ".join(duplicates[:SHOWN_NAMES]) + (", ..." if len(duplicates) > SHOWN_NAMES else "")
    facts = [
        (
            "corpus",
            f"{_say(source['files'], 'file')}, {_say(source['documents'], 'document')}, {size(source['bytes'])}",
        ),
        ("duplicates", f"{_say(len(duplicates), 'file')} with the bytes of another: {shown}" if duplicates else "none"),
        ("empty", f"{_say(source['empty_documents'], 'document')} without text, left out"),
        ("not UTF-8", f"{_say(source['invalid_documents'], 'document')}, left out or with the bad bytes replaced"),
        ("control", f"{_say(source['control_characters'], 'control character')}, kept"),
        ("ignored", ", ".join(f"{suffix} {count(n)}" for suffix, n in source["ignored_files"].items())),
    ]
    return [(name, text) for name, text in facts if text and not text.startswith("0 ")]


def _overlap_facts(overlap: dict[str, int] | None) -> list[tuple[str, str]]:
    if overlap is None or not overlap["shared_documents"]:
        return []
    shared, documents = count(overlap["shared_documents"]), _say(overlap["documents"], "document")
    return [("shared", f"{shared} of the {documents} of data.test_corpus are in the training corpus, word for word")]


def _say(number: int, noun: str) -> str:
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


_RARE = {"unknown tokens", "padding [tokens]"}
SHOWN_NAMES = 3
