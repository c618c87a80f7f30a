"""Threads give way on a busy machine, and only there."""

import pytest

from foundry_cli.waiting_threads import give_way_if_busy, others_running


@pytest.mark.parametrize(
    ("load", "cores", "expected"),
    [
        (0.2, 2, {}),
        (1.0, 2, {}),
        (1.1, 2, {"GOMP_SPINCOUNT": "10000"}),
        (30.0, 64, {}),
        (33.0, 64, {"GOMP_SPINCOUNT": "10000"}),
        (0.6, None, {"GOMP_SPINCOUNT": "10000"}),
    ],
)
def test_the_load_of_the_last_minute_decides(load, cores, expected):
    environment: dict[str, str] = {}

    give_way_if_busy(environment, load=lambda: (load, 99.0, 99.0), cores=cores, running=lambda: None)

    assert environment == expected


@pytest.mark.parametrize(
    ("running", "expected"), [(0, {}), (1, {"GOMP_SPINCOUNT": "10000"}), (7, {"GOMP_SPINCOUNT": "10000"})]
)
def test_a_load_that_has_ended_does_not_count(running, expected):
    environment: dict[str, str] = {}

    give_way_if_busy(environment, load=lambda: (2.0, 2.0, 2.0), cores=2, running=lambda: running)

    assert environment == expected


def test_the_system_tells_how_many_others_run(monkeypatch, tmp_path):
    found = others_running()
    assert found is None or found >= 0

    loads = tmp_path / "loadavg"
    monkeypatch.setattr("foundry_cli.waiting_threads.Path", lambda _: loads)
    assert others_running() is None
    loads.write_text("0.20 0.18 0.12 3/80 11206\n")
    assert others_running() == 2
    loads.write_text("nothing\n")
    assert others_running() is None


@pytest.mark.parametrize("own", [{"GOMP_SPINCOUNT": "5"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_what_the_user_has_set_is_left_alone(own):
    environment = dict(own)

    give_way_if_busy(environment, load=lambda: (99.0, 99.0, 99.0), cores=2, running=lambda: 9)

    assert environment == own


def test_a_system_that_does_not_tell_its_load_is_taken_for_quiet():
    environment: dict[str, str] = {}

    def refuses() -> tuple[float, float, float]:
        raise OSError

    give_way_if_busy(environment, load=refuses)
    give_way_if_busy(environment, load=None)

    assert environment == {}
