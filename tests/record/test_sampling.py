"""Which traces are recorded, and what is kept of those that are not sampled."""

import asyncio
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from scipy import stats as statistics

import millstream
from millstream import Sampling, Status, extract, inject, open_store, start_span, track_function
from millstream.context import current
from millstream.errors import ConfigError
from millstream.record import faults
from millstream.sources import RandomIds


@track_function
def outer(fail=False):
    return inner(fail)


@track_function
def inner(fail):
    if fail:
        raise ValueError("failed")
    return 1


def names(home):
    return sorted(span.name for span in open_store(home).spans()) if (home / "journal").exists() else []


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_the_share_of_traces_is_the_rate_and_a_trace_is_whole_or_absent(rate, tmp_path):
    with millstream.recording(home=tmp_path, sampling=rate, ids=RandomIds(seed=7)) as recording:
        for _ in range(2000):
            outer()
        counted = recording.stats()
    seen = names(tmp_path)
    roots = seen.count("outer")
    assert seen.count("inner") == roots
    low, high = statistics.binom.interval(0.9999, 2000, rate)
    assert low <= roots <= high
    assert counted["made"] == counted["stored"] == 2 * roots
    assert counted["dropped"].get("traces that were not sampled", 0) == 2000 - roots


def test_blocks_coroutines_generators_and_frameworks_go_by_the_root(tmp_path):
    @track_function
    async def asynchronous():
        await asyncio.sleep(0)
        return outer()

    @track_function
    def numbers():
        yield outer()
        yield outer()

    def in_threads():
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: outer(), range(4)))
        thread = threading.Thread(target=outer)
        thread.start()
        thread.join()

    with millstream.recording(home=tmp_path, sampling=0.0):
        asyncio.run(asynchronous())
        list(numbers())
        with start_span("block") as span:
            span.set_attribute("a", 1)
            outer()
            in_threads()
            asyncio.run(asynchronous())
        assert current.get() is None
    assert names(tmp_path) == []


def test_rates_by_workflow(tmp_path):
    with millstream.recording(home=tmp_path, sampling=Sampling(rate=0, workflows={"outer": 1})):
        outer()
        inner(fail=False)
    assert names(tmp_path) == ["inner", "outer"]


def test_failed_traces_are_kept_whole(tmp_path):
    with millstream.recording(home=tmp_path, sampling=Sampling(rate=0, keep_errors=True)) as recording:
        outer()
        with pytest.raises(ValueError, match="failed"):
            outer(fail=True)
        with start_span("handled"):
            inner(fail=False)
            with pytest.raises(ValueError, match="failed"):
                inner(fail=True)
            inner(fail=False)
        counted = recording.stats()
    assert names(tmp_path) == ["handled", "inner", "inner", "inner", "inner", "outer"]
    spans = list(open_store(tmp_path).spans())
    ids = {span.span_id for span in spans}
    assert all(span.parent_id is None or span.parent_id in ids for span in spans)
    assert counted["dropped"] == {"traces that were not sampled": 1}
    assert counted["made"] == counted["stored"] == 6


def test_slow_traces_are_kept(tmp_path):
    with millstream.recording(home=tmp_path, sampling=Sampling(rate=0, slower_than_s=0.05)):
        outer()
        with start_span("slow"):
            inner(fail=False)
            threading.Event().wait(0.06)
    assert names(tmp_path) == ["inner", "slow"]


def test_a_late_failure_is_kept_for_its_own_sake(tmp_path):
    with millstream.recording(home=tmp_path, sampling=Sampling(rate=0, keep_errors=True)):
        with start_span("root"):
            late = start_span("late")
            early = start_span("early")
        early.end()
        late.end(ValueError("x"))
    (span,) = open_store(tmp_path).spans()
    assert (span.name, span.status) == ("late", Status.ERROR)


def test_a_held_trace_has_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "counts", type(faults.counts)())
    sampling = Sampling(rate=0, keep_errors=True)
    with (
        millstream.recording(home=tmp_path, sampling=sampling),
        pytest.raises(ValueError, match="end"),
        start_span("root"),
    ):
        for number in range(60):
            with start_span("big", input=f"{number}" + "x" * 99_000):
                pass
        raise ValueError("end")
    seen = names(tmp_path)
    assert seen.count("root") == 1
    assert 1 <= seen.count("big") < 60
    assert sum(faults.counts.values()) == 60 - seen.count("big")


def test_what_is_not_sampled_travels_as_that(tmp_path):
    headers = {}
    with millstream.recording(home=tmp_path, sampling=0.0), start_span("client"):
        inject(headers)
    version, trace_id, span_id, flags = headers["traceparent"].split("-")
    assert (version, flags) == ("00", "00")
    assert trace_id.strip("0")
    assert span_id.strip("0")


