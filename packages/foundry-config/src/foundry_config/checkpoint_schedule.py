"""Turn a checkpoint schedule into steps: every spacing is a function from the shape of a run to points.

    evenly over an epoch of 333 steps, 20 checkpoints   0 18 35 53 ... 315 333
    log within an epoch that starts at step 334, base 2  334 336 340 348 364 396 460 588, then the end of the epoch
    powers_of_two up to 512                              0 1 2 4 8 ... 512

Points of all spacings are joined; a step that several of them name is one checkpoint with several reasons.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from foundry_config.errors import ConfigError
from foundry_config.lookup import did_you_mean

MAX_CHECKPOINTS = 100_000
MILLION = 1_000_000


class Milestone(Struct, frozen=True):
    """A checkpoint that is known before training: after `step` updates, why, and under which label if it has one."""

    step: int
    label: str | None = None
    reasons: tuple[str, ...] = ()


class Counter(Struct, frozen=True):
    """Something that grows with the steps, such as words seen."""

    unit: str
    after: Callable[[int], int]
    """The count after a step."""
    reached: Callable[[int], int | None]
    """The first step of the run at which a count is reached, or None."""


class RunShape(Struct, frozen=True):
    """What a spacing may know of a run."""

    steps_per_epoch: int
    total_steps: int
    tokens: Counter
    words: Counter


class Point(NamedTuple):
    """A step that a spacing names."""

    step: int
    reason: str
    label: str | None = None


Points = Iterator[Point]


def join(points: Iterable[Point], total_steps: int) -> tuple[Milestone, ...]:
    """Return the milestones that `points` make within the run, its last step included, in the order of steps.

    Raises:
        ConfigError: There are more than `MAX_CHECKPOINTS`.
    """
    reasons: dict[int, list[str]] = {}
    labels: dict[int, str] = {}
    last = Point(total_steps, "end of training")
    for point in itertools.chain((p for p in points if 0 <= p.step <= total_steps), (last,)):
        found = reasons.setdefault(point.step, [])
        if point.reason not in found:
            found.append(point.reason)
        if point.label is not None:
            labels[point.step] = point.label
        if len(reasons) > MAX_CHECKPOINTS:
            raise ConfigError(
                f"training.checkpoint_schedule: asks for more than {MAX_CHECKPOINTS:,} checkpoints; "
                "choose a wider spacing"
            )
    return tuple(Milestone(step, labels.get(step), tuple(reasons[step])) for step in sorted(reasons))


def points_of(item: int | str | Mapping[str, Any], run: RunShape) -> Points:
    """Yield the points of one entry of `training.checkpoint_schedule`, which `entry_problem` has found right."""
    if isinstance(item, int):
        yield Point(item, f"step {item:,}" if item else "start")
    elif isinstance(item, str):
        yield from PRESETS[item](run)
    else:
        name = next(key for key in item if key in SPACINGS)
        options = {key: value for key, value in item.items() if key != name}
        yield from SPACINGS[name](run, item[name], **options)


def entry_problem(item: int | str | Mapping[str, Any]) -> str | None:
    """Return what is wrong with one entry of `training.checkpoint_schedule`, or None."""
    if isinstance(item, int):
        return None
    if isinstance(item, str):
        known = ", ".join(PRESETS)
        return None if item in PRESETS else f"unknown preset {item!r}.{did_you_mean(item, PRESETS)} Known: {known}"
    names = [key for key in item if key in SPACINGS]
    others = [key for key in item if key not in SPACINGS]
    if not names and others:
        return f"unknown spacing {others[0]!r}.{did_you_mean(others[0], SPACINGS)} Known: {', '.join(SPACINGS)}"
    if len(names) != 1:
        return "an entry names exactly one spacing; write several entries"
    options = OPTIONS.get(names[0], ())
    for key in others:
        if key not in options:
            return f"{names[0]} has no option {key!r}.{did_you_mean(key, options)}"
    return next((problem for key, value in item.items() if (problem := _number_problem(key, value))), None)


def _number_problem(key: str, value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{key} must be a number, got {value!r}"
    if key == "log":
        return None if 1 < value <= 1e6 else f"log is the growth of the distances: above 1, at most 1e6, got {value!r}"
    if value < 1 or value != int(value) or value > 2**53:
        return f"{key} must be a whole number of at least 1, got {value!r}"
    return None


def every_steps(run: RunShape, distance: float) -> Points:
    """Yield the multiples of `distance` from the first on."""
    for step in range(int(distance), run.total_steps + 1, int(distance)):
        yield Point(step, f"every {int(distance):,} steps")


def every_tokens(run: RunShape, distance: float) -> Points:
    """Yield the first step at which each multiple of `distance` tokens is reached."""
    return _multiples(run.tokens, int(distance))


def every_words(run: RunShape, distance: float) -> Points:
    """Yield the first step at which each multiple of `distance` words is reached, labelled `chck_1M`, `chck_2M` ..."""
    return _multiples(run.words, int(distance))


def evenly(run: RunShape, checkpoints: float, *, min_interval: float = 1) -> Points:
    """Spread checkpoints over the first epoch (or the run, if that is shorter), both ends included."""
    end = min(run.steps_per_epoch, run.total_steps)
    count = min(int(checkpoints), end // int(min_interval) + 1)
    if count < 2:
        yield Point(end, "end of epoch 1")
        return
    for index in range(count):
        # to the nearest whole step, halves up, in integers so that it is exact for any size
        step = (2 * index * end + count - 1) // (2 * (count - 1))
        yield Point(step, f"epoch 1, {index + 1} of {count} evenly")


def linear(run: RunShape, distance: float, *, min_interval: float = 1) -> Points:
    """Yield steps at one distance within every epoch after the first, and the end of each."""

    def inside(start: int, end: int) -> Iterator[int]:
        step = max(int(distance), int(min_interval))
        return iter(range(start + step, end, step))

    return _later_epochs(run, inside, min_interval, "linear")


def log(run: RunShape, base: float, *, min_interval: float = 1) -> Points:
    """Yield steps at distances base, base^2, base^3 ... within every epoch after the first, and the end of each."""

    def inside(start: int, end: int) -> Iterator[int]:
        step, distance = start + 1, float(base)
        while step < end:
            yield step
            step += max(round(distance), int(min_interval))
            distance = min(distance * base, 2.0**53)

    return _later_epochs(run, inside, min_interval, "log")


def powers_of_two(run: RunShape, last: float) -> Points:
    """Yield 0, 1, 2, 4, 8 ... up to `last`."""
    yield Point(0, "start")
    step = 1
    while step <= min(last, run.total_steps):
        yield Point(step, "power of two")
        step *= 2


def epoch_ends(run: RunShape) -> Points:
    """Yield the last step of every epoch."""
    for epoch in range(1, run.total_steps // run.steps_per_epoch + 1):
        yield Point(epoch * run.steps_per_epoch, f"end of epoch {epoch}")


def pythia(run: RunShape) -> Points:
    """Yield 0, 1, 2, 4 ... 512, then every 1000 steps (Biderman et al. 2023, arXiv:2304.01373)."""
    yield from powers_of_two(run, 512)
    yield from every_steps(run, 1000)


def babylm(largest: int) -> Callable[[RunShape], Points]:
    """Return the spacing of the BabyLM challenge up to `largest` million words, labelled as its pipeline expects."""
    millions = [*range(1, 10), *range(10, 100, 10), *range(100, 1001, 100)]

    def points(run: RunShape) -> Points:
        for target in (m * MILLION for m in millions if m <= largest):
            step = run.words.reached(target)
            if step is None:
                return
            yield Point(step, f"{target:,} words", f"chck_{target // MILLION}M")

    return points


def _multiples(counter: Counter, distance: int) -> Points:
    """Yield the steps at which multiples of `distance` are reached; of several in one step, the largest."""
    whole = math.lcm(distance, MILLION)
    passed = 0
    while (step := counter.reached(passed + distance)) is not None:
        before, passed = passed, counter.after(step) // distance * distance
        labelled = passed // whole
        is_labelled = counter.unit == "words" and labelled > before // whole
        label = f"chck_{labelled * whole // MILLION}M" if is_labelled else None
        yield Point(step, f"{passed:,} {counter.unit}", label)


def _later_epochs(run: RunShape, inside: Callable[[int, int], Iterator[int]], min_interval: float, name: str) -> Points:
    """Yield what `inside(start, end)` gives for each later epoch, no closer than `min_interval`, and every end."""
    start, epoch = run.steps_per_epoch, 2
    while start < run.total_steps:
        end = min(start + run.steps_per_epoch, run.total_steps)
        previous = start
        for step in inside(start, end):
            if step - previous >= min_interval or (step == start + 1 and min_interval <= 1):
                if end - step < min_interval:
                    break
                previous = step
                yield Point(step, f"epoch {epoch}, {name} spacing")
        yield Point(end, f"end of epoch {epoch}")
        start, epoch = end, epoch + 1


def automatic(training: Any, run: RunShape) -> Points:
    """Yield the schedule that the fields of `training` describe when `auto_generate_checkpoints` is on."""
    closest = training.min_checkpoint_interval
    yield from evenly(run, training.first_epoch_checkpoints, min_interval=closest)
    if training.subsequent_epochs_spacing == "log":
        yield from log(run, training.log_base, min_interval=closest)
    else:
        count = max(training.first_epoch_checkpoints - 1, 1)
        distance = training.linear_interval or max(round(run.steps_per_epoch / count), 1)
        yield from linear(run, distance, min_interval=closest)


PRESETS: dict[str, Callable[[RunShape], Points]] = {
    "pythia": pythia,
    "babylm-strict-small": babylm(100),
    "babylm-strict": babylm(1000),
    "epochs": epoch_ends,
}

SPACINGS: dict[str, Callable[..., Points]] = {
    "every_steps": every_steps,
    "every_tokens": every_tokens,
    "every_words": every_words,
    "evenly": evenly,
    "linear": linear,
    "log": log,
    "powers_of_two": powers_of_two,
}

OPTIONS: dict[str, tuple[str, ...]] = {
    "evenly": ("min_interval",),
    "linear": ("min_interval",),
    "log": ("min_interval",),
}
