"""What a user does with a finished run: open its report in a browser, export it, compare it."""

import re
import shutil
import subprocess

import pytest

from foundry_train.report import compare_runs, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def report(trained, tmp_path_factory):
    """The report of the shared run, as a file outside of it."""
    return write_report([trained.run], tmp_path_factory.mktemp("report") / "report.html")


def browse(*arguments, profile):
    """Run Chromium once, with a profile of its own."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@needs_chromium
@pytest.mark.slow
def test_the_report_runs_in_a_browser_without_script_errors(report, tmp_path):
    done = browse("--enable-logging=stderr", "--dump-dom", f"file://{report}", profile=tmp_path / "profile")

    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    assert 'data-script="done"' in done.stdout.partition("<head>")[0]  # the script ran to its end


@needs_chromium
@pytest.mark.slow
def test_every_plot_of_the_report_can_be_seen(report, tmp_path):
    drawings = re.findall(r'<figure id="([^"]+)">(<svg.*?</svg>)', report.read_text(), flags=re.DOTALL)

    assert {"loss", "lr", "grad_norm", "tokens_per_second", "memory_bytes"} <= {key for key, _ in drawings}
    for key, drawing in drawings:
        (tmp_path / f"{key}.svg").write_text(drawing)
        assert "no data" not in drawing
    shown = {"loss", "test-loss-step", "test-loss-tokens", "test-loss-words"} & {key for key, _ in drawings}
    for key in sorted(shown):
        picture = tmp_path / f"{key}.png"
        browse(f"--screenshot={picture}", f"file://{tmp_path / key}.svg", profile=tmp_path / "profile")
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size > 5000  # an empty page is smaller


@pytest.mark.slow
def test_an_export_opens_in_plain_transformers_and_is_checked_before_it_counts(trained, foundry, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    answer = foundry("export", trained.run, "--to", tmp_path / "model")

    assert answer.code == 0, answer.err
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model(**tokenizer("a cat", return_tensors="pt")).logits.shape[-1] == len(tokenizer)
    assert "library_name: transformers" in (tmp_path / "model" / "README.md").read_text()
    assert foundry("verify", tmp_path / "model").code == 0


@pytest.mark.slow
def test_revisions_open_by_name_from_an_offline_cache(trained, foundry, tmp_path):
    from transformers import AutoModelForCausalLM

    answer = foundry("export", trained.run, "--revisions", "--repository", "local/tiny", "--to", tmp_path / "hub")

    assert answer.code == 0, answer.err
    names = sorted(path.name for path in (tmp_path / "hub" / "models--local--tiny" / "refs").iterdir())
    assert "main" in names and len(names) >= 2
    for name in names:
        AutoModelForCausalLM.from_pretrained(
            "local/tiny", revision=name, cache_dir=tmp_path / "hub", local_files_only=True
        )
    with pytest.raises(OSError, match="cached files"):
        AutoModelForCausalLM.from_pretrained(
            "local/tiny", revision="chck_9M", cache_dir=tmp_path / "hub", local_files_only=True
        )


def test_a_run_compared_with_itself_differs_nowhere(trained):
    found = compare_runs(trained.run, trained.run)

    assert found.changes == [] and found.first_difference is None
    assert found.shared_steps == len(trained.steps)
