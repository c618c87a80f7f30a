"""Evaluate checkpoints of any number of runs, computing only what is not there yet.

    found = evaluate([Path("runs/a"), Path("runs/b")], Suites(minimal_pairs=("blimp/",)), checkpoints="all")
    write_table(long_table(found.evaluated), Path("results.csv"))

For each checkpoint: what is missing? -> verify its files -> load it once, in fp32 -> one unit after the other, each
published when it is finished. A checkpoint that cannot be used is reported and the others go on.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from foundry_config.errors import CheckpointError, DataError, FoundryError, NonFiniteError
from foundry_config.spoken_numbers import speakable
from foundry_data import fs, load_tokenizer
from foundry_data.tokenizer import Tokenizer
from foundry_model import load_pretrained
from foundry_model.scoring_model import ScoringModel, open_for_scoring
from foundry_model.scoring_tokenizer import check_vocabulary, start_token
from foundry_train.accuracy_summary import write_accuracies
from foundry_train.devices import get_device
from foundry_train.evaluation_cache import (
    CheckpointFacts,
    Result,
    key_of,
    read_result,
    remember_newest,
    result_folder,
    write_result,
)
from foundry_train.evaluation_suites import Suites, Unit, units_of
from foundry_train.evaluation_targets import ALL, EvaluatedModel, find_models
from foundry_train.vanishing import RemovedCheckpointError, read_chosen, reading

logger = logging.getLogger(__name__)

StartChoice = Literal["auto", "bos", "eos"]
Progress = Callable[[str, int, int], None]
Tell = Callable[[EvaluatedModel, int], None]


class Evaluated(NamedTuple):
    """One result and the model it belongs to."""

    model: EvaluatedModel
    result: Result
    folder: Path
    computed: bool
    """False if it was there already."""


class EvaluationReport(NamedTuple):
    """All that was asked for, as far as it could be had."""

    evaluated: list[Evaluated]
    failures: list[FoundryError]

    def raise_failure(self) -> None:
        """Raise what failed, if anything did, as one error of the first one's kind that names all of them."""
        if len(self.failures) == 1:
            raise self.failures[0]
        if self.failures:
            raise type(self.failures[0])("\n  ".join([f"{len(self.failures)} failures:", *map(str, self.failures)]))


