"""The exported tokenizer equals SentencePiece, in the `tokenizers` library and through transformers."""

import re

import msgspec
import pytest

from foundry_config.errors import DataError
from foundry_data import tokenizer_export
from foundry_data.hf_conversion import to_rust_tokenizer
from foundry_data.sentencepiece_model import parse_model, with_exact_scores
from foundry_data.sentencepiece_tokenizer import SentencePieceTokenizer
from foundry_data.sentencepiece_training import train_tokenizer
from foundry_data.tokenizer_export import OWN_FILES, check_export, write_hf_tokenizer
from foundry_data.unusual_text import unusual_strings

EXTRA = ["FFF FF FFFF U+FFFD", "if x:\n        return [1, 22, 333]", "naïve café ﬁne"] * 4
SPELLED = [
    "<s>", "</s>", "a <unk> , <unk> b", "<pad><s>", "<<s>>", "<0x0A>", "x<0xFF>y", "<0x0a>",
    "a<x><s>b", "<x>", "<x>the<x>",
]  # fmt: skip
SPACED = [" ", "   ", "\u2581", " \u2581 a", "a \u2581  ", "if x:\n    y  \n  z ", "a\t b \n"]
RUNS = ["F" * n for n in range(1, 20)] + [" " * n + "x" for n in range(40)] + ["FF FFF\n" * 300]

