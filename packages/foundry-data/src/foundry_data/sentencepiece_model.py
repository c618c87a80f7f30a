"""What a SentencePiece model file says, as plain typed data: pieces, special ids, normalizer, and a digest of them.

    model = parse_model(Path("tokenizer.model").read_bytes())
    model.pieces[0]      Piece(text='<pad>', score=0.0, kind='control')
    model.digest         'sha256:...'   the same for two files that tokenize alike

The digest covers what decides the ids of a text (pieces with scores and kinds, normalizer, algorithm) and leaves out
what does not: the path of the training text, thread counts, and other notes that SentencePiece keeps in the file.
"""

import hashlib
import struct
from typing import Any, Literal, NamedTuple, cast

import msgspec

# The generated protobuf module has no types; it is used in `_parse` only.
from sentencepiece import sentencepiece_model_pb2 as protobuf  # pyright: ignore[reportUnknownVariableType]

from foundry_config.errors import DataError

Kind = Literal["normal", "unknown", "control", "user", "unused", "byte"]
KINDS: dict[int, Kind] = {1: "normal", 2: "unknown", 3: "control", 4: "user", 5: "unused", 6: "byte"}
MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}

SCORE_STEPS = 64  # per unit of score (a natural logarithm): finer than any estimate of a piece's probability
SPACE = "\u2581"  # how SentencePiece writes a space inside a piece


class Piece(NamedTuple):
    """One entry of the vocabulary; its id is its place in the list."""

    text: str
    score: float
    kind: Kind


class SentencePieceModel(msgspec.Struct, frozen=True):
    """The content of a SentencePiece model file."""

    pieces: tuple[Piece, ...]
    model_type: str
    byte_fallback: bool
    unk_id: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    normalization: str
    charsmap: bytes
    """Compiled normalization rules; empty for `identity`."""
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    whitespace_as_suffix: bool
    digest: str

    @property
    def is_lossless(self) -> bool:
        """Whether decoding gives back every text whose characters the vocabulary (or its bytes) covers."""
        return not self.charsmap and not self.remove_extra_whitespaces and self.escape_whitespaces

    @property
    def has_exact_scores(self) -> bool:
        """Whether sums of scores do not depend on the order of adding; see `with_exact_scores`."""
        return all((piece.score * SCORE_STEPS).is_integer() for piece in self.pieces)


def parse_model(data: bytes, *, name: str = "SentencePiece model") -> SentencePieceModel:
    """Parse the bytes of a SentencePiece model file.

    Args:
        data: The whole file.
        name: What to call it in an error.

    Raises:
        DataError: Not a SentencePiece model, or one without pieces.
    """
    proto = _parse(data, name)
    pieces = tuple(Piece(entry.piece, entry.score, KINDS[entry.type]) for entry in proto.pieces)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    return SentencePieceModel(
        pieces=pieces,
        model_type=MODEL_TYPES[trainer.model_type],
        byte_fallback=trainer.byte_fallback,
        unk_id=next((i for i, piece in enumerate(pieces) if piece.kind == "unknown"), 0),
        bos_id=_id_of(pieces, trainer.bos_piece),
        eos_id=_id_of(pieces, trainer.eos_piece),
        pad_id=_id_of(pieces, trainer.pad_piece),
        normalization=normalizer.name or "identity",
        charsmap=normalizer.precompiled_charsmap,
        add_dummy_prefix=normalizer.add_dummy_prefix,
        remove_extra_whitespaces=normalizer.remove_extra_whitespaces,
        escape_whitespaces=normalizer.escape_whitespaces,
        whitespace_as_suffix=trainer.treat_whitespace_as_suffix,
        digest=_digest(pieces, trainer, normalizer),
    )


def _parse(data: bytes, name: str) -> Any:
    proto = cast("Any", protobuf).ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf raises its own type, which differs between its back ends
        raise DataError(f"{name} is not a SentencePiece model: {error}") from error
    if not proto.pieces or proto.trainer_spec.model_type not in MODEL_TYPES:
        raise DataError(f"{name} is not a SentencePiece model: it has {len(proto.pieces)} pieces")
    return proto


def with_exact_scores(data: bytes) -> bytes:
    """Return the model with all scores rounded to multiples of 1/64.

    Unigram segmentation adds scores. SentencePiece adds them in single precision and the `tokenizers` library in
    double, so that two segmentations of equal score (`FF F` and `F FF`) are told apart by different rounding errors.
    Sums of such multiples are exact in both, up to about 30,000 tokens, and then both take the first.
    """
    proto = _parse(data, "model")
    for entry in proto.pieces:
        entry.score = round(entry.score * SCORE_STEPS) / SCORE_STEPS
    return proto.SerializeToString(deterministic=True)


def _id_of(pieces: tuple[Piece, ...], text: str) -> int | None:
    return next((i for i, piece in enumerate(pieces) if piece.kind == "control" and piece.text == text), None)


def _digest(pieces: tuple[Piece, ...], trainer: Any, normalizer: Any) -> str:
    digest = hashlib.sha256(b"foundry.sentencepiece/1")
    for piece in pieces:
        text = piece.text.encode()
        digest.update(struct.pack("<I", len(text)) + text + struct.pack("<f", piece.score) + piece.kind.encode())
    flags = {
        "model_type": MODEL_TYPES[trainer.model_type],
        "byte_fallback": trainer.byte_fallback,
        "treat_whitespace_as_suffix": trainer.treat_whitespace_as_suffix,
        "special": [trainer.unk_piece, trainer.bos_piece, trainer.eos_piece, trainer.pad_piece],
        "add_dummy_prefix": normalizer.add_dummy_prefix,
        "remove_extra_whitespaces": normalizer.remove_extra_whitespaces,
        "escape_whitespaces": normalizer.escape_whitespaces,
        "charsmap": hashlib.sha256(normalizer.precompiled_charsmap).hexdigest(),
    }
    digest.update(msgspec.json.encode(flags, order="sorted"))
    return f"sha256:{digest.hexdigest()}"
