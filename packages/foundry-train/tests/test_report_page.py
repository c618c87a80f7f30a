"""The report of runs, made from run folders written by hand."""

import json
import math
import re
from html.parser import HTMLParser

import msgspec
import pytest

from foundry_config import canonical_json, load_config
from foundry_config.errors import ConfigError
from foundry_train.report import compare_runs, write_report
from foundry_train.report.run_data import read_run
from foundry_train.report.trajectories import evaluation_charts, measurements

CONFIG = """
experiment_name: study
random_seed: {seed}
data: {{source_corpus: text, batch_size: 2, max_sequence_length: 32}}
tokenizer: {{vocab_size: 1000}}
model:
  {{layers: 1, embedding_size: 8, hidden_size: 8, intermediate_hidden_size: 8, attention_heads: 1}}
training: {{output_dir: runs/x, learning_rate: {rate}, train_steps: 40}}
"""


@pytest.fixture
def make_run(tmp_path):
    def make(name, *, seed=1, rate=0.1, steps=20, shift=0.0, evaluations=((0, 8.0), (20, 4.0))):
        folder = tmp_path / name
        folder.mkdir()
        (tmp_path / "c.yaml").write_text(CONFIG.format(seed=seed, rate=rate))
        (folder / "config.json").write_bytes(canonical_json(load_config(tmp_path / "c.yaml")))
        lines = [
            {
                "kind": "step",
                "step": s,
                "loss": 8.0 / s + shift,
                "lr": 0.1,
                "grad_norm": 1.0,
                "tokens": 64 * s,
                "words": 30 * s,
                "tokens_per_second": 5.0,
                "memory_bytes": 2**30,
            }
            for s in range(1, steps + 1)
        ]
        lines += [{"kind": "evaluation", "step": s, "suite": "test", "loss": v + shift} for s, v in evaluations]
        lines += [{"kind": "evaluation", "step": 20, "suite": "minimal_pairs[window=8]", "field=a/b, c": 0.5}]
        lines += [{"kind": "event", "step": 3, "event": "oom", "before": 4, "after": 2}]
        lines += [{"kind": "sample", "step": 20, "prompt": "<b>", "text": "\x1b[2Jhello <script>"}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "lineage.jsonl").write_text('{"event":"start","attempt":1}\n{"event":"save","step":20}\n')
        return folder

    return make


class Checker(HTMLParser):
    """Collects ids and refuses anything that would be fetched."""

    def __init__(self):
        super().__init__()
        self.ids = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert "src" not in attributes and tag not in {"link", "iframe", "img"}
        assert not attributes.get("href", "#").startswith(("http", "//"))
        self.ids += [attributes["id"]] if "id" in attributes else []


def test_a_report_is_one_file_that_fetches_nothing(make_run, tmp_path):
    page = write_report([make_run("a")], tmp_path / "out" / "report.html").read_text()

    checker = Checker()
    checker.feed(page)
    assert {"loss", "lr", "grad_norm", "tokens_per_second", "memory_bytes", "test-loss-step"} <= set(checker.ids)
    assert len(checker.ids) == len(set(checker.ids))
    assert "@import" not in page and "url(" not in page


def test_text_of_a_model_cannot_become_part_of_the_page(make_run, tmp_path):
    page = write_report([make_run("a")], tmp_path / "report.html").read_text()

    assert "hello &lt;script&gt;" in page and "\\x1b[2J" in page
    assert "\x1b" not in page


def test_events_and_starts_are_told(make_run, tmp_path):
    page = write_report([make_run("a")], tmp_path / "report.html").read_text()

    assert re.search(r"<td>3</td><td>oom</td><td>before 4, after 2</td>", page)
    assert "<td>start</td>" in page


def test_runs_of_one_condition_become_a_mean_with_a_band(make_run):
    runs = [read_run(make_run(f"s{seed}", seed=seed, shift=seed * 0.1)) for seed in (1, 2, 3)]
    runs.append(read_run(make_run("other", rate=0.5)))

    charts = {chart.key: chart for chart in evaluation_charts(runs, measurements(runs))}
    mean, other = charts["test-loss-tokens"].series

    assert mean.xs == [0.0, 64.0 * 20] and mean.ys == pytest.approx([8.2, 4.2])
    assert mean.low == pytest.approx([8.1, 4.1]) and mean.high == pytest.approx([8.3, 4.3])
    assert "3 seeds" in mean.name and other.name == "other" and other.low is None


def test_values_that_are_not_finite_are_left_out_of_curves(make_run):
    run = read_run(make_run("a"))
    table = measurements([run])
    infinite = [msgspec.structs.replace(row, value=math.inf) if row.step == 20 else row for row in table]

    (curve,) = next(chart for chart in evaluation_charts([run], infinite) if chart.key == "test-loss-step").series

    assert curve.xs == [0.0]


def test_a_run_that_is_being_written_can_be_read(make_run):
    run = make_run("a")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 21, "lo')

    assert read_run(run).last_step == 20


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=re.escape("config.json")):
        write_report([tmp_path], tmp_path / "report.html")


@pytest.mark.slow
def test_png_plots_are_written_for_papers(make_run, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra `plots`")

    write_report([make_run("a")], tmp_path / "report.html", png=tmp_path / "plots")

    assert (tmp_path / "plots" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+\.png", path.name) for path in (tmp_path / "plots").iterdir())


def test_comparing_names_the_changed_fields_and_the_first_step_that_differs(make_run):
    a, b = make_run("a"), make_run("b", rate=0.5, shift=1e-9, steps=30)

    found = compare_runs(a, b)

    assert [str(change) for change in found.changes] == ["training.learning_rate: 0.1 -> 0.5"]
    assert (found.first_difference.step, found.first_difference.key) == (1, "loss")
    assert found.shared_steps == 20
    assert found.curve[-1].step == 20


def test_equal_runs_have_no_first_difference(make_run):
    assert compare_runs(make_run("a"), make_run("b")).first_difference is None
