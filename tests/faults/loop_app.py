"""An application with an event loop, beside which 10,000 spans are delivered: how late its timer fires.

    python -m tests.faults.loop_app URL

It prints JSON: `alone_ms` and `beside_ms`, how late the timer was, sorted; `held_ms`, the times of processor
that the delivering thread took between two moments at which others could run, garbage collections left out,
the longest first; and `collecting_ms`, these.
"""

import asyncio
import gc
import json
import socket
import sys
import threading
import time

from millstream.deliver.delivery import Delivery
from millstream.deliver.elasticsearch import ElasticsearchSink
from millstream.deliver.policy import Policy
from millstream.record import journal_home

TICK_S = 0.001
SPANS = 10_000


class Holding(threading.local):
    """Times between two moments at which the thread lets others run."""

    since = None
    collecting = 0.0
    collection_began = 0.0


held: list[float] = []
collections: list[float] = []
holding = Holding()


def noting(function):
    """The function, which lets other threads run."""

    def call(*arguments):
        if not threading.current_thread().name.startswith("millstream deliver"):
            return function(*arguments)
        if holding.since is not None:
            held.append((time.thread_time() - holding.since - holding.collecting) * 1000)
        try:
            return function(*arguments)
        finally:
            holding.since, holding.collecting = time.thread_time(), 0.0

    return call


def note_collection(phase, _):
    if phase == "start":
        holding.collection_began = time.thread_time()
    else:
        took = time.thread_time() - holding.collection_began
        holding.collecting += took
        if threading.current_thread().name.startswith("millstream deliver"):
            collections.append(took * 1000)


async def tick(late, until):
    while not until():
        begin = time.perf_counter()
        await asyncio.sleep(TICK_S)
        late.append((time.perf_counter() - begin - TICK_S) * 1000)


async def main():
    alone, beside = [], []
    end = time.perf_counter() + 3
    await tick(alone, lambda: time.perf_counter() > end)
    time.sleep = noting(time.sleep)
    for name in ("connect", "sendall", "send", "recv", "recv_into"):
        setattr(socket.socket, name, noting(getattr(socket.socket, name)))
    gc.callbacks.append(note_collection)
    sink = ElasticsearchSink(endpoint=sys.argv[1], index="spans", timeout=5)
    delivery = Delivery(journal_home(), [("search", sink, Policy(shutdown_timeout_s=60), ())], "all")
    delivery.start()
    end = time.perf_counter() + 60
    await tick(beside, lambda: delivery.stats()["sent"] >= SPANS or time.perf_counter() > end)
    sent = delivery.stats()["sent"]
    delivery.close()
    figures = {
        "sent": sent,
        "alone_ms": sorted(alone),
        "beside_ms": sorted(beside),
        "held_ms": sorted(held, reverse=True),
        "collecting_ms": sorted(collections, reverse=True),
    }
    print(json.dumps(figures))  # noqa: T201  # whoever started this reads it


if __name__ == "__main__":
    asyncio.run(main())
