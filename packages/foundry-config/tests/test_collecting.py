"""The garbage collector is held off inside, and afterwards as it was."""

import gc

import pytest

from foundry_config.collecting import uncollected


def test_off_inside_and_on_again_after_an_error():
    assert gc.isenabled()
    with pytest.raises(KeyError), uncollected():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_who_has_switched_it_off_finds_it_off():
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
