"""Axes show what is usual, and say what they leave out."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from mapolab.evaluation.intervals import Estimate
from mapolab.report.axes import reach, show_intervals

USUAL = 1 + 0.2 * np.random.default_rng(0).random(60)


def with_one(value: float) -> np.ndarray:
    return np.concatenate([USUAL, [value]])


@pytest.mark.parametrize("far", [1100.0, -1100.0])
def test_one_value_far_out_is_counted_and_not_followed(far: float) -> None:
    found = reach([with_one(far), USUAL])
    assert 0.9 < found.low < 1 < found.high < 1.3 and not found.logarithmic
    sign = "\N{MINUS SIGN}" if far < 0 else ""
    assert found.note == f"1 of 121 values lies beyond the axis at {sign}1,100"
    assert found.holds(with_one(far)).sum() == 60


def test_many_values_far_out_are_all_shown() -> None:
    found = reach([np.concatenate([USUAL, np.linspace(5, 9, 8)])])
    assert found.high > 9 and found.note == ""


def test_a_method_on_another_scale_is_no_outlier() -> None:
    found = reach([USUAL, 1000 * USUAL])
    assert found.low < 1 and found.high > 1200 and found.note == "logarithmic axis"
    assert reach([USUAL, 10 * USUAL]).note == ""
    assert reach([USUAL, -1000 * USUAL]).low < -1200  # no logarithm of these: all, on one axis


def test_a_loss_that_goes_to_nothing_does_not_take_the_axis_along() -> None:
    found = reach([USUAL, np.geomspace(1, 1e-6, 57), np.array([1e-30, 1e-35])])
    assert found.logarithmic and found.low > 1e-36
    found = reach([USUAL, np.concatenate([np.geomspace(1, 1e-3, 57), [1e-30, 1e-35]])])
    assert found.low > 1e-6 and "2 of 119 values lie beyond the axis, the farthest at 1e\N{MINUS SIGN}35" in found.note


def test_bounded_constant_and_single_values() -> None:
    assert (reach([np.array([0.99] * 50 + [0.1])], (0.0, 1.0)).low, reach([USUAL], (0.0, 1.0)).high) == (0.0, 1.0)
    for values in ([3.0], [0.0], [-2.0, -2.0]):
        found = reach([np.array(values)])
        assert found.low < values[0] < found.high and found.note == ""
    assert reach([np.array([1.0] * 50 + [0.9])]).low < 0.9  # mostly equal: nothing is far out


def test_what_is_not_finite_is_counted_and_what_is_missing_is_not() -> None:
    found = reach([np.array([1.0, np.inf, -np.inf, np.nan, 2.0])])
    assert found.note == "2 of 4 values are not finite"


def test_an_interval_much_wider_than_the_others_is_cut_and_told() -> None:
    axes = Figure().add_subplot()
    estimates = {f"m{number}": Estimate(1 + number, 0.5 + number, 1.5 + number) for number in range(4)}
    assert show_intervals(axes, "x", estimates) == ""
    told = show_intervals(axes, "x", estimates | {"wide": Estimate(2.0, -900.0, 1200.0)})
    assert told == "the interval of wide goes on, \N{MINUS SIGN}900 to 1,200"
    low, high = axes.get_xlim()
    assert -10 < low < 0.5 and 4.5 < high < 15
    assert show_intervals(axes, "x", {"unknown": Estimate(1.0, None, None, "no spread")}) == ""
