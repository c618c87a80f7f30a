"""One long table of all results: a line for every number, ready for pandas, R or a spreadsheet.

    run      seed  condition     step  tokens    words    suite          item        value
    none-s1  1     study-none    500   4096000   3012998  minimal_pairs  wh_island   0.771
    none-s1  1     study-none    500   4096000   3012998  minimal_pairs  overall     0.684

`minimal_pairs` compares summed log-probabilities, `minimal_pairs_per_token` those per token; `field=` and `term=` items
and `overall` are over all pairs of the files that were asked for. The condition is the experiment's name; where runs of
one name differ in more than their seed, it says in what.
"""

import csv
import importlib.util
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from foundry_config import ExperimentConfig, diff_configs, replace_fields
from foundry_config.errors import ConfigError, StorageError
from foundry_data import fs
from foundry_train.evaluation_cache import Count, Result, read_results

if TYPE_CHECKING:  # reports read tables without waiting for torch
    from foundry_train.evaluate_runs import Evaluated
    from foundry_train.evaluation_targets import EvaluatedModel

GROUPS = ("file", "field", "term", "overall")


class TableRow(NamedTuple):
    """One number."""

    run: str
    seed: int | None
    condition: str
    step: int | None
    tokens: int | None
    words: int | None
    suite: str
    item: str
    value: float


COLUMNS = TableRow._fields


class ItemValue(NamedTuple):
    """One number of one checkpoint."""

    suite: str
    item: str
    value: float


def long_table(evaluated: Sequence["Evaluated"]) -> list[TableRow]:
    """Return all numbers of some results, in the order of the models; `overall` is over the results that are given."""
    groups: dict[Path, list[Evaluated]] = defaultdict(list)
    for entry in evaluated:
        groups[entry.model.path].append(entry)
    names = _run_names([entry.model for entry in evaluated])
    configs = {names[m.run or m.path]: m.config for m in (entry.model for entry in evaluated) if m.config is not None}
    conditions = condition_names(configs)
    rows: list[TableRow] = []
    for entries in groups.values():
        model, facts = entries[0].model, entries[0].result.checkpoint
        name = names[model.run or model.path]
        seed = model.config.random_seed if model.config else None
        head = (name, seed, conditions.get(name, name), facts.step, facts.tokens, facts.words)
        rows += [TableRow(*head, *value) for value in values_of([entry.result for entry in entries])]
    return rows


def values_of(results: Iterable[Result]) -> list[ItemValue]:
    """Return every number of the results of one checkpoint; minimal pairs are added up over their files."""
    pairs: list[Result] = []
    found: list[ItemValue] = []
    for result in results:
        if result.suite == "minimal_pairs":
            pairs.append(result)
        else:
            suite = f"{result.table_suite}/{result.name}"
            found += [ItemValue(suite, item, result.number(item)) for item in result.values]
    return found + [ItemValue(suite, count.item, count.correct / count.n) for suite, count in add_up(pairs)]


def add_up(results: Iterable[Result]) -> list[tuple[str, Count]]:
    """Return the counts over some files of minimal pairs, each with the suite that a table calls it by."""
    sums: dict[tuple[str, str, str, str], Count] = {}
    for result in results:
        for count in result.counts:
            suite = result.table_suite if count.measure == "sum" else f"{result.table_suite}_{count.measure}"
            known = sums.get((suite, count.group, count.name, count.measure))
            total = count if known is None else _sum(known, count)
            sums[suite, count.group, count.name, count.measure] = total
    ordered = sorted(sums.items(), key=lambda item: (item[0][0], GROUPS.index(item[0][1])))
    return [(key[0], count) for key, count in ordered]


def evaluated_values(run: Path) -> list[tuple[Result, ItemValue]]:
    """Return every number that `foundry evaluate` has kept in a run, each with a result of its checkpoint.

    `overall`, `field=` and `term=` are over the files of minimal pairs that every evaluated checkpoint of the run has:
    a curve whose points are over different pairs would say nothing.
    """
    groups: dict[tuple[str, int | None], list[Result]] = defaultdict(list)
    for result in read_results(run / "evaluations"):
        groups[result.checkpoint.weights, result.checkpoint.step].append(result)
    ordered = [members for _, members in sorted(groups.items(), key=lambda item: (item[0][1] or 0, item[0][0]))]
    everywhere = _files_of_all(ordered)
    found: list[tuple[Result, ItemValue]] = []
    for members in ordered:
        shared = [result for result in members if _pair_file(result) in everywhere]
        single = [_with_files_only(result) for result in members if _pair_file(result) not in everywhere]
        found += [(members[0], value) for value in values_of([*single, *shared])]
    return found


