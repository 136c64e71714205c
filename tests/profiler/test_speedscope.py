"""trace.speedscope.json by the rules of speedscope's file format: what opens closes, in order, nested."""

import json

import pytest
from hypothesis import given, settings

from millstream import semconv
from millstream.profiler import profile
from millstream.profiler.renderers.speedscope import write
from millstream.span import SpanError, SpanKind, Status
from tests.profiler.profiler_synthetic import small_forests, span


def written(found, folder):
    path = folder / "trace.speedscope.json"
    write(found, path)
    return json.loads(path.read_bytes())


def calls(document):
    """Each call as (profile, depth, frame's name, start, end), after the importer's own checks."""
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    frames = [frame["name"] for frame in document["shared"]["frames"]]
    found = []
    for number, one in enumerate(document["profiles"]):
        assert (one["type"], one["unit"]) == ("evented", "nanoseconds")
        assert one["events"]
        now, running = one["startValue"], []
        for event in one["events"]:
            assert now <= event["at"] <= one["endValue"]
            now = event["at"]
            if event["type"] == "O":
                running.append(event)
            else:
                assert event["type"] == "C"
                opened = running.pop()
                assert opened["frame"] == event["frame"], "what closes is what opened last"
                found.append((number, len(running), frames[opened["frame"]], opened["at"], now))
        assert running == []
    if document["profiles"]:
        assert 0 <= document["activeProfileIndex"] < len(document["profiles"])
    return found


@pytest.fixture(scope="module")
def document(many, tmp_path_factory):
    return written(many, tmp_path_factory.mktemp("speedscope"))


def test_every_call_is_there_once_with_its_times(document, many):
    found = calls(document)
    table = many.table
    ended = {(f"{s.kind.value} {s.name}", s.end_ns - s.start_ns) for s in table.spans if s.end_ns}
    assert len(found) == len(table)
    assert {(name.partition(" [")[0], end - start) for _, _, name, start, end in found} >= ended
    assert "TOOL email_phishing_analyzer [error]" in {name for _, _, name, *_ in found}
    names = [one["name"] for one in document["profiles"]]
    assert sum(" lane " not in name for name in names) == 60
    slowest = max(
        (s for s in table.spans if s.parent_id is None and s.end_ns), key=lambda s: s.end_ns - s.start_ns
    )
    assert names[document["activeProfileIndex"]].endswith(f"({slowest.trace_id})")


def test_calls_side_by_side_have_profiles_of_their_own(tmp_path):
    spans = [
        span("r", 10, 110, kind=SpanKind.WORKFLOW, name="agent", attributes={semconv.EVAL_ITEM_ID: "q7"}),
        span("a", 20, 60, "r", name="a"),
        span("b", 30, 50, "r", name="b", status=Status.ERROR, error=SpanError("E", "m")),
        span("c", 35, 40, "b", name="c"),
        span("d", 70, None, "r", name="d"),
        span("late", 100, 130, "r", name="late"),
    ]
    document = written(profile(spans), tmp_path)
    assert calls(document) == [
        (0, 1, "FUNCTION a", 10, 50),
        (0, 0, "WORKFLOW agent", 0, 100),
        (1, 1, "FUNCTION c", 25, 30),
        (1, 0, "FUNCTION b [error]", 20, 40),
        (1, 0, "FUNCTION d [open]", 60, 120),
        (2, 0, "FUNCTION late", 90, 120),
    ]
    assert [one["name"] for one in document["profiles"]] == [
        "request 0 · q7 (t)",
        "request 0 · q7 (t) lane 2",
        "request 0 · q7 (t) lane 3",
    ]


@settings(max_examples=100, deadline=None)
@given(small_forests())
def test_whatever_the_times_it_nests(tmp_path_factory, spans):
    document = written(profile(spans), tmp_path_factory.getbasetemp())
    found = calls(document)
    assert len(found) == len(spans)
    zero = min(one.start_ns for one in spans)
    ended = sorted((s.start_ns - zero, s.end_ns - zero) for s in spans if s.end_ns is not None)
    told = sorted((start, end) for *_, name, start, end in found if not name.endswith(" [open]"))
    assert told == ended


def test_no_span_is_no_profile(tmp_path):
    assert written(profile([]), tmp_path)["profiles"] == []


def test_thousands_of_calls_side_by_side_are_told_apart_in_time(tmp_path):
    n = 20_000
    spans = [span("r", 0, 3 * n), *(span(f"{i}", i, 2 * n + i, "r") for i in range(n))]
    document = written(profile(spans), tmp_path)
    assert len(document["profiles"]) == n
    assert len(calls(document)) == n + 1
