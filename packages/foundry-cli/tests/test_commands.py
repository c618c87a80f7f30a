"""Commands that pass what was typed on to the packages below: what reaches them, and how it is shown."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_cli.commands.preprocess import _parse_shard
from foundry_cli.corpus_estimate import bytes_per_token, estimate_corpus, sequences_of
from foundry_cli.experiments import load_experiment
from foundry_config import ConfigError, canonical_json, load_config
from foundry_train.findings import Finding, VerifyReport


@pytest.mark.slow
def test_preprocess_prepares_and_says_what_there_is(foundry, project):
    answer = foundry("preprocess", project, "--json")

    facts = json.loads(answer.out)
    assert answer.code == 0, answer.err
    assert facts["train"]["documents"] + facts["test"]["documents"] == 400
    assert facts["vocab_size"] == 300
    assert Path(facts["tokenizer"]["folder"], "tokenizer.json").is_file()


@pytest.mark.slow
def test_preprocess_shows_a_table_for_people(foundry, project):
    out = foundry("preprocess", project, "--set", "data.test_fraction=0").out

    for words in ("tokenizer", "400 documents", "bytes per token", "chunks of", "remainder", "nothing is held out"):
        assert words in out


@pytest.mark.slow
def test_preprocess_shows_what_a_test_corpus_shares_with_the_training_corpus(foundry, project):
    (project.parent / "held.txt").write_text("line 7 of a small corpus about nothing in particular\nand another one\n")

    out = foundry("preprocess", project, "--set", "data.test_corpus=held.txt").out

    assert "1 of the 2 documents of data.test_corpus are in the training corpus, word for word" in out


@pytest.mark.slow
def test_preprocess_shows_what_was_found_and_left_out(foundry, project):
    folder = project.parent / "mixed"
    folder.mkdir()
    text = "\n".join(f"The line number {n} of a corpus about nothing much at all." for n in range(400))
    (folder / "a.txt").write_text(f"{text}\n\n\n")
    (folder / "b.txt").write_text(f"{text}\n\n\n")
    (folder / "c.txt").write_bytes(b"")
    (folder / "d.txt").write_bytes(b"not \xff UTF-8\nwith a \x00 in it\n")
    (folder / "e.pdf").write_text("pdf")
    sets = ("--set", f"data.source_corpus={folder}", "--set", "data.encoding_errors=skip")

    for _ in range(2):  # the second time from what the first one noted
        out = foundry("preprocess", project, *sets).out

        for words in (
            "3 files, 401 documents",
            "duplicates  1 file with the bytes of another: b.txt",
            "3 documents without text, left out",
            "1 document, left out or with the bad bytes replaced",
            "1 control character, kept",
            ".pdf 1",
        ):
            assert words in out


def tokens_of(store: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(store.glob("tokens-*"))]


@pytest.mark.slow
def test_preprocess_in_shards_gives_the_store_of_one_piece(foundry, project):
    whole = json.loads(foundry("preprocess", project, "--json", "--base-dir", project.parent).out)["train"]
    for store in (project.parent / "data" / "prepared").glob("train-*"):
        store.rename(store.with_name("put-away"))

    for part in ("1/2", "2/2"):
        assert foundry("preprocess", project, "--shard", part).code == 0
    merged = json.loads(foundry("preprocess", project, "--merge", "--json").out)["train"]

    files = [
        sorted((folder / p.name, p.read_bytes()) for p in folder.glob("tokens-*"))
        for folder in [Path(merged["folder"])]
    ]
    before = project.parent / "data" / "prepared" / "put-away"
    assert merged == whole
    assert [data for _, data in files[0]] == [p.read_bytes() for p in sorted(before.glob("tokens-*"))]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "1/2/3", "-1/2"])
def test_a_shard_that_is_no_part_of_a_whole_is_refused(text):
    with pytest.raises(ConfigError, match="--shard 3/16"):
        _parse_shard(text)


def test_merge_is_given_alone(foundry, project):
    assert foundry("preprocess", project, "--merge", "--shard", "1/2").code == 2


@pytest.mark.slow
def test_inspect_shows_the_texts_of_a_batch_and_the_same_by_step_and_position(foundry, project):
    by_step = foundry("inspect", "data", project, "--step", 2, "--json")
    by_position = foundry("inspect", "data", project, "--position", 2, "--json")

    rows = json.loads(by_step.out)
    assert by_step.code == 0, by_step.err
    assert len(rows) == 2
    assert "corpus about nothing" in rows[0]["text"]
    assert rows == json.loads(by_position.out)
    assert "--- sequence" in foundry("inspect", "data", project, "--step", 1, "--limit", 1).out


@pytest.mark.slow
def test_inspect_shows_the_whole_batch_of_a_position_inside_it(foundry, project):
    by_step, inside = (
        foundry("inspect", "data", project, *place, "--json") for place in (("--step", 2), ("--position", 3))
    )

    assert json.loads(inside.out) == json.loads(by_step.out)


@pytest.mark.slow
def test_inspect_says_which_places_there_are_where_one_is_not(foundry, project):
    steps = json.loads(foundry("plan", project, "--json").out)["total_steps"]
    sequences = json.loads(foundry("preprocess", project, "--json").out)["train"]["sequences"]

    for arguments, message in [
        (["--step", steps + 1], f"1 to {steps}"),
        (["--position", sequences], f"0 to {sequences - 1}"),
        (["--position", 0, "--epoch", 10**6], f"--epoch {10**6} --position 0 is past the end of the training"),
    ]:
        answer = foundry("inspect", "data", project, *arguments)
        assert (answer.code, message in answer.err) == (2, True), answer.err
    assert foundry("inspect", "data", project, "--step", steps).code == 0


@pytest.mark.parametrize("arguments", [[], ["--step", 1, "--position", 0], ["--step", 1, "--epoch", 1]])
def test_inspect_wants_one_batch(foundry, project, arguments):
    assert foundry("inspect", "data", project, *arguments).code == 2


@pytest.mark.slow
def test_plan_of_an_estimate_and_of_prepared_data_agree_within_a_third(foundry, project):
    estimated = json.loads(foundry("plan", project, "--json").out)
    exact = json.loads(foundry("plan", project, "--json", "--prepare").out)

    assert (estimated["estimated"], exact["estimated"]) == (True, False)
    assert estimated["corpus"]["documents"] == pytest.approx(exact["corpus"]["documents"], rel=0.05)
    assert exact["total_steps"] == estimated["total_steps"] == 350
    assert exact["parameters"]["total"] > exact["parameters"]["non_embedding"] > 0
    assert exact["memory_bytes"]["weights"] == 4 * exact["parameters"]["total"]
    assert exact["disk_bytes"]["total"] == exact["disk_bytes"]["milestones"] + exact["disk_bytes"]["rolling"]


@pytest.mark.slow
def test_plan_shows_what_a_person_asks_before_training(foundry, project):
    out = foundry("plan", project).out

    for words in (
        "parameters",
        "FLOP per token",
        "memory",
        "disk",
        "scheduled checkpoints",
        "end of training",
        "estimate",
    ):
        assert words in out


OWN_MODEL = """
from types import SimpleNamespace
from torch import nn

