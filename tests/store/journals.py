"""Journals as recorders write them, line by line, and what readers of the journal itself make of them."""

import contextlib
import fcntl
import json

import msgspec
from hypothesis import strategies as st

from millstream import Span, SpanKind, Usage
from millstream.span import Status
from millstream.store.journal_store import JournalStore

WRITER = "00000000000000000001-7"
START_NS = 1_790_000_000_000_000_000
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-9, 9), TEXTS, st.floats(-5, 5).map(lambda x: round(x, 3))
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
ROLES = st.sampled_from(["user", "system", "assistant", "tool", "\x1e", None])
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": ROLES, "content": st.one_of(JSON, st.text("ab \x1f", min_size=60, max_size=200))},
        optional={"tool_calls": JSON, "name": JSON},
    ),
    max_size=3,
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(
        [
            "gen_ai.request.model",
            "gen_ai.response.model",
            "gen_ai.response.id",
            "gen_ai.response.time_to_first_chunk",
            "gen_ai.tool.definitions",
            "millstream.cached",
            "own",
        ]
    ),
    st.one_of(JSON, st.sampled_from(["m", "", "r1", "r2", 0.25, 1e400]).filter(lambda one: one != 1e400)),
    max_size=3,
)
TOKENS = st.one_of(st.none(), st.integers(0, 99))


@st.composite
def spans(draw, most=8):
    """Spans of one process, some of which never end."""
    found = []
    for number in range(draw(st.integers(0, most))):
        start = (
            START_NS + 16 * draw(st.integers(0, 50)) + number
        )  # no two at once: their order would be that of arrival
        parent = draw(st.one_of(st.none(), st.integers(0, most)))
        trace = draw(st.integers(1, 3))
        is_open = draw(st.integers(0, 5)) == 0
        error = draw(st.integers(0, 4)) == 0
        found.append(
            Span(
                trace_id=f"{trace:032x}",
                span_id=f"{trace:08x}{number:08x}",
                parent_id=None if parent is None else f"{trace:08x}{parent:08x}",
                name=draw(TEXTS),
                kind=draw(st.sampled_from([*SpanKind, SpanKind.LLM, SpanKind.LLM])),
                start_ns=start,
                end_ns=None if is_open else start + draw(st.integers(-3, 60)),
                status=None if is_open else Status.ERROR if error else Status.OK,
                input=msgspec.UNSET if is_open else draw(st.one_of(JSON, MESSAGES, st.just(msgspec.UNSET))),
                output=msgspec.UNSET if is_open else draw(JSON),
                usage=draw(st.one_of(st.none(), st.builds(Usage, st.integers(0, 9), TOKENS, TOKENS, TOKENS))),
                workload_id=draw(st.sampled_from([None, "w", 'a "quoted" one'])),
                attributes={} if is_open else draw(ATTRIBUTES),
            )
        )
    return found


def opening(span):
    """The first line of a span."""
    fields = {name: getattr(span, name) for name in ("trace_id", "parent_id", "span_id", "name")}
    fields |= {"kind": span.kind.value, "start_ns": span.start_ns}
    return msgspec.json.encode(
        fields | ({} if span.workload_id is None else {"workload_id": span.workload_id})
    )


def end(span):
    """The line of a span that ended; what it has not is left out, as recorders do."""
    told = json.loads(msgspec.json.encode(span))
    more = {
        name: value
        for name, value in told.items()
        if value not in (None, [], {}) or name in ("input", "output")
    }
    return (
        opening(span)[:-1]
        + b","
        + msgspec.json.encode(
            {name: value for name, value in more.items() if name not in json.loads(opening(span))}
        )[1:]
    )


@st.composite
def lines(draw):
    """The lines of spans, in an order in which they may have come."""
    left = [[opening(span), *([] if span.end_ns is None else [end(span)])] for span in draw(spans())]
    found = []
    while left:
        which = draw(st.integers(0, len(left) - 1))
        found.append(left[which].pop(0))
        left = [some for some in left if some]
    return found


def parts_of(draw, some, most):
    """Lines cut into one piece more than there are cuts, up to so many."""
    cuts = sorted(draw(st.lists(st.integers(0, len(some)), max_size=most)))
    return [some[one:other] for one, other in zip([0, *cuts], [*cuts, len(some)], strict=True)]


class Home:
    """A folder of recordings that tests write."""

    def __init__(self, path):
        self.path = path
        (path / "journal").mkdir(parents=True, exist_ok=True)

    def segment(self, number):
        return self.path / "journal" / f"{WRITER}-{number:04d}.jsonl"

    def write(self, number, some, room=b""):
        self.segment(number).write_bytes(b"".join(line + b"\n" for line in some) + room)

    @contextlib.contextmanager
    def being_written(self, number):
        """While a process holds it."""
        with self.segment(number).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read(self):
        """All spans, each once, and what could not be read."""
        store = JournalStore(self.path)
        return by_id(store.spans()), store.rejected, store.merged

    def read_raw(self):
        """The same from the journal alone."""
        files, away = self.path / "spans", self.path / "spans.away"
        if files.exists():
            files.rename(away)
        try:
            return self.read()
        finally:
            if away.exists():
                away.rename(files)


def by_id(some):
    found = {}
    for span in some:
        key = (span.trace_id, span.span_id)
        assert key not in found, f"{key} twice"
        found[key] = told(span)
    return found


def told(span):
    """All of a span, in a form that says the same of equal ones."""
    if span.usage == Usage():
        span.usage = None
    return msgspec.json.encode(span, order="deterministic")
