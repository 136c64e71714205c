"""What one run of `millstream record` recorded, in one line.

The spans are those in segments that are new and were written by a process of the run: each notes its id in a
file when it starts (`record/startup/sitecustomize.py`). Others may record to the same folder meanwhile.
"""

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from millstream.span import Span, SpanKind, Status
from millstream.store.blobs import span_lines
from millstream.store.segments import Segment, State, list_segments
from millstream.store.spans import SpanReader

MAX_BYTES: Final = 256 << 20
"""A journal of this size is read in a few seconds; of more, only the size is told."""
_NAMES: Final = 3
_NAME_LENGTH: Final = 40
_DROPPED: Final = {
    "journal cannot be written": ("span", "lost, for the journal could not be written"),
    "by a processor": ("span", "dropped by a processor"),
    "traces that were not sampled": ("trace", "not sampled"),
}
"""What `millstream.stats` counts as dropped, and how the line says it; faults are said where they arise."""
_ABSENT: Final = tuple(f"ModuleNotFoundError: No module named '{name}'" for name in ("millstream", "msgspec"))
_OLDEST_PYTHON: Final = (3, 11)


@dataclass
class Notes:
    """What the processes of a run noted.

    Attributes:
        processes: ids of those that started Python or were forked from it.
        imported: the frameworks whose import began.
        failed: why millstream could not be loaded, by version and path of the Python.
        dropped: what was not recorded, by reason, as far as processes came to tell.
        elsewhere: spans by the other folder that the program recorded them to.
    """

    processes: set[int] = field(default_factory=set)
    imported: set[str] = field(default_factory=set)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    elsewhere: Counter[str] = field(default_factory=Counter)

    @classmethod
    def read(cls, path: Path, home: Path) -> "Notes":
        """The notes in a file; a line that is not whole is passed over."""
        notes = cls()
        for line in path.read_text(encoding="utf-8", errors="surrogateescape").split("\n"):
            match line.split("\t"):
                case ["process", pid, _, _] if pid.isdecimal():
                    notes.processes.add(int(pid))
                case ["imported", module]:
                    notes.imported.add(module)
                case ["failed", version, executable, reason]:
                    notes.failed[version, executable] = reason
                case ["ended", made, where] if made.isdecimal() and int(made) and where != str(home):
                    notes.elsewhere[where] += int(made)
                case ["dropped", count, reason] if count.isdecimal():
                    notes.dropped[reason] += int(count)
        return notes


class Recorded:
    """The spans of a run, summed up.

    Args:
        home: the folder recorded to.
        before: the segments that were there before the run.
        processes: ids of the run's processes.
    """

    def __init__(self, home: Path, before: frozenset[str], processes: set[int]) -> None:
        self.segments = [
            segment
            for segment in list_segments(home)
            if segment.path.name not in before and _process(segment) in processes
        ]
        self.bytes = sum(segment.size for segment in self.segments)
        self.living = len({s.writer for s in self.segments if s.state is State.LIVE})
        self.rejected: Counter[str] = Counter()
        self.spans = self.open = self.interrupted = 0
        self.calls = self.failed_calls = self.silent_calls = self.telling_calls = 0
        self.input_tokens = self.output_tokens = 0
        self.own_ns: Counter[tuple[str, str]] = Counter()
        """Self time by name and kind."""
        if self.bytes <= MAX_BYTES:
            self.own_ns = self_time_ns(self._counted())

    def _counted(self) -> Iterator[Span]:
        of_process: defaultdict[str, list[Segment]] = defaultdict(list)
        for segment in self.segments:
            of_process[segment.writer].append(segment)
        for segments in of_process.values():
            reader = SpanReader(None, self.rejected)
            for segment in segments:
                for span in reader.read(span_lines(segment.path), growing=segment.state is State.LIVE):
                    self._count(span)
                    yield span
            for span in reader.still_open(interrupted=segments[-1].state is not State.LIVE):
                self._count(span)

    def _count(self, span: Span) -> None:
        self.spans += 1
        self.open += span.end_ns is None and span.status is None
        self.interrupted += span.status is Status.INTERRUPTED
        if span.kind is not SpanKind.LLM:
            return
        self.calls += 1
        self.failed_calls += span.status is Status.ERROR
        usage = span.usage
        if usage is None or (usage.input_tokens is None and usage.output_tokens is None):
            self.silent_calls += span.status is Status.OK
        else:
            self.telling_calls += 1
            self.input_tokens += usage.input_tokens or 0
            self.output_tokens += usage.output_tokens or 0


def _process(segment: Segment) -> int:
    pid = segment.writer.rpartition("-")[2]
    return int(pid) if pid.isdecimal() else -1


