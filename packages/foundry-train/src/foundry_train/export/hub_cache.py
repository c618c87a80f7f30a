"""Lay checkpoints out as an offline Hugging Face cache, so that `revision="chck_10M"` works without a hub.

    CACHE/models--local--NAME/
      blobs/<sha256>                          the files, each once
      snapshots/<commit>/model.safetensors -> ../../blobs/<sha256>
      refs/chck_10M                           the commit, as text

With `HF_HUB_CACHE=CACHE HF_HUB_OFFLINE=1`, `from_pretrained("local/NAME", revision="chck_10M")` reads it, and so does
every pipeline built on that. A revision that does not exist is an error there; a local folder would ignore the
revision and score the same weights again and again.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from foundry_config.errors import ConfigError
from foundry_data import fs
from foundry_train.manifest import MANIFEST_NAME, ManifestError, is_revision, parse_manifest

Files = Mapping[str, Path]
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?")
COPY_BYTES = 1 << 20
SHOWN = 4


def repository_folder(cache: Path, repository: str) -> Path:
    """Return the folder of `repository` ("owner/name" or "name") inside `cache`.

    Raises:
        ConfigError: `repository` is no such name.
    """
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise ConfigError(f"repository {repository!r}: write it as name or owner/name (letters, digits, '.', '_', '-')")
    return cache / ("models--" + repository.replace("/", "--"))


def add_revision(folder: Path, revision: str, files: Files) -> Path:
    """Add the flat `files` (name -> where they lie) as `revision` and return their snapshot folder.

    Adding the same files again changes nothing; another content under an existing name replaces the reference.

    Raises:
        ConfigError: `revision` cannot be a branch name.
    """
    if not is_revision(revision):
        raise ConfigError(f"revision {revision!r}: use letters, digits, '.', '_' and '-'")
    for part in ("blobs", "snapshots", "refs"):
        fs.make_directories(folder / part)
    digests = {name: _add_blob(folder / "blobs", path) for name, path in sorted(files.items())}
    listing = "".join(f"{digest} {name}\n" for name, digest in digests.items())
    commit = hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()
    snapshot = folder / "snapshots" / commit
    fs.make_directories(snapshot)
    for name, digest in digests.items():
        link = snapshot / name
        if not link.is_symlink():
            fs.backend().symlink(f"../../blobs/{digest}", link)
    fs.backend().fsync_directory(snapshot)
    fs.write_atomic(folder / "refs" / revision, commit.encode())
    return snapshot


def check_single_run(folder: Path, run_id: str) -> None:
    """Refuse a repository that holds revisions of anything but the run `run_id`: together they would be of no model.

    What a revision belongs to is told by the manifest in its snapshot.

    Raises:
        ConfigError: It does; names both runs and the revisions.
    """
    others: dict[str, list[str]] = {}
    refs = folder / "refs"
    for ref in sorted(path for path in refs.rglob("*") if path.is_file()):  # pull requests lie deeper
        owner = _run_of(folder / "snapshots" / ref.read_text().strip() / MANIFEST_NAME)
        if owner != run_id:
            others.setdefault(f"the run {owner}" if owner else "no run of ours", []).append(
                ref.relative_to(refs).as_posix()
            )
    if others:
        found = "; ".join(f"of {owner}: {_first_of(names)}" for owner, names in others.items())
        raise ConfigError(
            f"{folder} holds revisions {found}. Those of the run {run_id} would mix with them; name another repository "
            "or cache, or remove that folder"
        )


def _first_of(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _run_of(manifest: Path) -> str | None:
    """Run of an exported manifest, which is a link to a blob here; None if there is none that can be read."""
    try:
        return parse_manifest(manifest.read_bytes()).run_id
    except (OSError, ManifestError):
        return None


def _add_blob(blobs: Path, path: Path) -> str:
    """Copy a file into the cache under its digest, unless it is there."""
    digest = fs.sha256_file(path)
    target = blobs / digest
    if not target.is_file():
        partial = blobs / f"{digest}.incomplete"
        partial.unlink(missing_ok=True)
        with path.open("rb") as source:
            fs.write_new(partial, iter(lambda: source.read(COPY_BYTES), b""), size=path.stat().st_size)
        fs.backend().rename(partial, target)
        fs.backend().fsync_directory(blobs)
    return digest
