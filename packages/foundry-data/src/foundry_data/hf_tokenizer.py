"""Open a Hugging Face tokenizer folder (`tokenizer.json`) without transformers.

    tokenizer = load_hf_tokenizer(Path("gpt2/"))
    tokenizer.encode("a b")

Special tokens are read from `tokenizer_config.json` and `special_tokens_map.json`, as transformers does. Text that
spells a special token stays text (only a unigram model may still find it, as a piece like others, where it has no
pieces for the single characters).
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as RustTokenizer

from foundry_config.errors import DataError
from foundry_data import fs
from foundry_data.sentencepiece_model import SPACE
from foundry_data.tokenizer import Ids, Tokenizer
from foundry_data.tokenizer_export import SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG, TOKENIZER_JSON

COPIED = (TOKENIZER_JSON, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, "tokenizer.model", "vocab.json", "merges.txt")


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library with the special tokens of its folder."""

    def __init__(self, rust: RustTokenizer, specials: Mapping[str, str], files: Mapping[str, bytes]) -> None:
        """Wrap a tokenizer.

        Args:
            rust: The tokenizer.
            specials: Texts of the special tokens by `bos`, `eos`, `unk`, `pad`; missing ones do not exist.
            files: What `save` writes, by name.
        """
        self._rust = rust
        self._rust.no_padding()
        self._rust.no_truncation()
        self._rust.encode_special_tokens = True  # text that spells a special token stays text
        self._files = dict(files)
        self._specials = dict(specials)
        self.vocab_size = max(rust.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.pad_id, self.unk_id, self.bos_id, self.eos_id = (
            rust.token_to_id(specials[name]) if name in specials else None for name in ("pad", "unk", "bos", "eos")
        )
        content = msgspec.json.decode(rust.to_str())
        self._byte_level = "ByteLevel" in msgspec.json.encode(content.get("decoder")).decode()
        first = rust.encode("a", add_special_tokens=False).tokens[:1]
        self._prepends_space = bool(first) and self._surface(first[0]).startswith(b" ")
        stated = [content, {name: specials[name] for name in sorted(specials)}]
        self.fingerprint = "sha256:" + hashlib.sha256(msgspec.json.encode(stated, order="deterministic")).hexdigest()

    @property
    def has_dummy_prefix(self) -> bool:
        return self._prepends_space

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        try:
            encodings = self._rust.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            raise DataError(f"a document cannot be tokenized, its text is not valid Unicode: {error}") from error
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def encode_offsets(self, text: str) -> tuple[Ids, npt.NDArray[np.int64]]:
        encoding = self._rust.encode(text, add_special_tokens=False)
        ends = np.array([end for _, end in encoding.offsets], dtype=np.int64)
        return np.array(encoding.ids, dtype=np.int32), np.maximum.accumulate(ends - 1)

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer], skip_special_tokens: bool = True) -> str:
        known = [int(i) for i in ids]
        wrong = next((i for i in known if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise DataError(f"cannot decode token {wrong}: the vocabulary has {self.vocab_size} entries")
        return self._rust.decode(known, skip_special_tokens=skip_special_tokens)

    def token_text(self, token_id: int) -> str:
        text = self._rust.id_to_token(token_id) if token_id >= 0 else None
        if text is None:
            raise DataError(f"there is no token {token_id}: the vocabulary has {self.vocab_size} entries")
        return text

    def token_surfaces(self) -> list[bytes | None]:
        special = {
            token_id for token_id, token in self._rust.get_added_tokens_decoder().items() if token.special
        } | self.special_ids  # fmt: skip
        unreadable = special if self.unk_id is None else special | {self.unk_id}
        texts = [None if i in unreadable else self._rust.id_to_token(i) for i in range(self.vocab_size)]
        return [None if text is None else self._surface(text) for text in texts]

    def _surface(self, text: str) -> bytes:
        if self._byte_level and all(character in BYTE_OF_CHARACTER for character in text):
            return bytes(BYTE_OF_CHARACTER[character] for character in text)
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            return bytes([int(text[3:5], 16)])
        return text.removeprefix("##").replace(SPACE, " ").encode()

    def save(self, folder: Path) -> None:
        """Write the files as they were, but for what makes `AutoTokenizer` give the ids of this class."""
        for name, content in (self._files | {TOKENIZER_CONFIG: self._exact_config()}).items():
            fs.write_atomic(folder / name, content)

    def _exact_config(self) -> bytes:
        """`tokenizer_config.json`, by which text that spells a special token is text in transformers too."""
        config = msgspec.json.decode(self._files.get(TOKENIZER_CONFIG, b"{}"), type=dict[str, Any])
        if not config:  # what `AutoTokenizer` would have to guess
            config = {"tokenizer_class": "PreTrainedTokenizerFast"}
            config |= {f"{role}_token": text for role, text in self._specials.items()}
        return msgspec.json.format(msgspec.json.encode(config | {"split_special_tokens": True}), indent=2) + b"\n"


def load_hf_tokenizer(folder: Path) -> HuggingFaceTokenizer:
    """Open the tokenizer in `folder`.

    Raises:
        DataError: `tokenizer.json` is damaged or from a newer version of the library.
    """
    path = folder / TOKENIZER_JSON
    try:
        rust = RustTokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise DataError(f"{path} is not a tokenizer that this version of `tokenizers` can open: {error}") from error
    specials = _special_texts(folder)
    unknown = cast("str | None", getattr(rust.model, "unk_token", None))
    if unknown is not None:
        specials.setdefault("unk", unknown)
    files = {name: (folder / name).read_bytes() for name in COPIED if (folder / name).is_file()}
    return HuggingFaceTokenizer(rust, specials, files)


def _special_texts(folder: Path) -> dict[str, str]:
    """Read the special tokens; `tokenizer_config.json` has the last word."""
    texts: dict[str, str] = {}
    for name in (SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG):
        content = read_json_object(folder / name)
        for role in ("bos", "eos", "unk", "pad"):
            value = content.get(f"{role}_token")
            text = cast("dict[str, Any]", value).get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                texts[role] = text
    return texts


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, an empty one if there is no such file.

    Raises:
        DataError: The file does not hold a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}") from None


def _byte_characters() -> dict[str, int]:
    """The visible character that stands for each byte in byte-level vocabularies (GPT-2): itself, if it is visible."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


BYTE_OF_CHARACTER = _byte_characters()
