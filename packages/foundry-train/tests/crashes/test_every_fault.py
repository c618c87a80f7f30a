"""Every disk operation of a run, gone wrong in every way, leaves a run that goes on bit for bit."""

from collections.abc import Callable
from typing import Any

import pytest

Scripts = Callable[[list[list[str]]], list[dict[str, Any]]]
Tell = Callable[[str], None]
Halves = list[dict[str, Any]]


@pytest.fixture(scope="module")
def halves(run_scripts: Scripts) -> Halves:
    """All trials, in two processes that load torch once."""
    scenarios = ["fresh", "recovery", "naive"]
    return run_scripts([["crash_trials.py", *scenarios, "--share", f"{part}/2"] for part in range(2)])


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "at_least"), [("fresh", 700), ("recovery", 250)])
def test_a_run_goes_on_bit_for_bit_after_every_fault(halves: Halves, tell: Tell, scenario: str, at_least: int) -> None:
    found = [half[scenario] for half in halves]

    wrong = [line for half in found for line in half["wrong"]]
    counts = {key: sum(half[key] for half in found) for key in ("faults", "killed", "refused", "absorbed")}
    tell(
        f"{scenario}: {counts['faults']} faults in {found[0]['operations']} operations "
        f"({counts['killed']} killed, {counts['refused']} refused, {counts['absorbed']} absorbed), "
        f"{len(wrong)} not bit-equal, {max(half['seconds'] for half in found):.0f} s"
    )
    assert wrong == []
    assert counts["faults"] >= at_least


@pytest.mark.slow
def test_the_same_trials_find_a_naive_layout_wanting(halves: Halves, tell: Tell) -> None:
    wrong = sum(len(half["naive"]["wrong"]) for half in halves)
    faults = sum(half["naive"]["faults"] for half in halves)

    tell(f"naive layout: {wrong} of {faults} faults lose the run or change it")
    assert wrong > faults // 4
