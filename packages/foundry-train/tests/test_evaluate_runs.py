"""Evaluation of runs: what is chosen, what is computed again, what is kept when something fails."""

import csv
import json
import shutil
from types import SimpleNamespace

import msgspec
import pytest
import torch

import foundry_train.evaluate_runs
from foundry_config import CheckpointError, ConfigError, DataError, NonFiniteError
from foundry_train import checkpoint_list
from foundry_train.evaluate_runs import evaluate
from foundry_train.evaluation_suites import Suites
from foundry_train.evaluation_targets import find_models
from foundry_train.manifest import read_manifest, seal
from foundry_train.results_table import long_table

V = 300


class Bigram(torch.nn.Module):
    """Random probabilities of the next token given the last, drawn from what the weights file says."""

    def __init__(self, seed, size=V):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.nn.Parameter(torch.randn(size, size, generator=generator))

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.table[input_ids])


@pytest.fixture
def loads(monkeypatch):
    """Stands in for loading a real model (ten seconds of imports); lists the folders that were loaded."""
    loaded = []

    def load(folder, *, device="cpu"):
        loaded.append(folder.name)
        facts = json.loads((folder / "model.safetensors").read_text())
        return Bigram(1000 * facts["seed"] + facts["step"], facts.get("size", V))

    monkeypatch.setattr(foundry_train.evaluate_runs, "load_pretrained", load)
    return loaded


def pair_file(folder, name="agreement", pairs=(("the dogs bark", "the dogs barks"), ("a cat sleeps", "a cat sleep"))):
    path = folder / f"{name}.jsonl"
    records = [{"sentence_good": good, "sentence_bad": bad, "field": "syntax"} for good, bad in pairs]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("which", "steps"),
    [
        ("latest", [8]),
        ("all", [0, 4, 8]),
        ("4", [4]),
        ("8, 0", [0, 8]),
        ("chck_1M,4", [0, 4]),
        ("best", [4]),
        ("best, 8", [4, 8]),
        ("0,latest,0", [0, 8]),
    ],
)
def test_checkpoints_are_chosen_by_words_steps_and_labels(make_run, which, steps):
    run = make_run(steps=(0, 4, 8), label="chck_1M")
    losses = [(0, 5.5), (4, 2.5), (8, 3.0), (12, 1.0)]
    lines = [{"kind": "evaluation", "suite": "test", "step": step, "loss": loss} for step, loss in losses]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    models, failures = find_models(run, which)

    assert [model.manifest.step for model in models] == steps
    assert failures == []


