"""A stop signal in any phase ends in a saved state and its own exit code; a second one ends at once without harm."""

from collections.abc import Callable
from typing import Any

import pytest

Scripts = Callable[[list[list[str]]], list[dict[str, Any]]]


@pytest.mark.slow
def test_every_signal_in_every_phase_stops_with_its_code_and_goes_on_bit_for_bit(
    run_scripts: Scripts, tell: Callable[[str], None]
) -> None:
    once, twice = run_scripts([["signal_trials.py"], ["signal_trials.py", "--twice"]])

    tell(
        f"signals: {once['combinations']} of signal and phase, {twice['combinations']} with a second signal, "
        f"{len(once['wrong']) + len(twice['wrong'])} wrong, the slowest took {once['slowest'] * 1000:.0f} ms"
    )
    assert once["wrong"] == []
    assert twice["wrong"] == []
    assert once["combinations"] >= 60
