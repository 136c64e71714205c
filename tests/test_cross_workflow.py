"""Chains of workflows over processes: HTTP, subprocess, queue; contexts as dicts and in headers."""

import asyncio
import multiprocessing
import signal
import subprocess
import sys
from urllib.parse import quote_plus, unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream import (
    CrossWorkflowProcessor,
    ObservabilityContext,
    ObservabilityWorkflowInvoker,
    Sampling,
    SpanKind,
    Status,
    WorkflowRelationshipProcessor,
    extract,
    inject,
    inject_environment,
    recording,
    start_span,
    track_function,
)
from millstream.chain import Chain, WorkflowMetadata
from millstream.context import current
from millstream.errors import InputError, WorkflowError
from millstream.record.recorder import get
from tests.workflows_elsewhere import work, workflow

invoke = ObservabilityWorkflowInvoker.invoke_workflow_with_context
running = ObservabilityWorkflowInvoker.get_current_observability_context
PROGRAM = [sys.executable, "-m", "tests.workflows_elsewhere"]


@pytest.fixture
def told(spans):
    """What has been recorded by all processes, after both processors."""

    def read():
        processors = [CrossWorkflowProcessor(), WorkflowRelationshipProcessor()]
        recorded = spans()
        ids = {span.span_id for span in recorded}
        for span in recorded:
            assert span.parent_id is None or span.parent_id in ids, f"{span.name} has no parent"
            for processor in processors:
                processor(span)
        return recorded

    return read


def paths(spans):
    return {
        (span.name, span.attributes.get("relationship.hierarchy_path"), span.kind is SpanKind.WORKFLOW)
        for span in spans
    }


