"""The processors of one sink: built from a workflow file, and run on what is sent there."""

import inspect
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from millstream import semconv
from millstream.deliver.options import collected, raise_all
from millstream.deliver.plugins import PROCESSORS, Section
from millstream.deliver.sink_call import is_interrupt
from millstream.errors import ConfigError
from millstream.record import faults
from millstream.record.policy import Processor
from millstream.span import Span, SpanError

_STRUCTURE: Final = frozenset(
    {semconv.OPERATION_NAME, semconv.PROVIDER_NAME, semconv.REQUEST_MODEL, semconv.RESPONSE_MODEL}
)
"""Attributes that are no content."""
_INCOMPLETE: Final = "millstream.incomplete"


def build_processors(value: Any, where: str) -> tuple[Processor, ...]:
    """The processors of a list in a workflow file, in its order.

    Args:
        value: names, and mappings with `_type`, or with `type` and `config`; from code also callables that
            take a span and give one, or `None`. `None` is none.
        where: its path there, for errors.

    Raises:
        ConfigError: everything that is wrong, one problem a line.
    """
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise ConfigError(
            f"{where}: a list is needed here, such as [redaction, {{_type: sampling, rate: 0.1}}]"
        )
    built: list[Processor] = []
    problems: list[str] = []
    for index, entry in enumerate(value):
        if callable(entry):  # from code
            built.append(entry)
            continue
        section = {"_type": entry} if isinstance(entry, str) else entry
        with collected(problems):
            built.append(Section(PROCESSORS, section, f"{where}.{index}").make("__call__"))
    raise_all(problems)
    return tuple(built)


class Processed(NamedTuple):
    """What processors made of a span.

    Attributes:
        span: to be sent; `None` where one of them drops it.
        fault: which of them raised what, so that the span goes without any content; the same words for the
            same fault, and nothing of what it said: that may be content.
    """

    span: Span | None
    fault: str | None = None


def process(span: Span, processors: Sequence[Processor]) -> Processed:
    """Have the processors change a span that is to be sent.

    One that raises may be one that redacts: the span then goes on without any content. For the thread that
    delivers, where what else ends a thread is a fault as well.
    """
    for processor in processors:
        try:
            kept = processor(span)
            if kept is None:
                return Processed(None)
            span = _checked(kept, processor)
        except BaseException as fault:  # a user's processor may raise anything
            if is_interrupt(fault):
                raise
            faults.swallow(fault, "a processor of an exporter raised; its span was sent without content")
            return Processed(_without_content(span), f"{_name(processor)} raised {type(fault).__name__}")
    return Processed(span)


def _checked(given: Any, processor: Processor) -> Span:
    if isinstance(given, Span):
        return given
    if inspect.iscoroutine(given):
        given.close()  # else Python warns that nobody awaited it
    raise TypeError(
        f"{_name(processor)} gave a {type(given).__name__}: a processor gives a Span, or None to drop it"
    )


def _name(processor: Processor) -> str:
    return str(getattr(processor, "__qualname__", type(processor).__qualname__))


def _without_content(span: Span) -> Span:
    """Structure, usage and times of a span."""
    kept = {key: value for key, value in span.attributes.items() if key in _STRUCTURE}
    return msgspec.structs.replace(
        span,
        error=None if span.error is None else SpanError(span.error.type, ""),
        input=msgspec.UNSET,
        output=msgspec.UNSET,
        attributes={**kept, _INCOMPLETE: True},
        events=[],
        links=[],
    )
