"""The manifest of a checkpoint: what it is, what every file must be, and where it comes from.

`MANIFEST.json` is written last and in one form only (sorted keys, no spaces), with a digest of itself in `self`. So any
byte that changes, in the manifest or in a file it lists, is noticed, and a checkpoint without a manifest was never
finished. `parent` links each checkpoint to the one before it: the chain of a run.
"""

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, Literal

import msgspec

FORMAT = "foundry.checkpoint/1"
MANIFEST_NAME = "MANIFEST.json"
MAX_MANIFEST_BYTES = 2**20
Kind = Literal["full", "weights"]

WEIGHT_FILES = re.compile(r"model(?:-\d{5}-of-\d{5})?\.safetensors")
RNG_FILES = re.compile(r"trainer/rng-\d{5}\.safetensors")
TOKENIZER_FILES = frozenset(
    {
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "chat_template.jinja",
        "tokenizer_manifest.json",
    }
)
OPTIMIZER_FILE = "trainer/optimizer.safetensors"
STATE_FILE = "trainer/state.json"
INDEX_FILE = "model.safetensors.index.json"
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_PLAIN_FILES = TOKENIZER_FILES | {"config.json", "generation_config.json", INDEX_FILE, OPTIMIZER_FILE, STATE_FILE}


class ManifestError(Exception):
    """A manifest is missing, damaged or says something it must not."""


class NewerFormatError(ManifestError):
    """The manifest was written by a later version; it may be perfectly good."""


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file must be."""

    bytes: int
    sha256: str


class ParentLink(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"self_digest": "self"}, omit_defaults=True
):
    """The checkpoint that training started from, or saved before this one."""

    step: int
    self_digest: str
    run_id: str | None = None
    """Only when it belongs to another run (a fork)."""


class WeightsSummary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The weights, independent of the files that hold them."""

    digest: str
    tensors: int
    params: int


class Consumed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Data seen since the start of the run."""

    samples: int = 0
    tokens: int = 0
    words: int = 0
    epoch: int = 0
    position: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"self_digest": "self"}):
    """One checkpoint, as `MANIFEST.json` describes it."""

    format: str = FORMAT
    run_id: str
    step: int
    kind: Kind
    milestone: bool = False
    """Named by the schedule: never removed."""
    label: str | None = None
    """Name on export, such as `chck_10M`."""
    attempt: int = 1
    """Start of the run that saved it, counted from 1."""
    parent: ParentLink | None = None
    supersedes: list[str] = []
    """`self` of earlier manifests of the same weights at this step, which this one replaced."""
    files: dict[str, FileEntry]
    weights: WeightsSummary
    consumed: Consumed = Consumed()
    experiment_name: str = ""
    git_commit: str = ""
    model_config: dict[str, Any] = {}
    training_config: dict[str, Any] = {}
    config: str = ""
    data: str = ""
    tokenizer: str = ""
    fingerprint: dict[str, Any] = {}
    loss: float | None = None
    document_start: Literal["bos", "eos"] | msgspec.UnsetType = msgspec.UNSET
    """What stood before each document in training, for a folder that has no run around it to ask."""
    time: str = ""
    """For people only; no decision uses it."""
    self_digest: str = ""


def canonical_bytes(value: Any) -> bytes:
    """The one JSON text of `value`: sorted keys, no spaces, floats as Python's `repr`.

    Raises:
        ValueError: A float is NaN or infinite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def seal(manifest: Manifest) -> tuple[Manifest, bytes]:
    """Fill in the manifest's own digest; returns it and the bytes of its file."""
    values = msgspec.to_builtins(manifest)
    del values["self"]
    values["self"] = "sha256:" + hashlib.sha256(canonical_bytes(values)).hexdigest()
    return msgspec.structs.replace(manifest, self_digest=values["self"]), canonical_bytes(values)


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a checkpoint folder; the files it lists are not looked at.

    Raises:
        ManifestError: Missing, too large, damaged, or with file names that are not a checkpoint's.
        NewerFormatError: Written by a later version of the format.
    """
    return parse_manifest(_read_small(folder / MANIFEST_NAME, MAX_MANIFEST_BYTES))


def parse_manifest(data: bytes) -> Manifest:
    """Parse the bytes of a manifest. Raises as `read_manifest` does."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{MANIFEST_NAME} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ManifestError(f"{MANIFEST_NAME} is not a JSON object")
    claimed = dict(values)
    claimed.pop("self", None)
    genuine = values.get("self") == "sha256:" + hashlib.sha256(_canonical_or_empty(claimed)).hexdigest()
    if not genuine or _canonical_or_empty(values) != data:
        raise ManifestError(f"{MANIFEST_NAME} is damaged: it does not match the digest of itself")
    _check_format(values.get("format"))
    try:
        manifest = msgspec.convert(values, Manifest)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{MANIFEST_NAME}: {error}") from error
    for name in manifest.files:
        if not is_allowed(name):
            raise ManifestError(f"{MANIFEST_NAME} lists {name!r}, which is not a file of a checkpoint")
    return manifest


def is_allowed(name: str) -> bool:
    """Whether `name` may stand in a manifest: exactly the files that a checkpoint consists of, no other path."""
    return name in _PLAIN_FILES or bool(WEIGHT_FILES.fullmatch(name) or RNG_FILES.fullmatch(name))


def is_revision(name: str) -> bool:
    """Whether `name` can be a branch on the hub, and with that a label: letters, digits, '.', '_' and '-'; at most 200.

    >>> [is_revision(name) for name in ("chck_10M", "../x", "a/b", "a..b", "")]
    [True, False, False, False, False]
    """
    return _REVISION.fullmatch(name) is not None and ".." not in name


def _check_format(value: Any) -> None:
    if value == FORMAT:
        return
    family, _, version = str(value).partition("/")
    if family == FORMAT.partition("/")[0] and version.isdecimal() and int(version) > 1:
        raise NewerFormatError(
            f"{MANIFEST_NAME} has the format {value}, this version reads {FORMAT}; update the software"
        )
    raise ManifestError(f"{MANIFEST_NAME} has the format {value!r}, expected {FORMAT}")


def _canonical_or_empty(value: Any) -> bytes:
    try:
        return canonical_bytes(value)
    except (ValueError, RecursionError):  # NaN, or text that is no Unicode
        return b""


def _read_small(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes, never through a symlink."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ManifestError(f"{path.name} is missing: the checkpoint was never finished") from None
    except OSError as error:
        raise ManifestError(f"{path.name} cannot be opened: {error.strerror}") from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise ManifestError(f"{path.name} is not a regular file")
    with os.fdopen(fd, "rb") as file:
        if status.st_size > limit:
            raise ManifestError(f"{path.name} has {status.st_size:,} bytes, over the limit of {limit:,}")
        return file.read(limit + 1)