@pytest.fixture
def server():
    with subprocess.Popen([*PROGRAM, "serve"], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/workflow"
        finally:
            process.terminate()


async def test_over_http(told, server):
    root = ObservabilityContext.create_root_context("main")
    root.add_attribute("customer", "acme")
    assert await invoke(server, "in", "remote", root) == "in!"
    with pytest.raises(WorkflowError, match=r"answered 500: .*out of order"):
        await invoke(server, "fail", "remote", root)
    del root
    recorded = told()
    path = "main -> remote -> served"
    assert paths(recorded) == {
        ("main", "main", True),
        ("remote", "main -> remote", True),
        ("served", path, True),
        ("model", path, False),
        ("step", path, False),
    }
    assert len({span.trace_id for span in recorded}) == 1
    by_name = {span.name: span for span in recorded}
    assert by_name["step"].attributes["observability.root_span_id"] == by_name["main"].span_id
    assert by_name["step"].attributes["observability.workflow_start_time"] == by_name["served"].start_ns / 1e9
    assert by_name["remote"].attributes["observability.custom.customer"] == "acme"
    assert "observability.custom.customer" not in by_name["served"].attributes  # headers go to anybody


async def test_into_a_subprocess(told):
    async def parent(message):
        env = inject_environment()
        await asyncio.to_thread(subprocess.run, [*PROGRAM, "child"], env=env, check=True)

    await invoke(parent, 1, "parent")
    assert paths(told()) == {
        ("parent", "parent", True),
        ("child process", "parent -> child process", True),
        ("model", "parent -> child process", False),
        ("step", "parent -> child process", False),
    }


async def test_through_a_queue(told):
    spawning = multiprocessing.get_context("spawn")
    queue, results = spawning.Queue(), spawning.Queue()
    worker = spawning.Process(target=work, args=(queue, results))
    worker.start()
    root = ObservabilityContext.create_root_context("producer")
    root.add_attribute("tags", ["a", {"b": 1}])
    queue.put(root.to_dict())
    with root:
        headers = {}
        inject(headers)
        queue.put(headers)
    for _ in range(2):
        answer, process = await asyncio.to_thread(results.get, timeout=60)
        assert (answer, process) == ("queued!", worker.pid)
    queue.put(None)
    worker.join(60)
    recorded = told()
    assert {name for name, _, is_workflow in paths(recorded) if is_workflow} == {
        "producer",
        "by dict",
        "by headers",
    }
    for span in recorded:
        if span.name in ("by dict", "by headers"):
            assert span.parent_id == root.current_span_id
            assert span.attributes["relationship.hierarchy_path"] == f"producer -> {span.name}"
    by_name = {span.name: span for span in recorded}
    assert by_name["by dict"].attributes["observability.custom.tags"] == ["a", {"b": 1}]


def test_a_workflow_whose_process_was_killed_failed(told):
    with subprocess.Popen([*PROGRAM, "die"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "inside\n"
        process.send_signal(signal.SIGKILL)
    recorded = told()
    assert paths(recorded) == {
        ("outer", "outer", True),
        ("inner", "outer -> inner", True),
        ("model", "outer -> inner", False),
    }
    assert {span.status for span in recorded} == {Status.INTERRUPTED}
    assert [span.attributes["observability.workflow_status"] for span in recorded] == [
        "failed",
        "failed",
        "running",
    ]
    assert "observability.workflow_duration" not in recorded[0].attributes


def test_a_root_in_use_is_written_at_exit(told):
    subprocess.run([*PROGRAM, "leave"], check=True)
    root, one, *_ = told()
    assert (root.name, root.status, root.end_ns) == ("kept", Status.OK, one.end_ns)


def test_spans_outside_of_workflows_are_as_ever(told):
    @track_function
    def plain():
        span = current.get()
        assert span.workflow is None
        assert span.attributes is None
        lane = get().lane
        return lane is None or lane.open("x", SpanKind.FUNCTION, '"name":"x","start_ns":', None, None)

    assert plain() is not None
    for span in told():
        assert span.attributes == {}


async def test_the_compiled_lane_leaves_workflows_to_python(told):
    lane = get().lane
    if lane is None:
        pytest.skip("built without a compiler")

    async def inside(_):
        return lane.open("x", SpanKind.FUNCTION, '"name":"x","start_ns":', None, None)

    assert await invoke(inside, 1, "workflow") is None


def test_a_workflow_run_without_a_context_is_its_own_root():
    with start_span("flow", kind=SpanKind.WORKFLOW) as live, start_span("inside") as inside:
        pass
    for processor in (CrossWorkflowProcessor(), WorkflowRelationshipProcessor()):
        span = processor(live.snapshot(live.start_ns + 5, Status.OK))
        assert processor(inside.snapshot()).attributes == {}
        assert span.attributes.get("observability.workflow_status", "completed") == "completed"
        assert span.attributes.get("relationship.hierarchy_path", "flow") == "flow"


async def test_processors_before_anything_is_written(home, spans):
    processors = [CrossWorkflowProcessor(), WorkflowRelationshipProcessor()]
    with recording(home=home, processors=processors):
        root = ObservabilityContext.create_root_context("main")
        await invoke(workflow, 1, "one", root)
        del root
    told = {span.name: span.attributes for span in spans()}
    assert told["one"]["observability.workflow_status"] == "completed"
    assert told["main"]["observability.workflow_duration"] >= told["one"]["observability.workflow_duration"]
    assert told["step"]["relationship.hierarchy_path"] == "main -> one"


async def test_secrets_among_custom_attributes_are_not_recorded(home, told):
    root = ObservabilityContext.create_root_context("main")
    root.add_attribute("api_key", "sk-" + "a" * 40)
    await invoke(workflow, 1, "one", root)
    del root
    assert {span.attributes["observability.custom.api_key"] for span in told()} == {"[redacted]"}
    for path in (home / "journal").iterdir():
        assert b"sk-aaaa" not in path.read_bytes()


def test_ids_that_a_user_gives():
    root = ObservabilityContext.create_root_context(
        trace_id="0AF76519-16cd-43dd-8448-eb211c80319c", root_span_id="b7ad6b7169203331"
    )
    assert (root.trace_id, root.current_span_id) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert root.get_current_workflow().workflow_name == "root"
    child = root.create_child_context("sub", workflow_id="c" * 16)
    place = child.create_span_context("d" * 16)
    assert (child.current_span_id, place.current_span_id) == ("c" * 16, "d" * 16)
    assert place.workflow_chain == child.workflow_chain
    for wrong in ("", "0" * 32, "x" * 32, "1234"):
        with pytest.raises(InputError, match=r"trace_id .* cannot be one"):
            ObservabilityContext.create_root_context("main", trace_id=wrong)
        with pytest.raises(InputError, match=r"span_id .* cannot be one"):
            root.create_span_context(wrong)


@pytest.mark.parametrize("name", ["", "  ", None, 5, b"main", ["main"]])
async def test_a_name_that_is_none_is_refused(name):
    root = ObservabilityContext.create_root_context("main")
    said = "workflow_name is empty" if isinstance(name, str) else "workflow_name must be a text, not"
    with pytest.raises(InputError, match=said):
        ObservabilityContext.create_root_context(name)
    with pytest.raises(InputError, match=said):
        root.create_child_context(name)
    for parent in (None, root):
        with pytest.raises(InputError, match=said):
            await invoke(str.upper, "message", workflow_name=name, parent_context=parent)


async def test_a_place_in_a_workflow(told):
    async def outer(_):
        with start_span("block") as block:
            pass
        place = running().create_span_context(block.span_id)
        await invoke(workflow, 1, "inner", place)
        return block.span_id

    block_id = await invoke(outer, 1, "outer")
    inner = next(span for span in told() if span.name == "inner")
    assert inner.parent_id == block_id
    assert inner.attributes["relationship.hierarchy_path"] == "outer -> inner"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version 2 is not known; this release reads 1"),
        ({"trace_id": "7"}, r"matching regex .*`\$.trace_id`"),
        ({"trace_id": None}, r"\$.trace_id"),
        ({"current_span_id": "0" * 16}, r"\$.current_span_id"),
        ({"workflow_chain": []}, r"length >= 1"),
        ({"workflow_chain": [{"workflow_name": "a"}]}, "missing required field `workflow_id`"),
        ({"root_span_id": "a" * 16}, "root_span_id is not the first"),
        ({"custom_attribute": {}}, "unknown field `custom_attribute`"),
        ({"custom_attributes": [1]}, r"\$.custom_attributes"),
    ],
)
def test_a_wrong_dict_is_refused_with_what_is_wrong(change, said):
    value = ObservabilityContext.create_root_context("main").to_dict()
    with pytest.raises(InputError, match=said):
        ObservabilityContext.from_dict({**value, **change})


def test_what_is_no_dict_is_refused():
    with pytest.raises(InputError, match="the dict of to_dict"):
        ObservabilityContext.from_dict("text")
    chain = ObservabilityContext.create_root_context("main").to_dict()
    chain["workflow_chain"][0]["status"] = "done"
    with pytest.raises(InputError, match="status"):
        ObservabilityContext.from_dict(chain)


def test_contexts_share_nothing():
    root = ObservabilityContext.create_root_context("main")
    root.add_attribute("a", 1)
    child = root.create_child_context("sub")
    value = child.to_dict()
    value["custom_attributes"]["a"] = 2
    value["workflow_chain"].clear()
    child.add_attribute("b", object())
    assert root.custom_attributes == {"a": 1}
    assert child.get_workflow_depth() == 1
    assert isinstance(child.to_dict()["custom_attributes"]["b"], str)
    copy = ObservabilityContext.from_dict(child.to_dict())
    assert copy.get_workflow_depth() == 1
    assert "main -> sub" in repr(copy)


NAMES = st.lists(st.text(), min_size=1, max_size=4)


@given(NAMES, st.floats(0, 4e9))
def test_any_names_travel_in_a_baggage(names, start_time):
    ids = [f"{number:016x}" for number in range(1, len(names) + 1)]
    workflows = [WorkflowMetadata(name, id_) for name, id_ in zip(names, ids, strict=True)]
    workflows[-1] = WorkflowMetadata(names[-1], ids[-1], start_time=start_time)
    span = {"traceparent": f"00-{'a' * 32}-{ids[-1]}-01"}
    encodable = [name.encode(errors="replace").decode() for name in names]
    workflows = [
        WorkflowMetadata(name, each.workflow_id, start_time=each.start_time)
        for name, each in zip(encodable, workflows, strict=True)
    ]
    member = Chain(tuple(workflows)).member("a" * 32)
    key, _, value = member.partition("=")
    by_others = f"{key}={quote_plus(unquote_plus(value))}"  # as OpenTelemetry passes it on
    for baggage in (f"a=b, {member}", f"{by_others},c=d"):
        with extract({**span, "baggage": baggage}) as remote:
            assert [each.workflow_name for each in remote.workflow.workflows] == encodable
            assert [each.workflow_id for each in remote.workflow.workflows] == ids
            assert remote.workflow.innermost.start_time == pytest.approx(start_time, abs=1e-6)
            onward = {}
            inject(onward)
            assert onward["baggage"].count("millstream.workflow") == 1
    with extract({**span, "traceparent": f"00-{'b' * 32}-{ids[-1]}-01", "baggage": member}) as other:
        assert other.workflow is None


def test_a_chain_that_is_too_long_for_headers_is_said_once_and_the_trace_goes_on(caplog):
    context = ObservabilityContext.create_root_context("main")
    for number in range(100):
        context = context.create_child_context(f"a workflow with a long name, the one of number {number}")
    with context:
        headers: dict[str, str] = {}
        inject(headers)
        inject(headers)
    assert headers.keys() == {"traceparent"}
    assert ["too long for a header" in each.message for each in caplog.records] == [True]
    assert ObservabilityContext.from_dict(context.to_dict()).get_workflow_depth() == 100


@given(st.text())
def test_no_baggage_raises(text):
    with extract({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "baggage": f"millstream.workflow={text}"}):
        start_span("x")


async def test_a_caller_that_does_not_record_is_followed_where_sampling_says_so(home):
    context = ObservabilityContext.create_root_context("main")
    value = {**context.to_dict(), "sampled": False}
    with recording(home=home, sampling=Sampling(rate=1.0)) as block:
        before = block.stats()["made"]
        await invoke(workflow, 1, "one", ObservabilityContext.from_dict(value))
        assert block.stats()["made"] == before


async def test_the_environment_tells_of_workflows(monkeypatch, home):
    chain = Chain((WorkflowMetadata("far", "b" * 16, start_time=5.0),))
    monkeypatch.setenv("TRACEPARENT", f"00-{'a' * 32}-{'b' * 16}-01")
    monkeypatch.setenv("BAGGAGE", f"x=y,{chain.member('a' * 32)}")
    with recording(home=home):
        assert running().current_span_id == "b" * 16
        await invoke(workflow, 1, "near")
        assert [each.workflow_name for each in running().workflow_chain] == ["far", "near"]
