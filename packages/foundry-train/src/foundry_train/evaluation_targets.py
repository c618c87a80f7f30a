"""Which models an evaluation is about: checkpoints of runs, one checkpoint, or any Hugging Face folder.

find_models(Path("runs/a"), "all")            every checkpoint of the run
find_models(Path("runs/a"), "500,chck_10M")   the one of step 500 and the one labelled chck_10M
find_models(Path("runs/a"), "best")           the one with the lowest loss on the held-out split
find_models(Path("gpt2"), "latest")           a folder that transformers wrote
"""

import contextlib
import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from foundry_config import ExperimentConfig, config_from_dict, did_you_mean
from foundry_config.errors import CheckpointError, ConfigError, FoundryError
from foundry_data import fs
from foundry_model.scoring_tokenizer import Start, trained_start
from foundry_train.checkpoint_list import CheckpointInfo, file_problems, list_checkpoints
from foundry_train.evaluation_cache import FOLDER, CheckpointFacts
from foundry_train.latest_link import LATEST, is_latest_link
from foundry_train.manifest import MANIFEST_NAME, Manifest, ManifestError, read_manifest
from foundry_train.metrics_log import read_metrics
from foundry_train.run_record import why_not_begun

CHECKPOINTS = "checkpoints"
ALL, BEST = "all", "best"


class EvaluatedModel(NamedTuple):
    """One model folder and where it comes from."""

    path: Path
    name: str
    """Name of its run, or of its folder."""
    run: Path | None
    manifest: Manifest | None
    config: ExperimentConfig | None
    wish: str | None = None
    """The word that chose it among the checkpoints of its run: latest, best, all; None where it was named itself."""

    @property
    def results(self) -> Path:
        """Where results are kept: in the run; for a foreign folder, which is not ours, below the current one."""
        return (self.run or Path()) / FOLDER

    @property
    def source(self) -> Path:
        """Its run, or its own folder."""
        return self.run or self.path

    @property
    def start(self) -> Start | None:
        """What stood before each document in training; None where nothing is known."""
        if self.config is not None:
            return trained_start(self.config.data)
        return (self.manifest.document_start or None) if self.manifest is not None else None  # unset is false

    def facts(self) -> CheckpointFacts:
        """What tells the weights apart; of a foreign folder the digest of its files."""
        if self.manifest is None:
            return CheckpointFacts(weights=_files_digest(self.path))
        consumed = self.manifest.consumed
        return CheckpointFacts(
            weights=self.manifest.weights.digest,
            step=self.manifest.step,
            label=self.manifest.label,
            tokens=consumed.tokens,
            words=consumed.words,
        )

    def verify(self) -> None:
        """Hash every file that an evaluation depends on.

        Raises:
            CheckpointError: A file is not what the manifest says.
        """
        if self.manifest is None:
            return
        names = [name for name in self.manifest.files if not name.startswith("trainer/")]
        problems = file_problems(self.path, self.manifest, names=names)
        if problems:
            raise CheckpointError(f"{self.path}: cannot be used, since {problems[0]}")

    def chosen_again(self) -> "EvaluatedModel":
        """Return what its wish names now.

        Raises:
            CheckpointError: There is no such model any more.
        """
        assert self.run is not None and self.wish is not None, "only a checkpoint of a run is chosen by a wish"
        models, problems = find_models(self.run, self.wish)
        if not models:
            raise problems[0]
        return models[-1]


