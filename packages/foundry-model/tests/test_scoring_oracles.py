"""Scores of real architectures against independent computations: plain transformers, minicons, lm-eval."""

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foundry_model.minimal_pairs import accuracies, score_pair_files
from foundry_model.scoring import score_spans
from foundry_model.scoring_model import open_for_scoring
from foundry_model.stimuli import stimulus
from foundry_model.surprisal import score_surprisal

pytestmark = pytest.mark.slow

SIZE = 160
SHAPES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
    },
    "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "opt": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
    },
    "mistral": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "sliding_window": 5,
    },
    "gemma2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 64,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
}


def build(family):
    """A model with weights large enough that every token and position matters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family, vocab_size=SIZE, bos_token_id=2, eos_token_id=3, pad_token_id=0, **SHAPES[family]
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return model


@pytest.fixture(scope="module")
def hf_tokenizer():
    """A BPE tokenizer with leading-space pieces, as transformers opens it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    texts = [text for pair in sentences() for text in pair]
    tokenizer.train_from_iterator(
        (word for text in texts for word in text.split()),
        trainers.BpeTrainer(vocab_size=SIZE, special_tokens=special, show_progress=False),
    )
    assert tokenizer.get_vocab_size() <= SIZE
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="module")
def tokenizer(hf_tokenizer):
    """The same for scoring."""
    pieces = hf_tokenizer.convert_ids_to_tokens(range(len(hf_tokenizer)))
    surfaces = [None] * 4 + [piece.replace("▁", " ").encode() for piece in pieces[4:]]
    return SimpleNamespace(
        vocab_size=SIZE,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        encode_batch=lambda texts: [hf_tokenizer.encode(text, add_special_tokens=False) for text in texts],
        token_surfaces=lambda: surfaces + [None] * (SIZE - len(surfaces)),
    )


def sentences():
    """200 pairs in the manner of BLiMP: agreement across an attractor."""
    subjects = [("teacher", "teachers"), ("painting", "paintings"), ("guest", "guests"), ("senator", "senators")]
    places = ["near the lake", "of that museum", "behind some cars", "that Anna liked", ""]
    verbs = [("sleeps", "sleep"), ("was disturbing Bill", "were disturbing Bill"), ("has left", "have left")]
    determiners = ["The", "This new", "That other", "The old"]
    for determiner, subject, place, verb in itertools.islice(
        itertools.product(determiners, subjects, places, verbs), 200
    ):
        start = " ".join(filter(None, (determiner, subject[0], place)))
        yield f"{start} {verb[0]}.", f"{start} {verb[1]}."


def write_pairs(folder, count):
    path = folder / "agreement.jsonl"
    records = [{"sentence_good": good, "sentence_bad": bad, "field": "morphology"} for good, bad in sentences()]
    path.write_text("".join(json.dumps(record) + "\n" for record in records[:count]))
    return path


@pytest.fixture
def pair_path(tmp_path):
    return write_pairs(tmp_path, 200)


@pytest.fixture
def few_pairs(tmp_path):
    return write_pairs(tmp_path, 6)


@torch.no_grad()
def plain_score(model, ids):
    """One sentence, the whole softmax in double precision, positions and masks as transformers makes them."""
    logprobs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(logprobs[i - 1, ids[i]].item() for i in range(1, len(ids)))


