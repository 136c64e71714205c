"""The events of one request, paired: START, chunks and END of a step have one UUID.

Some recorders give several steps the same UUID, tell an event twice, or lose the START or the END.
"""

import re
from collections import Counter, defaultdict
from hashlib import blake2b
from typing import Any, Final

CATEGORIES: Final = frozenset({"LLM", "TOOL", "WORKFLOW", "TASK", "FUNCTION", "SPAN", "CUSTOM", "TTC"})
_STATES: Final = frozenset({"START", "CHUNK", "END"})
_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")
_UUID: Final = re.compile(r"[0-9a-f]{32}")
_LATEST_S: Final = 1e12
_LOOKED_AT: Final = 100
"""Open steps of one UUID, among which an END looks for its name."""


class Event:
    """One step of the file, as far as it can be used."""

    __slots__ = ("ancestry", "category", "parent", "payload", "state", "time_ns", "uuid")

    def __init__(self, step: Any) -> None:
        """Raises ValueError: it is not one; says why."""
        payload = step.get("payload") if isinstance(step, dict) else None
        if not isinstance(payload, dict):
            raise ValueError("step without a payload")  # noqa: TRY004  # of a file, not of a program
        self.category, _, self.state = str(payload.get("event_type")).partition("_")
        self.state = "CHUNK" if self.state == "NEW_TOKEN" else self.state
        if self.category not in CATEGORIES or self.state not in _STATES:
            raise ValueError("step of an unknown event type")
        time_ns = _time_ns(payload.get("event_timestamp"))
        if time_ns is None:
            raise ValueError("step without a time")
        uuid = payload.get("UUID")
        if not isinstance(uuid, str) or not uuid:
            raise ValueError("step without a UUID")
        self.payload, self.time_ns, self.uuid = payload, time_ns, uuid
        self.parent, self.ancestry = step.get("parent_id"), mapping(step.get("function_ancestry"))

    @property
    def name(self) -> Any:
        """Of the step; of a model call the model's."""
        return self.payload.get("name")

    def is_like(self, other: "Event") -> bool:
        """Whether two events of one UUID and state are the same."""
        return self.time_ns == other.time_ns and self.name == other.name


class Call:
    """The events of one step."""

    __slots__ = ("chunks", "end", "first_chunk_ns", "span_id", "start")

    def __init__(self, start: Event | None, end: Event | None = None) -> None:
        self.start = start
        self.end = end
        self.chunks = 0
        self.first_chunk_ns: int | None = None
        self.span_id = ""

    @property
    def first(self) -> Event:
        """START, else END."""
        event = self.start or self.end
        assert event is not None  # noqa: S101  # a call begins with one of them
        return event

    @property
    def starts_ns(self) -> int:
        """When it started, as far as it is told."""
        return self.first.time_ns if self.start is not None else (self.told_start_ns or self.first.time_ns)

    @property
    def told_start_ns(self) -> int | None:
        """The start that an END tells, unless it is its own time."""
        told = None if self.end is None else _time_ns(self.end.payload.get("span_event_timestamp"))
        return told if told is not None and self.end is not None and told < self.end.time_ns else None


class Calls:
    """The steps of a request, in the order of their first events.

    Args:
        steps: as they are in the file.
        rejected: counts, by reason, of those that could not be used; added to.
    """

    def __init__(self, steps: list[Any], rejected: Counter[str]) -> None:
        self.all: list[Call] = []
        self._rejected = rejected
        self._open: defaultdict[str, list[Call]] = defaultdict(list)
        self._of: defaultdict[str, list[Call]] = defaultdict(list)
        self._unstarted: dict[str, Call] = {}
        for step in steps:
            try:
                event = Event(step)
            except ValueError as error:
                rejected[str(error)] += 1
            else:
                getattr(self, f"_{event.state.lower()}")(event)
        self._name()

    def of(self, uuid: str, time_ns: int) -> Call | None:
        """The last step of a UUID that had started at a time, else its first; `None` where there is none."""
        found = self._of.get(uuid)
        if not found:
            return None
        return next((one for one in reversed(found) if one.starts_ns <= time_ns), found[0])

    def _start(self, event: Event) -> None:
        if event.uuid in self._unstarted:  # its END stands before it
            self._unstarted.pop(event.uuid).start = event
            return
        waiting = self._open[event.uuid]
        if waiting and waiting[-1].first.is_like(event):
            self._rejected["START told twice"] += 1
            return
        waiting.append(self._add(Call(event)))

    def _end(self, event: Event) -> None:
        waiting = self._open[event.uuid]
        if waiting:
            looked = range(min(len(waiting), _LOOKED_AT))
            named = (place for place in looked if waiting[place].first.name == event.name)
            waiting.pop(next(named, 0)).end = event
        elif self._of[event.uuid]:
            self._rejected["END told twice"] += 1
        else:
            self._unstarted[event.uuid] = self._add(Call(None, event))

    def _chunk(self, event: Event) -> None:
        if not self._open[event.uuid]:
            self._rejected["chunk of a step that is not open"] += 1
            return
        call = self._open[event.uuid][-1]
        call.chunks += 1
        call.first_chunk_ns = event.time_ns if call.first_chunk_ns is None else call.first_chunk_ns

    def _add(self, call: Call) -> Call:
        self.all.append(call)
        self._of[call.first.uuid].append(call)
        return call

    def _name(self) -> None:
        """Give each call an id: of a UUID, its first 16 hex digits; another where two would have the same."""
        taken: set[str] = set()
        for call in self.all:
            uuid = call.first.uuid
            span_id = span_id_of(uuid)
            if span_id in taken:
                span_id = _digest(f"{uuid}#{len(taken)}")
            call.span_id = span_id
            taken.add(span_id)


def is_ours(uuid: str) -> bool:
    """Whether a step was written by us: then its UUID is a span id."""
    return _SPAN_ID.fullmatch(uuid) is not None


def span_id_of(uuid: str) -> str:
    """16 hex digits: those of a span id or the first of a UUID, else a digest."""
    digits = uuid.replace("-", "").lower()
    known = _SPAN_ID.fullmatch(digits) or _UUID.fullmatch(digits)
    return digits[:16] if known and int(digits[:16], 16) else _digest(uuid)


def mapping(value: Any) -> dict[str, Any]:
    """The value, if it is an object; else an empty one."""
    return value if isinstance(value, dict) else {}


def _digest(text: str) -> str:
    return blake2b(text.encode(errors="replace"), digest_size=8).hexdigest()


def _time_ns(value: Any) -> int | None:
    """Unix nanoseconds, of Unix seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LATEST_S:
        return None
    return round(value * 1e9)
