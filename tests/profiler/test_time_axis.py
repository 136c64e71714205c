"""Units and ticks of a time axis."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.profiler.renderers.time_axis import length, ticks, unit


@pytest.mark.parametrize(
    ("end_s", "name", "numbers"),
    [
        (17.5e-6, "microseconds", "0 2 4 6 8 10 12 14 16"),
        (3e-9, "microseconds", "0.0000 0.0005 0.0010 0.0015 0.0020 0.0025 0.0030"),
        (9e-3, "milliseconds", "0 1 2 3 4 5 6 7 8 9"),
        (0.0153, "milliseconds", "0 2 4 6 8 10 12 14"),
        (1.0, "seconds", "0.0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1.0"),
        (2.6, "seconds", "0.0 0.5 1.0 1.5 2.0 2.5"),
        (119.0, "seconds", "0 20 40 60 80 100"),
        (120.0, "minutes", "0.0 0.2 0.4 0.6 0.8 1.0 1.2 1.4 1.6 1.8 2.0"),
        (6.5 * 3600, "hours", "0 1 2 3 4 5 6"),
        (90.0 * 86400, "days", "0 10 20 30 40 50 60 70 80 90"),
        (45e3 * 86400, "days", "0 5,000 10,000 15,000 20,000 25,000 30,000 35,000 40,000 45,000"),
    ],
)
def test_ticks_are_round_in_the_unit_that_fits(end_s, name, numbers):
    assert unit(end_s).name == name
    assert [number for _, number in ticks(end_s)] == numbers.split()


@given(st.floats(1e-9, 1e10))
def test_ticks_are_neither_few_nor_many_and_lie_on_the_axis(end_s):
    places, numbers = zip(*ticks(end_s), strict=True)
    assert 4 <= len(places) <= 11
    assert places[0] == 0
    step_s = places[1]
    assert [after - before for before, after in pairwise(places)] == pytest.approx(
        [step_s] * (len(places) - 1)
    )
    assert places[-1] <= end_s * (1 + 1e-9) < places[-1] + step_s * (1 + 1e-6)
    assert len(set(numbers)) == len(numbers)
    for place, number in zip(places, numbers, strict=True):
        assert float(number.replace(",", "")) * unit(end_s).length_s == pytest.approx(place)


@pytest.mark.parametrize(
    ("value_s", "text"),
    [
        (0.0, "0 s"),
        (6.3e-7, "0.63 us"),
        (0.09, "90.0 ms"),
        (2.5, "2.50 s"),
        (119.9, "120 s"),
        (120.0, "2.00 min"),
        (3510.0, "58.5 min"),
        (22_500.0, "6.25 h"),
        (4 * 86_400.0, "4.00 d"),
        (4e8, "4,630 d"),
    ],
)
def test_lengths_are_three_digits_in_the_unit_that_fits(value_s, text):
    assert length(value_s) == text