KINDS = {
    "unigram": {"vocab_size": 400},
    "bpe": {"vocab_size": 400, "model_type": "bpe"},
    "char": {"vocab_size": 320, "model_type": "char"},
    "unigram with symbols": {
        "vocab_size": 400, "user_defined_symbols": ("<x>", "#"), "whitespace_pieces": True, "split_digits": True
    },
    "bpe with symbols": {
        "vocab_size": 400, "model_type": "bpe", "user_defined_symbols": ("<x>", "#"), "whitespace_pieces": True
    },
    "bpe without prefix": {
        "vocab_size": 400, "model_type": "bpe", "add_dummy_prefix": False, "user_defined_symbols": ("<x>",)
    },
    "bpe without prefix and bytes": {
        "vocab_size": 200, "model_type": "bpe", "add_dummy_prefix": False, "byte_fallback": False,
        "user_defined_symbols": ("<x>", "\u2581x")
    },
    "char with symbols": {"vocab_size": 320, "model_type": "char", "user_defined_symbols": ("<x>",)},
    "unigram without bytes": {"vocab_size": 200, "byte_fallback": False},
    "unigram with spaces collapsed": {"vocab_size": 400, "remove_extra_whitespaces": True},
    "bpe with spaces collapsed": {"vocab_size": 400, "model_type": "bpe", "remove_extra_whitespaces": True},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_sentencepiece_on_lines_and_unusual_strings(kind, lines):
    tokenizer = train_tokenizer([*lines, *EXTRA], **KINDS[kind])
    rust = to_rust_tokenizer(tokenizer.model, add_bos=False)
    texts = [*lines, *EXTRA, *RUNS, *SPELLED, *SPACED, "a<x>b <x><x>", "#<x> \n\n<x>", *unusual_strings(3000)]

    ours = [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    rust.encode_special_tokens = True
    theirs = [encoding.ids for encoding in rust.encode_batch(texts, add_special_tokens=False)]

    assert [t for t, a, b in zip(texts, ours, theirs, strict=True) if a != b] == []
    if tokenizer.model.byte_fallback and not tokenizer.model.remove_extra_whitespaces:
        assert [rust.decode(ids, skip_special_tokens=False) for ids in ours] == [tokenizer.decode(ids) for ids in ours]


@pytest.mark.parametrize(
    ("alphabet", "byte_fallback"),
    [
        ("the cat sat on a pad", True),
        ("the cat sat on a pad", False),
        ("s>0xAF/ 0x0A", True),
        ("\u65e5\u672c\u8a9e \u304b\u306a", True),
    ],
)
def test_text_that_spells_a_special_piece_in_unknown_characters_is_text(alphabet, byte_fallback):
    tokenizer = train_tokenizer(
        [alphabet] * 50, vocab_size=_largest(alphabet, byte_fallback), byte_fallback=byte_fallback
    )
    rust = to_rust_tokenizer(tokenizer.model, add_bos=False)
    rust.encode_special_tokens = True

    ours = [ids.tolist() for ids in tokenizer.encode_batch(SPELLED)]

    assert [rust.encode(text, add_special_tokens=False).ids for text in SPELLED] == ours


def _largest(alphabet, byte_fallback):
    with pytest.raises(DataError, match="at most") as refused:
        train_tokenizer([alphabet] * 50, vocab_size=600, byte_fallback=byte_fallback)
    return int(re.search(r"at most ([\d,]+)", str(refused.value))[1].replace(",", ""))


def test_trained_models_have_exact_scores(unigram, bpe):
    assert unigram.model.has_exact_scores
    assert bpe.model.has_exact_scores


def test_exact_scores_change_nothing_but_scores(unigram):
    again = parse_model(with_exact_scores(unigram.model_bytes))

    assert again == unigram.model


@pytest.mark.slow
def test_the_folder_is_what_transformers_4_and_5_open(unigram, tmp_path, lines):
    write_hf_tokenizer(unigram, tmp_path, model_max_length=128, sample=lines)

    config = msgspec.json.decode((tmp_path / "tokenizer_config.json").read_bytes())

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(OWN_FILES)
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["model_max_length"] == 128
    assert [config[f"{role}_token"] for role in ("pad", "unk", "bos", "eos")] == ["<pad>", "<unk>", "<s>", "</s>"]


@pytest.mark.slow
@pytest.mark.parametrize("add_bos", [False, True])
def test_auto_tokenizer_gives_the_ids_of_sentencepiece(bpe, tmp_path, lines, add_bos):
    transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
    write_hf_tokenizer(bpe, tmp_path, add_bos=add_bos, model_max_length=64, sample=lines)

    auto = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)

    for text in [*lines, *RUNS[:30], *SPELLED, *unusual_strings(300)]:
        assert auto(text, add_special_tokens=False)["input_ids"] == bpe.encode(text)
        assert auto(text)["input_ids"] == ([2] if add_bos else []) + bpe.encode(text)
    assert (auto.pad_token_id, auto.unk_token_id, auto.bos_token_id, auto.eos_token_id) == (0, 1, 2, 3)
    assert auto.model_max_length == 64
    assert auto.decode(bpe.encode("the  cat\nsat")) == "the  cat\nsat"
    assert auto.decode([2, *bpe.encode("the cat"), 3], skip_special_tokens=True) == "the cat"


def test_a_difference_on_a_line_of_the_corpus_stops_the_export(unigram, bpe, lines):
    wrong = to_rust_tokenizer(bpe.model, add_bos=False)

    with pytest.raises(DataError, match=r"other ids than SentencePiece for \d+ of \d+ lines"):
        check_export(unigram, wrong, lines)


@pytest.mark.slow
def test_a_difference_on_an_unusual_string_stops_the_export_of_a_lossless_model(unigram):
    rust = to_rust_tokenizer(unigram.model, add_bos=False)
    rust.normalizer = None

    with pytest.raises(DataError, match="unusual strings"):
        check_export(unigram, rust, [])


@pytest.mark.slow
def test_a_model_that_changes_characters_is_exported_with_a_warning(tmp_path, caplog, lines):
    tokenizer = train_tokenizer(lines, vocab_size=350, normalization="nmt_nfkc", remove_extra_whitespaces=True)

    write_hf_tokenizer(tokenizer, tmp_path, sample=lines)

    assert "nmt_nfkc" in caplog.text
    assert not tokenizer.model.is_lossless


@pytest.mark.parametrize("options", [{"model_type": "word"}, {"treat_whitespace_as_suffix": True}])
def test_a_model_without_an_exact_equal_is_refused(options, tmp_path, lines):
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=200, minloglevel=2,
        hard_vocab_limit=False, **options,
    )  # fmt: skip
    tokenizer = SentencePieceTokenizer(model.getvalue())

    with pytest.raises(DataError, match=r"no exact tokenizer\.json"):
        write_hf_tokenizer(tokenizer, tmp_path)


def test_unusual_strings_are_the_same_everywhere_and_valid():
    strings = unusual_strings(500)

    assert strings == unusual_strings(500)
    assert all(text.encode() for text in strings)
    assert any("\u2581" in text for text in strings)


def test_of_giant_texts_only_the_beginnings_are_compared():
    giant = "a b\n" * 10**6

    lines = tokenizer_export._first_lines(iter(["short", giant, *["c" * 2**20] * 100]))

    assert lines[:2] == ["short", "short"]
    assert max(map(len, lines)) == tokenizer_export.CHECKED_LINE
    assert sum(map(len, lines)) <= tokenizer_export.CHECKED_CHARACTERS + 2 * tokenizer_export.CHECKED_LINE
