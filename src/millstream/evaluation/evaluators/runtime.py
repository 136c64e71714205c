"""Evaluators that measure what was recorded, whatever the answer: they score failed items as well."""

from statistics import fmean
from typing import ClassVar

from millstream.evaluation.evaluators.base import EvalItem, EvaluatorBase, Score
from millstream.span import Span, SpanKind

_NO_SPANS = Score(None, "no spans were recorded for this item")


class _Measure(EvaluatorBase):
    score_failed: ClassVar[bool] = True
    lower_is_better: ClassVar[bool] = True
    quick: ClassVar[bool] = True


class AvgLlmLatency(_Measure):
    """Mean duration of the item's model calls, in seconds; failed calls count, open ones do not."""

    unit: ClassVar[str] = "s"

    def __call__(self, item: EvalItem) -> Score:
        """Score one item."""
        durations = [call.duration_s for call in llm_calls(item.spans) if call.duration_s is not None]
        if not durations:
            return Score(None, "no model call that ended was recorded for this item")
        return Score(fmean(durations), {"llm_calls": len(durations)})


class AvgWorkflowRuntime(_Measure):
    """Duration of the item, in seconds."""

    unit: ClassVar[str] = "s"

    def __call__(self, item: EvalItem) -> Score:
        """Score one item."""
        duration_s = run_time_s(item.spans)
        return _NO_SPANS if duration_s is None else Score(duration_s)


class AvgNumLlmCalls(_Measure):
    """Number of the item's model calls, failed ones included."""

    def __call__(self, item: EvalItem) -> Score:
        """Score one item."""
        return Score(float(len(llm_calls(item.spans)))) if item.spans else _NO_SPANS


class AvgTokensPerLlmEnd(_Measure):
    """Input and output tokens a model call, over the calls that report them."""

    def __call__(self, item: EvalItem) -> Score:
        """Score one item."""
        tokens = [count for call in llm_calls(item.spans) if (count := tokens_of(call)) is not None]
        if not tokens:
            return Score(None, "no model call of this item reports its tokens")
        return Score(fmean(tokens), {"llm_calls": len(tokens), "tokens": sum(tokens)})


def llm_calls(spans: list[Span]) -> list[Span]:
    """The model calls among spans."""
    return [span for span in spans if span.kind is SpanKind.LLM]


def tokens_of(call: Span) -> int | None:
    """Input and output tokens of a call; `None` where neither is known."""
    usage = call.usage
    known = [] if usage is None else [n for n in (usage.input_tokens, usage.output_tokens) if n is not None]
    return sum(known) if known else None


def root_of(spans: list[Span]) -> Span | None:
    """The root, once it has ended."""
    return next((span for span in spans if span.parent_id is None and span.duration_s is not None), None)


def run_time_s(spans: list[Span]) -> float | None:
    """The root's duration; without a closed root, last end minus first start; `None` without ended spans."""
    root = root_of(spans)
    if root is not None:
        return root.duration_s
    ends = [span.end_ns for span in spans if span.end_ns is not None]
    return (max(ends) - min(span.start_ns for span in spans)) / 1e9 if ends else None
