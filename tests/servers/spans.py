"""Spans for tests of sinks, made by recording."""

import itertools
import random
from typing import Any

from millstream.span import Span, SpanKind, Status, Usage

SECOND = 1_000_000_000
START = 1_764_547_200 * SECOND  # 2025-12-01T00:00:00Z
_random = random.Random(5)  # noqa: S311  # the same ids each time
_count = itertools.count()


def span(**fields: Any) -> Span:
    """A finished model call of one second; each begins a second after the one before."""
    given: dict[str, Any] = {
        "trace_id": f"{_random.getrandbits(128):032x}",
        "span_id": f"{_random.getrandbits(64):016x}",
        "parent_id": f"{_random.getrandbits(64):016x}",
        "name": "ChatOpenAI",
        "kind": SpanKind.LLM,
        "start_ns": START + next(_count) * SECOND,
        "status": Status.OK,
        "input": [{"role": "user", "content": "What is a mill?"}],
        "output": {"role": "assistant", "content": "A machine that grinds."},
        "usage": Usage(input_tokens=12, output_tokens=5),
        "workload_id": "answer",
        "attributes": {"gen_ai.request.model": "gpt-x", "gen_ai.request.temperature": 0.5, "tenant": "a"},
    } | fields
    given.setdefault("end_ns", given["start_ns"] + SECOND)
    return Span(**given)


def ids(spans: list[Span]) -> list[str]:
    """Ids of their documents, in order."""
    return sorted(f"{each.trace_id}-{each.span_id}" for each in spans)
