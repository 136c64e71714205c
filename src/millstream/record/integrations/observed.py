"""Steps of a framework while they are recorded: what every integration does in the same way.

An integration starts a step where the framework begins one, makes it current while the framework is in
it, tells what it learns and ends it. Two integrations may see one call, a framework's and its client
library's: the inner one then adds to the outer one's span what that does not know, so that one call is one
span.
"""

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

import msgspec

from millstream import context, semconv
from millstream.record import faults, recorder
from millstream.record.live import LiveSpan, leave
from millstream.record.not_recorded import NOT_RECORDED
from millstream.record.opening import open_span
from millstream.record.serialize import to_json
from millstream.span import SpanKind, Usage

P = ParamSpec("P")
T = TypeVar("T")
_UNSET: Final = msgspec.UNSET
_state: Final = recorder.state
_DONE: Final = object()
_PLAIN: Final = frozenset({str, int, float, bool, msgspec.Raw})
_SHORT: Final = 1_000
_encode: Final = msgspec.json.Encoder().encode

PARAMETERS: Final = {
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_completion_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_output_tokens": semconv.REQUEST_MAX_TOKENS,
    "stop": semconv.REQUEST_STOP_SEQUENCES,
    "seed": semconv.REQUEST_SEED,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "n": semconv.REQUEST_CHOICE_COUNT,
    "tools": semconv.TOOL_DEFINITIONS,
    "tool_choice": semconv.REQUEST_TOOL_CHOICE,
    "parallel_tool_calls": semconv.REQUEST_PARALLEL_TOOL_CALLS,
    "response_format": semconv.REQUEST_RESPONSE_FORMAT,
    "reasoning_effort": semconv.REQUEST_REASONING_LEVEL,
    "previous_response_id": semconv.REQUEST_PREVIOUS_RESPONSE_ID,
}
"""Attributes of a request, by the name that OpenAI's API gives the parameter."""


def quietly(function: Callable[P, object]) -> Callable[P, None]:
    """A function whose faults are counted and said, and go no further: telemetry never breaks a program."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception as fault:  # noqa: BLE001  # whatever a framework's new version does
            faults.swallow(fault, f"{function.__module__.rpartition('.')[2]} could not be recorded whole")

    return wrapper


class Observed(msgspec.Struct, eq=False):
    """A step that is being recorded.

    As a block (`with step:`) it is current inside, and ends with the block. `with step.inside():` makes it
    current for a part of it, as for one piece of a stream, and does not end it.

    Attributes:
        span: the step's span, or that of the same call which another integration has begun.
        inner: whether another integration has begun it: then nothing that is known is written over, and the
            other one ends it.
    """

    span: LiveSpan
    inner: bool
    _chunks: int = 0

    @quietly
    def know(self, attributes: Mapping[str, Any]) -> None:
        """Record attributes that are not `None`."""
        self._know(attributes)

    def _know(self, attributes: Mapping[str, Any]) -> None:
        if self.inner and (known := self.span.attributes):
            attributes = {key: value for key, value in attributes.items() if key not in known}
        _set(self.span, attributes)

    @quietly
    def request(
        self, *, model: Any = None, provider: str | None = None, parameters: Mapping[str, Any] | None = None
    ) -> None:
        """Record what a model is asked: `parameters` under OpenAI's names, others are passed over."""
        asked = {PARAMETERS[key]: value for key, value in (parameters or {}).items() if key in PARAMETERS}
        self.know({semconv.REQUEST_MODEL: model, semconv.PROVIDER_NAME: provider, **asked})

    def piece(self, content: Any = _UNSET) -> None:
        """Count a piece of a streamed answer that carries something, and time the first."""
        if not self.inner:
            self.span.add_chunk(content, new_token=self.span.kind is SpanKind.LLM)
        elif self._chunks == 0 and self.span.chunk_count == 0:
            elapsed_s = (self.span.now_ns() - self.span.start_ns) / 1e9
            self.know({semconv.TIME_TO_FIRST_CHUNK_S: elapsed_s})
        self._chunks += 1

    def answer(  # noqa: C901  # every model call, in one piece
        self,
        output: Any = _UNSET,
        *,
        usage: Usage | None = None,
        model: str | None = None,
        response_id: str | None = None,
        finish_reasons: list[str] | None = None,
    ) -> None:
        """Record what came back; of a model, an OpenAI message, or several as `choices` has them."""
        span, inner = self.span, self.inner
        told: dict[str, Any] = {}
        try:
            if output is not _UNSET and not (inner and span.output is not None):
                span.set_output(output)
            if usage is not None:
                if not (inner and span.usage is not None):
                    span.set_usage(usage)
                elif span.kind is SpanKind.EMBEDDING:  # several requests, one after another
                    span.set_usage(_sum(span.usage, usage))
            if model is not None:
                told[semconv.RESPONSE_MODEL] = model
            if response_id is not None:
                told[semconv.RESPONSE_ID] = response_id
            if finish_reasons is not None:
                told[semconv.RESPONSE_FINISH_REASONS] = _json_of(finish_reasons)
            if inner:
                self._know(told)
            elif told:
                _set(span, told)
        except Exception as fault:  # noqa: BLE001  # whatever a framework's new version does
            faults.swallow(fault, "an answer could not be recorded whole")

    def end(self, error: BaseException | None = None) -> None:
        """End the step; of a call that another integration has begun, its own word counts."""
        if not self.inner:
            self.span.end(error)

    def inside(self) -> "_Inside":
        """A block in which the step is current, which does not end it."""
        return _Inside(self)

    def __enter__(self) -> Self:
        if not self.inner:
            self.span.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.inner:
            leave(self.span)
            self.span.end(error)


