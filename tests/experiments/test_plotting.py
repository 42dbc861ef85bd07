"""The style of the figures: one colour and marker for each estimator."""

from itertools import pairwise

import pytest

import rgrad
from experiments.common.plotting import COLOURS, STYLES, figure_files, label_lines, panels, plain_log, style_of
from experiments.discrete.study import OWN
from experiments.fit.fitting import AVERAGE, EXACT

OTHERS = (*OWN, AVERAGE, EXACT, "sticking_the_landing", "doubly_reparameterized", "vimco")


def test_every_estimator_has_its_own_style():
    names = [*rgrad.ESTIMATORS, *OTHERS]
    assert set(names) <= set(STYLES)
    assert len({style_of(name) for name in names}) == len(names)


def test_the_style_of_an_unknown_name_depends_only_on_the_name():
    assert style_of("mine.py:estimator") == style_of("mine.py:estimator")
    assert style_of("mine.py:estimator") not in STYLES.values()
    assert len({style_of(f"mine.py:estimator{i}") for i in range(20)}) > 8


@pytest.mark.parametrize(("low", "high"), [(75.0, 95.0), (0.2, 2.0), (1e-6, 1e3), (16.3, 17.2), (0.0546, 0.0564)])
def test_a_short_logarithmic_axis_has_at_least_two_labels_that_differ(low, high):
    figure, ((axis,),) = panels(1, 1)
    axis.set(yscale="log", ylim=(low, high))
    plain_log(axis)
    figure_files(figure)
    labels = [
        t.get_text() for t, at in zip(axis.get_yticklabels(), axis.get_yticks(), strict=True) if low <= at <= high
    ]
    assert len(set(labels)) == len(labels) >= 2


def test_labels_of_close_lines_do_not_overlap():
    figure, ((axis,),) = panels(1, 1, height=3.0)
    for y in (1.0, 1.001, 5.0):
        axis.plot([0, 1], [y, y])
    label_lines(axis, [(1, y, f"y = {y}", COLOURS[0]) for y in (1.0, 1.001, 5.0)])
    figure_files(figure)
    boxes = sorted((text.get_window_extent() for text in axis.texts), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in pairwise(boxes))