@pytest.mark.parametrize("family", SHAPES)
def test_scores_equal_plain_transformers_one_sentence_at_a_time(family, few_pairs, tokenizer):
    model = build(family)

    (scored,) = score_pair_files(model, tokenizer, [few_pairs])

    for entry in scored:
        for side, score in ((entry.pair.good, entry.good), (entry.pair.bad, entry.bad)):
            expected = plain_score(model, [2, *tokenizer.encode_batch([side.text])[0]])
            assert score.logprob == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("family", "expected"),
    [("gpt2", True), ("llama", True), ("gpt_neox", True), ("mistral", False), ("mamba", False)],
)
def test_plain_attention_reads_tries_and_others_do_not(family, expected):
    with open_for_scoring(build(family)) as scorer:
        assert scorer.reads_tries == expected


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "mamba"])
def test_a_gpu_gives_the_scores_of_the_cpu(family, few_pairs, tokenizer):
    def scores(device):
        (scored,) = score_pair_files(build(family).to(device), tokenizer, [few_pairs])
        return [score.logprob for entry in scored for score in (entry.good, entry.bad)]

    assert scores("cuda") == pytest.approx(scores("cpu"), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba"])
def test_batches_of_every_size_give_the_same_scores(family, few_pairs, tokenizer):
    model = build(family)

    together = [entry.good.logprob for entry in next(score_pair_files(model, tokenizer, [few_pairs]))]
    for batch_tokens in (64, 5000):
        found = next(score_pair_files(model, tokenizer, [few_pairs], batch_tokens=batch_tokens))
        alone = [entry.good.logprob for entry in found]
        assert alone == pytest.approx(together, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sentence_scores_equal_those_of_minicons(family, pair_path, tokenizer, hf_tokenizer):
    scorer = pytest.importorskip("minicons.scorer")
    model = build(family)
    theirs = scorer.IncrementalLMScorer(model, "cpu", tokenizer=hf_tokenizer)

    (scored,) = score_pair_files(model, tokenizer, [pair_path])

    for side in ("good", "bad"):
        texts = [getattr(entry.pair, side).text for entry in scored]
        expected = theirs.sequence_score(texts, reduction=lambda x: x.double().sum().item(), bos_token=True)
        found = [getattr(entry, side).logprob for entry in scored]
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_corrected_word_surprisal_equals_that_of_minicons(family, tokenizer, hf_tokenizer):
    scorer = pytest.importorskip("minicons.scorer")
    model = build(family)
    theirs = scorer.IncrementalLMScorer(model, "cpu", tokenizer=hf_tokenizer)
    texts = [good for good, _ in itertools.islice(sentences(), 20)]
    without_eos = SimpleNamespace(**{**vars(tokenizer), "bos_id": None, "eos_id": None})  # minicons leaves EOS out

    found = list(score_surprisal(model, without_eos, [stimulus(text) for text in texts], start_id=2))

    for text, ours in zip(texts, found, strict=True):
        for corrected in (True, False):
            prepared = theirs.prepare_text([text], bos_token=True)
            (tokens,) = theirs.compute_stats(prepared, base_two=True, bow_correction=corrected)
            expected = [0.0] * len(ours.regions)
            for token, score in zip(ours.tokens, tokens, strict=True):
                expected[token.word] -= score
            bits = [region.surprisal if corrected else region.uncorrected for region in ours.regions]
            np.testing.assert_allclose(bits, expected, atol=1e-4)


def test_accuracy_equals_that_of_lm_eval(tmp_path, pair_path, tokenizer, hf_tokenizer):
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    model = build("gpt2")
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    hf_tokenizer.save_pretrained(folder)
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    task = {
        "task": "agreement",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(pair_path)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_target": 0,
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (tasks / "agreement.yaml").write_text(json.dumps(task))

    results = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={folder},dtype=float32",
        tasks=["agreement"],
        task_manager=TaskManager(include_path=str(tasks)),
        device="cpu",
        batch_size=20,
        bootstrap_iters=0,
    )

    (scored,) = score_pair_files(model, tokenizer, [pair_path])
    ours = next(entry for entry in accuracies(scored) if entry.group == "overall" and entry.measure == "sum")
    assert results["results"]["agreement"]["acc,none"] == pytest.approx(ours.value, abs=1e-9)


def test_training_mode_dropout_and_bf16_do_not_reach_the_scores(tokenizer):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("gpt2", vocab_size=SIZE, **SHAPES["gpt2"])
    model = AutoModelForCausalLM.from_config(config).bfloat16().train()
    twin = AutoModelForCausalLM.from_config(config).float().eval()
    twin.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    ids = [2, *tokenizer.encode_batch(["The teacher sleeps."])[0]]
    with open_for_scoring(model) as scorer:
        (score,) = score_spans(scorer, [SimpleNamespace(tokens=tuple(ids), first=1)])

    assert float(score.logprobs.sum()) == pytest.approx(plain_score(twin, ids), rel=1e-5)
    assert math.isfinite(float(score.logprobs.sum()))
    assert next(model.parameters()).dtype == torch.bfloat16