class Recurrent(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.tokens, self.out = nn.Embedding(vocab_size, 8), nn.Linear(8, vocab_size)
        self.cell = nn.GRU(8, 8, batch_first=True)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.out(self.cell(self.tokens(input_ids))[0]))

class Looking(Recurrent):
    def forward(self, input_ids):
        assert int(input_ids.max()) < self.tokens.num_embeddings
        return super().forward(input_ids)

def recurrent(request): return Recurrent(request.vocab_size)
def looking(request): return Looking(request.vocab_size)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "memory"), [("recurrent", "activations"), ("looking", "not known: the memory of")]
)
def test_a_plan_of_a_model_of_ones_own_says_what_is_not_known(foundry, project, monkeypatch, function, memory):
    module = f"own_models_of_{function}"
    (project.parent / f"{module}.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(project.parent)
    named = ["plan", project, "--set", f"model.architecture={module}:{function}"]

    facts, text = json.loads(foundry(*named, "--json").out), foundry(*named).out

    assert facts["flops"] is None and "not known for a model that is no family of transformers" in text
    assert (facts["memory_bytes"] is None) == (function == "looking") and memory in text
    assert facts["disk_bytes"]["rolling"] == 3 * 12 * facts["parameters"]["total"]


@pytest.mark.slow
def test_a_plan_without_its_corpus_shows_what_does_not_depend_on_it(foundry, project):
    elsewhere = ["--set", "data.source_corpus=no/such.txt"]
    whole = json.loads(foundry("plan", project, "--json").out)

    answer = foundry("plan", project, *elsewhere, "--json")

    facts = json.loads(answer.out)
    assert answer.code == 0, answer.err
    same = ("total_steps", "warmup_steps", "tokens_per_step", "parameters", "flops_per_token", "memory_bytes")
    assert {name: facts[name] for name in same} == {name: whole[name] for name in same}
    assert facts["disk_bytes"] == whole["disk_bytes"]
    assert facts.keys() == whole.keys()
    assert [facts[name] for name in ("corpus", "steps_per_epoch", "epochs", "words")] == [None] * 4
    assert [item["step"] for item in facts["checkpoints"]] == [item["step"] for item in whole["checkpoints"]]
    assert "there is no" in facts["missing_corpus"] and whole["missing_corpus"] is None

    text = foundry("plan", project, *elsewhere).out
    for words in ("missing: there is no", "Not known without the corpus: ", "words", "at most", "11 scheduled"):
        assert words in text
    text = foundry("plan", project, *elsewhere, "--set", "training.train_steps=null", "--set", "training.epochs=2").out
    for words in (
        "not known, the run ends after 2.0 epochs; 5 % of them warm-up",
        "rolling, and",
        "powers_of_two: 256",
    ):
        assert words in text


@pytest.mark.parametrize(
    "arguments", [["plan", "--prepare"], ["preprocess"], ["train"]], ids=lambda arguments: " ".join(arguments)
)
def test_what_needs_a_missing_corpus_is_refused(foundry, project, arguments):
    answer = foundry(*arguments, project, "--set", "data.source_corpus=no/such*.txt")

    assert answer.code == 3
    assert "no/such*.txt" in answer.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["babylm-strict-small", "gpt2-124m", "llama-60m", "pythia-14m"])
