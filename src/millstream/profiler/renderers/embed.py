"""The requests as data inside the report: compact, texts shared and cut to fit, safe in a script."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from millstream.profiler.critical_path import critical_path_ns
from millstream.profiler.engine import Profile
from millstream.profiler.renderers.files import content_text, shortened
from millstream.profiler.requests import Requests, item_id, requests
from millstream.profiler.tree import self_time_ns, tree_order
from millstream.span import Span
from millstream.store.strict_json import json_text
from millstream.store.table import KINDS, STATUSES, TOKENS, Ints, SpanTable

MAX_SPANS = 60_000
TEXT_BUDGET = 8_000_000
_NS_PER_US = 1000
_CUT = " … [cut in this report]"
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


class _Texts(dict[str, int]):
    """Distinct texts and their numbers; one that is looked up is there."""

    def __missing__(self, text: str) -> int:
        place = self[text] = len(self)
        return place


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
    texts = _Texts({"": 0})
    data = _requests(table, found, chosen, texts)
    cap = _cap([len(text) for text in texts], budget)
    cut = sum(len(text) > cap for text in texts)
    start = int(np.argmax(found.run_time_ns[chosen])) if data else 0
    document = {
        "kinds": KINDS,
        "statuses": STATUSES,
        "names": list(map(shortened, table.names)),
        "texts": [text if len(text) <= cap else text[:cap] + _CUT for text in texts],
        "requests": data,
        "start": start,
    }
    return Embedded(script_safe(document), chosen.tolist(), cut, start)


def script_safe(value: Any) -> str:
    """JSON that cannot end or open an element, whatever the texts hold."""
    text = json_text(value)
    for sign, escape in _ESCAPES.items():
        text = text.replace(sign, escape)
    return text


def _chosen(table: SpanTable, found: Requests) -> Ints:
    recorded = np.flatnonzero(found.recorded)
    if len(table) <= MAX_SPANS:
        return recorded
    bad = found.bad[recorded]
    by_need = recorded[np.lexsort((-found.run_time_ns[recorded], ~bad))]
    sizes = np.diff(table.bounds())[by_need]
    fits = np.cumsum(sizes) <= MAX_SPANS
    fits[:1] = True
    return np.sort(by_need[fits])


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


def _requests(table: SpanTable, found: Requests, chosen: Ints, texts: _Texts) -> list[dict[str, Any]]:
    bounds = table.bounds()
    size = np.diff(bounds)[chosen]
    first = np.cumsum(size) - size
    rows = np.repeat(bounds[chosen] - first, size) + np.arange(size.sum())
    start_ns = np.minimum.reduceat(table.start_ns[rows], first)
    last_ns = np.maximum.reduceat(np.maximum(table.start_ns[rows], table.end_ns[rows]), first)
    calls = _calls(table, np.array(tree_order(table, rows), np.int64), np.repeat(start_ns, size), texts)
    columns = (chosen.tolist(), (last_ns - start_ns).tolist(), size.tolist())
    return [
        {**_request(table, found, number), "w": lasts_ns / _NS_PER_US, "r": list(islice(calls, count))}
        for number, lasts_ns, count in zip(*columns, strict=True)
    ]


def _request(table: SpanTable, found: Requests, number: int) -> dict[str, Any]:
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
    }


def _calls(table: SpanTable, rows: Ints, zero_ns: Ints, texts: _Texts) -> Iterator[tuple[Any, ...]]:
    """What the page shows of each call; times are microseconds, those of starts since `zero_ns`."""
    duration_ns = table.end_ns[rows] - table.start_ns[rows]
    numbers = (
        table.name[rows],
        table.kind[rows],
        table.depth[rows],
        (table.start_ns[rows] - zero_ns) / _NS_PER_US,
        np.where(table.end_ns[rows] >= 0, duration_ns / _NS_PER_US, -1),
        table.status[rows],
        self_time_ns(table)[rows] / _NS_PER_US,
        critical_path_ns(table)[rows] / _NS_PER_US,
    )
    tokens = np.stack([getattr(table, column)[rows] for column in TOKENS], axis=1)
    spans = (table.spans[row] for row in rows.tolist())
    for span, used, *call in zip(
        spans, tokens.tolist(), *(column.tolist() for column in numbers), strict=True
    ):
        yield (*call, used if span.usage is not None else 0, *_content(span, texts))


def _content(span: Span, texts: _Texts) -> tuple[int, int, int, int, str]:
    """Numbers of the texts of a call, and its id."""
    return (
        texts[content_text(span.input)],
        texts[content_text(span.output)],
        texts[f"{span.error.type}: {span.error.message}" if span.error is not None else ""],
        texts[_attributes(span)],
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
