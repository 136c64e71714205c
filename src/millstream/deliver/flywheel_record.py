"""From a recorded model call to a flywheel record: what was asked and answered, as OpenAI's chat API has it.

    {"timestamp": …, "client_id": …, "workload_id": …, "request": {a request}, "response": {a completion}}

It is what NVIDIA's Data Flywheel Blueprint reads as data to train and evaluate models on, so what is no whole
answer must not look like one.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any, Final

import msgspec

from millstream import semconv
from millstream.deliver.chat_form import (
    Message,
    NotAChatError,
    answer_messages,
    is_empty,
    request_messages,
    response_format,
    tool_choice,
    tool_definitions,
)
from millstream.deliver.sink import Rejected
from millstream.record.serialize import cut_at
from millstream.span import Span, SpanError, Status, Usage

WITHOUT_CONTENT: Final = "it was recorded without content"
NOT_ANSWERED: Final = "it failed, was cancelled or left, and a strict index takes answers only"
NO_WORKLOAD: Final = "root"
"""The `workload_id` of calls outside any scope; the word is NVIDIA's."""
_PARAMETERS: Final = {
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
    "stop": semconv.REQUEST_STOP_SEQUENCES,
    "seed": semconv.REQUEST_SEED,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "n": semconv.REQUEST_CHOICE_COUNT,
    "reasoning_effort": semconv.REQUEST_REASONING_LEVEL,
}
_FINISH_REASONS: Final = {
    "completed": "stop",
    "complete": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "tool_use": "tool_calls",
    "tool_call": "tool_calls",
    "safety": "content_filter",
}
"""What is not OpenAI's word for it, in small letters."""
_ENDS_IN_CALLS: Final = ("stop", "completed", "complete", "end_turn")
"""What some call the end of an answer that calls tools, which is `tool_calls`."""
_UNFINISHED: Final = ("queued", "in_progress", "failed", "cancelled")
"""States of a response of OpenAI's Responses API that is not there yet, or never will be."""
_CUT_BYTES: Final = "… [cut: ".encode()


class Record(msgspec.Struct, kw_only=True):
    """What an index of the Blueprint takes.

    Attributes:
        timestamp: when the call began, ISO 8601 in UTC.
        client_id: whose deployment it is.
        workload_id: which of its tasks it is.
    """

    timestamp: str
    client_id: str
    workload_id: str
    request: dict[str, Any]
    response: dict[str, Any]


class FullRecord(Record, kw_only=True, omit_defaults=True):
    """The same with what an index of ours knows besides.

    Attributes:
        latency_s: seconds from the call to its end; `None` where its process died before.
        error: of a call that failed or was not answered whole; its response then holds no choices.
    """

    contract_version: str
    trace_id: str
    span_id: str
    latency_s: float | None = None
    error: SpanError | None = None


class NoRecord(msgspec.Struct, frozen=True):
    """No record is to be made of this call, for a reason that is no fault."""

    reason: str


def record_of(
    span: Span, *, client_id: str, contract_version: str = "1.1", strict: bool = False
) -> Record | NoRecord | Rejected:
    """The record of a span of kind LLM that has ended.

    Args:
        span: the call.
        client_id: whose deployment it is.
        contract_version: noted in the record.
        strict: make a `Record`, of calls with an answer only; else a `FullRecord`.

    Returns:
        `NoRecord` where content was not captured, or a strict index would take a failure for an answer;
        `Rejected` where what is recorded makes no chat.
    """
    if span.input is msgspec.UNSET or span.input is None:
        return NoRecord(WITHOUT_CONTENT)
    try:
        request = _request(span)
        answers, error = _outcome(span)
    except NotAChatError as reason:
        return Rejected(f"no record can be made of this model call: {reason}")
    if error is None and not answers:
        return NoRecord(WITHOUT_CONTENT)
    if error is not None and strict:
        return NoRecord(NOT_ANSWERED)
    response = _response(span, request["model"], answers)
    if _is_cut(request) or _is_cut(response):
        return Rejected(
            "no record can be made of this model call: a text in it was cut, when it was recorded"
            " (recording(content_limit=…)) or by a processor"
        )
    fields: dict[str, Any] = {
        "timestamp": _iso(span.start_ns),
        "client_id": client_id,
        "workload_id": _workload(span),
        "request": request,
        "response": response,
    }
    if strict:
        return Record(**fields)
    return FullRecord(
        **fields,
        contract_version=contract_version,
        trace_id=span.trace_id,
        span_id=span.span_id,
        latency_s=span.duration_s,
        error=error,
    )


