"""`foundry evaluate`: minimal pairs, surprisal and corpus loss of checkpoints, computed once and kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from foundry_cli.console import say, say_json, say_table
from foundry_cli.figures import count, counted
from foundry_cli.options import JsonOption

if TYPE_CHECKING:
    from foundry_train.evaluate_runs import EvaluationReport
    from foundry_train.results_table import TableRow

COLUMNS = ("run", "step", "words", "suite", "item", "value")
LEFT = ("run", "suite", "item")
LINES_SHOWN = 60
CHOICES = ("method", "text_documents", "unknown")  # fields of `Suites` with a few values each

RunsArgument = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="Runs, checkpoint folders, Hugging Face folders, config files.")
]
CheckpointsOption = Annotated[
    str,
    typer.Option("--checkpoints", "-c", metavar="WHICH", help="latest, best, all, steps, labels: 500,chck_10M,best."),
]
PairsOption = Annotated[
    list[str], typer.Option("--minimal-pairs", metavar="PATH", help="File or folder of minimal pairs. Repeatable.")
]
MethodOption = Annotated[
    str, typer.Option("--method", metavar="sentence|one_prefix|two_prefix", help="What of a pair is scored.")
]
SurprisalOption = Annotated[
    str | None, typer.Option("--surprisal", metavar="FILE", help="Sentences, or a table with a word or region column.")
]
CorpusOption = Annotated[str | None, typer.Option("--corpus", metavar="PATH", help="Text to compute the loss of.")]
DocumentsOption = Annotated[
    str, typer.Option("--text-documents", metavar="file|line|paragraph", help="What a document of a .txt corpus is.")
]
FieldOption = Annotated[
    str, typer.Option("--text-field", metavar="NAME", help="Field or column that holds the text of a corpus.")
]
WindowOption = Annotated[int | None, typer.Option("--window", min=2, help="Most tokens that the model sees at once.")]
StrideOption = Annotated[int | None, typer.Option("--stride", min=1, help="How far the window moves in longer texts.")]
UnknownOption = Annotated[
    str, typer.Option("--unknown", metavar="refuse|score", help="What to do with words the tokenizer cannot spell.")
]
StartOption = Annotated[str, typer.Option("--start", metavar="auto|bos|eos", help="Token that every text starts from.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
TableOption = Annotated[
    Path | None, typer.Option("--table", metavar="FILE", help="Write one long table, .csv or .parquet.")
]
ResultsOption = Annotated[
    Path | None, typer.Option("--results", metavar="DIR", help="Folder of the results.", show_default="in each run")
]


def evaluate(
    runs: RunsArgument,
    checkpoints: CheckpointsOption = "latest",
    minimal_pairs: PairsOption = [],  # noqa: B006 (typer copies it)
    method: MethodOption = "sentence",
    surprisal: SurprisalOption = None,
    corpus: CorpusOption = None,
    text_documents: DocumentsOption = "file",
    text_field: FieldOption = "text",
    window: WindowOption = None,
    stride: StrideOption = None,
    unknown: UnknownOption = "refuse",
    start: StartOption = "auto",
    device: DeviceOption = "auto",
    table: TableOption = None,
    results: ResultsOption = None,
    json: JsonOption = False,
) -> None:
    """Measure checkpoints of RUNs; what was measured on the same weights before is not computed again."""
    from foundry_train.results_table import check_table_name, long_table, write_table

    if table is not None:
        check_table_name(table)
    choices = {
        "minimal_pairs": tuple(minimal_pairs),
        "method": method,
        "surprisal": surprisal,
        "corpus": corpus,
        "text_documents": text_documents,
        "text_field": text_field,
        "window": window,
        "stride": stride,
        "unknown": unknown,
    }
    report = evaluated(runs, choices, checkpoints=checkpoints, start=start, device=device, results=results)
    rows = long_table(report.evaluated)
    if table is not None and rows:
        write_table(rows, table)
    if json:
        say_json([row._asdict() for row in rows])
    elif rows:
        _show(report, rows, table)
    report.raise_failure()


def evaluated(
    runs: list[Path], choices: dict[str, Any], *, checkpoints: str, start: str, device: str, results: Path | None
) -> "EvaluationReport":
    """Evaluate the models that `runs` name, showing the progress on standard error."""
    import msgspec

    from foundry_cli.reporters import make_reporter
    from foundry_cli.targets import find_run
    from foundry_config import ConfigError, did_you_mean
    from foundry_model.scoring_tokenizer import Start
    from foundry_train.evaluate_runs import evaluate as evaluate_models
    from foundry_train.evaluation_suites import Suites

    types = get_type_hints(Suites)
    asked = [(f"--{name.replace('_', '-')}", choices[name], get_args(types[name])) for name in CHOICES]
    for option, value, known in [("--start", start, ("auto", *get_args(Start))), *asked]:
        if value not in known:
            raise ConfigError(f"{option} {value!r} is none of {', '.join(known)}.{did_you_mean(value, known)}")
    suites = msgspec.convert(choices, Suites)
    targets = [find_run(run) if run.is_file() else run for run in runs]
    reporter = make_reporter(every_steps=1)
    try:
        return evaluate_models(
            targets,
            suites,
            checkpoints=checkpoints,
            start=start,  # type: ignore[arg-type]
            device=device,
            results=results,
            progress=reporter.progress,
        )
    finally:
        reporter.close()


def _show(report: "EvaluationReport", rows: "list[TableRow]", table: Path | None) -> None:
    cells = [[row.run, _number(row.step), _number(row.words), row.suite, row.item, f"{row.value:.4f}"] for row in rows]
    say_table(COLUMNS, cells[:LINES_SHOWN], left=LEFT)
    if len(cells) > LINES_SHOWN:
        whole = f"{table} has them all" if table is not None else "--table results.csv or --json has them all"
        say(f"  ... and {count(len(cells) - LINES_SHOWN)} more; {whole}")
    kept = sum(not item.computed for item in report.evaluated)
    say(f"{counted(len(report.evaluated), 'result')}, {count(kept)} from before")
    for folder in sorted({str(item.folder.parent.parent) for item in report.evaluated}):
        say(f"  {folder}/*")
    if table is not None:
        say(f"table: {table}")


def _number(value: int | None) -> str:
    return "" if value is None else count(value)
