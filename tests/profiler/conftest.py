"""A profile of a realistic set of runs, made once."""

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
