"""What every tokenizer must do, asked of SentencePiece models and of the Hugging Face form of the same models."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from foundry_config.errors import DataError
from foundry_data.sentencepiece_tokenizer import SEGMENT, SentencePieceTokenizer, cut_at_seams
from foundry_data.sentencepiece_training import train_tokenizer
from foundry_data.tokenizer_export import TOKENIZER_JSON, write_hf_tokenizer
from foundry_data.tokenizer_loading import load_tokenizer
from foundry_data.unusual_text import unusual_strings

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module", params=["unigram", "bpe", pytest.param("hugging face", marks=pytest.mark.slow)])
def tokenizer(request, tmp_path_factory):
    if request.param != "hugging face":
        return request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp("hf")
    write_hf_tokenizer(request.getfixturevalue("bpe"), folder, add_bos=True)
    (folder / "tokenizer.model").unlink()
    return load_tokenizer(folder)


@pytest.mark.slow
@given(text=texts)
@example(text="a\u2581b")
def test_decoding_gives_back_any_text(tokenizer, text):
    # SentencePiece writes a space as U+2581, so that this one character comes back as a space
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("\u2581", " ")


@pytest.mark.slow
@given(batch=st.lists(texts, max_size=6))
def test_batch_processing_maintains_order(tokenizer, batch):
    encoded = tokenizer.encode_batch(batch)

    assert [ids.tolist() for ids in encoded] == [tokenizer.encode(text) for text in batch]
    assert all(ids.dtype == np.int32 for ids in encoded)


@given(text=texts)
def test_every_id_is_in_the_vocabulary(tokenizer, text):
    assert all(0 <= token_id < tokenizer.vocab_size for token_id in tokenizer.encode(text))


def test_special_ids_are_those_of_the_contract(tokenizer):
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2, 3)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 1)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (2, 3)
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.unk_token == "<unk>"
    assert tokenizer.bos_token == "<s>"
    assert tokenizer.eos_token == "</s>"
    assert tokenizer.special_ids == {0, 2, 3}
    assert len(tokenizer) == tokenizer.vocab_size


def test_encode_text_with_special_tokens(tokenizer):
    plain = tokenizer.encode("the cat")

    assert tokenizer.encode("the cat", add_special_tokens=True) == [2, *plain, 3]


def test_decode_with_and_without_special_tokens(tokenizer):
    ids = tokenizer.encode("the cat", add_special_tokens=True)

    assert tokenizer.decode(ids) == "the cat"
    spelled = tokenizer.decode(ids, skip_special_tokens=False)
    assert spelled.startswith("<s>")
    assert spelled.endswith("</s>")
    assert "the cat" in spelled


def test_text_that_spells_a_special_token_stays_text(tokenizer):
    ids = tokenizer.encode("<s> the cat </s><pad>")

    assert not set(ids) & {0, 2, 3}
    assert tokenizer.decode(ids) == "<s> the cat </s><pad>"


def test_pad_sequences_to_same_length_and_handle_attention_masks_correctly(tokenizer):
    batch = tokenizer(["the cat sat on a mat", "the", ""])
    lengths = [len(tokenizer.encode(text)) for text in ("the cat sat on a mat", "the", "")]

    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, max(lengths))
    assert batch["attention_mask"].sum(axis=1).tolist() == lengths
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_id).all()


def test_truncation_keeps_the_special_tokens(tokenizer):
    batch = tokenizer(["the cat sat on a mat", "a"], add_special_tokens=True, max_length=4, pad_to=6)

    assert batch["input_ids"].shape == (2, 6)
    assert batch["input_ids"][0, :4].tolist()[0] == 2
    assert batch["input_ids"][0, :4].tolist()[3] == 3
    assert batch["input_ids"][0, 4:].tolist() == [0, 0]


def test_a_single_text_is_a_batch_of_one(tokenizer):
    assert tokenizer("the cat")["input_ids"].tolist() == [tokenizer.encode("the cat")]
    assert tokenizer([])["input_ids"].shape == (0, 0)


def test_a_text_that_does_not_fit_the_padding_is_refused(tokenizer):
    with pytest.raises(ValueError, match="set max_length too"):
        tokenizer("the cat sat on a mat", pad_to=1)


@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_an_id_that_does_not_exist_is_refused(tokenizer, token_id):
    with pytest.raises(DataError, match="vocabulary has"):
        tokenizer.decode([token_id])
    with pytest.raises(DataError, match="vocabulary has"):
        tokenizer.token_text(token_id)


def test_a_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(DataError, match="Unicode"):
        tokenizer.encode_batch(["a\ud800b"])


@pytest.mark.slow
def test_save_and_reload_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)

    again = load_tokenizer(tmp_path)

    assert type(again) is type(tokenizer)
    assert again.fingerprint == tokenizer.fingerprint
    strings = unusual_strings(200)
    assert [again.encode(s) for s in strings] == [tokenizer.encode(s) for s in strings]


@given(text=texts)
def test_offsets_follow_the_characters(tokenizer, text):
    ids, last_characters = tokenizer.encode_offsets(text)

    assert ids.tolist() == tokenizer.encode(text)
    assert (np.diff(last_characters) >= 0).all()
    if len(ids):
        assert last_characters[0] >= -1
        assert last_characters[-1] == len(text) - 1


def test_surfaces_spell_the_text(tokenizer):
    surfaces = tokenizer.token_surfaces()
    text = "the cat\n x = [1, 2] é"

    spelled = b"".join(surfaces[token_id] or b"" for token_id in tokenizer.encode(text))

    assert spelled.decode() == (" " if tokenizer.has_dummy_prefix else "") + text
    assert len(surfaces) == tokenizer.vocab_size
    assert [surfaces[i] for i in (0, 2, 3)] == [None] * 3


@pytest.mark.slow
def test_load_hugging_face_tokenizer(tmp_path, unigram):
    write_hf_tokenizer(unigram, tmp_path)
    (tmp_path / "tokenizer.model").unlink()

    tokenizer = load_tokenizer(tmp_path)

    assert not isinstance(tokenizer, SentencePieceTokenizer)
    assert tokenizer.encode("the cat") == unigram.encode("the cat")


@pytest.mark.slow
def test_fall_back_to_sentencepiece_where_there_is_no_tokenizer_json(tmp_path, unigram):
    write_hf_tokenizer(unigram, tmp_path)
    for name in (TOKENIZER_JSON, "tokenizer_config.json"):
        (tmp_path / name).unlink()

    tokenizer = load_tokenizer(tmp_path)

    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert tokenizer.fingerprint == unigram.fingerprint


def test_a_model_file_alone_is_a_tokenizer(tmp_path, unigram):
    path = tmp_path / "any.model"
    path.write_bytes(unigram.model_bytes)

    assert load_tokenizer(path).fingerprint == unigram.fingerprint


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"not a model at all"])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    path = tmp_path / "broken.model"
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"broken\.model"):
        load_tokenizer(path)


def test_half_a_model_file_is_named(tmp_path, unigram):
    path = tmp_path / "half.model"
    path.write_bytes(unigram.model_bytes[: len(unigram.model_bytes) // 2])

    with pytest.raises(DataError, match=r"half\.model"):
        load_tokenizer(path)


def test_a_missing_or_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="there is no tokenizer at"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no tokenizer.*found: nothing"):
        load_tokenizer(tmp_path)


@pytest.mark.slow
def test_a_model_that_was_swapped_in_our_folder_is_refused(tmp_path, unigram, bpe):
    write_hf_tokenizer(unigram, tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(bpe.model_bytes)

    with pytest.raises(DataError, match="is not the model"):
        load_tokenizer(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_json_is_named(tmp_path, unigram, name):
    write_hf_tokenizer(unigram, tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    (tmp_path / name).write_bytes(b"{")

    with pytest.raises(DataError, match=name):
        load_tokenizer(tmp_path)


@pytest.mark.slow
def test_padding_without_a_pad_token_is_refused(tmp_path, unigram):
    write_hf_tokenizer(unigram, tmp_path)
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).unlink()
    tokenizer = load_tokenizer(tmp_path)

    assert tokenizer.pad_id is None
    with pytest.raises(DataError, match="no pad token"):
        tokenizer(["the cat sat", "a"])


@pytest.mark.parametrize("prefix", [True, False])
def test_a_long_text_is_encoded_in_segments_with_the_ids_of_the_whole(prefix):
    tokenizer = train_tokenizer(["the cat sat on a mat with forty dogs"] * 9, vocab_size=278, add_dummy_prefix=prefix)
    text = "the  cat sat on a mat\n with forty dogs, " * (3 * SEGMENT // 40)

    segments = cut_at_seams(text, keep_space=not prefix)

    assert len(segments) > 1
    assert tokenizer.encode(text) == tokenizer._encode_list([text])[0].tolist()
    assert tokenizer.encode(text) == tokenizer.encode_batch(["a", text])[1].tolist()


def test_a_long_text_without_a_seam_is_one_segment():
    text = "x" * (3 * SEGMENT)

    assert cut_at_seams(text, keep_space=False) == [text]


@pytest.mark.slow
@pytest.mark.parametrize("configured", [True, False])
def test_a_foreign_folder_is_saved_so_that_auto_tokenizer_gives_the_same_ids(tmp_path, configured):
    transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    rust = Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    specials = ["<unk>", "<s>", "</s>"]
    rust.train_from_iterator(["the unk king said so"] * 3, trainers.BpeTrainer(vocab_size=280, special_tokens=specials))
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "foreign").mkdir()
    (tmp_path / "saved").mkdir()
    if configured:
        transformers.PreTrainedTokenizerFast(tokenizer_object=rust, **roles).save_pretrained(tmp_path / "foreign")
    else:
        rust.save(str(tmp_path / "foreign" / "tokenizer.json"))

    tokenizer = load_tokenizer(tmp_path / "foreign")
    tokenizer.save(tmp_path / "saved")

    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved", local_files_only=True)
    again = load_tokenizer(tmp_path / "saved")
    for text in ("the <unk> king", "<s>the king</s>", "said  so\n"):
        ids = list(tokenizer.encode(text))
        assert auto(text, add_special_tokens=False)["input_ids"] == ids == list(again.encode(text))
    assert again.fingerprint == tokenizer.fingerprint
    assert again.eos_id == tokenizer.eos_id


def test_places_beside_a_tokenizer_say_which_one_to_name(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")

    with pytest.raises(DataError, match=f"name its folder: {tmp_path}"):
        load_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match="is a run, and its tokenizer lies in its checkpoints"):
        load_tokenizer(tmp_path / "run")
