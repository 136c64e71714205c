"""What is out of our hands: no disk to write to, no stack to run on, interrupts, a second millstream."""

import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path

import pytest

import millstream
from millstream import Status, start_span, track_function
from millstream.record import faults

PACKAGE = Path(millstream.__file__).parent


def run(code: str, *args: object, options: tuple[str, ...] = ("-W", "error"), **env: str):
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **env},
    )


def read(home) -> list[millstream.Span]:
    """What was recorded, in order of start; all values are there."""
    store = millstream.open_store(home)
    spans = sorted(store.spans(), key=lambda span: (span.start_ns, span.span_id))
    assert not store.rejected
    assert len({span.span_id for span in spans}) == len(spans)
    return spans


@pytest.fixture
def mount(tmp_path):
    """Mounts something on a folder, for as long as the test lasts."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "mounted"
    folder.mkdir()
    mounted = []

    def mount(*arguments: str) -> Path:
        done = subprocess.run(["mount", *arguments, str(folder)], check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


# The disk


def test_a_read_only_home(mount, tmp_path):
    """The program goes on, the loss is counted and said once; when the disk can be written, so are spans."""
    folder = mount("-t", "tmpfs", "tmpfs")
    code = """
        import subprocess, sys, millstream
        from millstream import start_span

        home = sys.argv[1]

        def remount(how):
            subprocess.run(["mount", "-o", f"remount,{how}", home], check=True)

        def record(name):
            for number in range(10):
                with start_span(name, input={"large": "x" * 2000, "number": number}):
                    pass

        with millstream.recording(home=home) as recording:
            remount("ro")
            record("never")
            print(recording.stats()["made"], recording.stats()["stored"], recording.stats()["dropped"])
            remount("rw")
            record("later")
            print(recording.stats()["made"], recording.stats()["stored"])
    """
    done = run(code, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "10 0 {'there was no room for large inputs and outputs': 10, 'journal cannot be written': 10}",
        "20 10",
    ]
    assert re.fullmatch(r"millstream: the journal in .* Read-only file system.*\n", done.stderr)
    assert [(span.name, span.input) for span in read(folder)] == [
        ("later", {"large": "x" * 2000, "number": number}) for number in range(10)
    ]


def test_a_disk_that_is_full_in_the_middle_of_large_values(mount):
    """A value that could not be written is not referred to, then or later."""
    folder = mount("-t", "tmpfs", "-o", "size=800k", "tmpfs")
    code = """
        import os, sys, millstream
        from millstream import start_span

        home = sys.argv[1]
        with open(home + "/filler", "wb") as file:
            file.write(bytes(500_000))
        texts = [chr(97 + number) * 30_000 for number in range(20)]
        messages = [{"role": "user", "content": text} for text in texts]

        def record(name):
            for number, text in enumerate(texts):
                content = {"text": text, "messages": messages[: number // 5], "n": number}
                with start_span(name, input=content) as span:
                    span.set_output(text)

        with millstream.recording(home=home) as recording:
            record("first")
            record("again")
            full = recording.stats()
            os.unlink(home + "/filler")
            record("later")
            print(full["made"], full["stored"], sum(full["dropped"].values()))
    """
    done = run(code, folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("No space left on device") == done.stderr.count("\n") == 1
    made, stored, dropped = map(int, done.stdout.split())
    spans = read(folder)
    early = [span for span in spans if span.name != "later" and span.status is Status.OK]
    assert (made, len(early)) == (40, stored)
    incomplete = [span for span in early if span.attributes.get("millstream.incomplete")]
    assert len(incomplete) + made - stored == dropped > 10
    for span in early:
        assert (span in incomplete) == ("text" not in span.input or "messages" not in span.input)
        assert span.input["n"] in range(20)
    later = [span for span in spans if span.name == "later"]
    assert [span.input["n"] for span in later] == list(range(20))
    for span in later:
        assert span.output == span.input["text"] == chr(97 + span.input["n"]) * 30_000
        assert len(span.input["messages"]) == span.input["n"] // 5
        assert span.attributes == {}


@pytest.mark.parametrize("threads", [1, 4])
def test_a_limit_on_the_size_of_files_met_by_large_values(tmp_path, threads):
    code = """
        import resource, signal, sys, threading, millstream

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

        @millstream.track_function
        def f(thread, number, text):
            return number

        def work(thread):
            for number in range(200):
                f(thread, number, f"{thread} {number} " * 400)

        with millstream.recording(home=sys.argv[1]) as recording:
            threads = [threading.Thread(target=work, args=(thread,)) for thread in range(int(sys.argv[2]))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            print(recording.stats()["made"], recording.stats()["stored"])
    """
    done = run(code, tmp_path, threads)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    made, stored = map(int, done.stdout.split())
    ended = [span for span in read(tmp_path) if span.status is Status.OK]
    assert (made, stored) == (200 * threads, len(ended))
    for span in ended:
        whole = f"{span.input['thread']} {span.input['number']} " * 400
        assert span.input.get("text", whole) == whole
        assert ("text" in span.input) != ("millstream.incomplete" in span.attributes)


def test_a_forked_child_counts_its_own_faults(tmp_path):
    (tmp_path / "file").write_text("")
    code = """
        import os, sys, millstream
        from millstream.record import faults

        def record():
            with millstream.start_span("s", input="x" * 2000) as span:
                span.set_usage("nonsense")

        with millstream.recording(home=sys.argv[1] + "/file/home") as recording:
            record()
            record()
            if (pid := os.fork()) == 0:
                record()
            else:
                os.waitpid(pid, 0)
            print(recording.stats()["made"], sum(recording.stats()["dropped"].values()), flush=True)
    """
    done = run(code, tmp_path)
    assert done.stdout.splitlines() == ["1 3", "2 6"]


# The stack


@pytest.mark.parametrize("depth", range(8))
def test_recursion_without_end(tmp_path, depth):
    """Every call is recorded, to the last one, wherever the stack ends."""
    calls = Counter()

    def further_down(function, number):
        return function() if number == 0 else further_down(function, number - 1)

    @track_function
    def fails(number):
        calls["fails"] += 1
        return fails(number + 1)

    @track_function
    def stops(number):
        calls["stops"] += 1
        try:
            return stops(number + 1)
        except RecursionError:
            return number

    def both():
        with contextlib.suppress(RecursionError):
            fails(0)
        stops(0)
        with contextlib.suppress(ValueError), start_span("last"):
            raise ValueError

    with millstream.recording(home=tmp_path):
        further_down(both, depth)
    spans = Counter((span.name, span.status) for span in read(tmp_path))
    assert spans == {
        ("fails", Status.ERROR): calls["fails"],
        ("stops", Status.OK): calls["stops"],
        ("last", Status.ERROR): 1,
    }


def test_recursion_that_ends_with_the_process(home):
    code = """
        import millstream

        @millstream.track_function
        def f():
            try:
                f()
            except RecursionError:
                pass

        f()
    """
    assert run(code).returncode == 0
    assert {span.status for span in read(home)} == {Status.OK}


# Interrupts


def test_interrupts_at_any_moment(tmp_path):
    """A handler that raises in the middle of anything of ours neither stops recording nor tears a line."""
    code = """
        import random, signal, sys, millstream

        class Interrupt(BaseException):
            pass

        def handler(*_):
            raise Interrupt

        @millstream.track_function
        def f(number, text):
            return number

        interrupts = fine = 0
        with millstream.recording(home=sys.argv[1], segment_bytes=100_000) as recording:
            signal.signal(signal.SIGALRM, handler)
            while interrupts < 1500:
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.002))
                    while True:
                        f(fine, "x" * random.randrange(3000))
                        fine += 1
                except Interrupt:
                    interrupts += 1
            for number in range(100):
                f(-1, "")
        print(fine)
    """
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    store = millstream.open_store(tmp_path)
    spans = list(store.spans())
    assert len({span.span_id for span in spans}) == len(spans)
    assert sum(span.input == {"number": -1, "text": ""} for span in spans if span.status is Status.OK) == 100
    assert sum(span.status is Status.OK for span in spans) - 100 >= int(done.stdout)
    assert not [reason for reason in store.rejected if "large" in reason]


# Arguments


class Liar:
    """Says of itself what is not so, or nothing."""

    def __init__(self, **lies):
        self.__dict__.update(lies)

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __len__(self):
        return -1  # noqa: PLE0303  # a lie

    def __iter__(self):
        while True:
            yield self

    def __bool__(self):
        raise ZeroDivisionError

    def __eq__(self, other):
        raise MemoryError

    __hash__ = None

    @property
    def __class__(self):
        return dict

    def __repr__(self):
        return 5


class Endless(dict):
    def items(self):
        number = 0
        while True:
            yield number, number
            number += 1


class Deep(list):
    def __iter__(self):
        return iter([Deep()])


@pytest.mark.parametrize(
    "value",
    [
        Liar(),
        Liar(dtype=1, tolist=2, model_dump=3),
        Endless(a=1),
        Deep([1]),
        math.nan,
        [math.inf, -math.inf, {"x": math.nan}],
        "\ud800",
        {"\udfff": ["\ud83d"]},
        10**400,
        [1] * 7_000_000,
        "é" * 25_000_000,
        b"\xff" * 50_000_000,
        {str(number): "x" * 1000 for number in range(50_000)},
        threading.Lock(),
        sys._getframe(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arguments_of_any_kind(spans, value):
    @track_function
    def f(value, more=1):
        return value

    assert f(value) is value
    (span,) = spans()
    assert span.status is Status.OK
    assert set(span.input) >= {"value", "more"} or isinstance(span.input, str)
    assert "millstream.incomplete" not in span.attributes


def test_generators_that_are_never_closed(spans):
    @track_function
    def stream():
        yield 1
        yield 2

    kept = [stream() for _ in range(100)]
    for made in kept[::2]:
        next(made)
    assert {span.status for span in spans()} == {None}
    kept[0].gi = kept  # a cycle, which only a collection finds
    del kept, made
    import gc

    gc.collect()
    assert Counter(span.status for span in spans()) == {Status.OK: 100}


# Two of us


def vendored(folder: Path) -> Path:
    """A copy of the package under another name, as another package would carry it."""
    copy = folder / "carried"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.rglob("*.py"):
        path.write_text(re.sub(r"\bmillstream(?=[.\s\"'])", "carried", path.read_text()))
    return folder


TWO = """
    import asyncio, os, sys, threading
    from concurrent.futures import ThreadPoolExecutor
    from multiprocessing.pool import ThreadPool

    sys.path.insert(0, sys.argv[1])
    {imports}

    def record(us, home):
        @us.track_function
        def leaf(where):
            return where
        return leaf

    with ours.recording(home=sys.argv[2]), theirs.recording(home=sys.argv[3]):
        leaves = [record(ours, 2), record(theirs, 3)]

        def both(where):
            for leaf in leaves:
                leaf(where)

        with ours.start_span("outer", input="x" * 2000), theirs.start_span("outer", input="x" * 2000):
            thread = threading.Thread(target=both, args=("thread",))
            thread.start()
            thread.join()
            with ThreadPoolExecutor(1) as pool:
                pool.submit(both, "executor").result()
            with ThreadPool(1) as pool:
                pool.apply(both, ("pool",))
            asyncio.run(asyncio.to_thread(both, "to_thread"))
            if (pid := os.fork()) == 0:
                both("child")
                os._exit(0)
            os.waitpid(pid, 0)
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import millstream as ours, carried as theirs",
        "import carried as theirs, millstream as ours",
        """import millstream as ours
    with ours.start_span("before"):
        pass
    for name in [name for name in sys.modules if name.partition(".")[0] == "millstream"]:
        del sys.modules[name]
    import millstream as theirs""",
    ],
    ids=["carried second", "carried first", "imported again"],
)
def test_two_of_us_in_one_process(tmp_path, imports):
    done = run(TWO.replace("{imports}", imports), vendored(tmp_path), tmp_path / "a", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    for home in (tmp_path / "a", tmp_path / "b"):
        spans = read(home)
        (outer,) = [span for span in spans if span.name == "outer"]
        assert Counter(span.output for span in spans if span.name == "leaf") == Counter(
            ["thread", "executor", "pool", "to_thread", "child"]
        )
        assert {span.parent_id for span in spans if span.name == "leaf"} == {outer.span_id}
        assert outer.input == "x" * 2000


def test_uninstrument_of_one_leaves_the_other(tmp_path):
    pytest.importorskip("langchain_core")
    code = """
        import sys

        sys.path.insert(0, sys.argv[1])
        import carried, millstream
        from carried.record.integrations import langchain as theirs
        from langchain_core.tools import tool

        @tool
        def double(number: int) -> int:
            "Twice the number."
            return 2 * number

        carried.recording(home=sys.argv[3])
        millstream.recording(home=sys.argv[2])
        millstream.instrument("langchain")
        theirs.install()
        millstream.instrument("langchain")
        double.invoke({"number": 1})
        millstream.uninstrument("langchain")
        double.invoke({"number": 2})
        millstream.instrument("langchain")
        theirs.uninstall()
        double.invoke({"number": 3})
        millstream.uninstrument("langchain")
        double.invoke({"number": 4})
    """
    done = run(code, vendored(tmp_path), tmp_path / "a", tmp_path / "b", options=())
    assert done.returncode == 0, done.stderr
    assert [span.input["number"] for span in read(tmp_path / "a") if span.kind == "TOOL"] == [1, 3]
    assert [span.input["number"] for span in read(tmp_path / "b") if span.kind == "TOOL"] == [1, 2]


# Python's own checks


@pytest.mark.parametrize("setting", ["gc.set_threshold(1)", "sys.setswitchinterval(1e-6)"])
def test_threads_subscribers_and_processors_under_pressure(tmp_path, setting):
    """Processors that raise, drop and rename, and a subscriber, while many threads record."""
    code = f"""
        import collections, gc, json, sys, threading, millstream
        from millstream import start_span, track_function

        {setting}
        heard = collections.Counter()

        def process(span):
            if span.name == "raises":
                raise ValueError
            if span.name == "drops":
                return None
            if span.name == "renames":
                span.name, span.workload_id, span.attributes["was"] = "renamed", "scope", "renames"
            return span

        @track_function
        def leaf(thread, number, text):
            return [number]

        @track_function
        def stream(number):
            for item in range(3):
                yield leaf(-1, item, "")

        def work(thread):
            for number in range(60):
                for name in ("raises", "drops", "renames"):
                    with start_span(name, input="secret"):
                        leaf(thread, number, name * 300)
                for item in stream(number):
                    break

        def listen(step):
            lock.acquire()
            heard[step.event_state] += 1
            lock.release()

        lock = threading.Lock()
        with millstream.recording(home=sys.argv[1], processors=[process], segment_bytes=300_000) as recording:
            with millstream.subscribe(listen):
                threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            stats = recording.stats()
        print(json.dumps(dict(stats, heard=heard)))
    """
    done = run(code, tmp_path, options=("-X", "dev", "-W", "error"))
    assert done.returncode == 0, done.stderr
    spans = read(tmp_path)
    assert Counter(span.name for span in spans) == {
        "raises": 480,
        "renamed": 480,
        "leaf": 4 * 480,
        "stream": 480,
    }
    assert {span.status for span in spans} == {Status.OK}
    by_id = {span.span_id: span for span in spans}
    for span in spans:
        if span.name == "raises":
            assert "secret" not in str(span)
        if span.name == "leaf" and span.input["thread"] >= 0:
            name = {"raises": "raises", "renames": "renamed", "drops": None}[
                span.input["text"][: len(span.input["text"]) // 300]
            ]
            assert (by_id[span.parent_id].name if span.parent_id in by_id else None) == name
    counts = json.loads(done.stdout)
    assert counts["made"] == len(spans) + 480
    assert counts["stored"] == len(spans)
    assert sorted(counts["dropped"].values()) == [480, 480]  # dropped, and recorded without content
    assert counts["heard"] == {"START": 3840, "END": 3840, "CHUNK": 480}
    assert done.stderr.count("\n") == 1  # the processor that raised


def test_faults_are_said_once_by_many_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "strict", False)
    monkeypatch.setattr(faults, "counts", type(faults.counts)())

    def work():
        for _ in range(200):
            with start_span("s") as span:
                span.set_usage("nonsense")

    with millstream.recording(home=tmp_path):
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults.counts.total() == 800
    assert len(read(tmp_path)) == 800
