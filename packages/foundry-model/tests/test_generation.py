from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from foundry_config import ConfigError
from foundry_model import generate_text
from foundry_model.context import longest_context, note_context
from foundry_model.generation import generate_ids
from foundry_model.sampling import Sampling


class Counting(nn.Module):
    """Prefers the token after the last one; with a cache that only remembers how much was read."""

    def __init__(self, size=12, context=None, cache=False):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.dropout = nn.Dropout(0.5)
        self.size, self.cache, self.read = size, cache, []
        self.config = SimpleNamespace(max_position_embeddings=context)

    def forward(self, input_ids, past_key_values=None, use_cache=False):
        self.read.append(input_ids.shape[1])
        logits = nn.functional.one_hot((input_ids + 1) % self.size, self.size) * 5.0 + self.dropout(self.weight)
        return SimpleNamespace(logits=logits, past_key_values=self.cache or None)


class Letters:
    """ids: 0 pad, 1 unknown, 2 BOS, 3 EOS, then letters; a word starts with an underscore that decodes to a space."""

    bos_id, eos_id = 2, 3

    def encode(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return [4 + "_abcdefgh".index(c) for c in ("_" + text.replace(" ", "_"))]

    def decode(self, ids, skip_special_tokens=True):
        return "".join("_abcdefgh"[i - 4] for i in ids if i > 3).replace("_", " ").removeprefix(" ")


def test_a_prompt_is_continued_up_to_the_length_asked_for():
    assert generate_text(Counting(), Letters(), ["a"], max_new_tokens=3, greedy=True) == ["bcd"]


def test_the_end_of_the_document_ends_the_text_and_is_not_shown():
    model = Counting(size=13)  # after 12 comes 0, then 1, 2 and EOS

    assert generate_text(model, Letters(), ["f"], max_new_tokens=50, greedy=True) == ["gh"]


def test_a_space_before_the_first_new_word_is_kept():
    class SpaceNext(Counting):
        def forward(self, input_ids, past_key_values=None, use_cache=False):
            target = torch.where(input_ids == 4, 6, 4)
            return SimpleNamespace(logits=nn.functional.one_hot(target, 13) * 5.0)

    assert generate_text(SpaceNext(), Letters(), ["a"], max_new_tokens=2, greedy=True) == [" b"]


def test_an_empty_prompt_starts_from_bos_and_a_start_token_stands_before_every_prompt():
    model = Counting(size=13)

    assert generate_text(model, Letters(), [""], max_new_tokens=5, greedy=True) == [""]  # BOS, then EOS at once
    assert generate_text(model, Letters(), [""], max_new_tokens=2, greedy=True, start_id=4) == ["ab"]


def test_an_empty_prompt_without_bos_and_eos_is_refused():
    class Bare(Letters):
        bos_id = eos_id = None

    with pytest.raises(ConfigError, match="neither BOS nor EOS"):
        generate_text(Counting(), Bare(), [""], max_new_tokens=1)


@pytest.mark.parametrize("cache", [False, True])
def test_texts_depend_on_seed_and_place_only_not_on_the_other_prompts(cache):
    class Flat(Counting):
        def forward(self, input_ids, past_key_values=None, use_cache=False):
            return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 13), past_key_values=self.cache or None)

    def texts(prompts, seed=1):
        return generate_text(Flat(cache=cache), Letters(), prompts, max_new_tokens=20, seed=seed)

    assert texts(["a", "bb", "c"])[:2] == texts(["a", "bb"])
    assert texts(["a", "bb", "c"])[2] == texts(["h", "hhh", "c"])[2]
    assert texts(["a"], seed=1) != texts(["a"], seed=2)


def test_generation_leaves_modes_and_the_global_random_state_alone():
    model = Counting().train()
    before = torch.get_rng_state()

    generate_text(model, Letters(), ["a"], max_new_tokens=4)

    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert model.dropout.training


def test_with_a_cache_every_token_is_read_once():
    model = Counting(cache=True)

    generate_text(model, Letters(), ["abc"], max_new_tokens=4, greedy=True)

    assert model.read == [4, 1, 1, 1]


@pytest.mark.parametrize("error", [ValueError("no attention layers"), AttributeError("no cache")])
def test_a_model_whose_cache_does_not_work_is_read_without_one(error):
    class Cacheless(Counting):
        def forward(self, input_ids, past_key_values=None, use_cache=False):
            if use_cache:
                raise error
            return super().forward(input_ids)

    model = Cacheless()

    assert generate_text(model, Letters(), ["abc"], max_new_tokens=3, greedy=True) == ["def"]
    assert model.read == [4, 5, 6]


def test_lack_of_memory_is_no_reason_to_read_without_a_cache():
    class Hungry(Counting):
        def forward(self, input_ids, past_key_values=None, use_cache=False):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        generate_text(Hungry(), Letters(), ["a"], max_new_tokens=3)


