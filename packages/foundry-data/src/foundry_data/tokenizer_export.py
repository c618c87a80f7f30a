"""Write a tokenizer folder that plain `transformers` opens, checked against SentencePiece before it is kept.

    tokenizer/
    ├─ tokenizer.model           the SentencePiece model: what corpora are tokenized with
    ├─ tokenizer.json            the same tokenizer for `AutoTokenizer`, equal id for id
    ├─ tokenizer_config.json     class PreTrainedTokenizerFast, special tokens, model_max_length, our fingerprint
    └─ special_tokens_map.json

`AutoTokenizer` silently opens a wrong tokenizer from a folder that holds `tokenizer.model` only; so `tokenizer.json` is
always written, and an export whose ids differ from SentencePiece's on any line of the sample is refused.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer as RustTokenizer

from foundry_config.errors import DataError
from foundry_data import fs
from foundry_data.documents import escaped
from foundry_data.hf_conversion import to_rust_tokenizer
from foundry_data.sentencepiece_tokenizer import SentencePieceTokenizer
from foundry_data.unusual_text import unusual_strings

logger = logging.getLogger(__name__)

MODEL = "tokenizer.model"
TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
FINGERPRINT_KEY = "foundry_fingerprint"
OWN_FILES = (MODEL, TOKENIZER_JSON, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP)

NO_LENGTH_LIMIT = 10**30  # what transformers itself writes for "unknown"
UNUSUAL_STRINGS = 3000
CHECKED_LINES = 2000
CHECKED_LINE = 2**17  # characters of a text that are compared: `tokenizers` takes 200 bytes of memory for each
CHECKED_CHARACTERS = 2**23  # of all texts together


def write_hf_tokenizer(
    tokenizer: SentencePieceTokenizer,
    folder: Path,
    *,
    add_bos: bool = False,
    model_max_length: int | None = None,
    sample: Iterable[str] = (),
) -> None:
    """Write the four files into an existing folder, replacing older ones.

    Args:
        tokenizer: What to write.
        folder: Receives the files.
        add_bos: Whether `AutoTokenizer` shall put BOS before a text, as the training sequences have it.
        model_max_length: Longest sequence of the model. [tokens]
        sample: Lines of the corpus; at most the first 2,000 are compared, besides 3,000 unusual strings.

    Raises:
        DataError: The exported tokenizer gives other ids than SentencePiece.
    """
    rust = to_rust_tokenizer(tokenizer.model, add_bos=add_bos)
    check_export(tokenizer, rust, _first_lines(sample))
    specials = {
        f"{name}_token": text
        for name in ("bos", "eos", "unk", "pad")
        if (text := getattr(tokenizer, f"{name}_token")) is not None
    }
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # transformers 4 cannot open what 5 calls its own class
        "model_max_length": model_max_length or NO_LENGTH_LIMIT,
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
        "split_special_tokens": True,  # text that spells `<s>` is text, as it was in training
        FINGERPRINT_KEY: tokenizer.fingerprint,
        **specials,
    }
    fs.write_atomic(folder / MODEL, tokenizer.model_bytes)
    fs.write_atomic(folder / TOKENIZER_JSON, rust.to_str(pretty=False).encode())
    fs.write_atomic(folder / TOKENIZER_CONFIG, _json(config))
    fs.write_atomic(folder / SPECIAL_TOKENS_MAP, _json(specials))


def check_export(tokenizer: SentencePieceTokenizer, rust: RustTokenizer, lines: Sequence[str]) -> None:
    """Compare ids on lines of the corpus and on strings made to break such conversions.

    A model whose normalization changes characters may differ on unusual strings; that is a warning, because the
    library applies the rules per visible character and cannot do otherwise.

    Raises:
        DataError: A line differs, or an unusual string under `identity` normalization.
    """
    if wrong := _differences(tokenizer, rust, lines):
        raise DataError(
            f"tokenizer.json gives other ids than SentencePiece for {len(wrong)} of {len(lines)} lines of the corpus, "
            f"for example {escaped(wrong[0][:80])!r}; it was not written"
        )
    unusual = unusual_strings(UNUSUAL_STRINGS)
    wrong = _differences(tokenizer, rust, unusual)
    if wrong and not tokenizer.model.charsmap:
        raise DataError(
            f"tokenizer.json gives other ids than SentencePiece for {len(wrong)} of {len(unusual)} unusual strings, "
            f"for example {escaped(wrong[0])!r}; it was not written"
        )
    if wrong:
        logger.warning(
            "with tokenizer.normalization %s, AutoTokenizer differs from SentencePiece on %d of %d unusual strings "
            "(stray combining marks and the like) and on none of %d lines of the corpus; `identity` is always exact",
            tokenizer.model.normalization, len(wrong), len(unusual), len(lines),
        )  # fmt: skip


def _differences(tokenizer: SentencePieceTokenizer, rust: RustTokenizer, texts: Sequence[str]) -> list[str]:
    """Return the texts with other ids.

    Where the characters of `<s>` are not in the vocabulary, a text that spells it cannot always be kept apart from the
    token; such texts are left out.
    """
    known = {piece.text for piece in tokenizer.model.pieces}
    specials = [piece.text for piece in tokenizer.model.pieces if piece.kind not in ("normal", "user")]
    unspellable = [text for text in specials if not known.issuperset(text)]
    fair = [text for text in texts if "<" not in text or not any(special in text for special in unspellable)]
    ours = tokenizer.encode_batch(fair)
    rust.encode_special_tokens = True  # as `split_special_tokens` in tokenizer_config.json
    theirs = rust.encode_batch_fast(fair, add_special_tokens=False)
    return [text for text, a, b in zip(fair, ours, theirs, strict=True) if a.tolist() != b.ids]


def _first_lines(sample: Iterable[str]) -> list[str]:
    """Return the beginnings of the first texts, whole and line by line; the amount is bounded."""
    lines: list[str] = []
    characters = 0
    for text in sample:
        start = text[:CHECKED_LINE]
        lines += [line for line in (start, *start.split("\n")) if line]
        characters += 2 * len(start)
        if len(lines) >= CHECKED_LINES or characters >= CHECKED_CHARACTERS:
            break
    return lines[:CHECKED_LINES]


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
