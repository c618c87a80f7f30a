"""Accuracies on minimal pairs with their intervals, one file for each evaluated checkpoint.

    run/evaluations/step-00000500/minimal_pairs.csv

    suite          item          n      ties  accuracy  low     high
    minimal_pairs  wh_island     1000   0     0.771     0.744   0.796
    minimal_pairs  field=syntax  26000  2     0.702     0.696   0.707
    minimal_pairs  overall       67000  9     0.684     0.680   0.688

It covers the files of the last evaluation of the checkpoint. Intervals are Wilson's at 95 %.
"""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from foundry_config.errors import StorageError
from foundry_data import fs
from foundry_model.minimal_pairs import wilson
from foundry_train.evaluation_cache import Result
from foundry_train.results_table import add_up

NAME = "minimal_pairs.csv"
COLUMNS = ("suite", "item", "n", "ties", "accuracy", "low", "high")


def write_accuracies(folder: Path, results: Iterable[Result]) -> Path | None:
    """Write the accuracies of some results of one checkpoint; nothing if there are no minimal pairs among them.

    Raises:
        StorageError: The disk refuses.
    """
    found = add_up(result for result in results if result.suite == "minimal_pairs")
    if not found:
        return None
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for suite, count in found:
        low, high = wilson(count.correct, count.n)
        writer.writerow([suite, count.item, count.n, count.ties, count.correct / count.n, low, high])
    path = folder / NAME
    try:
        fs.write_atomic(path, buffer.getvalue().encode())
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path
