"""How a sink is sent to."""

import msgspec


class Policy(msgspec.Struct, kw_only=True, frozen=True):
    """Limits and times of one sink."""

    batch_size: int = 500
    batch_bytes: int = 1 << 20
    flush_interval_s: float = 1.0
    queue_items: int = 2000
    queue_bytes: int = 8 << 20
    shutdown_timeout_s: float = 10.0
    breaker_after: int = 5
