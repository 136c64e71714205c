"""Call trees of any shape, run for real, and what is recorded of them compared with a model."""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings

import millstream
from millstream import Sampling
from millstream.context import current
from tests.record.call_trees import BoomError, Model, Node, call, compare, named, trees

ROOT = Path(__file__).parents[2]


def examples(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


def run(root: Node, **options) -> list[millstream.Span]:
    """Run a tree; gives what was recorded of it."""
    raised = None
    with tempfile.TemporaryDirectory() as home:
        with millstream.recording(home=home, **options) as recording:
            try:
                call(root)
            except BoomError as error:
                raised = str(error)
            assert current.get() is None
            stats = recording.stats()
        assert raised == Model(root).raised
        if not (Path(home) / "journal").exists():
            return []
        store = millstream.open_store(home)
        spans = list(store.spans())
        assert not store.rejected
        assert stats["made"] == stats["stored"] == len(spans)
        return spans


def left_early(kind: str, outer: str) -> Node:
    """A generator that holds a span when it is left, in a call that fails."""
    inner = Node(kind, [Node("function"), Node("function")], take=1, closes=kind == "agenerator")
    return named(Node(outer, [Node("coroutine", [inner])] if kind == "agenerator" else [inner], raises=True))


@examples(400)
@given(root=trees)
@example(left_early("generator", "function"))
@example(left_early("agenerator", "loop"))
@example(
    named(
        Node("loop", [Node("group", [Node("cancelled", below=["agenerator", "ablock"]), Node("cancelled")])])
    )
)
def test_what_is_recorded_is_what_ran(root):
    compare(run(root), Model(root).spans)


@examples(60)
@given(root=trees)
def test_whoever_listens_or_looks_changes_nothing(root):
    """A subscriber, a processor and small segments."""
    heard: list[str] = []
    with millstream.subscribe(lambda step: heard.append(step.event_state)):
        spans = run(root, processors=[lambda span: span], segment_bytes=1)
    expected = Model(root).spans
    compare(spans, expected)
    assert heard.count("START") == heard.count("END") == len(expected)
    assert heard.count("CHUNK") == sum(span.chunks or 0 for span in expected.values())


@examples(100)
@given(root=trees)
def test_traces_that_are_not_sampled_are_kept_whole_where_they_failed(root):
    """What a span's trace is: those of one root, also where a generator's consumer has none."""
    spans = run(root, sampling=Sampling(rate=0, keep_errors=True))
    expected = Model(root).spans
    tops: defaultdict[str, set[str]] = defaultdict(set)
    for name in expected:
        top = name
        while (above := expected[top].parent) is not None:
            top = above
        tops[top].add(name)
    failed = {top for top, names in tops.items() if any(expected[name].status == "error" for name in names)}
    kept = {name for top in failed for name in tops[top]}
    compare(spans, {name: expected[name] for name in kept})


@pytest.mark.parametrize("seed", range(8))
def test_what_was_recorded_when_a_process_is_killed(home, tmp_path, seed):
    command = [sys.executable, "-m", "tests.record.call_trees", str(seed), str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not (tmp_path / "5.done").exists():
        time.sleep(0.01)
        assert process.poll() is None
    time.sleep(random.Random(seed).uniform(0, 0.4))  # noqa: S311  # any moment does
    process.kill()
    process.wait()
    of_run: defaultdict[int, list[millstream.Span]] = defaultdict(list)
    for span in millstream.open_store(home).spans():
        of_run[int(span.name.partition(" ")[0])].append(span)
    for path in tmp_path.glob("*.json"):
        root = msgspec.json.decode(path.read_bytes(), type=Node)
        killed = not path.with_suffix(".done").exists()
        compare(of_run[int(path.stem)], Model(root).spans, killed=killed)