def evaluate(
    targets: Sequence[Path],
    suites: Suites,
    *,
    checkpoints: str = "latest",
    start: StartChoice = "auto",
    device: str = "auto",
    results: Path | None = None,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Evaluate models, keeping every finished result.

    Args:
        targets: Runs, checkpoints, Hugging Face folders.
        suites: What to measure.
        checkpoints: Which of a run: `latest`, `best`, `all`, or steps and labels with commas between.
        start: Token that texts start from. `auto`: BOS, or EOS for a run whose documents were only ended by EOS.
        device: Where to compute.
        results: Folder of the results. Default: `evaluations` in each run.
        progress: Told what is done: name of the checkpoint, finished units, all units.

    Returns:
        Results in the order of targets, steps and units, and what could not be evaluated: targets that are no model,
        damaged checkpoints, and texts that a model's tokenizer or context cannot take (which ends its target).

    Raises:
        DataError: An input that cannot be read.
        ConfigError: Nothing to do, or a choice that does not exist.
        StorageError: A result cannot be written.
    """
    units = units_of(suites)
    place = get_device(device, asked="device")
    models, failures = _find_all(targets, checkpoints)
    evaluated: list[Evaluated] = []
    unfit: set[Path] = set()
    for number, model in enumerate(models):
        if model.source in unfit:  # its other checkpoints would fail by the same text
            continue
        tell = _teller(progress, number * len(units), len(models) * len(units))
        evaluate_one = functools.partial(
            _evaluate_model, units=units, start=start, device=place, results=results, tell=tell
        )
        try:
            evaluated += _evaluate_there(model, evaluate_one)
        except (CheckpointError, NonFiniteError, DataError) as error:
            failures.append(error)
            logger.info("%s", error)
            if isinstance(error, DataError):
                unfit.add(model.source)
    return EvaluationReport(evaluated, failures)


def _find_all(targets: Sequence[Path], checkpoints: str) -> tuple[list[EvaluatedModel], list[FoundryError]]:
    models: list[EvaluatedModel] = []
    failures: list[FoundryError] = []
    for target in targets:
        try:
            chosen, problems = find_models(target, checkpoints)
        except CheckpointError as error:
            chosen, problems = [], [error]
        models += chosen
        failures += problems
    return models, failures


def _teller(progress: Progress | None, before: int, total: int) -> Tell:
    return lambda model, done: (
        progress(f"{model.name} {model.path.resolve().name}", before + done, total) if progress else None
    )


def _evaluate_there(
    model: EvaluatedModel, evaluate_one: Callable[[EvaluatedModel], list[Evaluated]]
) -> list[Evaluated]:
    """Evaluate a model and write its results down; if its run removes it meanwhile, the one that we choose now instead.

    Of `all` checkpoints, one that was removed is left out with a warning.
    """

    def evaluate_chosen(chosen: EvaluatedModel) -> list[Evaluated]:
        with reading(chosen.path):
            return evaluate_one(chosen)

    try:
        again = None if model.wish in (None, ALL) else model.chosen_again
        found = read_chosen(model, evaluate_chosen, again=again)
    except RemovedCheckpointError as error:
        if model.wish != ALL:
            raise
        logger.warning("left out: %s", error)
        return []
    write_accuracies(found[0].folder.parent, [entry.result for entry in found])
    remember_newest([entry.folder for entry in found], [entry.result for entry in found])
    return found


def _evaluate_model(
    model: EvaluatedModel,
    *,
    units: Sequence[Unit],
    start: StartChoice,
    device: torch.device,
    results: Path | None,
    tell: Tell,
) -> list[Evaluated]:
    tokenizer = load_tokenizer(model.path)
    start_id = start_token(tokenizer, model.start if start == "auto" else start)
    facts = model.facts()
    keys = [_key(model, facts, tokenizer, start_id, unit) for unit in units]
    folders = [
        result_folder(*_place(model, facts, results), unit.suite, unit.name, key)
        for unit, key in zip(units, keys, strict=True)
    ]
    found = [read_result(folder, key=key) for folder, key in zip(folders, keys, strict=True)]
    ready = [
        Evaluated(model, result, folder, computed=False)
        for result, folder in zip(found, folders, strict=True)
        if result is not None
    ]
    tell(model, len(ready))
    if len(ready) == len(units):
        return ready
    model.verify()
    fresh: dict[int, Evaluated] = {}
    with open_for_scoring(load_pretrained(model.path, device=str(device))) as scorer:
        _check_tokenizer(model, tokenizer, scorer)
        for index, unit in enumerate(units):
            if found[index] is not None:
                continue
            result = _compute(unit, scorer, tokenizer, start_id, facts, keys[index], folders[index])
            fresh[index] = Evaluated(model, result, folders[index], computed=True)
            tell(model, len(ready) + len(fresh))
    waiting = iter(ready)
    return [fresh[index] if index in fresh else next(waiting) for index in range(len(units))]


def _compute(
    unit: Unit,
    scorer: ScoringModel,
    tokenizer: Tokenizer,
    start_id: int,
    facts: CheckpointFacts,
    key: str,
    folder: Path,
) -> Result:
    values, details, counts, tables = unit.compute(scorer, tokenizer, start_id)
    result = Result(
        suite=unit.suite,
        name=unit.name,
        key=key,
        settings=unit.settings,
        checkpoint=facts,
        values=speakable(values),
        details=details | {"start_token": tokenizer.token_text(start_id)},
        counts=list(counts),
        tables=list(tables),
    )
    return write_result(folder, result, tables)


def _key(model: EvaluatedModel, facts: CheckpointFacts, tokenizer: Tokenizer, start_id: int, unit: Unit) -> str:
    return key_of(
        {
            "weights": facts.weights,
            "model": fs.sha256_file(model.path / "config.json"),
            "tokenizer": tokenizer.fingerprint,
            "start": start_id,
            "suite": unit.suite,
            "name": unit.name,
            "settings": unit.settings,
        }
    )


def _check_tokenizer(model: EvaluatedModel, tokenizer: Tokenizer, scorer: ScoringModel) -> None:
    """Our own checkpoints must match exactly; foreign models may have padded their vocabulary."""
    try:
        check_vocabulary(tokenizer, scorer.vocab_size, padded=model.manifest is None)
    except DataError as error:
        raise DataError(f"{model.path}: {error}") from error


def _place(model: EvaluatedModel, facts: CheckpointFacts, results: Path | None) -> tuple[Path, str]:
    """Folder of the evaluations, and a name in it for the model that no other model has."""
    if results is None and model.run is not None:
        return model.results, model.path.resolve().name
    if model.run is not None and model.manifest is not None:
        return (results or model.results) / f"{model.name}-{model.manifest.run_id[:8]}", model.path.resolve().name
    return results or model.results, f"{model.name}-{facts.weights.removeprefix('sha256:')[:8]}"
