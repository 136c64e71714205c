"""Measures all there is, in turn, and prints it."""

import argparse
import json
import os
import platform
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.recording import report
from benchmarks.recording.conversation import record_conversation
from benchmarks.recording.imports import STATEMENTS, import_ms
from benchmarks.recording.processes import MeasurementFailed, Processes
from benchmarks.recording.report import Findings
from benchmarks.recording.sink import Sink
from benchmarks.recording.subjects import ANCHOR, OURS, SUBJECTS, Subject, version_of

_PACKAGES = sorted({package for subject in SUBJECTS for package in subject.needs})
_PER_SECOND = 250
_DEPTH = 50
_TURNS = 40


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: of the table.
        fewer_rounds: of what comes after it.
        share: of the calls and spans.
        kill_after_s: time from the first span to the kill.
        imports: tries of each import.
    """

    rounds: int
    fewer_rounds: int
    share: float
    kill_after_s: float
    imports: int

    def of(self, number: int, least: int = 1) -> int:
        return max(round(number * self.share), least)


def measure(subjects: Sequence[Subject], plan: Plan, processes: Processes) -> Findings:
    """All there is to find of these subjects."""
    found = Findings()

    def cost(subject: Subject) -> dict[str, Any]:
        bursts = plan.of(subject.bursts)
        return processes.find(subject, "cost", calls=plan.of(subject.calls, least=6), bursts_each=bursts)

    def weight(subject: Subject) -> dict[str, Any]:
        return processes.find(subject, "weight", calls=100, spans=plan.of(subject.weighed, least=1000))

    def loss(subject: Subject) -> dict[str, Any]:
        made, lost = processes.lost_in_kill(subject, after_s=plan.kill_after_s, per_second=_PER_SECOND)
        return {"made": made, "lost": lost}

    def flatness(subject: Subject) -> dict[str, Any]:
        sizes = {"calls": 400, "bursts_each": plan.of(20, least=2), "spans": plan.of(200_000)}
        return processes.find(subject, "flatness", depth=_DEPTH, **sizes)

    there = [subject for subject in subjects if not subject.missing]
    flat = [subject for subject in there if subject in (OURS, ANCHOR)]
    _in_rounds("CPU", there, plan.rounds, cost, found.cost)
    _in_rounds("memory", [s for s in there if s.weighed], plan.fewer_rounds, weight, found.weight)
    _in_rounds("kill -9", [s for s in there if s.told], plan.fewer_rounds, loss, found.loss)
    _in_rounds("flatness", flat, plan.fewer_rounds, flatness, found.flatness)
    return found


def _in_rounds(
    what: str,
    subjects: Sequence[Subject],
    rounds: int,
    find: Callable[[Subject], dict[str, Any]],
    into: dict[str, list[dict[str, Any] | str]],
) -> None:
    """Each subject once a round, in another order each time."""
    for number in range(rounds):
        print(f"{what}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for subject in random.Random(number).sample(subjects, len(subjects)):  # noqa: S311  # an order
            try:
                entry: dict[str, Any] | str = {"round": number, **find(subject)}
            except MeasurementFailed as failure:
                entry = str(failure)
            into.setdefault(subject.name, []).append(entry)


def main() -> None:
    options = _options()
    plan = Plan(options.rounds, (options.rounds + 1) // 2, share=1.0, kill_after_s=4.0, imports=5)
    if options.quick:
        plan = Plan(1, 1, share=0.05, kill_after_s=1.0, imports=1)
    chosen = [s for s in SUBJECTS if not options.only or any(word in s.name for word in options.only)]
    load = os.getloadavg()[0]
    with Sink() as sink:
        found = measure(chosen, plan, Processes(sink))
    found.conversation = record_conversation(_TURNS)
    found.imports = {statement: import_ms(statement, plan.imports) for statement in STATEMENTS}
    versions = {package: version_of(package) for package in _PACKAGES}
    loads = f"load {load:.1f} at the beginning, {os.getloadavg()[0]:.1f} at the end"
    lines = [
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {loads}; {plan.rounds} rounds",
        ", ".join(f"{package} {number}" for package, number in versions.items() if number),
        "",
        *report.cost_lines(chosen, found),
        *report.weight_lines(chosen, found),
        *report.loss_lines(chosen, found, plan.kill_after_s, _PER_SECOND),
        *report.flatness_lines([s for s in chosen if s in (OURS, ANCHOR)], found, _DEPTH, plan.of(200_000)),
        *report.conversation_lines(found.conversation),
        *report.import_lines(found.imports, plan.imports),
    ]
    print("\n".join(lines))
    if options.json:
        options.json.write_text(_as_json(found, versions, loads), encoding="utf-8")


def _as_json(found: Findings, versions: dict[str, str], loads: str) -> str:
    conversation = found.conversation.as_dict() if found.conversation else None
    return json.dumps(
        {**vars(found), "conversation": conversation, "versions": versions, "load": loads}, indent=1
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recording", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the table; half as many of the rest")
    parser.add_argument("--quick", action="store_true", help="one round of few calls: shows that it works")
    parser.add_argument(
        "--only", action="append", metavar="WORD", help="rows whose name holds this; repeatable"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all single figures, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
