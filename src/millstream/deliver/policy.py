"""How a sink is sent to: how much at once, when again after a failure, and how long is waited at the end."""

from typing import Any

import msgspec


class Policy(msgspec.Struct, kw_only=True, frozen=True):
    """Limits and times of one sink.

    Attributes:
        batch_size: spans sent at once, at most.
        batch_bytes: of their JSON, at most; a span that is larger is sent alone.
        flush_interval_s: how long a span waits for others to be sent with.
        queue_items: spans in memory, those in flight and those to be sent again included.
        queue_bytes: of their JSON.
        shutdown_timeout_s: how long the end of a program waits for a sink that takes what it is sent.
        backoff_s: the longest pause after a first failure; doubled with each that follows.
        longest_backoff_s: where doubling ends.
        breaker_after: failures in a row after which only one span is sent, now and then, to see whether the
            sink is there again.
        item_attempts: how often a span is tried alone that the sink raises on; then it is a dead letter.
        refused_s: pause after a sink said that a person has to mend something.
    """

    batch_size: int = 500
    batch_bytes: int = 1 << 20
    flush_interval_s: float = 1.0
    queue_items: int = 2000
    queue_bytes: int = 8 << 20
    shutdown_timeout_s: float = 10.0
    backoff_s: float = 0.2
    longest_backoff_s: float = 30.0
    breaker_after: int = 5
    item_attempts: int = 3
    refused_s: float = 60.0


def policy_for(sink: Any, **given: Any) -> Policy:
    """A policy with what a sink says of itself: `batch_size` and `batch_bytes`.

    Args:
        sink: a sink, or its class.
        **given: fields that are set; `None` is the default.
    """
    for name in ("batch_size", "batch_bytes"):
        if given.get(name) is None:
            given[name] = getattr(sink, name, None)
    return Policy(**{key: value for key, value in given.items() if value is not None})
