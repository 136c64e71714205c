"""What is kept of spans, and of which: content, limits, redaction, processors, sampling."""

import os
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from millstream.errors import ConfigError
from millstream.record import sampling as sampling_
from millstream.record.redaction import Redaction
from millstream.record.sampling import Sampling
from millstream.record.serialize import MAX_BYTES
from millstream.span import Span

Processor = Callable[[Span], Span | None]
DEFAULT_REDACTION: Final = Redaction()
_FALSE: Final = frozenset({"false", "0", "no", "off"})
_TRUE: Final = frozenset({"true", "1", "yes", "on"})


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """As the options of `recording` say; `sampling` is `None` where all is recorded."""

    capture_content: bool = True
    content_limit: int = MAX_BYTES
    redaction: Redaction | None = DEFAULT_REDACTION
    processors: tuple[Processor, ...] = ()
    sampling: Sampling | None = None


def from_environment(
    *,
    processors: Sequence[Processor] = (),
    capture_content: bool | None = None,
    content_limit: int | None = None,
    redaction: Redaction | None = DEFAULT_REDACTION,
    sampling: Sampling | float | None = None,
) -> Policy:
    """The policy of these options, with what is not said taken from the environment.

    Raises:
        ConfigError: an option is not what it must be.
    """
    for processor in processors:
        if not callable(processor):
            raise ConfigError(f"a processor is called with a span; {processor!r} cannot be called")
    if redaction is not None and not isinstance(redaction, Redaction):
        raise ConfigError(f"redaction takes a Redaction or None, not {redaction!r}")
    if content_limit is not None and (not isinstance(content_limit, int) or content_limit < 0):
        raise ConfigError(f"content_limit is a number of bytes, not {content_limit!r}")
    if sampling is None:
        sampling = sampling_.from_environment()
    elif not isinstance(sampling, Sampling):
        sampling = Sampling(rate=sampling)
    if capture_content is None:
        capture_content = not says_no("MILLSTREAM_CAPTURE_CONTENT")
    return Policy(
        capture_content=capture_content,
        content_limit=MAX_BYTES if content_limit is None else content_limit,
        redaction=redaction,
        processors=tuple(processors),
        sampling=sampling,
    )


def says_yes(name: str) -> bool:
    """Whether an environment variable is set to yes."""
    return os.environ.get(name, "").strip().lower() in _TRUE


def says_no(name: str) -> bool:
    """Whether an environment variable is set to no."""
    return os.environ.get(name, "").strip().lower() in _FALSE
