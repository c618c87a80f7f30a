"""Steps that never look at the seed say so, and what they make is shared by runs of all seeds."""

import random
import string

import msgspec
import pytest

from foundry_config import DataConfig, ExperimentConfig, ModelConfig, TokenizerConfig, TrainingConfig
from foundry_data.documents import Document
from foundry_data.processor import DataProcessor
from foundry_data.transform_kinds import Transform
from foundry_data.transform_runner import run_manipulation
from foundry_data.transforms import TRANSFORMS, steps_draw

OPTIONS = {
    "regex_replace": {"pattern": "a+", "replacement": "o"},
    "lowercase": {},
    "drop_words": {"words": ["be"]},
    "drop_sentences": {"pattern": "q"},
    "shuffle_words": {"window": 4},
    "regex_drop": {"pattern": "zz"},
    "filter_length": {"minimum": 5},
    "filter_characters": {"allowed": "[a-z ]", "minimum_share": 0.99},
    "sample": {"fraction": 0.5},
    "hash_split": {"fraction": 0.3, "keep": "test", "seed": 7},
    "deduplicate": {},
    "deduplicate_minhash": {"similarity": 0.5, "ngram": 2},
}
SEEDLESS = {name for name, kind in TRANSFORMS.items() if kind.seedless}


def some_documents():
    draw = random.Random(0)
    words = ["".join(draw.choices(string.ascii_letters, k=draw.randint(1, 8))) for _ in range(40)]
    words += ["be", "zz", "quite"]
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 14))) + draw.choice(".?!") for _ in range(200)]
    return [Document(text, f"made:{number}") for number, text in enumerate(texts)]


def made(step, seed, folder):
    result = run_manipulation(some_documents(), [step], seed=seed, num_workers=1, receipts_dir=folder)
    return [document.text for document in result]


def test_every_step_is_tried_here():
    assert OPTIONS.keys() == TRANSFORMS.keys()
    assert {"sample", "shuffle_words", "deduplicate_minhash"} == TRANSFORMS.keys() - SEEDLESS
    assert not Transform.seedless  # who says nothing is taken to draw


@pytest.mark.parametrize("name", sorted(SEEDLESS))
def test_a_step_that_says_it_is_seedless_makes_the_same_of_any_seed(name, tmp_path):
    step = {"name": name, **OPTIONS[name]}
    texts = made(step, 1, tmp_path)

    assert texts != [document.text for document in some_documents()] or name == "deduplicate"
    assert all(made(step, seed, tmp_path) == texts for seed in (2, 3))


@pytest.mark.parametrize("name", ["sample", "shuffle_words"])
def test_a_step_that_draws_makes_something_else_of_another_seed(name, tmp_path):
    step = {"name": name, **OPTIONS[name]}

    assert steps_draw([step])
    assert steps_draw(["lowercase", step])
    assert made(step, 1, tmp_path) != made(step, 2, tmp_path)


def test_a_function_draws_if_it_takes_a_seed_and_a_program_never(tmp_path):
    (tmp_path / "own.py").write_text("def plain(text): return text\ndef drawing(text, seed): return text\n")

    def draws(step):
        return steps_draw([step], base_dir=tmp_path)

    assert not draws("own:plain")
    assert draws("own:drawing")
    assert not draws({"name": "own:drawing", "seed": 3})
    assert not draws({"command": ["cat"]})


def test_seeds_share_an_ablated_text_and_its_receipts_unless_something_draws(tmp_path):
    (tmp_path / "train.txt").write_text("\n".join(document.text for document in some_documents()))
    (tmp_path / "more.txt").write_text("\n".join(document.text[::-1] for document in some_documents()))
    (tmp_path / "pool.txt").write_text("\n".join(f"{document.text[::-1]} more" for document in some_documents()))

    def prepared(seed, *steps, **data):
        config = ExperimentConfig(
            experiment_name="seeds",
            random_seed=seed,
            dataset_manipulation=list(steps),
            data=DataConfig(
                source_corpus="train.txt",
                test_corpus="more.txt",
                text_documents="line",
                num_workers=1,
                batch_size=2,
                max_sequence_length=16,
                **data,
            ),
            tokenizer=TokenizerConfig(vocab_size=320),
            model=ModelConfig(
                layers=1, embedding_size=8, hidden_size=8, intermediate_hidden_size=16, attention_heads=1
            ),
            training=TrainingConfig(output_dir="run", learning_rate=1e-3),
        )
        return DataProcessor(config, tmp_path).preprocess()

    shared = [prepared(seed, "lowercase") for seed in (1, 2)]
    drawn = [prepared(seed, "lowercase", {"name": "shuffle_words", "window": 3}) for seed in (1, 2)]
    topped_up = [
        prepared(seed, {"name": "drop_words", "words": ["be"]}, replacement_corpus="pool.txt") for seed in (1, 2)
    ]

    assert shared[0].receipts == shared[1].receipts
    assert shared[0].data_digest == shared[1].data_digest
    assert msgspec.json.decode(shared[0].receipts[0].read_bytes())["name"] == "lowercase"
    assert drawn[0].receipts != drawn[1].receipts
    assert topped_up[0].receipts != topped_up[1].receipts
