"""Requests to Pydantic AI's models, by whatever agent, fallback or direct call: a span each.

A model that hands its requests on to others (`FallbackModel`, a wrapper) has no span of its own; each model
that it tries has one.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from pydantic_ai import embeddings, models
from pydantic_ai.models import fallback, wrapper

from millstream import semconv
from millstream.record import faults
from millstream.record.integrations.methods import Methods, argument, started
from millstream.record.integrations.observed import Observed, begin, model_call, quietly
from millstream.record.integrations.pydantic_ai.messages import (
    finish_reasons,
    messages_json,
    parameters_json,
    provider_name,
    response_json,
    usage_of,
)
from millstream.record.integrations.pydantic_ai.runs import FRAMEWORK, entered, inside
from millstream.span import SpanKind

_HAND_ON: Final = (wrapper.WrapperModel, fallback.FallbackModel, embeddings.WrapperEmbeddingModel)
_DONE: Final = object()
_methods: Final = Methods()


def install() -> None:
    """Record the requests to every model, whenever its class is made."""
    _methods.calls(models.Model, ["request"], _begin_request, _tell_response, below=True)
    _methods.put(models.Model, ["request_stream"], _record_stream, below=True)
    _methods.calls(embeddings.EmbeddingModel, ["embed"], _begin_embedding, _tell_embeddings, below=True)


def uninstall() -> None:
    """Put the methods back; streams that have begun are recorded to their end."""
    _methods.undo()


def _begin_request(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    if isinstance(model, _HAND_ON):
        return None
    messages = argument(args, kwargs, 0, "messages")
    settings = argument(args, kwargs, 1, "model_settings")
    parameters = argument(args, kwargs, 2, "model_request_parameters")
    run_context = argument(args, kwargs, 3, "run_context") or _run_context()
    with inside(getattr(run_context, "run_id", None)):
        step = model_call(model.model_name, _content(messages, parameters), framework=FRAMEWORK)
    _ask(step, model, settings, parameters)
    return step


def _run_context() -> Any:
    from pydantic_ai._run_context import get_current_run_context  # noqa: PLC0415  # not in all versions

    return get_current_run_context()


def _content(messages: Any, parameters: Any) -> Any:
    try:
        return messages_json(messages, parameters)
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "the messages of a model call could not be recorded")
        return msgspec.UNSET


@quietly
def _ask(step: Observed, model: Any, settings: Any, parameters: Any) -> None:
    step.request(
        provider=provider_name(model.system), parameters=parameters_json(settings, model.settings, parameters)
    )


def _tell_response(step: Observed, response: Any) -> None:
    known = step.span.usage is not None  # by the client library, which tells 0 from unknown
    step.answer(
        response_json(response),
        usage=None if known else usage_of(response.usage),
        model=response.model_name,
        response_id=response.provider_response_id,
        finish_reasons=finish_reasons(response),
    )


def _record_stream(request_stream: Callable[..., Any]) -> Callable[..., Any]:
    begin_request = _methods.while_on(_begin_request)

    @functools.wraps(request_stream)
    @asynccontextmanager
    async def recording(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        step = started(begin_request, self, args, kwargs)
        if step is None:
            async with request_stream(self, *args, **kwargs) as stream:
                yield stream
            return
        stream = None
        try:
            async with entered(request_stream(self, *args, **kwargs), step.inside) as stream:
                _watch(step, stream)
                yield stream
        except BaseException as error:
            # What the caller raises while it has the stream is no failure of the model.
            if stream is None or isinstance(error, asyncio.CancelledError):
                _end_stream(step, stream, error)
            raise
        finally:
            _end_stream(step, stream, None)

    return recording


@quietly
def _watch(step: Observed, stream: Any) -> None:
    """See the events that the stream makes, below those that the framework adds to them."""
    produce = stream._get_event_iterator  # noqa: SLF001  # what every model's stream implements

    async def events() -> AsyncIterator[Any]:
        vars(stream).pop("_get_event_iterator", None)  # else a cycle
        pieces = produce()
        failure: BaseException | None = None
        try:
            while True:
                with step.inside():
                    event = await anext(pieces, _DONE)
                if event is _DONE:
                    return
                _see(step, event)
                yield event
        except BaseException as error:
            failure = asyncio.CancelledError() if stream.cancelled else error
            raise
        finally:
            if not pieces.ag_running:  # the event loop closes all generators at once when it ends
                await pieces.aclose()
            _end_stream(step, stream, failure)

    stream._get_event_iterator = events  # noqa: SLF001


@quietly
def _see(step: Observed, event: Any) -> None:
    if event.event_kind == "part_start":
        if event.part.has_content():
            step.piece(getattr(event.part, "content", msgspec.UNSET))
    elif event.event_kind == "part_delta":
        step.piece(getattr(event.delta, "content_delta", msgspec.UNSET))


def _end_stream(step: Observed, stream: Any, error: BaseException | None) -> None:
    if not step.span.is_open:
        return
    if stream is not None:
        quietly(lambda: _tell_response(step, stream.get()))()
    step.end(error)


def _begin_embedding(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    if isinstance(model, _HAND_ON):
        return None
    inputs = argument(args, kwargs, 0, "inputs")
    attributes = {
        semconv.OPERATION_NAME: "embeddings",
        semconv.REQUEST_MODEL: model.model_name,
        semconv.PROVIDER_NAME: provider_name(model.system),
    }
    content = inputs if isinstance(inputs, str) else list(inputs)
    return begin(SpanKind.EMBEDDING, model.model_name, content, framework=FRAMEWORK, attributes=attributes)


def _tell_embeddings(step: Observed, result: Any) -> None:
    count, size = len(result.embeddings), len(result.embeddings[0]) if result.embeddings else None
    step.know({semconv.EMBEDDINGS_COUNT: count, semconv.EMBEDDINGS_DIMENSIONS: size})
    step.answer(
        {"embeddings": count, "dimensions": size},
        usage=usage_of(result.usage),
        model=result.model_name,
        response_id=result.provider_response_id,
    )
