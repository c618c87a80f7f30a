"""Training data that was tokenized elsewhere: a dataset saved by `datasets` with a column `input_ids`.

dataset/train/   input_ids [5, 9, 3] [7, 3] ...   ->   prepared/train-<fingerprint>/   a token store like any other
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from foundry_config.errors import ConfigError, DataError
from foundry_config.lookup import did_you_mean
from foundry_data.digests import DigestCache
from foundry_data.fingerprint import fingerprint
from foundry_data.readers import list_sources
from foundry_data.splits import VERSION

Tokens = npt.NDArray[np.integer[Any]]
COLUMN = "input_ids"
ROWS_AT_ONCE = 1000
SAVED = "dataset_info.json"
SAVED_SPLITS = "dataset_dict.json"
TEST_NAMES = ("test", "validation")


class TokenizedSplits(NamedTuple):
    """Folders of the splits of a saved dataset."""

    train: Path
    test: Path | None


def find_tokenized(folder: Path) -> TokenizedSplits | None:
    """Return the splits in `folder` if `datasets` saved it, None otherwise.

    Raises:
        DataError: It has splits, but none called train.
    """
    if (folder / SAVED_SPLITS).is_file():
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
        if "train" not in names:
            raise DataError(f"{folder} has no split 'train'; it has {', '.join(names) or 'none'}")
        return TokenizedSplits(folder / "train", next((folder / name for name in TEST_NAMES if name in names), None))
    return TokenizedSplits(folder, None) if (folder / SAVED).is_file() else None


def refuse_steps(splits: TokenizedSplits, steps: Sequence[object]) -> None:
    """Refuse steps of `dataset_manipulation`, which change text: there is none.

    Raises:
        ConfigError: There are steps.
    """
    if steps:
        raise ConfigError(
            f"dataset_manipulation changes text, but data.training_corpus {str(splits.train)!r} is already tokenized; "
            "leave data.training_corpus out, or do the steps before you tokenize"
        )


def tokenized_fingerprint(folder: Path, cache: DigestCache) -> str:
    """Return the fingerprint of the content of one saved split."""
    return fingerprint([VERSION, "tokenized", cache.fingerprint(list_sources(folder))])


def open_tokenized(folder: Path) -> Any:
    """Open one saved split.

    Raises:
        DataError: `datasets` is not installed, or cannot open it.
    """
    try:
        import datasets  # pyright: ignore[reportMissingTypeStubs] (the extra `hf`; two seconds to import)
    except ImportError as error:
        raise DataError(
            f"{folder} was saved by `datasets`; install it with: uv pip install 'foundry-data[hf]'"
        ) from error
    try:
        return cast("Any", datasets).load_from_disk(str(folder))
    except Exception as error:  # the library raises what its readers raise
        raise DataError(f"{folder} cannot be opened by `datasets`: {error}") from error


def token_sequences(dataset: Any) -> Iterator[Tokens]:
    """Yield the `input_ids` of a tokenized dataset: a `datasets.Dataset`, or any sequence of mappings.

    Raises:
        DataError: There is no such column or no row, or a row is not a list of integers.
    """
    check_columns(dataset)
    rows = _arrow_rows(dataset) if hasattr(dataset, "with_format") else (row[COLUMN] for row in dataset)
    for number, ids in enumerate(rows):
        array = np.asarray(ids)
        if array.ndim != 1 or (len(array) and not np.issubdtype(array.dtype, np.integer)):
            raise DataError(f"row {number} of the tokenized dataset: {COLUMN} is not a list of integers")
        yield array.astype(np.int64)


def check_columns(dataset: Any) -> None:
    """Refuse what is no tokenized dataset.

    Raises:
        DataError: It has no row, or no column `input_ids`; says which columns there are.
    """
    if not len(dataset):
        raise DataError("the tokenized dataset is empty")
    names = getattr(dataset, "column_names", None)
    columns = list(cast("list[str]", names)) if names is not None else [str(name) for name in dataset[0]]
    if COLUMN not in columns:
        raise DataError(
            f"the tokenized dataset has no column {COLUMN!r}.{did_you_mean(COLUMN, columns)} "
            f"It has: {', '.join(columns) or 'none'}"
        )


def _arrow_rows(dataset: Any) -> Iterator[Any]:
    """Yield the rows out of Arrow's own buffers: hundreds of times faster than one Python list for each."""
    for table in dataset.with_format("arrow").iter(ROWS_AT_ONCE):
        column = table.column(COLUMN).combine_chunks()
        if not hasattr(column, "value_lengths"):
            raise DataError(
                f"the column {COLUMN!r} of the tokenized dataset holds {column.type}, not lists of integers"
            )
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        values = column.flatten().to_numpy(zero_copy_only=False)
        yield from np.split(values, np.cumsum(lengths)[:-1])


def check_tokenized(dataset: Any, vocab_size: int) -> dict[str, Any]:
    """Check every row of a tokenized dataset; returns counts.

    Raises:
        DataError: As `token_sequences`, or an id is not in the vocabulary; names the row.
    """
    lengths: list[int] = []
    for row, ids in enumerate(token_sequences(dataset)):
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
            raise DataError(
                f"row {row} of the tokenized dataset holds ids from {ids.min()} to {ids.max()}, "
                f"but tokenizer.vocab_size is {vocab_size}"
            )
        lengths.append(len(ids))
    return {
        "sequences": len(lengths),
        "tokens": sum(lengths),
        "shortest": min(lengths),
        "longest": max(lengths),
        "mean_length": sum(lengths) / len(lengths),
    }
