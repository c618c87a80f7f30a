"""Convert a SentencePiece model into the `tokenizers` library's form, id for id.

Nothing of SentencePiece's behaviour has an equal in one component there, so the conversion is a list of rules:

    normalizer   [charsmap] [collapse spaces] [prepend the space mark] [space -> space mark]; no pre-tokenizer at all
    unigram      scores as they are; user symbols get the score SentencePiece gives them while it searches
    bpe          every way to put a piece together from two others is a merge, ordered by the score of the result
    char         bpe without merges
    user symbols a vocabulary entry found as a whole, because the text is cut around them (bpe, char)
    special      added tokens, which `split_special_tokens` keeps out of text

With `identity` normalization the ids are equal for every string, text that spells `<s>` or `<0x0A>` included;
`tokenizer_export` checks that.
"""

import re
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import BPE, Unigram

from foundry_config.errors import DataError
from foundry_data.sentencepiece_model import SPACE, SentencePieceModel

USER_SYMBOL_DISCOUNT = 0.1  # SentencePiece scores a user symbol length * best score - 0.1
NEVER_CHOSEN = 10.0  # as far below the worst score as SentencePiece puts unknown text
BYTE = re.compile("<0x[0-9A-F]{2}>")

Cut = tuple[str, Literal["isolated", "merged_with_previous"]]
"""A pattern, and what becomes of the parts that match it."""


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
    cut_out = bool(_long_user_symbols(model))  # such a symbol is an entry that no merges lead to
    rust = RustTokenizer(_unigram(model) if model.model_type == "unigram" else _bpe(model, ignore_merges=cut_out))
    rust.normalizer = _normalizer(model)
    if cuts := _unspellable(model) if model.model_type == "unigram" else _cuts_around_symbols(model):
        rust.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(cut), how) for cut, how in cuts])
    rust.decoder = _decoder(model)
    special = [piece.text for piece in model.pieces if piece.kind in ("control", "unknown")]
    rust.add_special_tokens(  # pyright: ignore[reportUnknownMemberType]
        [AddedToken(text, normalized=False, special=True) for text in special]
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
        # A text that spells `<s>` or `<0x0A>` is its characters: even the worst of them must be worth more together.
        return own if kind == "normal" else len(text) * min(worst, 0.0) - NEVER_CHOSEN

    vocabulary = [(piece.text, score(*piece)) for piece in model.pieces]
    return Unigram(vocabulary, unk_id=model.unk_id, byte_fallback=model.byte_fallback)


def _unspellable(model: SentencePieceModel) -> list[Cut]:
    """Return where to cut a text that spells a special piece with unknown characters, for unigram.

    The library would find the piece, because nothing else covers these characters. The cut lies between a known and an
    unknown one, where no piece can reach across and no run of unknown characters is broken.
    """
    known = {piece.text for piece in model.pieces if piece.kind in ("normal", "user") and len(piece.text) == 1}
    patterns: dict[str, None] = {}  # in the order of the pieces, each once
    for text in _special_texts(model):
        border = next((i for i, (a, b) in enumerate(pairwise(text)) if (a in known) != (b in known)), None)
        if border is None and not known.intersection(text):
            border = 0  # bytes, if there are any, can be cut anywhere
        if border is not None:
            before, here, after = re.escape(text[:border]), re.escape(text[border]), re.escape(text[border + 1 :])
            if BYTE.fullmatch(text) and border < 2:
                after = f"{re.escape(text[border + 1 : 3])}[0-9A-F]{{2}}>"
            patterns[(f"(?<={before})" if before else "") + f"{here}(?={after})"] = None
    return [("|".join(patterns), "merged_with_previous")] if patterns else []


def _cuts_around_symbols(model: SentencePieceModel) -> list[Cut]:
    """Return where to cut a text so that user symbols stand alone, for bpe and char.

    `ignore_merges` then takes every part that is an entry for this entry, which is wrong for one that spells a special
    piece: such a part is cut once more, after its first token.
    """
    symbols = _long_user_symbols(model)
    if not symbols:
        return []
    plain = _bpe(model, ignore_merges=False)
    firsts = ((text, plain.tokenize(text)[0].offsets[1]) for text in _special_texts(model))
    spelled = [rf"{re.escape(text[:end])}(?={re.escape(text[end:])}\z)" for text, end in firsts if end < len(text)]
    return [
        ("|".join(map(re.escape, symbols)), "isolated"),
        (rf"\A(?:{'|'.join(spelled)})", "merged_with_previous"),
    ]


def _special_texts(model: SentencePieceModel) -> list[str]:
    return [piece.text for piece in model.pieces if piece.kind not in ("normal", "user")]


def _bpe(model: SentencePieceModel, *, ignore_merges: bool) -> BPE:
    vocabulary = {piece.text: token_id for token_id, piece in enumerate(model.pieces)}
    merges = _merges(model) if model.model_type == "bpe" else []
    unknown = model.pieces[model.unk_id].text
    return BPE(
        vocab=vocabulary,
        merges=merges,
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        ignore_merges=ignore_merges,
    )


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
    """User symbols that bpe cannot find by itself, longest first; a single character is in its alphabet."""
    symbols = [piece.text for piece in model.pieces if piece.kind == "user" and len(piece.text) > 1]
    return sorted(symbols, key=len, reverse=True)


def _normalizer(model: SentencePieceModel) -> normalizers.Sequence:
    steps: list[Any] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.remove_extra_whitespaces:
        # Not ^ and $, which match at every line break. The end is done last: a written space mark goes with it.
        steps.append(normalizers.Replace(Regex(r"\A +"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(rf"{SPACE}+\z"), ""))
    return normalizers.Sequence(steps)


def _decoder(model: SentencePieceModel) -> decoders.Sequence:
    steps: list[Any] = [decoders.Replace(SPACE, " ")]
    if model.byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if model.add_dummy_prefix:
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    return decoders.Sequence(steps)
