"""Documents a second into Elasticsearch and OpenSearch: ours, the clients' bulk helper, one at a time.

The subjects take turns, round by round; what is printed is the median of the rounds, the lowest and the
highest, and the ratio of the medians to the helper's. Into real servers all write the same documents into an
index with our mapping, and are counted there.

    python -m benchmarks.delivery [--documents N] [--rounds N] [--server KIND]… [--json FILE]
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import random
import statistics
import string
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import msgspec

from millstream.deliver.delivery import Delivery
from millstream.deliver.elasticsearch import ElasticsearchSink, to_document
from millstream.deliver.exporters import build
from millstream.deliver.index_template import span_mapping
from millstream.record.opening import start_span
from millstream.span import Span, SpanKind
from millstream.store import open_store

BATCH = 500
ONE_AT_A_TIME = 20
"""So many times fewer documents go one at a time."""
NO_OP = "no-op"
OURS_JOURNAL, OURS, HELPER, ONE = (
    "millstream, from the journal",
    "millstream, from memory",
    "helpers.bulk",
    "one at a time",
)
_STATUS = b'{"create":{"status":201}}'
_ITEM = (
    b'{"create":{"_index":"i","_id":"%b","_version":1,"result":"created","_shards":{"total":2,"successful":1,'
)
_ITEM += b'"failed":0},"_seq_no":1,"_primary_term":1,"status":201}}'
_FULL = _ITEM % (b"0" * 49)


class NoOp(asyncio.Protocol):
    """Takes bulks and says that all went well, at the length of a real answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []
        self._missing = 0
        self._head = b""

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return
        whole = b"".join(self._parts)
        if not self._head:
            head, end, body = whole.partition(b"\r\n\r\n")
            if not end:
                self._parts = [whole]
                return
            self._head = head
            _, _, length = head.lower().partition(b"content-length:")
            self._missing = int(length.split(b"\r\n", 1)[0] or 0) - len(body)
            self._parts = [body]
            if self._missing > 0:
                return
            whole = body
        self._answer(self._head.split(b" ", 2)[1], whole)
        self._head, self._parts, self._missing = b"", [], 0

    def _answer(self, path: bytes, body: bytes) -> None:
        told = b'{"result":"created","status":201}'
        if b"_bulk" in path:
            item = _STATUS if b"filter_path" in path else _FULL
            told = b'{"errors":false,"took":1,"items":[%b]}' % b",".join([item] * (body.count(b"\n") // 2))
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-elastic-product: Elasticsearch\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(told), told)
        )