def test_a_choice_that_does_not_exist_says_what_there_is(make_run, tmp_path):
    run = make_run(label="chck_1M")

    with pytest.raises(
        CheckpointError, match=r"no checkpoint 'chck_2M'. Did you mean 'chck_1M'\? It has 0, 4, chck_1M"
    ):
        find_models(run, "chck_2M")
    with pytest.raises(CheckpointError, match="no checkpoint has a held-out loss to be the best by"):
        find_models(run, "best")
    with pytest.raises(ConfigError, match="write latest, best, all, or steps"):
        find_models(run, " , ")
    with pytest.raises(ConfigError, match="is a single model"):
        find_models(run / "checkpoints" / "step-00000004", "500")
    with pytest.raises(CheckpointError, match="neither a run nor a model"):
        find_models(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        find_models(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        find_models(make_run("empty", steps=()))


def test_a_run_that_failed_before_it_began_says_why_and_the_others_are_evaluated(make_run, tmp_path, loads):
    failed = tmp_path / "failed"
    failed.mkdir()
    (failed / "status.json").write_text('{"phase":"failed","exit_reason":"DataError: every document\\nwas removed"}')

    report = evaluate([failed, make_run(steps=(4,))], Suites(minimal_pairs=(pair_file(tmp_path),)))

    assert [entry.model.name for entry in report.evaluated] == ["run"]
    with pytest.raises(CheckpointError) as raised:
        report.raise_failure()
    assert str(raised.value) == f"{failed} has not begun to train: failed, DataError: every document was removed"
    for name in ("run.json", "status.json"):
        (failed / name).write_text("{}")
        with pytest.raises(CheckpointError, match=r"has not begun to train"):
            find_models(failed)


def test_a_checkpoint_of_a_model_that_a_function_built_says_why_it_cannot_be_used(make_run):
    run = make_run()
    checkpoint = run / "checkpoints" / "step-00000004"
    (checkpoint / "config.json").unlink()
    manifest = read_manifest(checkpoint)
    files = {name: entry for name, entry in manifest.files.items() if name != "config.json"}
    (checkpoint / "MANIFEST.json").write_bytes(seal(msgspec.structs.replace(manifest, files=files))[1])

    models, failures = find_models(run)

    assert models == [] and "a function of one's own built its model" in str(failures[0])
    with pytest.raises(CheckpointError, match="a function of one's own built its model"):
        find_models(checkpoint)


def test_a_checkpoint_that_lost_its_config_says_that(make_run):
    checkpoint = make_run() / "checkpoints" / "step-00000004"
    (checkpoint / "config.json").unlink()

    with pytest.raises(CheckpointError, match=r"cannot be used, since config.json is missing"):
        find_models(checkpoint)


def test_texts_start_from_eos_where_training_ended_documents_by_it(make_run):
    (model,), _ = find_models(make_run())

    assert model.start == "eos"
    assert find_models(model.path)[0][0].start == "eos"


def test_results_are_kept_and_not_computed_again(make_run, tmp_path, loads):
    run = make_run()
    suites = Suites(minimal_pairs=(pair_file(tmp_path),))

    first = evaluate([run], suites, checkpoints="all")
    second = evaluate([run], suites, checkpoints="all")

    assert [entry.computed for entry in first.evaluated] == [True, True]
    assert [entry.computed for entry in second.evaluated] == [False, False]
    assert [entry.result for entry in first.evaluated] == [entry.result for entry in second.evaluated]
    assert loads == ["step-00000000", "step-00000004"]
    assert all(entry.folder.is_relative_to(run / "evaluations") for entry in first.evaluated)


def test_only_what_is_new_is_computed(make_run, tmp_path, loads):
    run = make_run(steps=(4,))
    one = pair_file(tmp_path, "one")
    evaluate([run], Suites(minimal_pairs=(one,)))
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the dog sleeps")

    found = evaluate([run], Suites(minimal_pairs=(pair_file(tmp_path, "a_second"), one), corpus=str(corpus)))

    assert [(entry.result.name, entry.computed) for entry in found.evaluated] == [
        ("a_second", True),
        ("one", False),
        ("corpus", True),
    ]


def test_a_change_of_input_settings_or_start_is_another_result(make_run, tmp_path, loads):
    run = make_run(steps=(4,))
    corpus = tmp_path / "c.txt"

    def computed(text="the dog barks and barks", start="auto", **settings):
        corpus.write_text(text)
        (entry,) = evaluate([run], Suites(corpus=str(corpus), **settings), start=start).evaluated
        return entry.computed

    assert computed()
    assert computed("the dog barks and sleeps")
    assert computed(window=8)
    assert computed(window=8, stride=2)
    assert computed(unknown="score")
    assert computed(start="bos")
    assert not computed(start="eos")
    assert not computed(window=8)


def test_rows_hold_every_pair_with_both_scores(make_run, tmp_path, loads):
    found = evaluate([make_run(steps=(4,))], Suites(minimal_pairs=(pair_file(tmp_path),)))

    (entry,) = found.evaluated
    lines = rows(entry.folder / "pairs.csv")
    assert [line["good"] for line in lines] == ["the dogs bark", "a cat sleeps"]
    for line in lines:
        assert float(line["correct_sum"]) == float(float(line["good_logprob"]) > float(line["bad_logprob"]))
        assert float(line["good_per_token"]) == pytest.approx(float(line["good_logprob"]) / int(line["good_tokens"]))
    assert entry.result.number("sum") == pytest.approx(sum(float(line["correct_sum"]) for line in lines) / 2)
    (first, *_rest) = rows(entry.folder.parent / "minimal_pairs.csv")
    assert (first["item"], first["n"], float(first["accuracy"])) == ("agreement", "2", entry.result.number("sum"))
    assert float(first["low"]) <= float(first["accuracy"]) <= float(first["high"])
    assert entry.result.details == {"pairs": 2, "unknown_tokens": 0, "start_token": "</s>"}


def test_surprisal_tables_carry_the_columns_of_the_input(make_run, tmp_path, loads):
    path = tmp_path / "items.csv"
    path.write_text("item,region,rt,tokens\n1,the old,300,x\n1,dog,200,y\n2,a,100,z\n")

    (entry,) = evaluate([make_run(steps=(4,))], Suites(surprisal=str(path))).evaluated

    words, tokens = rows(entry.folder / "words.csv"), rows(entry.folder / "tokens.csv")
    assert [(line["item"], line["region"], line["rt"], line["tokens_input"]) for line in words] == [
        ("1", "the old", "300", "x"),
        ("1", "dog", "200", "y"),
        ("2", "a", "100", "z"),
    ]
    assert sum(int(line["tokens"]) for line in words) == len(tokens)
    plain = sum(float(line["surprisal"]) for line in tokens)
    assert sum(float(line["surprisal_uncorrected"]) for line in words) == pytest.approx(plain)
    assert "".join(line["token"] for line in tokens if line["text_number"] == "1") == " the old dog"
    assert entry.result.details["texts"] == 2


def test_a_corpus_is_scored_with_the_window_that_is_stated(make_run, tmp_path, loads):
    path = tmp_path / "dev.txt"
    path.write_text("the dog barks\nthe cat sleeps\n")

    (entry,) = evaluate([make_run(steps=(4,))], Suites(corpus=str(path), text_documents="line", window=8)).evaluated

    details = entry.result.details
    assert (details["window"], details["stride"], details["words"], details["bytes"]) == (8, 4, 6, 27)
    assert set(entry.result.values) == {"loss", "perplexity", "bits_per_byte", "bits_per_word"}


def test_a_damaged_checkpoint_is_reported_and_the_others_are_evaluated(make_run, tmp_path, loads):
    run = make_run(steps=(0, 4, 8))
    weights = run / "checkpoints" / "step-00000004" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    (run / "checkpoints" / "step-00000008" / "config.json").unlink()

    found = evaluate([run], Suites(minimal_pairs=(pair_file(tmp_path),)), checkpoints="all")

    assert [entry.result.checkpoint.step for entry in found.evaluated] == [0]
    assert sorted(str(failure).partition("since ")[2] for failure in found.failures) == [
        "config.json is missing",
        "model.safetensors is damaged: its SHA-256 is not the one in the manifest",
    ]
    with pytest.raises(CheckpointError, match=r"2 failures:\n  .*config.json is missing\n  .*SHA-256"):
        found.raise_failure()


def test_a_checkpoint_that_has_diverged_is_reported_and_the_others_are_evaluated(
    make_run, tmp_path, loads, monkeypatch
):
    def load(folder, *, device="cpu"):
        model = Bigram(0)
        if folder.name == "step-00000000":
            model.table.data.fill_(float("nan"))
        return model

    monkeypatch.setattr(foundry_train.evaluate_runs, "load_pretrained", load)

    found = evaluate([make_run()], Suites(minimal_pairs=(pair_file(tmp_path),)), checkpoints="all")

    assert [entry.result.checkpoint.step for entry in found.evaluated] == [4]
    with pytest.raises(NonFiniteError, match="its logits are NaN"):
        found.raise_failure()


def test_a_broken_input_is_known_before_a_model_is_loaded(make_run, tmp_path, loads):
    good = pair_file(tmp_path, "good")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"sentence_good": "a"}\n')

    with pytest.raises(DataError, match=r"bad.jsonl:1: no field 'sentence_bad'"):
        evaluate([make_run()], Suites(minimal_pairs=(good, str(bad))))

    assert loads == []


def test_results_finished_before_a_failure_are_kept(make_run, tmp_path, loads):
    run = make_run(steps=(4,))
    first = pair_file(tmp_path, "first")
    second = tmp_path / "second.txt"
    second.write_text("dog \u200b cat")
    suites = Suites(minimal_pairs=(first,), surprisal=str(second), window=400, stride=500)

    with pytest.raises(ConfigError, match="stride"):
        evaluate([run], suites)
    (entry,) = evaluate([run], Suites(minimal_pairs=(first,))).evaluated

    assert not entry.computed


def test_a_tokenizer_of_another_size_is_refused(make_run, tmp_path, loads):
    run = make_run(steps=(4,))
    folder = run / "checkpoints" / "step-00000004"
    from_manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert from_manifest["step"] == 4
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for file in folder.iterdir():
        if file.name != "MANIFEST.json":
            (foreign / file.name).write_bytes(file.read_bytes())
    (foreign / "model.safetensors").write_text('{"seed": 1, "step": 4, "size": 500}')

    found = evaluate([foreign, run], Suites(minimal_pairs=(pair_file(tmp_path),)), results=tmp_path / "out")

    assert [entry.model.path for entry in found.evaluated] == [folder]
    with pytest.raises(DataError, match="foreign: the tokenizer has 300 tokens, but the model has 500"):
        found.raise_failure()


def test_a_foreign_model_keeps_its_results_elsewhere(make_run, tmp_path, loads, monkeypatch):
    source = make_run(steps=(4,)) / "checkpoints" / "step-00000004"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for file in source.iterdir():
        if file.name != "MANIFEST.json":
            (foreign / file.name).write_bytes(file.read_bytes())
    before = sorted(foreign.iterdir())
    monkeypatch.chdir(tmp_path)

    found = evaluate([foreign], Suites(minimal_pairs=(pair_file(tmp_path),)))

    assert sorted(foreign.iterdir()) == before
    (entry,) = found.evaluated
    weights = entry.result.checkpoint.weights.removeprefix("sha256:")
    assert entry.folder.parent.relative_to("evaluations").as_posix() == f"foreign-{weights[:8]}"
    assert (entry.result.checkpoint.step, entry.result.details["start_token"]) == (None, "<s>")
    assert {row.run for row in long_table(found.evaluated)} == {"foreign"}


def test_a_link_to_a_checkpoint_is_the_checkpoint_of_its_run(make_run, tmp_path, loads):
    run = make_run(steps=(4,))
    (run / "latest").symlink_to("checkpoints/step-00000004")
    suites = Suites(minimal_pairs=(pair_file(tmp_path),))
    evaluate([run], suites)

    (entry,) = evaluate([run / "latest"], suites).evaluated

    assert not entry.computed
    assert (entry.model.name, entry.model.start) == ("run", "eos")


def test_a_target_that_is_no_model_does_not_keep_the_others_from_being_evaluated(make_run, tmp_path, loads):
    empty, gone, run = make_run("empty", steps=()), tmp_path / "gone", make_run("full", steps=(4,))

    found = evaluate([empty, gone, run], Suites(minimal_pairs=(pair_file(tmp_path),)))

    assert [entry.model.run for entry in found.evaluated] == [run]
    with pytest.raises(CheckpointError, match=r"2 failures:\n  .*holds no checkpoint yet.*\n  .*gone does not exist"):
        found.raise_failure()


def test_a_text_that_one_model_cannot_read_is_said_once_and_other_runs_go_on(make_run, tmp_path, loads, monkeypatch):
    def load(folder, *, device="cpu"):
        model = Bigram(0)
        if "short" in str(folder):
            model.config = SimpleNamespace(max_position_embeddings=3)
        return model

    monkeypatch.setattr(foundry_train.evaluate_runs, "load_pretrained", load)

    found = evaluate(
        [make_run("short"), make_run("long")], Suites(minimal_pairs=(pair_file(tmp_path),)), checkpoints="all"
    )

    assert [entry.model.name for entry in found.evaluated] == ["long", "long"]
    with pytest.raises(DataError, match=r"^.*agreement.jsonl:1: .* but the model reads 3"):
        found.raise_failure()


def test_runs_that_share_a_results_folder_keep_their_own_summaries(make_run, tmp_path, loads):
    runs = [make_run("a", steps=(4,)), make_run("b", steps=(4,), seed=2)]
    suites = Suites(minimal_pairs=(pair_file(tmp_path),))

    found = evaluate(runs, suites, results=tmp_path / "out")

    assert len({entry.folder.parent for entry in found.evaluated}) == 2
    assert len(list((tmp_path / "out").glob("*/step-00000004/minimal_pairs.csv"))) == 2


def test_nothing_to_do_is_a_config_error(make_run):
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        evaluate([make_run()], Suites())


def test_a_method_that_no_pair_is_made_for_is_refused(make_run, tmp_path):
    with pytest.raises(DataError, match="no minimal pair is made for the method 'two_prefix'"):
        evaluate([make_run()], Suites(minimal_pairs=(pair_file(tmp_path),), method="two_prefix"))


def test_progress_counts_all_units(make_run, tmp_path, loads):
    told = []
    suites = Suites(minimal_pairs=(pair_file(tmp_path, "one"), pair_file(tmp_path, "two")))

    evaluate([make_run()], suites, checkpoints="all", progress=lambda *what: told.append(what))

    assert told[-1] == ("run step-00000004", 4, 4)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def removing(monkeypatch, moment, *, times=1):
    """Let retention remove a checkpoint just before the `times` first calls of a function that reads it."""
    real, removed = getattr(foundry_train.evaluate_runs, moment), []

    def read(folder, **options):
        if len(removed) < times:
            removed.append(folder.name)
            shutil.rmtree(folder)
        return real(folder, **options)

    monkeypatch.setattr(foundry_train.evaluate_runs, moment, read)
    return removed


@pytest.mark.parametrize("moment", ["load_tokenizer", "load_pretrained"])
def test_a_latest_checkpoint_that_is_removed_while_it_is_read_is_chosen_again(
    make_run, tmp_path, loads, monkeypatch, moment
):
    run = make_run(steps=(0, 4, 8))
    removing(monkeypatch, moment)

    report = evaluate([run], Suites(minimal_pairs=(pair_file(tmp_path),)))

    assert report.failures == []
    assert [entry.model.manifest.step for entry in report.evaluated] == [4]


def test_a_link_to_the_latest_checkpoint_is_chosen_again_too(make_run, tmp_path, loads, monkeypatch):
    run = make_run(steps=(0, 4, 8))
    (run / "latest").symlink_to("checkpoints/step-00000008")
    removing(monkeypatch, "load_pretrained")

    report = evaluate([run / "latest"], Suites(minimal_pairs=(pair_file(tmp_path),)))

    assert [entry.model.manifest.step for entry in report.evaluated] == [4] and report.failures == []


def test_a_checkpoint_that_is_always_removed_is_given_up(make_run, tmp_path, loads, monkeypatch):
    run = make_run(steps=tuple(range(1, 10)))
    removed = removing(monkeypatch, "load_pretrained", times=99)

    report = evaluate([run], Suites(minimal_pairs=(pair_file(tmp_path),)))

    assert len(removed) == 5 and "step-00000005 was removed while it was read" in str(report.failures[0])


@pytest.mark.parametrize("moment", ["load_tokenizer", "load_pretrained"])
@pytest.mark.parametrize("named", [True, False])
def test_a_checkpoint_that_was_named_and_is_removed_while_it_is_read_is_said_to_be_removed(
    make_run, tmp_path, loads, monkeypatch, moment, named
):
    run = make_run(steps=(0, 4, 8))
    removing(monkeypatch, moment)
    target, which = (run, "8, latest") if named else (run / "checkpoints" / "step-00000008", "latest")

    report = evaluate([target], Suites(minimal_pairs=(pair_file(tmp_path),)), checkpoints=which)

    assert report.evaluated == []
    with pytest.raises(CheckpointError, match="step-00000008 was removed while it was read; a run keeps only"):
        report.raise_failure()


def test_of_all_checkpoints_one_that_is_removed_meanwhile_is_left_out(make_run, tmp_path, loads, monkeypatch, caplog):
    run = make_run(steps=(0, 4, 8))
    removing(monkeypatch, "load_tokenizer")

    report = evaluate([run], Suites(minimal_pairs=(pair_file(tmp_path),)), checkpoints="all")

    assert [entry.model.manifest.step for entry in report.evaluated] == [4, 8] and report.failures == []
    assert "left out:" in caplog.text and "step-00000000 was removed" in caplog.text


def test_a_checkpoint_that_goes_while_the_folder_is_listed_is_not_there(make_run, monkeypatch):
    run = make_run(steps=(4, 8))
    real = checkpoint_list.read_manifest

    def read(folder):
        if folder.name == "step-00000004":
            shutil.rmtree(folder)
        return real(folder)

    monkeypatch.setattr(checkpoint_list, "read_manifest", read)

    models, failures = find_models(run, "all")

    assert [model.manifest.step for model in models] == [8] and failures == []
