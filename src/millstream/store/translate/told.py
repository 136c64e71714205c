"""What is being found out of one span: each dialect takes the attributes that it understands."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from millstream import semconv
from millstream.span import Span, SpanEvent, SpanKind, Usage

UNSET: Final = msgspec.UNSET
_decode: Final = msgspec.json.Decoder().decode

MODEL_KINDS: Final = frozenset({SpanKind.LLM, SpanKind.EMBEDDING, SpanKind.RERANKER})
"""Only these have a usage: that of an agent or a workflow is the sum of its calls, and counts once."""

PARAMETERS: Final = {
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "top_k": "gen_ai.request.top_k",
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_completion_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_output_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_tokens_to_sample": semconv.REQUEST_MAX_TOKENS,
    "stop": semconv.REQUEST_STOP_SEQUENCES,
    "stop_sequences": semconv.REQUEST_STOP_SEQUENCES,
    "seed": semconv.REQUEST_SEED,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "n": semconv.REQUEST_CHOICE_COUNT,
    "tool_choice": semconv.REQUEST_TOOL_CHOICE,
    "parallel_tool_calls": semconv.REQUEST_PARALLEL_TOOL_CALLS,
    "response_format": semconv.REQUEST_RESPONSE_FORMAT,
    "reasoning_effort": semconv.REQUEST_REASONING_LEVEL,
    "previous_response_id": semconv.REQUEST_PREVIOUS_RESPONSE_ID,
    "model": semconv.REQUEST_MODEL,
}
"""Attributes of a request, by the name that APIs of models give the parameter."""


class Told:
    """What the attributes and events of a span tell. What was told first stands.

    Attributes:
        span: as it is stored; its times may be moved.
        raw: the attributes that nobody has understood so far.
        events: the events that nobody has understood so far.
        known: attributes of our vocabulary.
    """

    def __init__(self, span: Span) -> None:
        self.span = span
        self.raw: dict[str, Any] = dict(span.attributes)
        self.events: list[SpanEvent] = list(span.events)
        self.kind: SpanKind | None = None
        self.input: Any = span.input
        self.output: Any = span.output
        self.known: dict[str, Any] = {}
        self._counts: dict[str, int] = {}

    @property
    def is_model_call(self) -> bool:
        """Whether tokens counted here are this span's own."""
        return self.kind in MODEL_KINDS

    def take(self, *names: str) -> Any:
        """The first value that there is under these names; all of them are understood now."""
        values = [self.raw.pop(name, None) for name in names]
        return next((value for value in values if value is not None), None)

    def numbered(self, prefix: str) -> list[Any]:
        """What is spread over `prefix0.a.b`, `prefix1.a`, …: one tree of dicts a number, in order."""
        root: dict[str, Any] = {}
        for key in [key for key in self.raw if key.startswith(prefix)]:
            node = root
            *path, last = key.removeprefix(prefix).split(".")
            for step in path:
                below = node.setdefault(step, {})
                node = below if isinstance(below, dict) else {}
            node[last] = self.raw.pop(key)
        return in_order(root)

    def know(self, name: str, value: Any) -> None:
        """An attribute of our vocabulary; `None` is unknown."""
        if value is not None:
            self.known.setdefault(name, value)

    def is_kind(self, kind: SpanKind | None) -> None:
        """What the span does."""
        if self.kind is None:
            self.kind = kind

    def asked(self, content: Any) -> None:
        """The input."""
        if self.input is UNSET and content is not None:
            self.input = content

    def answered(self, content: Any) -> None:
        """The output."""
        if self.output is UNSET and content is not None:
            self.output = content

    def counted(self, field: str, *values: Any) -> None:
        """Tokens, under the name of a field of `Usage`; the first that is a count."""
        for value in values:
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                self._counts.setdefault(field, value)

    def parameters(self, told: Any) -> dict[str, Any]:
        """Parameters of a request, by the names of the API; gives those that our vocabulary has not."""
        rest = {}
        for name, value in told.items() if isinstance(told, Mapping) else ():
            if name in PARAMETERS:
                self.know(PARAMETERS[name], value)
            elif value is not None:
                rest[name] = value
        self.know(semconv.REQUEST_REASONING_LEVEL, at(rest, "reasoning", "effort"))
        self.know(semconv.REQUEST_RESPONSE_FORMAT, _chat_format(at(rest, "text", "format")))
        return rest

    @property
    def usage(self) -> Usage | None:
        """Tokens, if any were told."""
        return Usage(**self._counts) if self._counts else None


def _chat_format(form: Any) -> Any:
    """The `text.format` of the Responses API as the `response_format` of the chat API."""
    if at(form, "type") != "json_schema":
        return form
    schema = {key: value for key, value in form.items() if key != "type" and value is not None}
    return {"type": "json_schema", "json_schema": schema}


def in_order(tree: Any) -> list[Any]:
    """The values of a dict whose keys are numbers, by number; others are passed over."""
    if not isinstance(tree, dict):
        return []
    return [tree[key] for key in sorted((key for key in tree if key.isdecimal()), key=int)]


def at(tree: Any, *path: str) -> Any:
    """What is in nested mappings under these names; `None` where there is none."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def parsed(value: Any) -> Any:
    """The value of a text that is JSON; any other as it is."""
    if isinstance(value, str) and value[:1] in _JSON_STARTS:
        try:
            return _decode(value)
        except msgspec.DecodeError:
            return value
    return value


_JSON_STARTS: Final = frozenset('{["')


def as_list(value: Any) -> list[Any] | None:
    """A list, of what may be JSON of one or a single value."""
    value = parsed(value)
    if value is None:
        return None
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