def test_a_shipped_experiment_plans_before_its_corpus_is_there(foundry, name):
    config = Path(__file__).parents[3] / "configs" / f"{name}.yaml"

    answer = foundry("plan", config, "--set", "data.source_corpus=not/there")

    assert answer.code == 0, answer.err
    assert "missing: there is no" in answer.out and "memory   about" in answer.out


def test_a_long_schedule_is_cut_in_the_middle():
    from foundry_cli.plan_rows import LINES_SHOWN, schedule_rows

    item = {"step": 1, "label": None, "epoch": 0, "tokens": 1, "words": 1, "reasons": ["x"]}
    rows = schedule_rows([item | {"step": step} for step in range(100)])

    assert len(rows) == LINES_SHOWN + 1
    assert "60 more" in rows[LINES_SHOWN // 2][0]


def test_the_estimate_of_a_large_corpus_is_a_sample_made_bigger(project, monkeypatch):
    monkeypatch.setattr("foundry_cli.corpus_estimate.SAMPLE_BYTES", 2000)

    estimate = estimate_corpus(load_experiment(project))

    assert estimate.bytes == pytest.approx((project.parent / "corpus.txt").stat().st_size * 0.95, rel=0.1)
    assert estimate.documents == pytest.approx(400 * 0.95, rel=0.1)


@given(st.integers(8, 2**20))
def test_bytes_per_token_grow_with_the_vocabulary_and_stay_sensible(vocab_size):
    assert 1.0 <= bytes_per_token(vocab_size) <= bytes_per_token(vocab_size * 2) < 7


def test_documents_of_their_own_take_whole_sequences():
    from foundry_cli.corpus_estimate import CorpusEstimate

    estimate = CorpusEstimate(documents=10, words=0, bytes=0, tokens=150)

    assert sequences_of(estimate, 10) == 15
    assert sequences_of(estimate, 10, packing="document") == 20


@pytest.mark.parametrize("command", ["validate", "plan", "preprocess", "train"])
def test_a_tokenizer_of_another_size_is_refused_as_early_as_it_is_known(foundry, project, command, monkeypatch):
    class Tokenizer:
        vocab_size = 512

    monkeypatch.setattr("foundry_data.processor.load_tokenizer", lambda _: Tokenizer())
    (project.parent / "own.model").write_bytes(b"")

    answer = foundry(command, project, "--set", "tokenizer.source=own.model")

    assert answer.code == 3
    assert "the tokenizer 'own.model' has 512 entries, but the config says tokenizer.vocab_size: 300" in answer.err
    assert not (project.parent / "data").exists()


def test_verify_of_a_folder_that_is_nothing_says_so(foundry, tmp_path):
    (tmp_path / "empty").mkdir()

    assert foundry("verify", tmp_path / "empty").code == 4


def test_verify_against_another_run_does_not_call_a_sound_run_damaged(foundry, project, monkeypatch):
    differs = Finding(True, "step 3", "loss differs first here", of_comparison=True)
    monkeypatch.setattr(
        "foundry_cli.commands.verify.verified", lambda *_, **__: VerifyReport(2, 9, 10, None, (differs,))
    )

    answer = foundry("verify", "runs/a", "--against", "runs/b")

    assert answer.code == 4
    assert "runs/a is sound, and is not the same as runs/b:\n  step 3: loss differs" in answer.err
    assert "all as they should be" in answer.out and "NOT" not in answer.out


def failed_run(name: str) -> Path:
    """A run that failed before its data were ready."""
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / "status.json").write_text('{"phase":"failed","exit_reason":"DataError: no document is left"}')
    (folder / "environment.json").write_text("{}")
    return folder


