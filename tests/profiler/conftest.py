"""A profile of a realistic set of runs, made once."""

import csv

import pytest

from millstream.profiler import profile
from tests.profiler.profiler_synthetic import runs


@pytest.fixture(scope="session")
def many_spans():
    return list(runs(60, seed=3))


@pytest.fixture(scope="session")
def many(many_spans):
    found = profile(many_spans)
    assert found.failures == {}
    return found


@pytest.fixture(autouse=True)
def csv_fields_of_any_length():
    """The limit is one for the whole process."""
    before = csv.field_size_limit(10**9)
    yield
    csv.field_size_limit(before)
