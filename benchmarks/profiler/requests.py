"""Requests of 20 spans with text, eight at a time, for tools side by side: the same in two files.

    python -m benchmarks.profiler.requests FOLDER REQUESTS

writes `spans.parquet`, the fields of the spans and nothing worked out, and `steps.json`, which has the same
calls in the step model of NeMo Agent Toolkit (NAT): a list of START and END events for each request.
"""

import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from millstream.span import Span, SpanError, SpanKind, Status, Usage
from millstream.store.parquet import write_spans

AT_ONCE: Final = 8
_FIRST_NS: Final = 1_790_000_000_000_000_000
_MODELS: Final = ("gpt-large", "gpt-small", "mixtral")
_TOOLS: Final = ("search", "fetch", "calculator", "send_mail")
_MS: Final = 1_000_000
_VOCABULARY: Final = [
    f"{stem}{ending}"
    for stem in ("order", "account", "parcel", "price", "refund", "letter", "city", "table", "engine", "week")
    for ending in ("", "s", "ing", "ed", "less", "-like")
]


class _Request:
    """Makes the spans of one request."""

    def __init__(self, rng: random.Random, number: int, system: str) -> None:
        self.rng = rng
        self.trace_id = f"{number + 1:032x}"
        self.spans: list[Span] = []
        self.messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": _words(rng, 60)},
        ]

    def run(self, start_ns: int) -> list[Span]:
        root = self._add(None, "support", SpanKind.WORKFLOW, start_ns)
        moment = self._research(root, start_ns + 2 * _MS)
        moment = self._answer(root, moment + 3 * _MS)
        self._end(root, self._llm(root, moment + _MS, "gpt-large") + _MS)
        return self.spans

    def _research(self, root: Span, moment: int) -> int:
        """Two turns, then two calls of models side by side, each with its tool after it."""
        within = self._add(root, "research", SpanKind.FUNCTION, moment)
        for _ in range(2):
            moment = self._tool(within, self._llm(within, moment + _MS, "gpt-large") + _MS)
        moment = max(
            self._tool(within, self._llm(within, moment + _MS * (1 + at), model) + _MS)
            for at, model in enumerate(_MODELS[1:])
        )
        return self._end(within, moment + _MS)

    def _answer(self, root: Span, moment: int) -> int:
        within = self._add(root, "answer", SpanKind.FUNCTION, moment)
        for turn in range(4):
            moment = self._tool(within, self._llm(within, moment + _MS, _MODELS[turn % 3]) + _MS)
        return self._end(within, moment + _MS)

    def _llm(self, parent: Span, start_ns: int, model: str) -> int:
        output = self.rng.randint(20, 400)
        usage = Usage(sum(len(message["content"]) for message in self.messages) // 4, output)
        span = self._add(parent, model, SpanKind.LLM, start_ns, list(self.messages), usage)
        answer = {"role": "assistant", "content": _words(self.rng, 60)}
        self.messages.append(answer)
        return self._end(span, start_ns + int(self.rng.lognormvariate(-1, 0.5) * 1e9), answer)

    def _tool(self, parent: Span, start_ns: int) -> int:
        span = self._add(
            parent, self.rng.choice(_TOOLS), SpanKind.TOOL, start_ns, {"query": _words(self.rng, 5)}
        )
        end_ns = start_ns + int(self.rng.lognormvariate(-2.5, 0.7) * 1e9)
        if self.rng.random() < 0.02:
            span.status, span.error = Status.ERROR, SpanError("TimeoutError", "no answer")
        return self._end(span, end_ns, _words(self.rng, 20))

    def _add(
        self,
        parent: Span | None,
        name: str,
        kind: SpanKind,
        start_ns: int,
        content: Any = None,
        usage: Usage | None = None,
    ) -> Span:
        span_id = f"{self.trace_id[-12:]}{len(self.spans) + 1:04x}"
        above = parent.span_id if parent else None
        span = Span(self.trace_id, span_id, above, name, kind, start_ns, input=content, usage=usage)
        self.spans.append(span)
        return span

    def _end(self, span: Span, end_ns: int, output: Any = None) -> int:
        span.end_ns, span.output, span.status = end_ns, output, span.status or Status.OK
        return end_ns


def made(requests: int, seed: int = 1) -> Iterator[list[Span]]:
    """The spans of each request."""
    rng = random.Random(seed)  # noqa: S311  # made-up data
    system = _words(rng, 90)
    free_ns = [_FIRST_NS + at * 40 * _MS for at in range(AT_ONCE)]
    for number in range(requests):
        at = min(range(AT_ONCE), key=free_ns.__getitem__)
        spans = _Request(rng, number, system).run(free_ns[at])
        free_ns[at] = (spans[0].end_ns or 0) + rng.randint(10, 200) * _MS
        yield spans


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(_VOCABULARY, k=count))


def _steps(spans: Sequence[Span]) -> list[dict[str, Any]]:
    """The events of a request in NAT's step model, in the order of time."""
    by_id = {span.span_id: span for span in spans}
    steps = []
    for span in spans:
        around = {
            "parent_id": span.parent_id or "root",
            "function_ancestry": _ancestry(by_id[span.parent_id] if span.parent_id else span),
        }
        of_both = {"UUID": span.span_id, "name": span.name}
        start, end = span.start_ns / 1e9, (span.end_ns or 0) / 1e9
        begun = {
            "event_type": f"{span.kind.value}_START",
            "event_timestamp": start,
            "data": {"input": span.input},
        }
        ended = {
            "event_type": f"{span.kind.value}_END",
            "event_timestamp": end,
            "span_event_timestamp": start,
            "data": {"input": span.input, "output": span.output},
        }
        if span.usage:
            ended["usage_info"] = {"token_usage": _token_usage(span.usage), "num_llm_calls": 1}
        steps += [around | {"payload": of_both | begun}, around | {"payload": of_both | ended}]
    return sorted(steps, key=lambda step: step["payload"]["event_timestamp"])


def _ancestry(function: Span) -> dict[str, Any]:
    return {"function_id": function.span_id, "function_name": function.name}


def _token_usage(usage: Usage) -> dict[str, int]:
    given, made_up = usage.input_tokens or 0, usage.output_tokens or 0
    return {"prompt_tokens": given, "completion_tokens": made_up, "total_tokens": given + made_up}


def main(folder: Path, requests: int) -> None:
    """Write both files."""
    all_spans = list(made(requests))
    write_spans((span for spans in all_spans for span in spans), folder / "spans.parquet")
    steps = [_steps(spans) for spans in all_spans]
    (folder / "steps.json").write_text(json.dumps(steps), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