def self_time_ns(spans: Iterable[Span]) -> Counter[tuple[str, str]]:
    """Self time by name and kind: durations minus the union of the children clipped to the span.

    As the profiler's, which needs its extra. Memory grows with the spans.
    """
    closed: dict[tuple[str, str], tuple[str, str, int, int]] = {}
    children: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for span in spans:
        if span.end_ns is None:
            continue
        end_ns = max(span.end_ns, span.start_ns)
        closed[span.trace_id, span.span_id] = (span.name, span.kind.value, span.start_ns, end_ns)
        if span.parent_id is not None:
            children[span.trace_id, span.parent_id].append((span.start_ns, end_ns))
    own: Counter[tuple[str, str]] = Counter()
    for key, (name, kind, start, end) in closed.items():
        own[name, kind] += end - start
        reached = start
        for child_start, child_end in sorted(children.get(key, ())):
            begin, stop = max(child_start, reached), min(child_end, end)
            if stop > begin:
                own[name, kind] -= stop - begin
                reached = stop
    return own


def summarise(home: Path, before: frozenset[str], notes_file: Path) -> str:
    """The line.

    Args:
        home: the folder recorded to.
        before: the names of the segments that were there before the run.
        notes_file: what the processes of the run noted.
    """
    notes = Notes.read(notes_file, home)
    recorded = Recorded(home, before, notes.processes)
    parts = []
    if recorded.bytes > MAX_BYTES:
        parts.append(f"{recorded.bytes / 1e6:,.0f} MB of spans, too many to sum up here")
    elif recorded.spans:
        parts += [_counts(recorded), *_usage(recorded), *_time(recorded.own_ns)]
    for reason, (what, outcome) in _DROPPED.items():
        if count := notes.dropped[reason]:
            parts.append(f"{_number(count, what)} {outcome}")
    for where, made in notes.elsewhere.items():
        parts.append(f"{_number(made, 'span')} in {_plain(where, 200)}, where the program says")
    if recorded.rejected:
        parts.append(f"{_number(recorded.rejected.total(), 'line')} could not be read")
    if recorded.living:
        parts.append(f"{_number(recorded.living, 'process', 'processes')} still recording")
    parts += _missing(notes)
    if recorded.segments:
        parts.append(f"look closer: millstream profile {shlex.quote(_short(home))}")
    return "; ".join(parts or [_why_nothing(notes)])


def _short(home: Path) -> str:
    try:
        return str(home.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere; or the working directory is gone
        return str(home)


def _counts(recorded: Recorded) -> str:
    marks = [
        f"{count:,} {mark}"
        for count, mark in ((recorded.interrupted, "interrupted"), (recorded.open, "still open"))
        if count
    ]
    spans = _number(recorded.spans, "span") + (f" ({', '.join(marks)})" if marks else "")
    calls = _number(recorded.calls, "LLM call")
    return f"{spans}, {calls}" + (f" ({recorded.failed_calls:,} failed)" if recorded.failed_calls else "")


def _usage(recorded: Recorded) -> list[str]:
    silent = recorded.silent_calls
    if not recorded.telling_calls:
        return ["tokens unknown"] if silent else []
    unknown = f" ({_number(silent, 'call')} did not tell)" if silent else ""
    return [f"{_number(recorded.input_tokens, 'token')} in, {recorded.output_tokens:,} out{unknown}"]


def _time(own_ns: Counter[tuple[str, str]]) -> list[str]:
    total = own_ns.total()
    shares = [
        (own / total, f"{_plain(name)} ({kind})")
        for (name, kind), own in sorted(own_ns.items(), key=lambda item: (-item[1], item[0]))[:_NAMES]
        if total and own / total >= 0.01  # noqa: PLR2004  # 1 %
    ]
    words = [
        f"{100 * share:.0f} % {'' if at else 'of the time '}in {name}"
        for at, (share, name) in enumerate(shares)
    ]
    return [", ".join(words)] if words else []


def _missing(notes: Notes) -> list[str]:
    """A sentence for each Python that millstream could not be loaded in."""
    said = []
    for (version, executable), reason in notes.failed.items():
        python = f"{executable or 'a Python'} ({version})"
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_PYTHON:
            remedy = "which is older than 3.11"
        elif reason in _ABSENT:
            remedy = f"which lacks millstream: {shlex.quote(executable)} -m pip install millstream"
        else:
            remedy = f"where millstream cannot be loaded: {reason}"
        said.append(f"nothing was recorded of {_plain(python, 200)}, {_plain(remedy, 500)}")
    return said


def _why_nothing(notes: Notes) -> str:
    if not notes.processes:
        return (
            "nothing was recorded, for no Python was reached: the command starts none, or keeps it from "
            "PYTHONPATH (python -I, -E or -S, or an environment of its own making)"
        )
    if notes.imported:
        return f"nothing was recorded: {', '.join(sorted(notes.imported))} was imported, but no call was seen"
    return (
        "nothing was recorded: the program imports no framework that millstream knows (`millstream info` "
        "lists them); put @millstream.track_function on the functions to be seen"
    )


def _number(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _plain(text: str, length: int = _NAME_LENGTH) -> str:
    """A text on one line, without signs that a terminal would obey, cut where it is long."""
    shown = "".join(sign if sign.isprintable() else "?" for sign in text)
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"
