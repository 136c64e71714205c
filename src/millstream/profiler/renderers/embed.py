"""The requests as data inside the report: compact, texts shared and cut to fit, safe in a script."""

from typing import Any, NamedTuple

import msgspec
import numpy as np

from millstream.profiler.critical_path import critical_path_ns
from millstream.profiler.engine import Profile
from millstream.profiler.renderers.files import content_text, shortened
from millstream.profiler.requests import Requests, item_id, requests
from millstream.profiler.tree import self_time_ns, tree_order
from millstream.span import Span
from millstream.store.strict_json import json_text
from millstream.store.table import KINDS, STATUSES, Ints, SpanTable

MAX_SPANS = 60_000
TEXT_BUDGET = 8_000_000
_NS_PER_US = 1000
_CUT = " … [cut in this report]"
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


class _Texts:
    """Distinct texts, by number."""

    def __init__(self) -> None:
        self.all: list[str] = [""]
        self._place: dict[str, int] = {"": 0}

    def __call__(self, text: str) -> int:
        place = self._place.setdefault(text, len(self.all))
        if place == len(self.all):
            self.all.append(text)
        return place


class _Shares(NamedTuple):
    own_ns: Ints
    critical_ns: Ints


class Embedded(msgspec.Struct, frozen=True):
    """The JSON text for the page, and which requests are in it."""

    json: str
    requests: list[int]
    cut_texts: int
    start: int


def embed(profile: Profile, budget: int = TEXT_BUDGET) -> Embedded:
    """The data of the page. With more than `MAX_SPANS` spans: failed requests and the slowest."""
    table = profile.table
    found = requests(table)
    chosen = _chosen(table, found)
    own, critical = self_time_ns(table), critical_path_ns(table)
    texts = _Texts()
    shares = _Shares(own, critical)
    data = [_request(table, found, number, shares, texts) for number in chosen]
    cap = _cap([len(text) for text in texts.all], budget)
    cut = sum(len(text) > cap for text in texts.all)
    start = int(np.argmax(found.run_time_ns[chosen])) if chosen else 0
    document = {
        "kinds": KINDS,
        "statuses": STATUSES,
        "names": list(map(shortened, table.names)),
        "texts": [text if len(text) <= cap else text[:cap] + _CUT for text in texts.all],
        "requests": data,
        "start": start,
    }
    return Embedded(script_safe(document), chosen, cut, start)


def script_safe(value: Any) -> str:
    """JSON that cannot end or open an element, whatever the texts hold."""
    text = json_text(value)
    for sign, escape in _ESCAPES.items():
        text = text.replace(sign, escape)
    return text


def _chosen(table: SpanTable, found: Requests) -> list[int]:
    recorded = np.flatnonzero(found.recorded)
    if len(table) <= MAX_SPANS:
        return [int(number) for number in recorded]
    bad = found.bad[recorded]
    by_need = recorded[np.lexsort((-found.run_time_ns[recorded], ~bad))]
    sizes = np.diff(table.bounds())[by_need]
    fits = np.cumsum(sizes) <= MAX_SPANS
    fits[:1] = True
    return [int(number) for number in np.sort(by_need[fits])]


def _cap(lengths: list[int], budget: int) -> int:
    """The longest length at which all texts, each cut to it, fit the budget."""
    ordered = np.sort(np.array(lengths, np.int64))
    before = np.concatenate(([0], np.cumsum(ordered)[:-1]))
    total = before + ordered * np.arange(len(ordered), 0, -1)
    over = np.flatnonzero(total > budget)
    if len(over) == 0:
        return int(ordered[-1])
    at = int(over[0])
    return max(int((budget - before[at]) // (len(ordered) - at)), 40)


def _request(
    table: SpanTable, found: Requests, number: int, shares: _Shares, texts: _Texts
) -> dict[str, Any]:
    rows = np.array(tree_order(table, number))
    first = int(rows.min())
    spans = table.spans[first : first + len(rows)]
    start_ns = int(table.start_ns[rows].min())
    end_ns = int(np.maximum(table.end_ns[rows], table.start_ns[rows]).max())
    outcome = next(
        (name for name in ("failed", "cancelled", "unfinished") if getattr(found, name)[number]), "ok"
    )
    run_ns = int(found.run_time_ns[number])
    item = item_id(table, found, number)
    return {
        "n": number,
        "t": shortened(table.trace_ids[number]),
        "i": None if item is None else shortened(item),
        "o": outcome,
        "d": run_ns / _NS_PER_US if run_ns >= 0 else None,
        "w": (end_ns - start_ns) / _NS_PER_US,
        "r": [
            (*numbers, tokens if span.usage is not None else 0, *_content(span, texts))
            for span, numbers, tokens in zip(
                (spans[at] for at in (rows - first).tolist()),
                zip(*_numbers(table, rows, start_ns, shares), strict=True),
                _tokens(table, rows),
                strict=True,
            )
        ],
    }


def _numbers(table: SpanTable, rows: Ints, start_ns: int, shares: _Shares) -> list[list[Any]]:
    """Columns of what the page shows of each call in numbers; times are microseconds."""
    duration_ns = table.end_ns[rows] - table.start_ns[rows]
    columns = (
        table.name[rows],
        table.kind[rows],
        table.depth[rows],
        (table.start_ns[rows] - start_ns) / _NS_PER_US,
        np.where(table.end_ns[rows] >= 0, duration_ns / _NS_PER_US, -1),
        table.status[rows],
        shares.own_ns[rows] / _NS_PER_US,
        shares.critical_ns[rows] / _NS_PER_US,
    )
    return [column.tolist() for column in columns]


def _tokens(table: SpanTable, rows: Ints) -> list[list[int]]:
    columns = (
        table.input_tokens,
        table.output_tokens,
        table.cache_read_tokens,
        table.reasoning_tokens,
    )
    tokens: list[list[int]] = np.stack([column[rows] for column in columns], axis=1).tolist()
    return tokens


def _content(span: Span, texts: _Texts) -> tuple[int, int, int, int, str]:
    """Numbers of the texts of a call, and its id."""
    return (
        texts(content_text(span.input)),
        texts(content_text(span.output)),
        texts(f"{span.error.type}: {span.error.message}" if span.error is not None else ""),
        texts(_attributes(span)),
        shortened(span.span_id),
    )


def _attributes(span: Span) -> str:
    """Attributes, then events, one a line."""
    lines = [f"{key}: {content_text(value)}" for key, value in span.attributes.items()]
    if span.workload_id is not None:
        lines.insert(0, f"workload_id: {span.workload_id}")
    for event in span.events:
        offset_s = (event.time_ns - span.start_ns) / 1e9
        details = f" {content_text(event.attributes)}" if event.attributes else ""
        lines.append(f"event {event.name} at +{offset_s:.3f} s{details}")
    return "\n".join(lines)
