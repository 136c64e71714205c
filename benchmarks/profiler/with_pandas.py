"""The figures of a profile as one writes them in pandas.

    python benchmarks/profiler/with_pandas.py SPANS.PARQUET

prints them as JSON. Written straightforwardly; nothing of Millstream is imported.
"""

import json
import sys
from typing import Any

import numpy as np
import pandas as pd

NS_PER_S = 1e9
_COLUMNS = [
    "trace_id",
    "span_id",
    "parent_id",
    "name",
    "kind",
    "start_ns",
    "end_ns",
    "status",
    "input_tokens",
    "output_tokens",
]


def latency(spans: pd.DataFrame) -> dict[str, float]:
    grouped = spans.groupby(["kind", "name"])["duration_s"]
    found = {}
    for (_, name), mean_s in grouped.mean().items():
        found[f"latency mean s, {name}"] = mean_s
    for share in (0.5, 0.9, 0.95, 0.99):
        for (_, name), value in grouped.quantile(share).items():
            found[f"latency p{100 * share:.0f} s, {name}"] = value
    for (_, name), count in grouped.count().items():
        found[f"calls, {name}"] = count
    return found


def over_all(spans: pd.DataFrame) -> dict[str, float]:
    """Run time of the requests, and latency of all LLM calls together."""
    found = {"requests": spans["trace_id"].nunique()}
    groups = {"run time": spans[spans["parent_id"].isna()], "LLM latency": spans[spans["kind"] == "LLM"]}
    for what, rows in groups.items():
        found[f"{what} mean s"] = rows["duration_s"].mean()
        for share in (0.9, 0.95, 0.99):
            found[f"{what} p{100 * share:.0f} s"] = rows["duration_s"].quantile(share)
    return found


def tokens(spans: pd.DataFrame) -> dict[str, float]:
    sums = spans[spans["kind"] == "LLM"].groupby("name")[["input_tokens", "output_tokens"]].sum()
    return {
        f"{column.replace('_', ' ')}, {name}": value
        for column in sums
        for name, value in sums[column].items()
    }


def self_time(spans: pd.DataFrame) -> dict[str, float]:
    """Duration minus the union of the children, each clipped to its parent."""
    times = spans[["trace_id", "span_id", "start_ns", "end_ns"]]
    child = spans.merge(
        times,
        left_on=["trace_id", "parent_id"],
        right_on=["trace_id", "span_id"],
        suffixes=("", "_above"),
    )
    child["from"] = child[["start_ns", "start_ns_above"]].max(axis=1)
    child["to"] = child[["end_ns", "end_ns_above"]].min(axis=1)
    child = child[child["to"] > child["from"]].sort_values(["trace_id", "parent_id", "from"])
    siblings = child.groupby(["trace_id", "parent_id"])
    covered_to = siblings["to"].cummax().groupby([child["trace_id"], child["parent_id"]]).shift(fill_value=0)
    child["new_ns"] = (child["to"] - child["from"].clip(lower=covered_to)).clip(lower=0)
    covered = child.groupby(["trace_id", "parent_id"])["new_ns"].sum().rename("covered_ns")
    own = spans.merge(covered, how="left", left_on=["trace_id", "span_id"], right_index=True)
    own["self_ns"] = own["end_ns"] - own["start_ns"] - own["covered_ns"].fillna(0).astype("int64")
    sums = own.groupby("name")["self_ns"].sum() / NS_PER_S
    return {f"self time s, {name}": value for name, value in sums.items()}


def concurrency(spans: pd.DataFrame) -> dict[str, float]:
    """Of LLM and tool calls, by a sweep over their starts and ends, ends first."""
    calls = spans[spans["kind"].isin(["LLM", "TOOL"])]
    events = pd.concat(
        [
            pd.DataFrame({"at": calls["start_ns"], "step": 1}),
            pd.DataFrame({"at": calls["end_ns"], "step": -1}),
        ]
    ).sort_values(["at", "step"])
    events["level"] = events["step"].cumsum()
    events["lasts_ns"] = -events["at"].diff(-1).fillna(0).astype("int64")
    by_level = events.groupby("level")["lasts_ns"].sum()
    busy = by_level[by_level.index > 0]
    share = busy.cumsum() / busy.sum()
    lasting = events[events["lasts_ns"] > 0]
    found = {"calls at once, most": lasting["level"].max(), "busy s": busy.sum() / NS_PER_S}
    for percent in (50, 95):
        found[f"calls at once, p{percent}"] = share.index[np.searchsorted(share, percent / 100)]
    return found


def critical_path(spans: pd.DataFrame) -> dict[str, float]:
    """Back from the end of each request: the child that ended last before, and what it waited for in turn."""
    found: dict[str, int] = {}
    columns = ["span_id", "parent_id", "name", "start_ns", "end_ns"]
    for _, request in spans.sort_values("end_ns").groupby("trace_id", sort=False):
        children: dict[Any, list[Any]] = {}
        for span_id, parent_id, name, start, end in request[columns].itertuples(index=False):
            children.setdefault(parent_id, []).append((span_id, name, start, end))
        waiting = [
            (span_id, name, start, end, start, end) for span_id, name, start, end in children.get(None, [])
        ]
        while waiting:
            span_id, name, start, end, low, high = waiting.pop()
            start, end = max(start, low), min(end, high)
            own, frontier = end - start, end
            clipped = [(min(c[3], end), max(c[2], start), c) for c in children.get(span_id, [])]
            for to, since, (child_id, child_name, child_start, child_end) in sorted(
                clipped, key=lambda one: (one[0], -one[1]), reverse=True
            ):
                if since < to <= frontier:
                    own -= to - since
                    frontier = since
                    waiting.append((child_id, child_name, child_start, child_end, start, end))
            found[name] = found.get(name, 0) + own
    return {f"critical path s, {name}": value / NS_PER_S for name, value in found.items()}


def main(path: str) -> None:
    spans = pd.read_parquet(path, columns=_COLUMNS)
    spans["parent_id"] = spans["parent_id"].astype(object).where(spans["parent_id"].notna(), None)
    spans["duration_s"] = (spans["end_ns"] - spans["start_ns"]) / NS_PER_S
    found: dict[str, Any] = {}
    for figures in (over_all, latency, tokens, self_time, concurrency, critical_path):
        found |= figures(spans)
    print(json.dumps({name: float(value) for name, value in found.items()}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