def test_a_long_list_of_prompts_is_read_a_batch_at_a_time():
    rows = []

    class Watched(Counting):
        def forward(self, input_ids, past_key_values=None, use_cache=False):
            rows.append(len(input_ids))
            return super().forward(input_ids)

    texts = generate_text(Watched(), Letters(), ["a"] * 100, max_new_tokens=1, greedy=True)

    assert texts == ["b"] * 100
    assert rows == [64, 36]


def test_beyond_the_positions_of_the_model_the_last_ones_are_read_again():
    model = Counting(size=13, context=5, cache=True)

    text = generate_text(model, Letters(), ["abc"], max_new_tokens=5, greedy=True)

    assert text == ["defgh"]
    assert model.read == [4, 1, 5, 5, 5]


def test_a_module_without_a_config_is_asked_for_no_more_than_it_was_built_for():
    model = Counting(size=13)
    del model.config
    note_context(model, 5)

    assert generate_text(model, Letters(), ["abc"], max_new_tokens=5, greedy=True) == ["defgh"]
    assert model.read == [4, 5, 5, 5, 5]


@pytest.mark.parametrize("name", ["max_position_embeddings", "n_positions", "max_seq_len", "context_length"])
def test_the_context_stands_in_the_config_under_one_of_its_names(name):
    model = Counting()
    model.config = SimpleNamespace(**{name: 7})
    note_context(model, 99)

    assert longest_context(model) == 7


def test_a_module_may_say_itself_that_it_reads_any_number_of_tokens():
    model = nn.Linear(1, 1)
    model.foundry_context = None
    note_context(model, 5)

    assert longest_context(model) is None


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"max_new_tokens": -5}, "max_new_tokens: -5 is below 0"),
        ({"max_new_tokens": 1, "start_id": 300}, "start_id: 300 is no token of this model, whose ids are 0 to 11"),
        ({"max_new_tokens": 1, "start_id": -1}, "start_id: -1"),
        ({"max_new_tokens": 1, "prompts": "abc"}, "a list of texts is expected, not the one text 'abc'"),
    ],
)
def test_wishes_that_make_no_sense_are_refused_by_name(wishes, told):
    model = Counting()
    model.get_input_embeddings = lambda: nn.Embedding(12, 1)

    with pytest.raises(ConfigError, match=told):
        generate_text(model, Letters(), **({"prompts": ["a"]} | wishes))


def test_a_seed_may_be_a_number_of_numpy():
    assert generate_text(Counting(), Letters(), ["a"], max_new_tokens=2, seed=np.int64(3), temperature=0.1) == ["bc"]


def test_pieces_are_handed_out_as_they_come_and_add_up_to_the_text():
    pieces = {0: "", 1: ""}

    def collect(index, piece):
        pieces[index] += piece

    texts = generate_text(Counting(), Letters(), ["a", "b"], max_new_tokens=3, greedy=True, on_text=collect)

    assert pieces == {0: texts[0], 1: texts[1]} == {0: "bcd", 1: "cde"}


def test_half_a_character_is_held_back_until_the_rest_of_it_comes():
    class Bytes:
        bos_id, eos_id = 0, None

        def encode(self, text, add_special_tokens=False):
            return list(text.encode())

        def decode(self, ids, skip_special_tokens=True):
            return bytes(i for i in ids if i).decode(errors="replace")

    class Fixed(Counting):
        def forward(self, input_ids, past_key_values=None, use_cache=False):
            following = {ord("x"): 0xC3, 0xC3: 0xA9, 0xA9: 0xC3}
            target = torch.tensor([[following.get(i, 0) for i in row] for row in input_ids.tolist()])
            return SimpleNamespace(logits=nn.functional.one_hot(target, 256) * 5.0)

    pieces = []
    text = generate_text(
        Fixed(), Bytes(), ["x"], max_new_tokens=3, greedy=True, on_text=lambda _, piece: pieces.append(piece)
    )

    assert pieces == ["é", "\ufffd"]
    assert text == ["é\ufffd"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama", "mamba"])
def test_greedy_tokens_equal_those_of_transformers(tiny_config, name):
    from foundry_model import create_model

    torch.manual_seed(0)
    activation = {"activation_function": "silu"} if name == "mamba" else {}
    model = create_model(tiny_config(architecture=name, **activation)).eval()
    prompts = torch.arange(10).view(2, 5) + 4

    ours = [[], []]
    for index, token in generate_ids(
        model, prompts.tolist(), max_new_tokens=6, stop_id=None, sampling=Sampling(0.0), seed=0
    ):
        ours[index].append(token)
    theirs = model.generate(prompts, do_sample=False, max_new_tokens=6, eos_token_id=None, pad_token_id=0)

    assert ours == theirs[:, 5:].tolist()
