"""The files of a token store and the manifest that vouches for them.

    train-1f0c5a.../
    ├─ manifest.json          counts, settings, size and SHA-256 of every other file, and a digest of itself
    ├─ tokens-00000.bin       token ids, little-endian uint16 or uint32, one stream over all files
    ├─ words-00000.bin        for every token the words that begin in it, uint8, cut like the tokens
    ├─ word-totals.bin        words before every 256th token, int64, so that any range needs two short reads
    ├─ document-tokens.bin    where each document begins in the stream, int64, and the end of the last: [documents + 1]
    ├─ document-words.bin     words before each document, the same way
    ├─ document-bytes.bin     bytes of text before each document, the same way
    ├─ token-bytes.bin        bytes of text that each entry of the vocabulary stands for, uint16: [vocabulary]
    └─ blocks.bin             documents in each block that was tokenized as one, int64; `merge_stores` needs it

Everything is raw numbers, so that any program can map them. All files but the first two kinds are one per store.
"""

import hashlib
import stat
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from foundry_config.errors import DataError

FORMAT = "foundry.tokens/1"
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 2**20
WORD_TOTALS_STRIDE = 256  # tokens

WORD_TOTALS = "word-totals.bin"
DOCUMENT_TOKENS = "document-tokens.bin"
DOCUMENT_WORDS = "document-words.bin"
DOCUMENT_BYTES = "document-bytes.bin"
TOKEN_BYTES = "token-bytes.bin"
BLOCKS = "blocks.bin"

INT64 = np.dtype("<i8")
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size and SHA-256 (64 hexadecimal digits) of a file."""

    bytes: int
    sha256: str


class StoreManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a token store without reading it."""

    format: str
    dtype: str
    tokens: int
    documents: int
    blocks: int
    words: int
    """Whitespace-separated words of the documents' text."""
    bytes: int
    """UTF-8 bytes of the documents' text."""
    shard_tokens: int
    """Tokens in every `tokens-*.bin` but the last."""
    vocab_size: int
    max_id: int
    """Largest token id, -1 in an empty store."""
    unknown_tokens: int
    pad_id: int | None
    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    add_eos: bool
    dummy_prefix: bool
    """The first token of a document stands for a space that is not in the text."""
    bytes_exact: bool
    """The bytes of every document are those of its tokens; else byte counts inside a document are proportional."""
    token_byte_sum: int
    """Bytes of all tokens by `token-bytes.bin`, dummy prefixes taken off."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    source: str
    """Fingerprint of the source text."""
    settings: dict[str, Any]
    """What else decided the content, as given to the builder."""
    files: dict[str, FileEntry]

    @property
    def shards(self) -> int:
        """Number of `tokens-*.bin` files."""
        return -(-self.tokens // self.shard_tokens)

    def shard_length(self, shard: int) -> int:
        """Tokens in one file."""
        return min(self.shard_tokens, self.tokens - shard * self.shard_tokens)

    def expected_sizes(self) -> dict[str, int]:
        """Return the name and size in bytes of every file that such a store has."""
        width = DTYPES[self.dtype].itemsize
        sizes = {tokens_name(i): self.shard_length(i) * width for i in range(self.shards)}
        sizes |= {words_name(i): self.shard_length(i) for i in range(self.shards)}
        for name in (DOCUMENT_TOKENS, DOCUMENT_WORDS, DOCUMENT_BYTES):
            sizes[name] = (self.documents + 1) * INT64.itemsize
        sizes[WORD_TOTALS] = (self.tokens // WORD_TOTALS_STRIDE + 1) * INT64.itemsize
        sizes[TOKEN_BYTES] = self.vocab_size * 2
        sizes[BLOCKS] = self.blocks * INT64.itemsize
        return sizes


def tokens_name(shard: int) -> str:
    """Name of the file that holds the ids of a shard."""
    return f"tokens-{shard:05d}.bin"


def words_name(shard: int) -> str:
    """Name of the file that holds the word starts of a shard."""
    return f"words-{shard:05d}.bin"


def token_dtype(vocab_size: int) -> str:
    """Return the narrowest dtype that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def encode_manifest(manifest: StoreManifest) -> bytes:
    """Return the manifest as JSON, closed by a SHA-256 of itself."""
    content = msgspec.to_builtins(manifest)
    content["self"] = _self_digest(content)
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def read_manifest(folder: Path) -> StoreManifest:
    """Read and check the manifest of the store in `folder`; the other files are not looked at.

    Raises:
        DataError: There is no store, its manifest is damaged, or it was written by a newer version.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise DataError(f"{path} is damaged: {path.stat().st_size:,} bytes are too many for a manifest")
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder} is not a token store: it has no {MANIFEST}; run `foundry preprocess`") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}; {_ADVICE}") from None
    if content.get("format") != FORMAT:
        raise DataError(f"{path} has format {content.get('format')!r}; this version reads {FORMAT}")
    if content.pop("self", None) != _self_digest(content):
        raise DataError(f"{path} is damaged: its content does not match its own digest; {_ADVICE}")
    try:
        manifest = msgspec.convert(content, StoreManifest)
    except msgspec.ValidationError as error:
        raise DataError(f"{path} is damaged: {error}") from None
    _check_manifest(manifest, path)
    return manifest


def _check_manifest(manifest: StoreManifest, path: Path) -> None:
    counts = (manifest.tokens, manifest.documents, manifest.blocks, manifest.words, manifest.bytes)
    if manifest.dtype not in DTYPES or manifest.shard_tokens < 1 or manifest.vocab_size < 1 or min(counts) < 0:
        raise DataError(f"{path} is damaged: its numbers cannot be right")
    if manifest.max_id >= manifest.vocab_size:
        raise DataError(
            f"{path}: the largest token id is {manifest.max_id}, but the vocabulary has {manifest.vocab_size} entries"
        )
    if manifest.vocab_size > np.iinfo(DTYPES[manifest.dtype]).max + 1:
        raise DataError(f"{path}: {manifest.dtype} cannot hold the ids of a vocabulary of {manifest.vocab_size}")
    sizes = {name: entry.bytes for name, entry in manifest.files.items()}
    if sizes != manifest.expected_sizes():  # also keeps out names with `..` or a slash: only known names pass
        wrong = sorted(set(sizes.items()) ^ set(manifest.expected_sizes().items()))
        raise DataError(f"{path} is damaged: it does not list the files of such a store ({wrong[0][0]!r} differs)")


def check_sizes(folder: Path, manifest: StoreManifest) -> None:
    """Check that every file is there, is an ordinary file, and has the size in the manifest.

    Raises:
        DataError: Names the first file that is not so.
    """
    for name, entry in manifest.files.items():
        path = folder / name
        try:
            status = path.lstat()
        except FileNotFoundError:
            raise DataError(f"{path} is missing; {_ADVICE}") from None
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is not an ordinary file (a link or a device is not accepted here); {_ADVICE}")
        if status.st_size != entry.bytes:
            raise DataError(f"{path} has {status.st_size:,} bytes, but its manifest says {entry.bytes:,}; {_ADVICE}")


_ADVICE = "restore it, or run `foundry preprocess --force`"


def _self_digest(content: dict[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()
