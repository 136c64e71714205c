"""Celery: a real worker, in a process of its own and in a thread, over a broker of files."""

import os
import signal
import subprocess
import sys
import time

import pytest
from celery import signals
from celery.contrib.testing.worker import start_worker
from celery.signals import before_task_publish

import millstream
from millstream import SpanKind, Status, inject, semconv, start_span

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:celery")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """The module of the application."""
    os.environ["CELERY_FOLDER"] = str(tmp_path_factory.mktemp("celery"))
    from tests.integrations import celery_app

    yield celery_app
    celery_app.app.close()
    millstream.uninstrument()


@pytest.fixture
def worker(tasks):
    """In a thread of this process."""
    millstream.instrument("celery")
    with start_worker(tasks.app, perform_ping_check=False, pool="solo"):
        yield tasks
    millstream.uninstrument()


def wait_for(spans, count, name=None):
    """The spans, when so many have ended."""
    for _ in range(500):
        ended = [span for span in spans() if span.end_ns is not None and (name is None or span.name == name)]
        if len(ended) >= count:
            return {span.name: span for span in spans()}
        time.sleep(0.02)
    raise AssertionError([span.name for span in spans()])


def test_a_task_continues_the_trace_of_its_sender(worker, spans):
    with start_span("sender"):
        assert worker.add.delay(1, b=2).get(timeout=20) == 3
    by_name = wait_for(spans, 3)
    task = by_name["tests.integrations.celery_app.add"]
    assert task.parent_id == by_name["sender"].span_id
    assert by_name["inside"].parent_id == task.span_id
    assert (task.kind, task.status) == (SpanKind.TASK, Status.OK)
    assert (task.input, task.output) == ({"args": [1], "kwargs": {"b": 2}}, 3)
    assert task.attributes["celery.state"] == "SUCCESS"
    assert task.attributes[semconv.FRAMEWORK] == "celery"


def test_a_task_that_a_task_sends(worker, spans):
    with start_span("sender"):
        worker.forward.delay(1).get(timeout=20)
    by_name = wait_for(spans, 4)
    forward, add = (by_name[f"tests.integrations.celery_app.{name}"] for name in ("forward", "add"))
    assert (forward.parent_id, add.parent_id) == (by_name["sender"].span_id, forward.span_id)


def test_a_task_that_fails(worker, spans):
    with pytest.raises(ValueError, match="not today"):
        worker.fail.delay().get(timeout=20)
    task = wait_for(spans, 1)["tests.integrations.celery_app.fail"]
    assert (task.status, task.error.type, task.error.message) == (Status.ERROR, "ValueError", "not today")
    assert task.parent_id is None


def test_each_try_is_a_span(worker, spans):
    with start_span("sender"):
        assert worker.flaky.delay().get(timeout=20) == "done"
    wait_for(spans, 3)
    first, second = [span for span in spans() if span.kind is SpanKind.TASK]
    assert (first.status, first.attributes["celery.state"]) == (Status.ERROR, "RETRY")
    assert (second.status, second.parent_id) == (Status.OK, first.span_id)


def test_a_task_that_is_called_here_is_in_the_current_span(tasks, spans):
    millstream.instrument("celery")
    with start_span("caller") as caller:
        tasks.add.apply((1, 2))
    assert next(span for span in spans() if span.kind is SpanKind.TASK).parent_id == caller.span_id


def test_by_hand(worker, spans):
    """As the documentation says, without the integration."""
    millstream.uninstrument()

    @before_task_publish.connect(weak=False)
    def send_trace(headers=None, **_more):
        inject(headers)

    with start_span("sender") as sender:
        worker.by_hand.delay().get(timeout=20)
    before_task_publish.disconnect(send_trace)
    with start_span("other") as other:
        headers: dict[str, str] = {}
        inject(headers)
        worker.by_hand.apply_async(headers=headers).get(timeout=20)
    wait_for(spans, 2, "by hand")
    parents = [span.parent_id for span in spans() if span.name == "by hand"]
    assert parents == [sender.span_id, other.span_id]


def test_uninstrumented_it_records_nothing(tasks, spans):
    millstream.instrument("celery")
    millstream.uninstrument("celery")
    every = (signals.before_task_publish, signals.task_prerun, signals.task_postrun)
    assert not any("millstream" in str(receiver) for one in every for receiver in one.receivers)
    with start_span("only"):
        tasks.add.apply((1, 2))
    assert [span.name for span in spans()] == ["only", "inside"]


def test_a_worker_with_processes_of_its_own(tasks, spans):
    millstream.instrument("celery")
    command = [sys.executable, "-m", "celery", "-A", "tests.integrations.celery_app", "worker"]
    worker = subprocess.Popen([*command, "--concurrency=2", "--loglevel=ERROR", "--pool=prefork"])
    try:
        with start_span("sender"):
            results = [tasks.add.delay(number, 1) for number in range(6)]
            assert [result.get(timeout=60) for result in results] == [1, 2, 3, 4, 5, 6]
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=30)
    recorded = spans()
    (sender,) = [span for span in recorded if span.name == "sender"]
    runs = [span for span in recorded if span.kind is SpanKind.TASK]
    assert len(runs) == 6
    assert {span.parent_id for span in runs} == {sender.span_id}
    assert {span.trace_id for span in recorded} == {sender.trace_id}
    assert sorted(span.output for span in runs) == [1, 2, 3, 4, 5, 6]
