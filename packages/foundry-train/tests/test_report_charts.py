"""Ticks, thinning and drawing of charts."""

import csv
import io
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from foundry_train.report.charts import (
    Chart,
    Series,
    chart_csv,
    compact,
    finite,
    linear_ticks,
    log_ticks,
    plain_names,
    thin,
)
from foundry_train.report.svg import BOTTOM, HEIGHT, WIDTH, chart_svg

numbers = st.floats(-1e9, 1e9, allow_nan=False)
positive = st.floats(1e-9, 1e12)


@given(numbers, numbers)
def test_linear_ticks_enclose_the_range_at_equal_distances(a, b):
    low, high = min(a, b), max(a, b)

    ticks = linear_ticks(low, high)

    slack = 1e-6 * (abs(low) + abs(high) + 1)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 14


@given(positive, positive)
def test_log_ticks_rise_and_stay_inside_the_range(a, b):
    low, high = min(a, b), max(a, b)

    ticks = log_ticks(low, high)

    assert ticks == sorted(ticks)
    assert all(low * 0.998 <= tick <= high * 1.002 for tick in ticks)


@given(positive, st.floats(1.01, 1e6))
def test_a_logarithmic_axis_has_at_least_two_ticks(low, factor):
    assert len(set(log_ticks(low, low * factor))) >= 2


def tick_labels(drawing):
    """Texts under the axis, from left to right."""
    texts = [node for node in ElementTree.fromstring(drawing).iter() if node.tag.endswith("text")]
    below = [node for node in texts if node.attrib.get("y") == str(HEIGHT - BOTTOM + 18)]
    return [node.text for node in sorted(below, key=lambda node: float(node.attrib["x"]))]


@pytest.mark.parametrize(
    ("xs", "labels"),
    [
        ([0, 10], ["0", "10"]),
        ([0, 350], ["0", "350"]),
        ([0, 51_200], ["0", "51.2k"]),
        ([0, 200, 350], ["0", "200", "250", "300", "350"]),
        ([0, 1, 10, 200], ["0", "1", "10", "100"]),
        ([350], ["350"]),
        ([0], ["0"]),
    ],
)
def test_a_logarithmic_axis_labels_more_than_its_zero(xs, labels):
    series = Series("a", [float(x) for x in xs], [1.0] * len(xs))

    drawing = chart_svg(Chart(key="k", title="t", x="step", y="y", series=[series], log_x=True))

    assert tick_labels(drawing) == labels


def test_no_label_is_cut_off_at_the_right_edge():
    series = Series("a", [0.0, 123_450.0], [1.0, 2.0])
    drawing = chart_svg(Chart(key="k", title="t", x="tokens", y="y", series=[series], log_x=True))

    texts = [node for node in ElementTree.fromstring(drawing).iter() if node.text == "123.5k"]
    assert [float(node.attrib["x"]) + 3.5 * len("123.5k") <= WIDTH for node in texts] == [True]


def test_an_axis_of_steps_has_no_tick_between_two_steps():
    series = Series("a", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0])

    assert tick_labels(chart_svg(Chart(key="k", title="t", x="step", y="y", series=[series]))) == ["1", "2", "3"]


@given(st.lists(numbers, min_size=1, max_size=300), st.integers(10, 60))
def test_thinning_keeps_the_ends_and_the_extremes(ys, most):
    xs = [float(i) for i in range(len(ys))]

    kept_xs, kept_ys = thin(xs, ys, most)

    assert kept_xs[0] == 0 and kept_xs[-1] == len(ys) - 1
    assert min(kept_ys) == min(ys) and max(kept_ys) == max(ys)
    assert kept_xs == sorted(kept_xs)
    assert len(kept_xs) <= max(len(ys) if len(ys) <= most else most + 4, 2)


def test_points_that_are_missing_or_not_finite_are_dropped():
    assert finite([1, 2, 3, 4], [1.0, None, math.nan, math.inf]) == ([1.0], [1.0])


@given(st.lists(st.tuples(st.text(max_size=150), st.sampled_from(["loss", "field=a/b", "A", "a"])), unique=True))
def test_names_of_plots_are_plain_and_differ_on_any_file_system(parts):
    names = plain_names(parts)

    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,120}", name) for name in names)
    assert len({name.lower() for name in names}) == len(parts)
    assert plain_names(parts[::-1]) == names[::-1]


def test_csv_holds_every_point_and_its_band():
    chart = Chart(key="k", title="t", x="step", y="loss", series=[Series("a, b", [1.0], [2.0], [1.5], [2.5])])

    rows = list(csv.DictReader(io.StringIO(chart_csv(chart))))

    assert rows == [{"series": "a, b", "step": "1.0", "loss": "2.0", "low": "1.5", "high": "2.5"}]


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.floats(0, 1e7), st.floats(-1e6, 1e6)), max_size=30),
    st.booleans(),
    st.booleans(),
    st.text(max_size=8).filter(lambda s: s.isprintable()),
)
@example([(0.0, 0.0), (5e-324, 0.0)], True, False, "the least of all floats")
def test_every_chart_is_well_formed_xml_with_no_number_out_of_bounds(points, log_x, log_y, name):
    series = Series(name, [x for x, _ in points], [y for _, y in points])
    chart = Chart(key="k", title="<t> & co", x="x", y="y", series=[series], log_x=log_x, log_y=log_y, markers=True)

    root = ElementTree.fromstring(chart_svg(chart))

    circles = [node for node in root.iter() if node.tag.endswith("circle")]
    assert all(0 <= float(c.attrib["cx"]) <= 640 and 0 <= float(c.attrib["cy"]) <= 340 for c in circles)


def test_a_band_is_drawn_as_one_polygon():
    chart = Chart(
        key="k", title="t", x="x", y="y", series=[Series("a", [1.0, 2.0], [2.0, 3.0], [1.0, 2.0], [3.0, 4.0])]
    )

    root = ElementTree.fromstring(chart_svg(chart))

    polygons = [node for node in root.iter() if node.tag.endswith("polygon")]
    assert [len(p.attrib["points"].split()) for p in polygons] == [4]


def test_numbers_on_an_axis_are_short():
    assert [compact(v) for v in (0, -0.0004, 3.14159, 12345, 7.5e9)] == ["0", "-4e-4", "3.142", "12.35k", "7.5G"]