def _serve(told: Connection) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(NoOp, "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


@contextmanager
def no_op() -> Iterator[str]:
    """The URL of a no-op endpoint in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


@contextmanager
def real(kind: str) -> Iterator[str]:
    """The URL of a server of tests/servers."""
    from tests.servers.search import SearchServer  # noqa: PLC0415  # needs what make test-servers prepares

    with tempfile.TemporaryDirectory() as folder, SearchServer(kind, Path(folder)) as server:
        yield server.url


def record(count: int, home: Path) -> list[Span]:
    """Model calls of which a document has about 2.5 kB, recorded into a journal."""
    os.environ["MILLSTREAM_HOME"] = str(home)
    rng = random.Random(0)  # noqa: S311  # no secret
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9))) for _ in range(5_000)]

    def text(length: int) -> str:
        return " ".join(rng.choices(words, k=length // 6))[:length]

    for number in range(count):
        with start_span(
            "ChatOpenAI",
            kind=SpanKind.LLM,
            input=[{"role": "user", "content": text(900)}],
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",
                "gen_ai.request.model": "gpt-x",
                "gen_ai.request.temperature": 0.2,
                "gen_ai.response.id": f"chatcmpl-{number}",
                "gen_ai.response.finish_reasons": ["stop"],
            },
        ) as span:
            span.set_output({"role": "assistant", "content": text(850)})
    return list(open_store(home).spans())


@dataclass
class Work:
    """What there is to send.

    Attributes:
        bodies: the documents as the clients take them.
    """

    home: Path
    spans: list[Span]
    bodies: list[tuple[str, dict[str, Any]]]

    @classmethod
    def of(cls, spans: list[Span], home: Path) -> "Work":
        made = ((document.id, b"".join(document.body)) for document in map(to_document, spans))
        return cls(home, spans, [(name, msgspec.json.decode(body)) for name, body in made])


Send = Callable[[str, str, Work], int]
"""Sends to a URL, into an index; gives the number of documents."""


def from_journal(url: str, index: str, work: Work) -> int:
    section = {"_type": "elasticsearch", "endpoint": url, "index": index}
    with Delivery(work.home, [build(index, section)], begin="all") as delivery:
        return delivery.flush(600).sent


def from_memory(url: str, index: str, work: Work) -> int:
    sink = ElasticsearchSink(endpoint=url, index=index)
    sent = 0
    for begin in range(0, len(work.spans), BATCH):
        sent += sink.send(work.spans[begin : begin + BATCH]).count(None)
    sink.close()
    return sent


def by_helper(client: Any, helpers: Any) -> Send:
    def send(url: str, index: str, work: Work) -> int:
        actions = (
            {"_op_type": "create", "_index": index, "_id": name, "_source": body}
            for name, body in work.bodies
        )
        with client(url) as connected:
            return int(helpers.bulk(connected, actions, chunk_size=BATCH, stats_only=True)[0])

    return send


def one_at_a_time(client: Any) -> Send:
    def send(url: str, index: str, work: Work) -> int:
        few = work.bodies[: max(len(work.bodies) // ONE_AT_A_TIME, 1)]
        with client(url) as connected:
            for _, body in few:
                connected.index(index=index, body=body)
        return len(few)

    return send


def subjects(target: str) -> dict[str, Send]:
    """What is measured towards a target; the clients refuse each other's servers."""
    if target.startswith("opensearch"):
        from opensearchpy import OpenSearch as client  # noqa: N813, PLC0415
        from opensearchpy import helpers  # noqa: PLC0415
    else:
        from elasticsearch import Elasticsearch as client  # noqa: N813, PLC0415
        from elasticsearch import helpers  # noqa: PLC0415
    return {
        OURS_JOURNAL: from_journal,
        OURS: from_memory,
        HELPER: by_helper(client, helpers),
        ONE: one_at_a_time(client),
    }


def measure(target: str, url: str, work: Work, rounds: int) -> dict[str, list[float]]:
    """Documents a second of each subject, round by round."""
    found: dict[str, list[float]] = {name: [] for name in subjects(target)}
    for turn in range(rounds + 1):  # the first is not counted: servers and caches get warm
        for place, (name, send) in enumerate(subjects(target).items()):
            index = f"{target}-{turn}-{place}"
            if target != NO_OP:
                product = "opensearch" if target.startswith("opensearch") else "elasticsearch"
                made = {"settings": {"number_of_replicas": 0}, "mappings": span_mapping(product)}
                httpx.put(f"{url}/{index}", json=made, trust_env=False).raise_for_status()
            begun = time.perf_counter()
            count = send(url, index, work)
            took = time.perf_counter() - begun
            expected = len(work.spans) if name != ONE else count
            if target != NO_OP:
                httpx.post(f"{url}/{index}/_refresh", trust_env=False).raise_for_status()
                there = httpx.get(f"{url}/{index}/_count", trust_env=False).json()["count"]
                httpx.delete(f"{url}/{index}", trust_env=False).raise_for_status()
                count = min(count, there)
            if count != expected:
                raise SystemExit(f"{name} into {target}: {count} of {expected} documents arrived")
            if turn:
                found[name].append(count / took)
            print(f"  {target} round {turn} of {rounds}: {name} {count / took:,.0f}/s", file=sys.stderr)
    return found


def report(target: str, found: dict[str, list[float]]) -> None:
    """One table."""
    anchor = statistics.median(found[HELPER])
    print(f"\n{target}: documents a second, median [lowest, highest], ratio to helpers.bulk")
    for name, rates in found.items():
        middle = statistics.median(rates)
        print(f"{name:30} {middle:9,.0f} [{min(rates):,.0f}, {max(rates):,.0f}]  {middle / anchor:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", action="append", metavar="KIND", help="elasticsearch8 …; default none")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    everything: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        spans = record(options.documents, Path(folder))
        work = Work.of(spans, Path(folder))
        size = statistics.mean(len(json.dumps(body, separators=(",", ":"))) for _, body in work.bodies)
        print(
            f"{len(spans):,} documents of {size:,.0f} bytes, {options.rounds} rounds, {os.cpu_count()} CPUs"
        )
        print(f"Python {platform.python_version()}, {platform.platform()}")
        for target in [NO_OP, *(options.server or [])]:
            with ExitStack() as started:
                url = started.enter_context(no_op() if target == NO_OP else real(target))
                everything[target] = measure(target, url, work, options.rounds)
            report(target, everything[target])
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
