"""What was found, in words and columns."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.recording.conversation import Conversation
from benchmarks.recording.subjects import ANCHOR, Subject

_NAME = 41


@dataclass
class Findings:
    """By name of a subject, one entry a round: what its process found, or why it found nothing.

    Attributes:
        cost: microseconds a span.
        weight: bytes a span.
        loss: spans made and lost.
        flatness: microseconds a span.
        imports: by statement, milliseconds; `None` where the package is not installed.
        conversation: of ours.
    """

    cost: dict[str, list[dict[str, Any] | str]] = field(default_factory=dict)
    weight: dict[str, list[dict[str, Any] | str]] = field(default_factory=dict)
    loss: dict[str, list[dict[str, Any] | str]] = field(default_factory=dict)
    flatness: dict[str, list[dict[str, Any] | str]] = field(default_factory=dict)
    imports: dict[str, float | None] = field(default_factory=dict)
    conversation: Conversation | None = None


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, least and most."""
    low, middle, high = (
        f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values))
    )
    return middle if low == high else f"{middle} ({low}-{high})"


def cost_lines(subjects: Sequence[Subject], findings: Findings) -> list[str]:
    """The table of CPU time a span."""
    anchor = {
        found["round"]: found for found in findings.cost.get(ANCHOR.name, []) if isinstance(found, dict)
    }

    def row(rounds: list[dict[str, Any]]) -> str:
        def of(form: str, what: str) -> list[float]:
            return [found[form][what] for found in rounds]

        caller, total = of("single", "caller_us"), of("single", "total_us")
        return (
            f"{spread(caller):>26} {_ratio(rounds, anchor, 'caller_us'):>7}"
            f" {statistics.median(of('nested', 'caller_us')):10.2f}"
            f" {statistics.median(of('async', 'caller_us')):9.2f}"
            f" {spread(total):>32} {_ratio(rounds, anchor, 'total_us'):>7}{_unsent(rounds)}"
        )

    head = f"{'caller':>26} {'x OTel':>7} {'nested x3':>10} {'async':>9} {'whole process':>32} {'x OTel':>7}"
    return [
        "CPU of the calling thread, and of the whole process until all is sent",
        f"us a span, median (least-most); x OTel: share of '{ANCHOR.name}' in the same round",
        "",
        " " * _NAME + head,
        *(_line(subject, findings.cost, row) for subject in subjects),
    ]


def weight_lines(subjects: Sequence[Subject], findings: Findings) -> list[str]:
    """Memory."""

    def row(rounds: list[dict[str, Any]]) -> str:
        text = f"{spread([found['bytes'] * 100_000 / 1e6 for found in rounds], 1):>26} MB"
        if on_disk := [found["on_disk"] / found["made_in_all"] for found in rounds if found["on_disk"]]:
            text += f", and {statistics.median(on_disk):.0f} bytes a span on disk"
        return f"{text}, scaled from {rounds[0]['made']:,}"

    return [
        "",
        "Memory of 100,000 ended spans, as each holds them until they are sent; ours are on disk by then",
        *(_line(subject, findings.weight, row) for subject in subjects if subject.weighed),
    ]


def loss_lines(subjects: Sequence[Subject], findings: Findings, after_s: float, per_second: int) -> list[str]:
    """What a kill loses."""

    def row(rounds: list[dict[str, Any]]) -> str:
        made = statistics.median(found["made"] for found in rounds)
        return f"{spread([found['lost'] for found in rounds], 0):>26} of {made:,.0f}"

    lines = ["", f"Spans lost at kill -9, {after_s:g} s after the first, {per_second} made a second"]
    return lines + [_line(subject, findings.loss, row) for subject in subjects if subject.told]


def flatness_lines(subjects: Sequence[Subject], findings: Findings, depth: int, spans: int) -> list[str]:
    """Whether a span's cost grows."""

    def row(rounds: list[dict[str, Any]]) -> str:
        def of(what: str) -> list[float]:
            return [found[what] for found in rounds]

        deep = statistics.median(found["deep"] / found["first"] for found in rounds)
        late = statistics.median(found["after"] / found["first"] for found in rounds)
        first, inside, after = (f"{statistics.median(of(what)):.2f}" for what in ("first", "deep", "after"))
        return (
            f"{first:>8} us outside of any span, {inside} at depth {depth} (x {deep:.2f}),"
            f" {after} after {spans:,} spans (x {late:.2f})"
        )

    lines = ["", "Flatness: caller CPU a span"]
    return lines + [_line(subject, findings.flatness, row) for subject in subjects]


def conversation_lines(found: Conversation) -> list[str]:
    """Disk."""
    times = found.all_inputs / found.on_disk
    return [
        "",
        f"A conversation of {found.turns} turns, each call with all messages before it",
        f"{found.on_disk:>15,} bytes on disk, inputs, outputs and all else",
        f"{found.all_inputs:>15,} bytes of inputs added up, {times:.1f} times that",
        f"{found.last_input:>15,} bytes of the last call's input alone",
    ]


def import_lines(found: Mapping[str, float | None], tries: int) -> list[str]:
    """Imports."""
    lines = ["", f"CPU of an import in a new interpreter, ms (least of {tries})"]
    for statement, cost_ms in found.items():
        lines.append(f"{'not installed' if cost_ms is None else f'{cost_ms:.0f}':>15}  {statement}")
    return lines


def _line(
    subject: Subject,
    found: Mapping[str, list[dict[str, Any] | str]],
    row: Callable[[list[dict[str, Any]]], str],
) -> str:
    """A subject's name and row, or why there is none."""
    entries = found.get(subject.name, [])
    rounds = [entry for entry in entries if isinstance(entry, dict)]
    failures = [entry for entry in entries if isinstance(entry, str)]
    if subject.missing:
        return f"{subject.name:{_NAME}}  not installed: {', '.join(subject.missing)}"
    if not rounds:
        return f"{subject.name:{_NAME}}  failed: {failures[-1] if failures else 'not measured'}"
    text = f"{subject.name:{_NAME}}{row(rounds)}"
    return f"{text}  ({len(failures)} of {len(entries)} failed: {failures[-1]})" if failures else text


def _ratio(rounds: list[dict[str, Any]], anchor: Mapping[int, dict[str, Any]], what: str) -> str:
    ratios = [
        found["single"][what] / anchor[found["round"]]["single"][what]
        for found in rounds
        if found["round"] in anchor
    ]
    return f"{statistics.median(ratios):.3f}" if ratios else "-"


def _unsent(rounds: list[dict[str, Any]]) -> str:
    """Spans that did not arrive although all were waited for: then the figures are of less work."""
    made = sum(found["made"] for found in rounds if "arrived" in found)
    arrived = sum(found["arrived"] for found in rounds if "arrived" in found)
    return f"  {arrived:,} of {made:,} arrived" if arrived < made else ""
