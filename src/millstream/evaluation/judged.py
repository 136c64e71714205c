"""Evaluators that ask a model: their calls are recorded in a trace of their own, apart from the item's."""

from collections.abc import Iterator
from contextlib import contextmanager

from millstream import semconv, sources
from millstream.evaluation.evaluators.base import EvalItem
from millstream.evaluation.registry import Metric
from millstream.record.not_recorded import NotRecorded
from millstream.record.opening import start_span
from millstream.span import SpanKind
from millstream.workflow.call_cache import cache_scope


@contextmanager
def evaluating(metric: Metric, item: EvalItem) -> Iterator[str | None]:
    """Around one call of an evaluator.

    One that asks a model gets a span of kind EVALUATOR with the item's id and repetition, the root of a new
    trace; and its calls are told apart from those of other evaluators, items and repetitions where calls are
    cached.

    Yields:
        The id of that trace; `None` where there is none.
    """
    if not metric.asks_models:
        yield None
        return
    attributes = {
        semconv.EVALUATOR: metric.name,
        semconv.EVAL_ITEM_ID: item.id,
        semconv.EVAL_REP: item.rep,
    }
    trace_id = sources.new_trace_id()
    with (
        cache_scope(f"evaluator {metric.name}, rep {item.rep}"),
        start_span(metric.name, kind=SpanKind.EVALUATOR, trace_id=trace_id) as span,
    ):
        span.set_attributes(attributes)
        yield None if isinstance(span, NotRecorded) else trace_id
