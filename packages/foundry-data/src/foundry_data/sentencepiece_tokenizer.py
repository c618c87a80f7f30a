"""Encode and decode with a SentencePiece model: the reference for every id that this package writes.

A very long text is encoded in pieces of about 64 KiB, cut at single spaces where no token can reach across, so that
memory stays bounded and the ids are those of the whole:

    ... the end| of the beginning ...   ->   encode('... the end') + encode('of the beginning ...')
                                             (the prefix space stands in for the one at the cut)
"""

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece

from foundry_config.errors import DataError
from foundry_data.sentencepiece_model import SPACE, SentencePieceModel, parse_model
from foundry_data.tokenizer import Ids, Tokenizer

SEGMENT = 2**16  # characters; texts up to twice this long are encoded whole
SEAM = re.compile(r"[!-~] (?=[!-~])")  # one space between ASCII marks: no normalization touches it
SEAM_SEARCH = 2**12  # characters in which a seam must turn up


class SentencePieceTokenizer(Tokenizer):
    """A tokenizer from the bytes of a SentencePiece model file."""

    def __init__(self, model: bytes, *, name: str = "SentencePiece model") -> None:
        """Load a model.

        Args:
            model: Content of a `.model` file.
            name: What to call it in an error.

        Raises:
            DataError: The bytes are not a usable model.
        """
        self.model: SentencePieceModel = parse_model(model, name=name)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError) as error:
            raise DataError(f"{name} is damaged: {error}") from error
        self.model_bytes = model
        self.vocab_size = len(self.model.pieces)
        self.unk_id = self.model.unk_id
        self.bos_id, self.eos_id, self.pad_id = self.model.bos_id, self.model.eos_id, self.model.pad_id
        self.fingerprint = self.model.digest
        self._can_cut = _can_be_cut_at_a_space(self.model)
        self._byte_pieces = np.array([piece.kind == "byte" for piece in self.model.pieces])

    @property
    def has_dummy_prefix(self) -> bool:
        return self.model.add_dummy_prefix

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        try:
            if self._can_cut and any(len(text) > 2 * SEGMENT for text in texts):
                return [self._encode_long(text) for text in texts]
            return self._encode_list(list(texts))
        except (RuntimeError, TypeError) as error:  # pybind11 cannot turn a lone surrogate into UTF-8
            raise DataError(f"a document cannot be tokenized, its text is not valid Unicode: {error}") from error

    def _encode_list(self, texts: list[str]) -> list[Ids]:
        return self._processor.encode(texts, return_type="numpy", num_threads=1)

    def _encode_long(self, text: str) -> Ids:
        segments = self._encode_list(cut_at_seams(text, keep_space=not self.has_dummy_prefix))
        return segments[0] if len(segments) == 1 else np.concatenate(segments)

    def encode_offsets(self, text: str) -> tuple[Ids, npt.NDArray[np.int64]]:
        result = self._processor.encode(text, return_type="offset_mapping")
        ids = np.array(result["ids"], dtype=np.int32)
        begins, ends = np.array(result["offsets"], dtype=np.int64).reshape(-1, 2).T
        # All but the last byte of a character have an empty span before it; they belong to that character.
        lasts = np.where((begins == ends) & self._byte_pieces[ids], begins, ends - 1)
        return ids, np.maximum.accumulate(lasts)

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer], skip_special_tokens: bool = True) -> str:
        known = [int(i) for i in ids]
        wrong = next((i for i in known if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise DataError(f"cannot decode token {wrong}: the vocabulary has {self.vocab_size} entries")
        special = self.special_ids
        if skip_special_tokens or not special.intersection(known):
            return self._decode_plain([i for i in known if i not in special])
        parts: list[str] = []
        start = 0
        for place, token_id in enumerate(chain(known, [-1])):
            if token_id in special or token_id == -1:
                parts += [self._decode_plain(known[start:place]), "" if token_id == -1 else self.token_text(token_id)]
                start = place + 1
        return "".join(parts)

    def _decode_plain(self, ids: list[int]) -> str:
        return self._processor.decode(ids)

    def token_text(self, token_id: int) -> str:
        if not 0 <= token_id < self.vocab_size:
            raise DataError(f"there is no token {token_id}: the vocabulary has {self.vocab_size} entries")
        return self.model.pieces[token_id].text

    def token_surfaces(self) -> list[bytes | None]:
        surfaces: list[bytes | None] = []
        for piece in self.model.pieces:
            if piece.kind == "byte":
                surfaces.append(bytes([int(piece.text[3:5], 16)]))  # <0x0A>
            elif piece.kind in ("control", "unknown"):
                surfaces.append(None)
            else:
                surfaces.append(piece.text.replace(SPACE, " ").encode())
        return surfaces

    def save(self, folder: Path) -> None:
        # Imported here, because the export knows this module.
        from foundry_data.tokenizer_export import write_hf_tokenizer

        write_hf_tokenizer(self, folder)


def cut_at_seams(text: str, *, keep_space: bool) -> list[str]:
    """Cut a text into segments of about `SEGMENT` characters, each cut at a single space between two ASCII marks.

    Args:
        text: Any text; without a fitting space it stays longer.
        keep_space: Leave the space at the head of the next segment; else it is dropped.
    """
    segments: list[str] = []
    start = 0
    while len(text) - start > 2 * SEGMENT:
        seam = SEAM.search(text, start + SEGMENT, start + SEGMENT + SEAM_SEARCH)
        if seam is None:
            seam = SEAM.search(text, start + SEGMENT)
        if seam is None:
            break
        segments.append(text[start : seam.end() - 1])
        start = seam.end() - 1 if keep_space else seam.end()
    segments.append(text[start:])
    return segments


def _can_be_cut_at_a_space(model: SentencePieceModel) -> bool:
    """Whether no piece reaches over a space: each has the space mark only at its head, or consists of nothing else."""
    if model.whitespace_as_suffix or not model.escape_whitespaces:
        return False
    if model.remove_extra_whitespaces and not model.add_dummy_prefix:
        return False  # the space that is kept at the head of a segment would be removed
    return not any(piece.text.lstrip(SPACE).count(SPACE) for piece in model.pieces)
