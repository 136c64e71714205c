"""What is still to come in a request that is not finished? `fit_forecast` learns it from those that are."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np

from millstream.errors import InputError
from millstream.profiler.forecast import models
from millstream.profiler.forecast.baseline import GroupedQuantiles, GroupedShares, Grouping
from millstream.profiler.forecast.evaluation import (
    BASELINE,
    Choice,
    EvaluationRow,
    calibrated,
    evaluate,
    evaluate_next_tool,
)
from millstream.profiler.forecast.states import (
    NS_PER_S,
    TARGETS,
    States,
    current_state,
    state_at_start,
)
from millstream.profiler.forecast.training import Training, training_of
from millstream.span import Span
from millstream.store.table import UNKNOWN, Ints, SpanTable

WHOLE: Final = frozenset({"remaining_llm_calls"})
LLM_CALLS, TOKENS, SECONDS = TARGETS


class Quantiles(msgspec.Struct, frozen=True):
    """A forecast of one figure: 5 %, 50 % and 95 % quantile, never below 0."""

    low: float
    median: float
    high: float


class Forecast(msgspec.Struct, frozen=True):
    """What is still to come in a request.

    Attributes:
        remaining_llm_calls: LLM calls that have not ended.
        remaining_tokens: input and output tokens of those; None when no finished run tells of tokens.
        remaining_s: seconds from the latest moment that the spans tell of, until the request ends.
        next_tool: the probability that this tool is the next to start; None is no further tool.
    """

    remaining_llm_calls: Quantiles
    remaining_tokens: Quantiles | None
    remaining_s: Quantiles
    next_tool: dict[str | None, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    """One figure that is forecast, fitted on all requests."""

    baseline: GroupedQuantiles
    model: models.Model | None
    choice: Choice
    whole: bool

    def quantiles(self, state: States) -> Quantiles:
        """The forecast of one state."""
        raw = (self.model or self.baseline).predict(state)
        found = calibrated(raw, self.baseline.floor, self.choice.correction, whole=self.whole)
        return Quantiles(*(float(end[0]) for end in found))


@dataclass(frozen=True, slots=True, eq=False)
class _Names:
    """Names of workflows, calls and tools, by position; position `len(names)` is a name never seen.

    Attributes:
        names: of the spans learned from.
        workflows: positions of the workflows among them, the most frequent first.
    """

    names: list[str]
    workflows: list[int]

    def state(self, state: States, table: SpanTable) -> States:
        """A state of another table with the positions of these names."""
        place = {name: at for at, name in enumerate(self.names)}

        def known(positions: Ints) -> Ints:
            names = (table.names[at] if at >= 0 else None for at in positions.tolist())
            return np.array([UNKNOWN if name is None else place.get(name, len(place)) for name in names])

        return replace(
            state,
            workflow=np.array([self._workflow(table, int(known(state.workflow)[0]))]),
            last_call=known(state.last_call),
            last_tool=known(state.last_tool),
        )

    def _workflow(self, table: SpanTable, root: int) -> int:
        """The workflow of a request: by its root, else by a workload of its spans, else the only one."""
        if root in self.workflows:
            return root
        if len(self.workflows) == 1:
            return self.workflows[0]
        names = {self.names[at]: at for at in self.workflows}
        workloads = (span.workload_id for span in table.spans)
        return next((names[workload] for workload in workloads if workload in names), len(self.names))


@dataclass(frozen=True, slots=True, eq=False)
class Forecaster:
    """Forecasts for the workflows it has seen; made by `fit_forecast`.

    Attributes:
        evaluation: a row a target: its model, and its error and coverage on requests not learned from.
        runs: finished requests there were.
        runs_used: those learned from, evenly spread over all where these have more than 20,000 states.
    """

    evaluation: tuple[EvaluationRow, ...]
    runs: int
    runs_used: int
    names: _Names
    targets: dict[str, _Target]
    tools: GroupedShares

    def predict(self, spans: Iterable[Span]) -> Forecast:
        """What is still to come in one unfinished request.

        Args:
            spans: of one request, at any stage; open spans may be among them.

        Raises:
            InputError: there are no spans, or spans of several requests.
        """
        table = SpanTable.from_spans(spans)
        if len(table.trace_ids) != 1:
            raise InputError(
                f"A forecast needs the spans of one request; these are of {len(table.trace_ids)}. "
                "Give those of one trace_id."
            )
        state, now_ns = current_state(table)
        since_s = (now_ns - int(state.moment_ns[0])) / NS_PER_S
        return self._forecast(self.names.state(state, table), since_s)

    def at_start(self) -> Forecast:
        """What is to come in a request that starts now, of the most frequent workflow."""
        return self._forecast(state_at_start(self.names.workflows[0]), 0.0)

    def _forecast(self, state: States, since_s: float) -> Forecast:
        """The forecast of one state, `since_s` seconds after it."""
        with models.one_thread():
            found = {name: target.quantiles(state) for name, target in self.targets.items()}
        left_s = msgspec.structs.astuple(found[SECONDS])
        shares = self.tools.predict(state)[:, 0].tolist()
        tools = zip(self.tools.tools.tolist(), shares, strict=True)
        return Forecast(
            remaining_llm_calls=found[LLM_CALLS],
            remaining_tokens=found.get(TOKENS),
            remaining_s=Quantiles(*(max(value - since_s, 0.0) for value in left_s)),
            next_tool={self.names.names[at] if at >= 0 else None: share for at, share in tools if share > 0},
        )


def fit_forecast(spans: Iterable[Span] | SpanTable) -> Forecaster:
    """Learn from finished requests what is still to come at each stage. The same spans give the same.

    Args:
        spans: of any requests, in any order; unfinished ones are not learned from.

    Raises:
        InputError: fewer than `FEWEST_RUNS` requests have ended.
        MissingExtraError: scikit-learn is not installed.
    """
    return fit(training_of(spans if isinstance(spans, SpanTable) else SpanTable.from_spans(spans)))


def fit(training: Training) -> Forecaster:
    """Learn from what a table told.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    states = training.states
    names = [name for name in TARGETS if name != TOKENS or training.tells_of_tokens]
    with models.one_thread():
        targets = {name: _fit(name, states) for name in names}
    rows = [target.choice.row for target in targets.values()]
    workflows, count = np.unique(states.workflow, return_counts=True)
    return Forecaster(
        evaluation=(*rows, evaluate_next_tool(states)),
        runs=training.runs,
        runs_used=training.runs_used,
        names=_Names(training.names, workflows[np.argsort(-count, kind="stable")].tolist()),
        targets=targets,
        tools=GroupedShares.fit(states),
    )


def _fit(name: str, states: States) -> _Target:
    values = states.targets[:, TARGETS.index(name)]
    whole = name in WHOLE
    choice = evaluate(name, states, values, whole=whole)
    grouping = Grouping.fit(states)
    baseline = GroupedQuantiles.fit(grouping, values)
    chosen = choice.row.model
    model = None if chosen == BASELINE else models.fit(chosen, baseline, grouping, states, values)
    return _Target(baseline, model, choice, whole)
