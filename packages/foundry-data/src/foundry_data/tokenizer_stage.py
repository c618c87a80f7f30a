"""The stage `tokenizer-<fingerprint>/`: trained on the training documents, or taken over, in the form of transformers.

    tokenizer-91fe.../       tokenizer.model, tokenizer.json, tokenizer_config.json, special_tokens_map.json
                             foundry_stage.json: which inputs it was made from

The longest sequence and the BOS rule stand in those files too. An experiment that differs in nothing else gets a folder
of its own with the same model, which is copied and not trained again.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from foundry_config.errors import DataError
from foundry_data import fs
from foundry_data.fingerprint import fingerprint
from foundry_data.progress import Progress
from foundry_data.sentencepiece_tokenizer import SentencePieceTokenizer
from foundry_data.sentencepiece_training import TrainingSettings, train_tokenizer
from foundry_data.splits import VERSION, Split, stage_folder
from foundry_data.stages import building_lock, publish, start_building, storage_errors
from foundry_data.tokenizer import Tokenizer
from foundry_data.tokenizer_export import OWN_FILES, write_hf_tokenizer
from foundry_data.tokenizer_loading import load_tokenizer
from foundry_data.training_lines import TrainingReport

logger = logging.getLogger(__name__)

STAGE_FILE = "foundry_stage.json"


class TokenizerStage(NamedTuple):
    """How the tokenizer comes about."""

    settings: TrainingSettings
    folder: Path | None
    """Where it goes; by default a folder named by its fingerprint."""
    source: Path | None
    """One that exists, to use instead of training."""
    add_bos: bool
    model_max_length: int


class MadeTokenizer(NamedTuple):
    """A tokenizer and the folder that `AutoTokenizer` opens."""

    tokenizer: Tokenizer
    folder: Path


class _Stage(msgspec.Struct, frozen=True):
    """Content of `foundry_stage.json`."""

    fingerprint: str
    """Of all that decides the folder."""
    model: str
    """Of what decides the SentencePiece model alone."""


def make_tokenizer(
    split: Split, prepared: Path, stage: TokenizerStage, progress: Progress, *, force: bool = False
) -> MadeTokenizer:
    """Train the tokenizer on the training documents, or take the one that is there.

    Raises:
        DataError: There is no text, the vocabulary does not fit it, or the folder holds something else.
        StorageError: The disk is full or cannot be written.
    """
    if stage.source is not None:
        return _take_over(stage.source, prepared, stage, split)
    model = fingerprint([VERSION, split.fingerprint, msgspec.to_builtins(stage.settings)])
    made_from = _Stage(fingerprint([model, stage.add_bos, stage.model_max_length]), model)
    folder = stage.folder or stage_folder(prepared, "tokenizer", made_from.fingerprint)
    with storage_errors(folder), building_lock(folder, waiting=lambda: progress("waiting", 0, None)):
        found = _read_stage(folder)
        if not force and found == made_from:
            return MadeTokenizer(load_tokenizer(folder), folder)
        _check_replaceable(folder, found, made_from, force=force)
        twin = None if force else _same_model(prepared, folder, made_from)
        if twin is not None:
            tokenizer = twin
        else:
            tokenizer = _train(split, stage.settings, progress)
        sample = (document.text for document in split.documents())
        _publish(tokenizer, folder, stage, made_from, sample)
    return MadeTokenizer(load_tokenizer(folder), folder)


def _train(split: Split, settings: TrainingSettings, progress: Progress) -> SentencePieceTokenizer:
    report, expected = TrainingReport(), split.expected_bytes()

    def tell(done: int) -> None:
        if report.all_read:  # from here on nobody knows how long it takes
            progress("training the tokenizer", 0, None)
        else:
            progress("tokenizer", done, expected)

    return train_tokenizer(split.documents(), settings, report=report, progress=tell)


def _take_over(source: Path, prepared: Path, stage: TokenizerStage, split: Split) -> MadeTokenizer:
    """Use a tokenizer that exists; a SentencePiece model becomes a folder that transformers can open."""
    tokenizer = load_tokenizer(source)
    if not isinstance(tokenizer, SentencePieceTokenizer):
        return MadeTokenizer(tokenizer, source)
    identity = fingerprint([tokenizer.fingerprint, stage.add_bos, stage.model_max_length])
    folder = stage_folder(prepared, "tokenizer", identity)
    with storage_errors(folder), building_lock(folder):
        if _read_stage(folder) is None:
            sample = (document.text for document in split.documents())
            _publish(tokenizer, folder, stage, _Stage(identity, tokenizer.fingerprint), sample)
    return MadeTokenizer(tokenizer, folder)


def _publish(
    tokenizer: SentencePieceTokenizer, folder: Path, stage: TokenizerStage, made_from: _Stage, sample: Iterable[str]
) -> None:
    building = start_building(folder)
    write_hf_tokenizer(
        tokenizer, building, add_bos=stage.add_bos, model_max_length=stage.model_max_length, sample=sample
    )
    fs.write_atomic(building / STAGE_FILE, msgspec.json.encode(made_from))
    publish(building, folder)


def _read_stage(folder: Path) -> _Stage | None:
    """Return what the tokenizer in `folder` was made from, None if it is not one of ours or not whole."""
    try:
        made_from = msgspec.json.decode((folder / STAGE_FILE).read_bytes(), type=_Stage)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    return made_from if all((folder / name).is_file() for name in OWN_FILES) else None


def _check_replaceable(folder: Path, found: _Stage | None, made_from: _Stage, *, force: bool) -> None:
    """Refuse to replace what somebody may still want.

    Raises:
        DataError: The folder holds other files, or, without `force`, a tokenizer made from other inputs.
    """
    if not folder.exists():
        return
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in (*OWN_FILES, STAGE_FILE))
    if foreign:
        raise DataError(
            f"tokenizer.output_dir {str(folder)!r} holds {foreign[0]!r}, which is not part of a tokenizer; "
            "name another folder"
        )
    if force or (found is not None and found.model == made_from.model) or not any(folder.iterdir()):
        return
    what = "was made from other inputs" if found else "was not made by this project, or is damaged"
    raise DataError(
        f"tokenizer.output_dir {str(folder)!r} holds a tokenizer that {what}; name another folder, use it as "
        "tokenizer.source, or replace it with `foundry preprocess --force`"
    )


def _same_model(prepared: Path, folder: Path, made_from: _Stage) -> SentencePieceTokenizer | None:
    """Return the same model from a folder that differs only in sequence length or BOS rule, if there is one."""
    for candidate in (folder, *sorted(prepared.glob("tokenizer-*"))):
        found = _read_stage(candidate)
        if found is not None and found.model == made_from.model:
            tokenizer = load_tokenizer(candidate)
            if isinstance(tokenizer, SentencePieceTokenizer):
                logger.info("the tokenizer is the model of %s", candidate)
                return tokenizer
    return None
