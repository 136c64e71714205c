"""The process that is measured: one SDK, one task; what it finds is written to a file.

python -m benchmarks.recording.worker '{"subject": "plain call", "task": "cost", "sink": "http://127.0.0.1:1",
    "folder": "/tmp/x", "arguments": {"calls": 400, "bursts": 8}}'
"""

import asyncio
import gc
import json
import mmap
import os
import resource
import statistics
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from benchmarks.recording import fence
from benchmarks.recording.adapters import Adapter, Scene
from benchmarks.recording.subjects import SUBJECTS

Burst = Callable[[int], Awaitable[None]]
"""Makes so many calls."""

RESULT: Final = "result.json"
COUNTER: Final = "made"
NESTED: Final = 3


def work(a: int, b: int) -> dict[str, object]:
    return {"a": a, "sum": a + b, "ok": True}


async def work_async(a: int, b: int) -> dict[str, object]:
    return {"a": a, "sum": a + b, "ok": True}


def bursts(trace: Callable[[Any], Any]) -> dict[str, tuple[Burst, int]]:
    """By form of a call: what makes a number of them, and how many spans one is."""
    single, alone, innermost = trace(work), trace(work_async), trace(work)

    @trace
    def middle(a: int, b: int) -> Any:
        return innermost(a, b)

    @trace
    def outer(a: int, b: int) -> Any:
        return middle(a, b)

    async def burst_async(calls: int) -> None:
        for number in range(calls):
            await alone(number, 2)

    return {"single": (burst_of(single), 1), "nested": (burst_of(outer), NESTED), "async": (burst_async, 1)}


def burst_of(call: Callable[[int, int], Any]) -> Burst:
    async def burst(calls: int) -> None:  # some exporters want an event loop around them
        for number in range(calls):
            call(number, 2)

    return burst


async def flush(adapter: Adapter) -> None:
    waiting = adapter.flush()
    if waiting is not None:
        await waiting


async def cost(adapter: Adapter, *, calls: int, bursts_each: int) -> dict[str, Any]:
    """Microseconds a span: CPU of the calling thread in the calls, and of the process until all is sent."""
    found: dict[str, Any] = {"made": 0}
    for form, (burst, spans) in bursts(adapter.trace).items():
        here: list[float] = []
        everywhere: list[float] = []
        count = max(calls // spans, 1)
        for number in range(bursts_each + 1):
            gc.collect()
            process, thread = time.process_time_ns(), time.thread_time_ns()
            await burst(count)
            thread = time.thread_time_ns() - thread
            await flush(adapter)
            process = time.process_time_ns() - process
            found["made"] += count * spans
            if number:  # the first warms up
                here.append(thread / count / spans / 1000)
                everywhere.append(process / count / spans / 1000)
        found[form] = {"caller_us": statistics.median(here), "total_us": statistics.fmean(everywhere)}
    return found


async def weight(adapter: Adapter, *, calls: int, spans: int) -> dict[str, Any]:
    """Bytes of memory a span, as the growth of the process while it made them."""
    burst, _ = bursts(adapter.trace)["single"]

    async def make(count: int) -> None:
        for _ in range(count // calls):
            await burst(calls)
            await flush(adapter)
        gc.collect()

    await make(spans // 10)
    before = memory()
    await make(spans)
    grown, made = memory() - before, spans // calls * calls
    return {"bytes": grown / made, "made": made, "made_in_all": made + spans // 10 // calls * calls}


def memory() -> int:
    """Resident bytes of this process; where the system does not say, the most that there were."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return pages * os.sysconf("SC_PAGE_SIZE")


def counter(folder: str) -> mmap.mmap:
    """Eight bytes of a file that outlive the process: how many spans it has made."""
    path = Path(folder, COUNTER)
    path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 8)


async def until_killed(adapter: Adapter, *, folder: str, per_second: int) -> dict[str, Any]:
    """Make spans at a steady rate for ever."""
    call, count = adapter.trace(work), counter(folder)
    start, made = time.monotonic(), 0
    while True:
        await asyncio.sleep(max(0.0, start + made / per_second - time.monotonic()))
        call(made, 2)
        made += 1
        struct.pack_into("q", count, 0, made)


async def flatness(
    adapter: Adapter, *, calls: int, bursts_each: int, depth: int, spans: int
) -> dict[str, Any]:
    """Caller CPU, microseconds a span: outside of any span and within others, at first and after many."""
    call = adapter.trace(work)

    def burst_us() -> float:
        gc.collect()
        start = time.thread_time_ns()
        for number in range(calls):
            call(number, 2)
        return (time.thread_time_ns() - start) / calls / 1000

    samples: dict[str, list[float]] = {"first": [], "deep": [], "after": []}

    @adapter.trace
    def down(levels: int, number: int) -> None:
        if levels:
            down(levels - 1, number)
        else:
            samples["deep"].append(burst_us())

    burst_us()  # warms up
    for number in range(bursts_each):
        await flush(adapter)
        samples["first"].append(burst_us())
        await flush(adapter)
        down(depth - 2, number)  # which opens one span more than it is told
    for _ in range(spans // calls):
        burst_us()
        await flush(adapter)
    for _ in range(bursts_each):
        samples["after"].append(burst_us())
        await flush(adapter)
    return {name: statistics.median(values) for name, values in samples.items()}


TASKS: Final[dict[str, Callable[..., Awaitable[dict[str, Any]]]]] = {
    task.__name__: task for task in (cost, weight, flatness, until_killed)
}


async def main() -> None:
    order = json.loads(sys.argv[1])
    fence.install()
    subject = next(one for one in SUBJECTS if one.name == order["subject"])
    folder = Path(order["folder"])
    kept: list[Any] | None = [] if order["task"] == "weight" else None
    module = import_module(f"benchmarks.recording.adapters.{subject.adapter}")
    adapter = await module.open_adapter(Scene(order["sink"], folder, kept), **subject.options)
    found = await TASKS[order["task"]](adapter, **order["arguments"])
    (folder / RESULT).write_text(json.dumps({**found, "tried": fence.tried}), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
