"""Progress as plain lines and as a live bar."""

import io

import pytest
from rich.console import Console

from foundry_cli import console, reporters
from foundry_cli.reporters import BarReporter, LineReporter, Rate, make_reporter, step_figures
from foundry_data.progress import TokenizedBytes
from foundry_train.hooks import StepRecord


def record(step: int, **changes) -> StepRecord:
    values = {
        "step": step, "total_steps": 40, "epoch": 0, "loss": 5.25, "lr": 1e-3, "grad_norm": 1.5, "tokens": 81920,
        "words": 60000, "tokens_per_second": 4000.0, "tokens_per_second_per_device": 4000.0, "mfu": None,
        "memory_bytes": 2**30, "eta_seconds": 184.0, "micro_batch": 8,
    }  # fmt: skip
    return StepRecord(**{**values, **changes})


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_step_figures_name_what_a_person_follows():
    assert step_figures(record(10, mfu=0.41)) == (
        "loss 5.2500  lr 1.00e-03  4,000 tok/s  MFU 41%  1.0 GiB  left 3 min 04 s"
    )


def test_step_figures_say_when_an_update_was_left_out():
    assert step_figures(record(40, skipped=True)).endswith("not finite, left out")


def test_lines_show_the_first_the_last_and_every_tenth_step(capsys):
    lines = LineReporter(every_steps=10)

    for step in range(1, 41):
        lines.step(record(step))

    shown = [line.split("/")[0] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["step  1", "step 10", "step 20", "step 30", "step 40"]


def test_lines_of_a_stage_come_at_intervals_however_often_it_reports(capsys):
    clock = Clock()
    lines = LineReporter(every_steps=10, clock=clock)

    for done in range(100):
        clock.now = done * 0.1
        lines.progress("evaluating", done, 100)

    assert capsys.readouterr().err.splitlines() == [
        "evaluating",
        "evaluating: 50 of 100 (50%)  (10/s, left 5.0 s)",
    ]


def test_stages_of_text_count_bytes(capsys):
    clock = Clock()
    lines = LineReporter(every_steps=10, clock=clock)

    for clock.now in (0.0, 6.0):
        lines.progress("tokenizing train", 3 * 2**20, None)

    assert capsys.readouterr().err.splitlines() == ["tokenizing train", "tokenizing train: 3.0 MiB"]


def test_lines_spell_control_characters_of_foreign_text(capsys):
    LineReporter(every_steps=1).message("corpus \x1b[31mred")

    assert capsys.readouterr().err == "corpus \\x1b[31mred\n"


def test_the_run_is_shown_as_short_as_it_can_be_typed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    LineReporter(every_steps=1).stage("run", str(tmp_path / "runs" / "a"))

    assert capsys.readouterr().err == "run: runs/a\n"


def test_the_bar_shows_steps_stages_and_messages(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(
        console, "err", lambda: Console(file=terminal, force_terminal=True, width=120, markup=False, highlight=False)
    )
    bar = BarReporter()

    bar.stage("reading", "builtin:python-docs")
    bar.progress("reading", 10, 100)
    bar.step(record(20))
    bar.message("[bold]not markup[/bold]")
    bar.close()

    shown = terminal.getvalue()
    assert "reading: builtin:python-docs" in shown
    assert "20/40  loss 5.2500" in shown
    assert "[bold]not markup[/bold]" in shown


def test_the_bar_can_be_closed_before_it_began_and_twice():
    bar = BarReporter()

    bar.close()
    bar.close()


@pytest.mark.parametrize(
    ("is_terminal", "term", "kind"),
    [(True, "xterm", BarReporter), (True, "dumb", LineReporter), (False, "xterm", LineReporter)],
)
def test_the_live_bar_is_for_terminals_only(monkeypatch, is_terminal, term, kind):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(reporters.sys, "stderr", stream)
    monkeypatch.setenv("TERM", term)

    assert isinstance(make_reporter(every_steps=1), kind)


def test_rate_waits_until_it_can_judge_then_tells_speed_and_time_left():
    clock = Clock()
    rate = Rate(clock)

    assert rate.text("evaluating", 0, 1000) == ""
    clock.now = 2.0
    assert rate.text("evaluating", 200, 1000) == "  (100/s, left 8.0 s)"
    assert rate.text("tokenizing train", 2 * 2**20, None) == "  (1.0 MiB/s)"
    tokenized = TokenizedBytes(2 * 2**20, tokens=600_000)
    assert rate.text("tokenizing train", tokenized, 3 * 2**20) == "  (1.0 MiB/s, 300,000 tok/s, left 1.0 s)"


def test_a_stage_of_unknown_length_is_named_without_figures(capsys):
    clock = Clock()
    lines = LineReporter(every_steps=10, clock=clock)

    for clock.now in (0.0, 6.0, 12.0):
        lines.progress("training the tokenizer", 0, None)

    assert capsys.readouterr().err.splitlines() == ["training the tokenizer"]
