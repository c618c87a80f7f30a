"""What `foundry_train` exports, and that asking for little loads little."""

import subprocess
import sys

import pytest

import foundry_train


def test_every_public_name_can_be_imported_and_is_listed():
    for name in foundry_train.__all__:
        assert getattr(foundry_train, name).__module__.startswith("foundry_train.")
        assert name in dir(foundry_train)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Trainor"):
        foundry_train.Trainor


@pytest.mark.slow
def test_the_package_itself_loads_neither_torch_nor_transformers():
    code = (
        "import sys, foundry_train, foundry_train.signals;"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