class _Inside:
    __slots__ = ("_step", "_token")

    def __init__(self, step: Observed) -> None:
        self._step = step
        self._token: Token[context.SpanContext | None] | None = None

    def __enter__(self) -> None:
        if not self._step.inner and self._step.span.is_open:
            self._token = context.current.set(self._step.span)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            with contextlib.suppress(ValueError):  # closed in another context: nothing to put back there
                context.current.reset(self._token)


def begin(
    kind: SpanKind,
    name: str,
    content: Any = _UNSET,
    *,
    framework: str,
    attributes: Mapping[str, Any] | None = None,
    parent: context.SpanContext | None = None,
) -> Observed:
    """Start a step; while nothing is recorded, one that takes everything and keeps nothing.

    A model call directly inside a model call is the same call; so is a tool inside a tool of the same name.

    Args:
        kind: the span's kind.
        name: of a model call, the model; of a tool, its name.
        content: its input; of a model call, the messages in OpenAI's form.
        framework: the integration's name.
        attributes: what is known from the start; `None` is unknown.
        parent: the span it starts in; default the current one.
    """
    active = _state.recorder or recorder.get()
    if active is None:
        return Observed(NOT_RECORDED, inner=False)
    above = parent or context.current.get()
    try:
        if isinstance(above, LiveSpan) and above.kind is kind and _is_same_call(above, name):
            step = Observed(above, inner=True)
            step.know(attributes or {})
        else:
            step = Observed(open_span(active, name, kind, content, above), inner=False)
            _set(step.span, {semconv.FRAMEWORK: framework, **(attributes or {})})
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "a span could not be started")
        return Observed(NOT_RECORDED, inner=False)
    return step


def _set(span: LiveSpan, attributes: Mapping[str, Any]) -> None:
    """Record attributes that are not `None`; of plain and short ones nothing has to be seen to one by one."""
    if (
        type(span) is LiveSpan
        and _PLAIN.issuperset(map(type, attributes.values()))
        and len(_encode(attributes)) < _SHORT
    ):
        span.attributes = {**span.attributes, **attributes} if span.attributes else dict(attributes)
    else:
        span.set_attributes({key: value for key, value in attributes.items() if value is not None})


def _json_of(finish_reasons: list[str]) -> msgspec.Raw:
    try:
        return _usual(*finish_reasons)
    except TypeError:  # no words
        return msgspec.Raw(to_json(finish_reasons))


@functools.lru_cache(64)
def _usual(*finish_reasons: str) -> msgspec.Raw:
    """A few words that come with every answer."""
    return msgspec.Raw(to_json(finish_reasons))