def find_models(target: Path, which: str = LATEST) -> tuple[list[EvaluatedModel], list[FoundryError]]:
    """Return the models that `target` and `which` name, in order of step, and what is wrong with others.

    Args:
        target: A run, a checkpoint folder, or any Hugging Face model folder.
        which: `latest`, `best`, `all`, steps and labels, with commas between; a single model has no choice.

    Raises:
        CheckpointError: There is no such model, or none of the checkpoints can be used.
        ConfigError: `which` names something else.
    """
    if is_run(target):
        return _of_run(target, which)
    if not (target / "config.json").is_file():
        raise CheckpointError(f"{target} {_why_no_model(target)}")
    if which not in (LATEST, ALL):
        raise ConfigError(
            f"checkpoints {which!r}: {target} is a single model; name its run to choose among checkpoints"
        )
    return [_single(target)], []


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run."""
    return (folder / "run.json").is_file() or (folder / CHECKPOINTS).is_dir()


def _why_no_model(folder: Path) -> str:
    """What is wrong with a folder that has no config.json."""
    if reason := why_not_begun(folder):
        return reason
    with contextlib.suppress(ManifestError):
        if "config.json" in read_manifest(folder).files:
            return "cannot be used, since config.json is missing"
        return (
            "holds no config.json: a function of one's own built its model, not transformers, so nothing but that "
            "function can load it; its run measures it while it trains (section evaluation of the config)"
        )
    what = "holds no config.json, so it is neither a run nor a model" if folder.is_dir() else "does not exist"
    return f"{what}; give a run folder or a Hugging Face model folder"


def _single(folder: Path) -> EvaluatedModel:
    wish = LATEST if is_latest_link(folder) else None
    folder = folder.resolve() if wish else folder  # the link may point elsewhere before all is read
    real = folder.resolve()
    run = real.parent.parent if real.parent.name == CHECKPOINTS and is_run(real.parent.parent) else None
    if run is not None and folder.parent.name == CHECKPOINTS:
        run = folder.parent.parent
    try:
        manifest = read_manifest(folder) if (folder / MANIFEST_NAME).exists() or run else None
    except ManifestError as error:
        raise CheckpointError(f"{folder}: cannot be used, since {error}") from error
    name = (run or folder).resolve().name
    return EvaluatedModel(folder, name, run, manifest, _config_of(run), wish)


def _of_run(run: Path, which: str) -> tuple[list[EvaluatedModel], list[FoundryError]]:
    found = list_checkpoints(run / CHECKPOINTS)
    if not found:
        raise CheckpointError(f"{run} {why_not_begun(run) or 'holds no checkpoint yet; train first'}")
    config = _config_of(run)
    name = run.resolve().name
    models: list[EvaluatedModel] = []
    failures: list[FoundryError] = []
    for info, wish in _chosen(run, found, which):
        if info.problem is not None:
            failures.append(CheckpointError(f"{info.path}: cannot be used, since {info.problem}"))
        elif not (info.path / "config.json").is_file() and info.path.is_dir():  # one that is gone says so when read
            failures.append(CheckpointError(f"{info.path} {_why_no_model(info.path)}"))
        else:
            models.append(EvaluatedModel(info.path, name, run, info.manifest, config, wish))
    return models, failures


def _chosen(run: Path, found: list[CheckpointInfo], which: str) -> list[tuple[CheckpointInfo, str | None]]:
    """Return the checkpoints in order of step, each with the word that chose it, or None where it was named."""
    sound = [info for info in found if info.problem is None]
    wanted: list[tuple[CheckpointInfo, str | None]] = []
    for part in filter(None, map(str.strip, which.split(","))):
        if part == ALL:
            wanted += [(info, ALL) for info in found]
        elif part == LATEST:
            wanted.append(((sound or found)[-1], LATEST))
        elif part == BEST:
            wanted.append((_best(run, sound), BEST))
        else:
            wanted.append((_named(run, found, part), None))
    if not wanted:
        raise ConfigError(
            f"checkpoints {which!r}: write latest, best, all, or steps and labels, with commas between: 500,chck_10M"
        )
    wanted.sort(key=lambda choice: (choice[0].step, (ALL, BEST, LATEST, None).index(choice[1])))
    return list({info.step: (info, wish) for info, wish in wanted}.values())


def _named(run: Path, found: list[CheckpointInfo], name: str) -> CheckpointInfo:
    for info in found:
        if info.label == name or (name.isdecimal() and info.step == int(name)):
            return info
    known = [str(info.step) for info in found] + [info.label for info in found if info.label]
    raise CheckpointError(
        f"{run} has no checkpoint {name!r}.{did_you_mean(name, known)} It has {', '.join(known[-12:])}"
    )


def _best(run: Path, sound: list[CheckpointInfo]) -> CheckpointInfo:
    losses = {
        record["step"]: record["loss"]
        for record in read_metrics(run / "metrics.jsonl")
        if record.get("kind") == "evaluation"
        and record.get("suite") == "test"
        and isinstance(record.get("loss"), float)
    }
    measured = [info for info in sound if info.step in losses]
    if not measured:
        raise CheckpointError(
            f"{run}: no checkpoint has a held-out loss to be the best by; train with evaluation.at_checkpoints: true, "
            "or choose by step"
        )
    return min(measured, key=lambda info: losses[info.step])


def _config_of(run: Path | None) -> ExperimentConfig | None:
    if run is None or not (run / "config.json").is_file():
        return None
    try:
        return config_from_dict(msgspec.json.decode((run / "config.json").read_bytes()))
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{run / 'config.json'}: not valid JSON ({error})") from error


def _files_digest(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors"))
    listing = "".join(f"{fs.sha256_file(file)} {file.name}\n" for file in files)
    return "sha256:" + hashlib.sha256(listing.encode()).hexdigest()
