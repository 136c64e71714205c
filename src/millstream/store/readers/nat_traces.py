"""`all_requests_profiler_traces.json`: ours, and that of the NeMo Agent Toolkit's profiler.

`[{"request_number", "intermediate_steps": [step, …]}, …]`; a request is a trace, its steps become spans in
`nat_steps`. The format holds no events and no links, and a trace id only where a workflow of the toolkit
tells it: else it is made of the place in the file and of the first step.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from hashlib import blake2b
from typing import Any, Final

from millstream.span import Span
from millstream.store.readers import wanted
from millstream.store.readers.json_file import TORN, JsonFile, decoded
from millstream.store.readers.json_split import objects
from millstream.store.readers.nat_steps import spans_of, told_trace_id

_STEPS: Final = re.compile(rb'"intermediate_steps"\s*+:\s*+\[')
_NUMBER: Final = re.compile(rb'"request_number"\s*+:\s*+(\d++)')
_AFTER_STEPS: Final = b"}"
_TORN_STEP: Final = "step that is torn or not JSON"
_TORN_REQUEST: Final = "request that is torn, its steps kept"


class NatTracesStore:
    """The requests of a file, one at a time: memory grows with the longest."""

    format = "nat_traces"

    def __init__(self, file: JsonFile) -> None:
        self.file = file
        self.rejected: Counter[str] = Counter()
        self.merged: Counter[str] = Counter()
        self._order: list[tuple[int, str]] = []

    @property
    def trace_order(self) -> list[str]:
        """Trace ids by request number, also of requests without steps, as far as `spans()` was read."""
        return [trace_id for _, trace_id in sorted(self._order, key=lambda one: one[0])]

    def spans(self, trace_ids: Collection[str] | None = None, since_ns: int | None = None) -> Iterator[Span]:  # noqa: ARG002  # one file has no parts to skip
        """As `Store.spans`, by request and start. A step without END is an open span.

        Nothing is merged: where the recorder lost ENDs, steps lie in each other that are not one call.
        """
        return self._spans(wanted(trace_ids))

    def _spans(self, trace_ids: Collection[str] | None) -> Iterator[Span]:
        self.rejected, self._order = Counter(), []
        taken: set[str] = set()
        for place, text in enumerate(self.file.objects(self.rejected)):
            request = self._request(text)
            if request is None:
                continue
            number, steps = request
            trace_id = told_trace_id(steps)
            if trace_id is None or trace_id in taken:
                trace_id = _made_trace_id(place, steps)
            taken.add(trace_id)
            self._order.append((place if number is None else number, trace_id))
            if trace_ids is None or trace_id in trace_ids:
                yield from spans_of(steps, trace_id, self.rejected)

    def _request(self, text: bytes) -> tuple[int | None, list[Any]] | None:
        """The number of a request and its steps; `None` of what is no request, which is counted."""
        try:
            request = decoded(text)
        except ValueError:
            return self._torn(text)
        if not isinstance(request, dict) or "intermediate_steps" not in request:
            self.rejected["not a request"] += 1
            return None
        number, steps = request.get("request_number"), request["intermediate_steps"]
        if not isinstance(steps, list):
            if steps is not None:
                self.rejected["request whose steps are no list"] += 1
            steps = []
        return (number if type(number) is int else None), steps

    def _torn(self, text: bytes) -> tuple[int | None, list[Any]] | None:
        """The steps of a request that can be read on their own, where it cannot as a whole."""
        begin = _STEPS.search(text)
        if begin is None:
            self.rejected[TORN] += 1
            return None
        steps, torn = [], 0
        for one in objects([text[begin.end() :]]):
            try:
                steps.append(decoded(one))
            except ValueError:
                torn += not one.startswith(_AFTER_STEPS)
        self.rejected[_TORN_STEP if torn else _TORN_REQUEST] += torn or 1
        number = _NUMBER.search(text, 0, begin.start())
        return (int(number[1]) if number else None), steps


def _made_trace_id(place: int, steps: list[Any]) -> str:
    first = next((step for step in steps if isinstance(step, dict)), {})
    payload = first.get("payload")
    uuid = payload.get("UUID") if isinstance(payload, dict) else None
    return blake2b(f"{place}:{uuid}".encode(errors="replace"), digest_size=16).hexdigest()
