"""Copy one checkpoint out of its run as a clean Hugging Face folder: model, tokenizer, model card, manifest.

    run/checkpoints/step-00001000/  ->  TARGET/{config.json, model.safetensors, tokenizer.json, ..., README.md}

Every byte is hashed while it is copied and must be what the manifest says. The manifest of the export lists what is
there, so `foundry verify TARGET` works on it, and on a copy that somebody downloaded.
"""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec

from foundry_config.errors import CheckpointError, ConfigError
from foundry_data import fs
from foundry_train.evaluation_targets import find_models
from foundry_train.export.model_card import model_card
from foundry_train.manifest import MANIFEST_NAME, Manifest, ManifestError, read_manifest, seal
from foundry_train.report.run_data import RunData, read_run

COPY_BYTES = 1 << 20


def export_checkpoint(checkpoint: Path, target: Path) -> Manifest:
    """Write the checkpoint folder `checkpoint` to the new folder `target`; appears there whole or not at all.

    Returns:
        The manifest of the export.

    Raises:
        CheckpointError: The checkpoint is damaged; names the file.
        ConfigError: `target` exists and is not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"export folder {str(target)!r} exists already; name a new one, or remove it")
    manifest = _read(checkpoint)
    fs.make_directories(target.parent)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        exported = _write(checkpoint, manifest, partial)
        with contextlib.suppress(FileNotFoundError):
            fs.backend().rmdir(target)  # an empty folder the user made
        fs.backend().rename(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    fs.backend().fsync_directory(target.parent)
    return exported


def model_files(manifest: Manifest) -> list[str]:
    """Return the files that make up the model folder, without the state of the trainer."""
    return sorted(name for name in manifest.files if not name.startswith("trainer/"))


def run_of(checkpoint: Path) -> RunData | None:
    """Return the run that a checkpoint folder lies in, if it lies in one."""
    run = checkpoint.resolve().parent.parent
    return read_run(run) if (run / "config.json").is_file() else None


def _read(checkpoint: Path) -> Manifest:
    try:
        return read_manifest(checkpoint)
    except ManifestError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error


def _write(checkpoint: Path, manifest: Manifest, partial: Path) -> Manifest:
    names = model_files(manifest)
    fs.make_directories(partial)
    for name in names:
        _copy(checkpoint / name, partial / name, manifest)
    (model,), _ = find_models(checkpoint)
    exported, content = seal(
        msgspec.structs.replace(
            manifest,
            kind="weights",
            files={name: manifest.files[name] for name in names},
            document_start=model.start or msgspec.UNSET,
            supersedes=[*manifest.supersedes, manifest.self_digest],
        )
    )
    fs.write_new(partial / "README.md", [model_card(msgspec.to_builtins(exported), run_of(checkpoint)).encode()])
    fs.write_new(partial / MANIFEST_NAME, [content])
    fs.backend().fsync_directory(partial)
    return exported


def _copy(source: Path, target: Path, manifest: Manifest) -> None:
    entry = manifest.files[source.name]
    try:
        written = fs.write_new(target, _chunks(source), size=entry.bytes)
    except FileNotFoundError as error:
        raise CheckpointError(f"{source}: missing, but listed in {MANIFEST_NAME}") from error
    if (written.bytes, written.sha256) != (entry.bytes, entry.sha256):
        raise CheckpointError(f"{source}: damaged: it differs from {MANIFEST_NAME} in size or SHA-256")


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(COPY_BYTES):
            yield chunk
