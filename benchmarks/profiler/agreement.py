"""Do the tools state the same figures? Those of each file under one name, and what differs.

pandas is taken as right: its script is short enough to be read. Millstream has to agree with it to the last
digits; NAT's times are floats of seconds since 1970, right to half a microsecond.
"""

import csv
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Figures = Mapping[str, float]
OURS_WITHIN = 1e-9
NAT_WITHIN = 1e-5
_INTERVALS = {
    "run time": "workflow_run_time_confidence_intervals",
    "LLM latency": "llm_latency_confidence_intervals",
}
REASONS = {
    "LLM latency": "NAT takes the time from an end back to the last start before it, also of another call",
    "self time": "NAT makes calls that overlap parent and child",
    "calls at once, p": "NAT counts idle time as a level",
}


def of_pandas(folder: Path) -> Figures:
    """What the script printed."""
    found: dict[str, float] = _read(folder / "printed")
    return found


def of_millstream(folder: Path) -> Figures:
    """What the files of `millstream profile --output_dir` say."""
    told = _read(folder / "findings.json")
    found = {"requests": told["requests"]["n"]} | _of_intervals(folder)
    for row in told["latency"]:
        found[f"calls, {row['name']}"] = row["n"]
        for what in ("mean", "p50", "p90", "p95", "p99"):
            found[f"latency {what} s, {row['name']}"] = row[what]["value"]
    for row in told["tokens"]:
        for what in ("input", "output"):
            found[f"{what} tokens, {row['name']}"] = row[f"{what}_tokens"]
    found |= {f"self time s, {row['name']}": row["self_s"] for row in told["self_time"]}
    found |= {f"critical path s, {row['name']}": row["seconds"] for row in told["critical_path"]["by_name"]}
    at_once = told["concurrency"]
    found |= {f"calls at once, {share}": at_once[f"{share}_concurrency"] for share in ("p50", "p95")}
    return found | {"calls at once, most": at_once["max"], "busy s": at_once["busy_s"]}


def of_nat(folder: Path) -> Figures:
    """What NAT's files say."""
    found = _of_intervals(folder)
    sums: dict[str, float] = defaultdict(float)
    requests = set()
    with (folder / "standardized_data_all.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            requests.add(row["example_number"])
            if row["event_type"] == "LLM_END":
                sums[f"input tokens, {row['llm_name']}"] += int(row["prompt_tokens"])
                sums[f"output tokens, {row['llm_name']}"] += int(row["completion_tokens"])
    metrics = _read(folder / "workflow_profiling_metrics.json")
    for node in metrics["nested_stack_analysis"]["node_metrics"].values():
        sums[f"self time s, {node['operation_name']}"] += node["self_time"]
    at_once = metrics["concurrency_spike_analysis"]
    levels = {int(level): seconds for level, seconds in at_once["concurrency_distribution"].items()}
    found |= {f"calls at once, {share}": at_once[f"{share}_concurrency"] for share in ("p50", "p95")}
    busy_s = sum(seconds for level, seconds in levels.items() if level)
    return found | sums | {"requests": len(requests), "calls at once, most": max(levels), "busy s": busy_s}


def lines(pandas: Figures, millstream: Figures, nat: Figures | None) -> Iterator[str]:
    """How many figures agree, and each that does not."""
    yield from _against(pandas, "Millstream", millstream, OURS_WITHIN)
    if nat is not None:
        yield from _against(pandas, "NAT", nat, NAT_WITHIN)


def differing(right: Figures, stated: Figures, within: float) -> list[str]:
    """The figures that both state, and that are not the same."""
    both = [name for name in right if name in stated]
    return [
        name for name in both if not math.isclose(right[name], stated[name], rel_tol=within, abs_tol=1e-9)
    ]


def _against(right: Figures, who: str, stated: Figures, within: float) -> Iterator[str]:
    both = sum(name in stated for name in right)
    different = differing(right, stated, within)
    yield f"{who} agrees with pandas on {both - len(different)} of {both} figures that both state"
    for name in different:
        off = 100 * (stated[name] / right[name] - 1) if right[name] else math.inf
        reason = next((why for begin, why in REASONS.items() if who == "NAT" and name.startswith(begin)), "")
        yield f"    {name:28} pandas {right[name]:.6g}, {who} {stated[name]:.6g} ({off:+.1f} %)  {reason}"


def _of_intervals(folder: Path) -> dict[str, float]:
    intervals = _read(folder / "inference_optimization.json")["confidence_intervals"]
    return {
        f"{what} {figure} s": intervals[key][figure]
        for what, key in _INTERVALS.items()
        for figure in ("mean", "p90", "p95", "p99")
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_bytes())