@pytest.mark.parametrize(
    ("sampling", "recorded"),
    [
        (None, 1),
        (Sampling(rate=1.0), 0),
        (Sampling(rate=1.0, by_parent=False), 1),
        (Sampling(rate=0.5, by_parent=False), 0),
    ],
    ids=["nothing said", "by parent", "not by parent", "by the id"],
)
def test_a_caller_that_does_not_record(sampling, recorded, tmp_path):
    headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}
    with millstream.recording(home=tmp_path, sampling=sampling), extract(headers):
        outer()
    assert names(tmp_path).count("outer") == recorded


def test_two_processes_decide_alike(tmp_path):
    """A remote trace id is not decided anew; a root's decision follows from its id alone."""
    ids = RandomIds(seed=3)
    sampling = Sampling(rate=0.5)
    with millstream.recording(home=tmp_path, sampling=sampling, ids=ids):
        for _ in range(200):
            outer()
    bound = sampling.bounds()[None]
    traces = {span.trace_id for span in open_store(tmp_path).spans()}
    again = RandomIds(seed=3)
    expected = {trace_id for trace_id in (again.trace_id() for _ in range(200)) if trace_id[16:] < bound}
    assert traces == expected


@pytest.mark.parametrize(
    ("sampler", "argument", "roots"),
    [
        ("always_off", None, 0),
        ("always_on", None, 20),
        ("traceidratio", "0", 0),
        ("parentbased_traceidratio", "1.0", 20),
        ("parentbased_always_off", None, 0),
        ("nonsense", None, 20),
        ("traceidratio", "many", 20),
    ],
)
def test_opentelemetrys_variables(sampler, argument, roots, tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("MILLSTREAM_HOME", str(tmp_path))
    if argument is not None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    code = "import millstream\nf = millstream.track_function(lambda: 1)\nfor _ in range(20): f()"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert len(names(tmp_path)) == roots
    assert ("was not understood" in result.stderr) == (sampler == "nonsense" or argument == "many")


def test_a_parents_word_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{'a' * 32}-{'b' * 16}-00")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    monkeypatch.setenv("MILLSTREAM_HOME", str(tmp_path))
    code = "import millstream\nf = millstream.track_function(lambda: 1)\nf()"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert names(tmp_path) == []


@pytest.mark.parametrize("rate", [-0.1, 1.1, "half", True])
def test_what_is_no_share_is_an_error(rate):
    with pytest.raises(ConfigError, match="share from 0 to 1"):
        millstream.recording(sampling=rate)


def test_no_fault_is_hidden(tmp_path):
    assert faults.strict
    with millstream.recording(home=tmp_path, sampling=0.0), start_span("x") as span:
        span.add_event("e")
        span.end()
        span.end()


def test_what_was_held_before_a_fork_is_kept_by_the_parent_alone(tmp_path):
    code = f"""
        import contextlib, os, millstream
        from millstream import Sampling, start_span

        with millstream.recording(home={str(tmp_path)!r}, sampling=Sampling(rate=0, keep_errors=True)):
            with start_span("root"):
                with start_span("before"):
                    pass
                pid = os.fork()
                with start_span("parent" if pid else "child"):
                    pass
                with contextlib.suppress(KeyError), start_span("fails"):
                    raise KeyError
                if pid == 0:
                    os._exit(0)
                os.waitpid(pid, 0)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    assert names(tmp_path) == ["before", "child", "fails", "fails", "parent", "root"]


async def test_concurrent_tasks_are_recorded_whole_or_not_at_all(tmp_path):
    @track_function
    async def leaf(number):
        await asyncio.sleep(0)
        return number

    @track_function
    async def middle(number):
        await asyncio.gather(leaf(number), leaf(number))
        async for _ in pieces(number):
            await leaf(number)

    @track_function
    async def pieces(number):
        yield await leaf(number)
        yield await leaf(number)

    @track_function
    async def root(number):
        await asyncio.gather(middle(number), middle(number))
        await leaf(number)

    with millstream.recording(home=tmp_path, sampling=0.5):
        await asyncio.gather(*(root(number) for number in range(60)))
        assert current.get() is None
    of_trace = {}
    for span in open_store(tmp_path).spans():
        of_trace.setdefault(span.trace_id, []).append(span.name)
    assert 10 < len(of_trace) < 50
    whole = sorted(["root", *["middle"] * 2, *["pieces"] * 2, *["leaf"] * 13])
    assert all(sorted(names) == whole for names in of_trace.values())
