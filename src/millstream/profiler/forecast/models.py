"""Linear regression, random forest and gradient boosting on what the baseline leaves unexplained.

A model learns z = (value - median of the group) / spread of the group, so that one model serves all stages
of all workflows. Quantiles are made good afterwards on requests that were held out (`evaluation.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from millstream.errors import MissingExtraError
from millstream.profiler.forecast.baseline import GroupedQuantiles, Grouping, Interval
from millstream.profiler.forecast.states import States
from millstream.profiler.forecast.timeline import Floats
from millstream.store.table import Ints

LINEAR, FOREST, BOOSTING = "linear", "random_forest", "gradient_boosting"
NAMES: Final = (LINEAR, FOREST, BOOSTING)
MAX_ROWS = 2000
MOST_NAMES = 12
_SEED = 0
_TREES = 10
_ROUNDS = 25
_LEAST_LEAF = 12
_STEPS = 8
_STIFFNESS = 1e-3


class _Regression(Protocol):
    def predict(self, features: Floats) -> Floats: ...


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """Features as a matrix: logarithms of numbers, and which workflow and last call it is.

    Attributes:
        plain: with the numbers themselves, which trees have no use for.
        workflows: the most frequent ones, one column each.
        last_calls: likewise.
    """

    plain: bool
    workflows: Ints
    last_calls: Ints

    @classmethod
    def fit(cls, states: States, *, plain: bool) -> "Encoding":
        """Choose the columns."""
        return cls(plain, _frequent(states.workflow), _frequent(states.last_call))

    def matrix(self, states: States, base: Interval) -> Floats:
        """The features of states, with what the baseline says of them, shape (n, columns)."""
        return np.column_stack(
            (
                np.log1p(states.features),
                *((states.features,) if self.plain else ()),
                np.log1p(base.median),
                states.workflow[:, None] == self.workflows,
                states.last_call[:, None] == self.last_calls,
            )
        ).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A fitted model of one target.

    Attributes:
        baseline: what it corrects.
        encoding: of its features.
        regression: predicts z, shape (n,).
        left: quantiles, by group, of what z is beside the prediction, in fitting.
    """

    baseline: GroupedQuantiles
    encoding: Encoding
    regression: _Regression
    left: GroupedQuantiles

    def predict(self, states: States) -> Interval:
        """Quantiles before calibration."""
        base = self.baseline.predict(states)
        spread = base.spread(self.baseline.floor)
        center = self.regression.predict(self.encoding.matrix(states, base))
        low, _, high = self.left.predict(states)
        median = base.median + spread * center
        return Interval(median + spread * np.minimum(low, 0), median, median + spread * np.maximum(high, 0))


def fit(name: str, baseline: GroupedQuantiles, grouping: Grouping, states: States, values: Floats) -> Model:
    """Fit a model of `NAMES` on at most `MAX_ROWS` states, drawn with a fixed seed.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    base = baseline.predict(states)
    z = (values - base.median) / base.spread(baseline.floor)
    encoding = Encoding.fit(states, plain=name == LINEAR)
    matrix = encoding.matrix(states, base)
    drawn = np.arange(len(z))
    if len(z) > MAX_ROWS:
        drawn = np.sort(np.random.default_rng(_SEED).choice(len(z), MAX_ROWS, replace=False))
    learner = _Linear if name == LINEAR else _ensemble(name)
    regression = learner.fit(matrix[drawn], z[drawn])
    left = GroupedQuantiles.fit(grouping, z - regression.predict(matrix))
    return Model(baseline, encoding, regression, left)


@dataclass(frozen=True, slots=True, eq=False)
class _Linear:
    """Median regression by iteratively reweighted least squares on standardised columns."""

    center: Floats
    scale: Floats
    weights: Floats

    @classmethod
    def fit(cls, matrix: Floats, z: Floats) -> "_Linear":
        center: Floats = matrix.mean(axis=0)
        scale: Floats = np.where(matrix.std(axis=0) > 0, matrix.std(axis=0), 1.0)
        columns = cls._standard(matrix, center, scale)
        stiff = _STIFFNESS * len(z) * np.eye(columns.shape[1])
        importance = np.ones(len(z))
        for _ in range(_STEPS):
            weighted = columns * importance[:, None]
            weights = np.linalg.solve(columns.T @ weighted + stiff, weighted.T @ z)
            importance = 1 / np.maximum(np.abs(z - columns @ weights), 1e-2)
            importance /= importance.mean()
        return cls(center, scale, np.asarray(weights, np.float64))

    @staticmethod
    def _standard(matrix: Floats, center: Floats, scale: Floats) -> Floats:
        standard = np.clip((matrix - center) / scale, -10, 10)
        return np.column_stack((standard, np.ones(len(matrix))))

    def predict(self, features: Floats) -> Floats:
        found: Floats = self._standard(features, self.center, self.scale) @ self.weights
        return found


def _ensemble(name: str) -> Any:
    """A random forest or gradient boosting of scikit-learn, not fitted."""
    try:
        from sklearn import ensemble  # noqa: PLC0415  # it takes a second
    except ImportError as error:
        raise MissingExtraError("A forecast", "profiling") from error
    if name == FOREST:
        return ensemble.RandomForestRegressor(
            n_estimators=_TREES, min_samples_leaf=_LEAST_LEAF, max_features=0.4, random_state=_SEED
        )
    return ensemble.HistGradientBoostingRegressor(
        loss="absolute_error",
        max_iter=_ROUNDS,
        max_leaf_nodes=8,
        max_bins=63,
        min_samples_leaf=_LEAST_LEAF,
        early_stopping=False,
        random_state=_SEED,
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenMP to one thread: it spins on a busy machine, and the sums are in one order."""
    try:
        import sklearn.ensemble  # noqa: F401, PLC0415  # what is loaded later is not limited
        from threadpoolctl import threadpool_limits  # noqa: PLC0415  # comes with scikit-learn
    except ImportError as error:
        raise MissingExtraError("A forecast", "profiling") from error
    with threadpool_limits(limits=1):
        yield


def _frequent(values: Ints) -> Ints:
    """The most frequent values, ascending."""
    found, count = np.unique(values, return_counts=True)
    return np.sort(found[np.argsort(-count, kind="stable")[:MOST_NAMES]])
