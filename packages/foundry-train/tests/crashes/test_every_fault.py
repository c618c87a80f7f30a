"""Every disk operation of a run, gone wrong in every way, leaves a run that goes on bit for bit."""

import time
from collections.abc import Callable
from typing import Any

import pytest

Scripts = Callable[[list[list[str]]], list[dict[str, Any]]]
Tell = Callable[[str], None]


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "at_least"), [("fresh", 700), ("recovery", 250)])
def test_a_run_goes_on_bit_for_bit_after_every_fault(
    run_scripts: Scripts, tell: Tell, scenario: str, at_least: int
) -> None:
    started = time.monotonic()

    halves = run_scripts([["crash_trials.py", "--scenario", scenario, "--share", f"{part}/2"] for part in range(2)])

    wrong = [line for half in halves for line in half["wrong"]]
    counts = {key: sum(half[key] for half in halves) for key in ("faults", "killed", "refused", "absorbed")}
    tell(
        f"{scenario}: {counts['faults']} faults in {halves[0]['operations']} operations "
        f"({counts['killed']} killed, {counts['refused']} refused, {counts['absorbed']} absorbed), "
        f"{len(wrong)} not bit-equal, {time.monotonic() - started:.0f} s"
    )
    assert wrong == []
    assert counts["faults"] >= at_least


@pytest.mark.slow
def test_the_same_trials_find_a_naive_layout_wanting(run_scripts: Scripts, tell: Tell) -> None:
    [found] = run_scripts([["crash_trials.py", "--manager", "naive", "--share", "0/4"]])

    tell(f"naive layout: {len(found['wrong'])} of {found['faults']} faults lose the run or change it")
    assert len(found["wrong"]) > found["faults"] // 4