def _pair_file(result: Result) -> tuple[str, str, str]:
    """What tells one file of minimal pairs from another: its suite, name and content."""
    return result.table_suite, result.name, str(result.settings.get("input"))


def _files_of_all(checkpoints: Sequence[Sequence[Result]]) -> set[tuple[str, str, str]]:
    """Return the files of minimal pairs that all checkpoints with pairs of that suite were evaluated on."""
    files = [{_pair_file(r) for r in members if r.suite == "minimal_pairs"} for members in checkpoints]
    suites = {suite for found in files for suite, _, _ in found}
    return {
        file
        for suite in suites
        for file in set.intersection(*(found for found in files if any(entry[0] == suite for entry in found)))
        if file[0] == suite
    }


def _with_files_only(result: Result) -> Result:
    return msgspec.structs.replace(result, counts=[count for count in result.counts if count.group == "file"])


def condition_names(configs: Mapping[str, ExperimentConfig]) -> dict[str, str]:
    """Name the condition of every run: runs of one condition differ in nothing of meaning but `random_seed`."""
    kinds: dict[str, list[tuple[ExperimentConfig, list[str]]]] = defaultdict(list)
    for run, config in configs.items():
        plain = replace_fields(config, {"random_seed": 0})
        same = next(
            (members for known, members in kinds[config.experiment_name] if not _differences(known, plain)), None
        )
        if same is None:
            kinds[config.experiment_name].append((plain, [run]))
        else:
            same.append(run)
    names: dict[str, str] = {}
    for name, found in kinds.items():
        for config, runs in found:
            difference = ", ".join(_differences(found[0][0], config))
            names |= dict.fromkeys(runs, f"{name} ({difference})" if difference else name)
    return names


def check_table_name(path: Path) -> None:
    """Refuse a name that says no kind of table, before anything is computed.

    Raises:
        ConfigError: Another suffix, or parquet without pyarrow.
    """
    if path.suffix not in WRITERS:
        raise ConfigError(f"{path}: a table is written as {' or '.join(WRITERS)}")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("a parquet table needs pyarrow: install foundry-data[parquet]")


def write_table(rows: Sequence[TableRow], path: Path) -> Path:
    """Write the table as CSV or parquet, by the suffix of `path`.

    Raises:
        ConfigError: Another suffix, or parquet without pyarrow.
        StorageError: The disk refuses.
    """
    check_table_name(path)
    data = WRITERS[path.suffix](rows)
    try:
        fs.make_directories(path.parent)
        fs.write_atomic(path, data)
    except OSError as error:
        raise StorageError(f"{path}: the table cannot be written ({error.strerror or error})") from error
    return path


def _run_names(models: "Iterable[EvaluatedModel]") -> dict[Path, str]:
    """Name of every run (or foreign folder) by its path; those with one name are told apart by the folder around."""
    names = {model.run or model.path: model.name for model in models}
    common = Counter(names.values())
    return {path: name if common[name] == 1 else str(path) for path, name in names.items()}


def _sum(left: Count, right: Count) -> Count:
    n, correct, ties = left.n + right.n, left.correct + right.correct, left.ties + right.ties
    return msgspec.structs.replace(left, n=n, correct=correct, ties=ties)


def _differences(left: ExperimentConfig, right: ExperimentConfig) -> list[str]:
    changes = [change for change in diff_configs(left, right) if change.field_class == "identity"]
    return [f"{change.path}={_plain(change.new)}" for change in changes]


def _plain(value: Any) -> str:
    """A value as a config would write it: text as it is, all else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _csv_bytes(rows: Sequence[TableRow]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return buffer.getvalue().encode()


def _parquet_bytes(rows: Sequence[TableRow]) -> bytes:
    import pyarrow  # optional extra: a large library that CSV does without
    import pyarrow.parquet

    kinds = {"run": "string", "condition": "string", "suite": "string", "item": "string", "value": "float64"}
    schema = pyarrow.schema([(name, kinds.get(name, "int64")) for name in COLUMNS])
    table = pyarrow.Table.from_pylist([row._asdict() for row in rows], schema=schema)
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue().to_pybytes()


WRITERS = {".csv": _csv_bytes, ".parquet": _parquet_bytes}
