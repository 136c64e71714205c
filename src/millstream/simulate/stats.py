"""What a stand-in has done so far, in numbers."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counters:
    """Counts of one model, or of all.

    Attributes:
        requests: all that came, wrong ones included.
        completed: answered to the end.
        cancelled: the client went away first.
        errors: by HTTP status, `reset` or `hang`.
        in_flight: being answered now.
        queued: waiting now because `max_concurrency` are in flight.
    """

    requests: int = 0
    completed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    in_flight: int = 0
    queued: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def add_usage(self, usage: dict[str, Any]) -> None:
        """Count one completed answer."""
        self.completed += 1
        self.prompt_tokens += usage["prompt_tokens"]
        self.completion_tokens += usage["completion_tokens"]
        self.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]

    def as_json(self) -> dict[str, Any]:
        """The counts by name."""
        return {**vars(self), "errors": dict(sorted(self.errors.items()))}

    def __add__(self, other: "Counters") -> "Counters":
        names = [name for name in vars(self) if name != "errors"]
        total = Counters(**{name: getattr(self, name) + getattr(other, name) for name in names})
        total.errors = self.errors + other.errors
        return total
