"""Power cuts on a real ext4: the image under a mounted file system is copied after every operation, and recovered from.

The backing file of a loop device holds exactly what has left the page cache, so a copy of it is what a power cut would
leave; mounting the copy replays the journal as a reboot would.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from foundry_config.errors import CheckpointError
from foundry_data import fs
from foundry_data.fs_faults import Tracing
from foundry_train.safetensors_writer import weights_digest

IMAGE_BYTES = 8 * 2**20


def command(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(word) for word in words], capture_output=True, check=False)


def mount(image: Path, folder: Path) -> bool:
    folder.mkdir(exist_ok=True)
    return command("mount", "-o", "loop,commit=300", image, folder).returncode == 0


@pytest.fixture
def mounted(fast_path: Path) -> Iterator[tuple[Path, Path]]:
    """An image and the folder where it is mounted."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("needs mkfs.ext4")
    image, folder = fast_path / "disk.img", fast_path / "disk"
    image.touch()
    os.truncate(image, IMAGE_BYTES)
    made = command("mkfs.ext4", "-q", "-F", "-b", "1024", "-E", "lazy_itable_init=0", image)
    if made.returncode or not mount(image, folder):
        pytest.skip("no ext4 image can be mounted here")
    yield image, folder
    command("umount", folder)


class Photographing(Tracing):
    """Takes a copy of the image after every operation."""

    def __init__(self, image: Path, take: Callable[[Path], None]) -> None:
        super().__init__()
        self._image, self._take = image, take

    def _note(self, operation: Any) -> None:
        super()._note(operation)
        self._take(self._image)


@pytest.mark.root
@pytest.mark.slow
def test_no_copy_of_the_image_has_lost_a_checkpoint_whose_save_had_returned(
    harness: Any, mounted: tuple[Path, Path], fast_path: Path, tell: Callable[[str], None]
) -> None:
    image, folder = mounted
    small = harness.Small(folder)
    copy, after = fast_path / "copy.img", fast_path / "after"
    committed, tried, lost = [0], [0], []
    digests: dict[int, str] = {}

    def recover(source: Path) -> None:
        shutil.copyfile(source, copy)
        if not mount(copy, after):
            lost.append("the image could not be mounted")
            return
        try:
            with fs.using(fs.Backend()):  # what recovery itself does is not photographed
                step = restored_step(harness, after, digests)
        finally:
            command("umount", after)
        tried[0] += 1
        if step < committed[0]:
            lost.append(f"step {committed[0]} was saved, {step} was found")

    for step in (1, 2, 3):
        small.update(step)
        digests[step] = small.digest()
        with fs.using(Photographing(image, recover)):
            small.save(step)
        committed[0] = step

    tell(f"ext4 image: {tried[0]} power cuts, {len(lost)} lose a committed checkpoint")
    assert lost == []
    assert tried[0] > 80


def restored_step(harness: Any, root: Path, digests: dict[int, str]) -> int:
    """Recover as after a reboot; returns the step, 0 if there is none."""
    generators = torch.get_rng_state()
    found = harness.Small(root)
    found.manager.clean_up()
    try:
        step = found.manager.restore(found.model, found.optimizer).step
    except CheckpointError:
        return 0
    finally:
        torch.set_rng_state(generators)
    assert weights_digest(dict(found.model.state_dict())) == digests[step]
    return step
