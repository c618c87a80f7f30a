"""Convert a SentencePiece model into the `tokenizers` library's form, id for id.

Nothing of SentencePiece's behaviour has an equal in one component there, so the conversion is a list of rules:

    normalizer   [charsmap] [collapse spaces] [prepend the space mark] [space -> space mark]; no pre-tokenizer at all
    unigram      scores as they are; user symbols get the score SentencePiece gives them while it searches
    bpe          every way to put a piece together from two others is a merge, ordered by the score of the result
    char         bpe without merges
    special      added tokens that are matched before normalization; user symbols (bpe) after it

With `identity` normalization and spaces kept, the ids are equal for every string; `tokenizer_export` checks that.
"""

import re
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, decoders, normalizers, processors
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import BPE, Unigram

from foundry_config.errors import DataError
from foundry_data.sentencepiece_model import SPACE, SentencePieceModel

USER_SYMBOL_DISCOUNT = 0.1  # SentencePiece scores a user symbol length * best score - 0.1
NEVER_CHOSEN = 10.0  # as far below the worst score as SentencePiece puts unknown text


def to_rust_tokenizer(model: SentencePieceModel, *, add_bos: bool) -> RustTokenizer:
    """Return a tokenizer of the `tokenizers` library that gives the ids of `model`.

    Args:
        model: A unigram, bpe or char model.
        add_bos: Whether encoding with special tokens puts BOS in front, as the training sequences have it.

    Raises:
        DataError: A model type or flag that has no exact equal.
    """
    if model.model_type == "word" or model.whitespace_as_suffix or not model.escape_whitespaces:
        raise DataError(
            "this SentencePiece model (word model, or unusual treatment of spaces) has no exact tokenizer.json; "
            "train one with model_type unigram, bpe or char"
        )
    rust = RustTokenizer(_unigram(model) if model.model_type == "unigram" else _bpe(model))
    rust.normalizer = _normalizer(model)
    rust.decoder = _decoder(model)
    special = [piece.text for piece in model.pieces if piece.kind in ("control", "unknown")]
    rust.add_special_tokens(  # pyright: ignore[reportUnknownMemberType]
        [AddedToken(text, normalized=False, special=True) for text in special]
    )
    if model.model_type != "unigram":
        rust.add_tokens(  # pyright: ignore[reportUnknownMemberType]
            [AddedToken(text, normalized=True, special=False) for text in _long_user_symbols(model)]
        )
    if add_bos and model.bos_id is not None:
        bos = model.pieces[model.bos_id].text
        rust.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, model.bos_id)]
        )
    return rust


def _unigram(model: SentencePieceModel) -> Unigram:
    scores = [piece.score for piece in model.pieces if piece.kind == "normal"] or [0.0]
    best, worst = max(scores), min(scores)

    def score(text: str, own: float, kind: str) -> float:
        if kind == "user":
            return float(np.float32(np.float32(len(text.encode()) * best) - USER_SYMBOL_DISCOUNT))  # as in C++
        return own if kind == "normal" else worst - NEVER_CHOSEN

    vocabulary = [(piece.text, score(*piece)) for piece in model.pieces]
    return Unigram(vocabulary, unk_id=model.unk_id, byte_fallback=model.byte_fallback)


def _bpe(model: SentencePieceModel) -> BPE:
    vocabulary = {piece.text: token_id for token_id, piece in enumerate(model.pieces)}
    merges = _merges(model) if model.model_type == "bpe" else []
    unknown = model.pieces[model.unk_id].text
    return BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback)


def _merges(model: SentencePieceModel) -> list[tuple[str, str]]:
    """Every pair of pieces that joins to a piece: best score of the result first, then its id, then the pair's ids."""
    ids = {piece.text: token_id for token_id, piece in enumerate(model.pieces) if piece.kind == "normal"}
    ranked: list[tuple[float, int, int, int, tuple[str, str]]] = []
    for text, token_id in ids.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ids and right in ids:
                ranked.append((-model.pieces[token_id].score, token_id, ids[left], ids[right], (left, right)))
    return [pair for *_, pair in sorted(ranked)]


def _long_user_symbols(model: SentencePieceModel) -> list[str]:
    """User symbols that bpe cannot find by itself; a single character is in its alphabet."""
    return [piece.text for piece in model.pieces if piece.kind == "user" and len(piece.text) > 1]


def _normalizer(model: SentencePieceModel) -> normalizers.Sequence:
    steps: list[Any] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex("^ +| +$"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if model.add_dummy_prefix:
        # The library normalizes an added token like a text; the prefix must not become a part of it.
        tokens = (
            "|".join(re.escape(text) for text in _long_user_symbols(model)) if model.model_type != "unigram" else ""
        )
        prefix = normalizers.Replace(Regex(rf"\A(?!(?:{tokens})\z)"), SPACE) if tokens else normalizers.Prepend(SPACE)
        steps.append(prefix)
    steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)


def _decoder(model: SentencePieceModel) -> decoders.Sequence:
    steps: list[Any] = [decoders.Replace(SPACE, " ")]
    if model.byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if model.add_dummy_prefix:
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    return decoders.Sequence(steps)