def test_a_report_leaves_out_a_run_that_failed_before_it_began(foundry, project):
    failed, sound = failed_run("a"), Path("runs/b")
    sound.mkdir()
    (sound / "run.json").write_text("{}")
    (sound / "config.json").write_bytes(canonical_json(load_config(project)))

    answer = foundry("report", failed, sound, "--out", "report.html")

    assert answer.code == 0 and Path("report.html").is_file()
    assert answer.err == "left out: runs/a has not begun to train: failed, DataError: no document is left\n"


def test_without_any_run_that_began_there_is_no_report(foundry):
    answer = foundry("report", failed_run("a"), failed_run("b"), "--out", "report.html")

    assert answer.code == 2 and not Path("report.html").exists()
    assert "runs/a has not begun to train: failed" in answer.err and "runs/b has not begun" in answer.err
    for command in (["compare", "runs/a"], ["verify"], ["export", "--to", "x"], ["generate"]):
        assert "runs/a has not begun to train: failed, DataError" in foundry(*command, "runs/a").err


def test_export_and_report_want_a_place(foundry, run_folder):
    assert foundry("export", run_folder).code == 2
    assert foundry("export", run_folder, "--to", "out", "--revisions").code == 2
    assert foundry("report", run_folder, run_folder).code == 2


@pytest.mark.parametrize(
    ("table", "hint"),
    [(None, "--table results.csv or --json has them all"), (Path("all.csv"), "all.csv has them all")],
)
def test_a_long_result_says_where_the_rest_is(capsys, table, hint):
    from foundry_cli.commands.evaluate import _show
    from foundry_train.evaluate_runs import EvaluationReport
    from foundry_train.results_table import TableRow

    rows = [TableRow("run", 1, "study", step, 0, 0, "minimal_pairs", "overall", 0.5) for step in range(100)]

    _show(EvaluationReport([], []), rows, table)

    assert f"  ... and 40 more; {hint}\n" in capsys.readouterr().out


def test_evaluate_refuses_choices_that_do_not_exist(foundry, run_folder):
    assert foundry("evaluate", run_folder, "--start", "middle", "--corpus", "x").code == 2
    assert foundry("evaluate", run_folder, "--method", "guess", "--minimal-pairs", "x").code == 2


@pytest.mark.parametrize(
    ("option", "value"), [("--top-p", "0"), ("--top-p", "1.5"), ("--top-p", "nan"), ("-t", "nan"), ("-t", "inf")]
)
def test_a_share_or_temperature_that_is_none_is_refused_by_its_option_before_anything_is_loaded(
    foundry, tmp_path, option, value
):
    answer = foundry("generate", tmp_path / "nowhere", option, value)

    assert (answer.code, answer.out) == (2, "")
    assert {"-t": "--temperature"}.get(option, option) in answer.err


def test_a_run_that_was_moved_counts_paths_from_the_project_around_it_or_from_here(tmp_path, monkeypatch):
    from foundry_cli.targets import base_dir_of

    run = tmp_path / "elsewhere" / "x"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"training": {"output_dir": "runs/x"}}')
    monkeypatch.chdir(tmp_path)

    assert base_dir_of(run) == tmp_path
    (tmp_path / "elsewhere" / "pyproject.toml").touch()
    assert base_dir_of(run) == tmp_path / "elsewhere"
    home = tmp_path / "home" / "runs" / "x"
    home.parent.mkdir(parents=True)
    run.rename(home)
    assert base_dir_of(home) == tmp_path / "home"


def test_functions_of_the_project_are_looked_for_before_anything_is_trained(foundry, project):
    (project.parent / "our_rates.py").write_text("def rate(step, shape):\n    return 1.0\n")

    good = foundry("validate", project, "--set", "training.lr_schedule=our_rates:rate")
    bad = foundry("validate", project, "--set", "training.lr_schedule=no_rates:rate", "--set", "logging.sinks=[no.x:y]")

    assert good.code == 0
    assert bad.code == 2
    for text in ("training.lr_schedule: 'no_rates:rate'", "logging.sinks: 'no.x:y'"):
        assert f"{text} names a module that is neither in {project.parent} nor installed" in bad.err