def _is_same_call(above: LiveSpan, name: str) -> bool:
    """Whether a step inside a span of its kind is the same call."""
    kind = above.kind
    is_model = kind is SpanKind.LLM or kind is SpanKind.EMBEDDING
    return above.is_open and (is_model or (kind is SpanKind.TOOL and above.name == name))


def model_call(
    name: str | None, messages: Any = _UNSET, *, framework: str, operation: str = "chat"
) -> Observed:
    """Start the step of a call to a chat model.

    Args:
        name: the model as it was asked for.
        messages: in OpenAI's form.
        framework: the integration's name.
        operation: `gen_ai.operation.name`.
    """
    attributes = {semconv.OPERATION_NAME: operation, semconv.REQUEST_MODEL: name}
    return begin(SpanKind.LLM, name or "llm", messages, framework=framework, attributes=attributes)


def tool_run(
    name: str,
    arguments: Any = _UNSET,
    *,
    framework: str,
    call_id: str | None = None,
    description: str | None = None,
) -> Observed:
    """Start the step of a tool that a framework runs, or that is called over MCP.

    Args:
        name: the tool's name.
        arguments: as an object by name.
        framework: the integration's name.
        call_id: the id that the model gave the call.
        description: what the tool says of itself.
    """
    attributes = {
        semconv.OPERATION_NAME: "execute_tool",
        semconv.TOOL_NAME: name,
        semconv.TOOL_CALL_ID: call_id,
        semconv.TOOL_DESCRIPTION: description,
    }
    return begin(SpanKind.TOOL, name, arguments, framework=framework, attributes=attributes)


def observe_stream(
    step: Observed, pieces: Iterator[T], see: Callable[[T], None], finish: Callable[[], None]
) -> Iterator[T]:
    """Hand on the pieces of a stream; the step ends with it, whether it is used up, broken off or left.

    Args:
        step: the step that the stream belongs to; current while the next piece is awaited.
        pieces: the framework's own iterator.
        see: is shown each piece; its faults are counted.
        finish: is called before the step ends, to tell the answer.
    """
    failure, show = None, quietly(see)
    try:
        while True:
            with step.inside():
                piece = next(pieces, _DONE)
            if piece is _DONE:
                return
            show(piece)  # type: ignore[arg-type]
            yield piece  # type: ignore[misc]
    except BaseException as error:
        failure = error
        raise
    finally:
        quietly(finish)()
        step.end(failure)
        failure = None  # else the exception, its traceback and this frame would hold each other


async def observe_async_stream(
    step: Observed, pieces: AsyncIterator[T], see: Callable[[T], None], finish: Callable[[], None]
) -> AsyncIterator[T]:
    """As `observe_stream`, of an asynchronous iterator."""
    failure, show = None, quietly(see)
    try:
        while True:
            with step.inside():
                piece = await anext(pieces, _DONE)
            if piece is _DONE:
                return
            show(piece)  # type: ignore[arg-type]
            yield piece  # type: ignore[misc]
    except BaseException as error:
        failure = error
        raise
    finally:
        quietly(finish)()
        step.end(failure)
        failure = None  # else the exception, its traceback and this frame would hold each other


def _sum(*usages: Usage | None) -> Usage:
    """Tokens of several requests; unknown where one of them did not tell."""
    counts = zip(*(msgspec.structs.astuple(usage or Usage()) for usage in usages), strict=True)
    return Usage(*(None if None in each else sum(each) for each in counts))


def usage_from_openai(told: Any) -> Usage | None:
    """Tokens as OpenAI's APIs tell them, chat completions or responses, as an object or a mapping."""
    if told is None:
        return None

    def get(value: Any, *names: str) -> Any:
        for name in names:
            found = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
            if found is not None:
                return found
        return None

    given = get(told, "prompt_tokens_details", "input_tokens_details")
    made = get(told, "completion_tokens_details", "output_tokens_details")
    return Usage(
        get(told, "prompt_tokens", "input_tokens"),
        get(told, "completion_tokens", "output_tokens"),
        None if given is None else get(given, "cached_tokens"),
        None if made is None else get(made, "reasoning_tokens"),
    )
