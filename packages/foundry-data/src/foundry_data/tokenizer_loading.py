"""Open a tokenizer, whatever it is: a SentencePiece model file, or a folder of either kind.

load_tokenizer("tokenizer.model")       a model file
load_tokenizer("gpt2/")                 tokenizer.json, opened with the `tokenizers` library
load_tokenizer("run/tokenizer/")        written by this package: SentencePiece, which its tokenizer.json equals
load_tokenizer("old-llama/")            tokenizer.model only
"""

from pathlib import Path

from foundry_config.errors import DataError
from foundry_data.hf_tokenizer import load_hf_tokenizer, read_json_object
from foundry_data.sentencepiece_tokenizer import SentencePieceTokenizer
from foundry_data.tokenizer import Tokenizer
from foundry_data.tokenizer_export import FINGERPRINT_KEY, MODEL, TOKENIZER_CONFIG, TOKENIZER_JSON


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Open a SentencePiece model file or a tokenizer folder.

    Raises:
        DataError: There is none, or it is damaged; the message says what was looked for.
    """
    place = Path(path)
    if place.name == TOKENIZER_JSON and place.is_file():
        raise DataError(f"{place} is one of several files of a tokenizer; name its folder: {place.parent}")
    if place.is_file():
        return SentencePieceTokenizer(place.read_bytes(), name=str(place))
    if not place.is_dir():
        raise DataError(f"there is no tokenizer at {place}: neither a SentencePiece model file nor a folder")
    model, own = place / MODEL, read_json_object(place / TOKENIZER_CONFIG).get(FINGERPRINT_KEY)
    if own is not None and model.is_file():
        tokenizer = SentencePieceTokenizer(model.read_bytes(), name=str(model))
        if tokenizer.fingerprint != own:
            raise DataError(f"{model} is not the model that {place / TOKENIZER_CONFIG} was written for")
        return tokenizer
    if (place / TOKENIZER_JSON).is_file():
        return load_hf_tokenizer(place)
    if model.is_file():
        return SentencePieceTokenizer(model.read_bytes(), name=str(model))
    if (place / "run.json").is_file():
        raise DataError(f"{place} is a run, and its tokenizer lies in its checkpoints; name one of {place}/checkpoints")
    found = ", ".join(sorted(entry.name for entry in place.iterdir())[:8]) or "nothing"
    raise DataError(
        f"{place} holds no tokenizer: neither {TOKENIZER_JSON} nor {MODEL} (found: {found}); "
        "open it with transformers and save it again with save_pretrained"
    )