def _request(span: Span) -> dict[str, Any]:
    attributes = span.attributes
    messages = request_messages(span.input)
    if _is_completion(span):
        messages = messages[:1]  # each prompt has choices of its own; a chat holds those of the first
    model = attributes.get(semconv.REQUEST_MODEL) or attributes.get(semconv.RESPONSE_MODEL) or span.name
    request: dict[str, Any] = {"model": str(model), "messages": messages}
    for name, attribute in _PARAMETERS.items():
        if (value := attributes.get(attribute)) is not None:
            request[name] = value
    if (tools := tool_definitions(attributes.get(semconv.TOOL_DEFINITIONS))) is not None:
        request["tools"] = tools
        if (choice := tool_choice(attributes.get(semconv.REQUEST_TOOL_CHOICE))) is not None:
            request["tool_choice"] = choice
        if (parallel := attributes.get(semconv.REQUEST_PARALLEL_TOOL_CALLS)) is not None:
            request["parallel_tool_calls"] = parallel
    if (form := response_format(attributes.get(semconv.REQUEST_RESPONSE_FORMAT))) is not None:
        request["response_format"] = form
    return request


def _outcome(span: Span) -> tuple[list[dict[str, Any]], SpanError | None]:
    """The choices of the answer; none, and why, where there is no whole answer."""
    if span.status is Status.INTERRUPTED:
        return [], SpanError("interrupted", "its process died before the model had answered")
    if span.status is not Status.OK:
        status = "error" if span.status is None else span.status.value
        return [], span.error or SpanError(status, "")
    if span.output is msgspec.UNSET or span.output is None:
        return [], None
    answers = answer_messages(span.output, f"call_{span.span_id}")
    if _is_completion(span) and isinstance(span.input, list) and len(span.input) > 1:
        asked_for = span.attributes.get(semconv.REQUEST_CHOICE_COUNT)
        answers = answers[: asked_for if isinstance(asked_for, int) and asked_for > 0 else 1]
    streamed = semconv.CHUNK_COUNT in span.attributes
    told = []
    for number, (answer, state) in enumerate(zip_longest(answers, _finish_reasons(span)[: len(answers)])):
        if state in _UNFINISHED:
            return [], SpanError("incomplete", f"the answer was {state} when the call ended")
        if state is None and (is_empty(answer) or (streamed and span.usage is None)):
            return [], SpanError("incomplete", "the answer did not come whole")
        told.append(_choice(number, answer, state))
    return told, None


def _is_completion(span: Span) -> bool:
    """Whether this is a call of the text completions API, which takes several prompts."""
    return span.attributes.get(semconv.OPERATION_NAME) == "text_completion"


def _finish_reasons(span: Span) -> list[str | None]:
    """One a choice, as far as they are told."""
    told = span.attributes.get(semconv.RESPONSE_FINISH_REASONS)
    return [str(reason) if reason else None for reason in (told if isinstance(told, list) else [told])]


def _choice(number: int, message: Message, reason: str | None) -> dict[str, Any]:
    if reason is not None:
        reason = reason.lower()
        if reason in _ENDS_IN_CALLS and message.get("tool_calls"):
            reason = "tool_calls"
        reason = _FINISH_REASONS.get(reason, reason)
    return {"index": number, "message": message, "finish_reason": reason}


def _response(span: Span, model: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    response_id = span.attributes.get(semconv.RESPONSE_ID) or f"millstream-{span.trace_id}-{span.span_id}"
    response = {
        "id": str(response_id),
        "object": "chat.completion",
        "created": (span.end_ns or span.start_ns) // 1_000_000_000,
        "model": str(span.attributes.get(semconv.RESPONSE_MODEL) or model),
        "choices": choices,
    }
    if span.usage is not None:
        response["usage"] = _usage(span.usage)
    return response


def _usage(usage: Usage) -> dict[str, Any]:
    """Tokens as OpenAI's API names them; what is unknown is left out."""
    given, made = usage.input_tokens, usage.output_tokens
    known: dict[str, Any] = {
        "prompt_tokens": given,
        "completion_tokens": made,
        "total_tokens": None if given is None or made is None else given + made,
    }
    if usage.cache_read_tokens is not None:
        known["prompt_tokens_details"] = {"cached_tokens": usage.cache_read_tokens}
    if usage.reasoning_tokens is not None:
        known["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return {name: value for name, value in known.items() if value is not None}


def _workload(span: Span) -> str:
    """The nearest scope; else the agent or the workflow that the call is known to be in."""
    if span.workload_id:
        return span.workload_id
    if agent := span.attributes.get(semconv.AGENT_NAME):
        return str(agent)
    workflow = span.attributes.get(semconv.WORKFLOW)
    chain = workflow.get("chain") if isinstance(workflow, Mapping) else None
    if isinstance(chain, list) and chain and isinstance(chain[-1], list) and chain[-1]:
        return str(chain[-1][0])
    return NO_WORKLOAD


def _iso(time_ns: int) -> str:
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns // 1_000_000:03d}Z"


def _is_cut(value: Any) -> bool:
    """Whether a text was cut by us; one that only tells of it, with another length, was not."""
    if _CUT_BYTES not in msgspec.json.encode(value):
        return False
    return any(cut_at(text) is not None for text in _texts(value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
