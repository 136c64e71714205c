"""The Elasticsearch sink against Elasticsearch 8 and 9 and OpenSearch 2 and 3."""

import time

import msgspec
import pytest

from millstream.deliver.bulk import BulkIndex
from millstream.deliver.elasticsearch import ElasticsearchSink, to_document
from millstream.deliver.http import HttpClient
from millstream.deliver.index_template import SEARCH_SERVER, span_mapping
from millstream.deliver.sink import Rejected, Retry
from millstream.errors import RefusedError, UnreachableError
from millstream.span import SpanError, SpanEvent, SpanLink, Status
from tests.servers.spans import START, ids, span

INDEX = "spans"


@pytest.fixture
def sink_to():
    made = []

    def make(endpoint, **options):
        made.append(ElasticsearchSink(endpoint=endpoint, **{"index": INDEX, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def nested(value, depth, make):
    for _ in range(depth):
        value = make(value)
    return value


def found(server, query, **more):
    server.call("POST", f"/{INDEX}/_refresh")
    hits = server.call("POST", f"/{INDEX}/_search", {"query": query, "size": 1000, **more})["hits"]["hits"]
    return sorted(hit["_id"] for hit in hits)


def mapping(server):
    return server.call("GET", f"/{INDEX}/_mapping")[INDEX]["mappings"]


def test_a_document_is_the_span(search_server, sink_to):
    sent = span(
        error=SpanError("ValueError", "no"),
        events=[SpanEvent("retry", START, {"n": 1})],
        links=[SpanLink("a" * 32, "b" * 16)],
        status=Status.ERROR,
    )

    assert sink_to(search_server.url).send([sent]) == [None]

    (document,) = search_server.documents(INDEX)
    for name, value in msgspec.to_builtins(sent).items():
        assert document.pop(name) == value
    assert document.pop("_id") == f"{sent.trace_id}-{sent.span_id}"
    assert document.pop("@timestamp") == document["timestamp"]
    assert document.pop("timestamp").startswith("2025-12-01T00:")
    assert document == {"duration_s": 1.0, "model": "gpt-x"}


def test_every_span_once_whatever_is_sent_again(search_server, sink_to):
    spans = [span() for _ in range(1200)]

    assert sink_to(search_server.url).send(spans[:700]) == [None] * 700
    assert sink_to(search_server.url).send([*spans, *spans[:5]]) == [None] * 1205

    assert [each["_id"] for each in search_server.documents(INDEX)] == ids(spans)
    assert all(hit["_version"] == 1 for hit in versions(search_server))


def versions(server):
    return server.call("POST", f"/{INDEX}/_search", {"size": 2000, "version": True})["hits"]["hits"]


def test_what_is_indexed(search_server, sink_to):
    sent = [span() for _ in range(3)]
    failed = span(
        status=Status.ERROR,
        error=SpanError("RateLimit", "the tenant is over its limit"),
        attributes={
            "tenant": "b",
            "observability.workflow_name": "validation",
            "attempt": 3,
            "tags": ["x", "y"],
        },
    )
    sink_to(search_server.url).send([*sent, failed])
    its = ids([failed])

    assert found(search_server, {"term": {"trace_id": failed.trace_id}}) == its
    assert found(search_server, {"term": {"span_id": failed.span_id}}) == its
    assert found(search_server, {"term": {"parent_id": failed.parent_id}}) == its
    assert found(search_server, {"term": {"status": "error"}}) == its
    assert found(search_server, {"match": {"error.message": "tenant limit"}}) == its
    assert found(search_server, {"term": {"error.type": "RateLimit"}}) == its
    assert found(search_server, {"term": {"attributes.tenant": "b"}}) == its
    assert found(search_server, {"term": {"attributes.observability.workflow_name": "validation"}}) == its
    assert found(search_server, {"term": {"attributes.attempt": "3"}}) == its
    assert found(search_server, {"term": {"attributes.tags": "y"}}) == its
    assert found(search_server, {"range": {"usage.input_tokens": {"gte": 12}}}) == ids([*sent, failed])
    assert found(search_server, {"term": {"model": "gpt-x"}}) == ids(sent)


def test_the_date_in_iso_and_in_milliseconds(search_server, sink_to):
    sent = [span(start_ns=START + minute * 60_000_000_000 + 123_456_789) for minute in range(3)]
    sink_to(search_server.url).send(sent)
    search_server.call("PUT", f"/{INDEX}/_doc/ms", {"timestamp": START // 1_000_000 + 60_000})

    first, second, third = (f"{each.trace_id}-{each.span_id}" for each in sent)
    span_of_a_minute = {"gte": "2025-12-01T00:01:00Z", "lt": "2025-12-01T00:02:00Z"}
    assert found(search_server, {"range": {"timestamp": span_of_a_minute}}) == sorted(["ms", second])
    assert found(search_server, {"range": {"timestamp": {"lte": START // 1_000_000 + 123}}}) == [first]
    assert found(search_server, {"range": {"@timestamp": {"gte": "2025-12-01T00:02:00.123Z"}}}) == [third]
    histogram = {"minutes": {"date_histogram": {"field": "timestamp", "fixed_interval": "1m"}}}
    answer = search_server.call("POST", f"/{INDEX}/_search", {"size": 0, "aggs": histogram})
    buckets = answer["aggregations"]["minutes"]["buckets"]
    assert [(each["key_as_string"], each["doc_count"]) for each in buckets] == [
        ("2025-12-01T00:00:00.000Z", 1),
        ("2025-12-01T00:01:00.000Z", 2),
        ("2025-12-01T00:02:00.000Z", 1),
    ]


HOSTILE = {
    "a number": 5,
    "a text": "x",
    "a long text": "é" * 200_000,
    "null": None,
    "a list of anything": [1, "a", {"b": None}, [2]],
    "names that are none": {"": 1, " ": 2, ".": 3, "a..b": 4, "a.": 5, "x\0y": 6},
    "a name and its prefix": {"a": {"b": 1}, "a.b": 2, "a.b.c": 3},
    "many names": {f"name {number}": number for number in range(5_000)},
    "a long name": {"n" * 40_000: 1},
    "deep": nested(1, 900, lambda value: {"a": value}),
    "lists of lists": nested(1, 900, lambda value: [value]),
    "a date": "2025-12-01",
    "big numbers": [2**63, 1e300, -(2**63)],
}


@pytest.mark.parametrize("field", ["input", "output", "attributes", "events"])
def test_any_content_is_taken_and_maps_nothing(search_server, sink_to, field):
    sink = sink_to(search_server.url)
    sink.send([span()])
    before = mapping(search_server)

    spans = []
    for what, value in HOSTILE.items():
        if field == "attributes":
            attributes = value if isinstance(value, dict) else {"key": value}
            spans += [span(name=what, attributes=attributes), span(name=what, attributes={"key": value})]
        elif field == "events":
            spans.append(span(name=what, events=[SpanEvent("event", START, {"key": value})]))
        else:
            spans.append(span(name=what, **{field: value}))
    results = sink.send(spans)

    assert results == [None] * len(spans)
    assert mapping(search_server) == before
    documents = {document["_id"]: document for document in search_server.documents(INDEX)}
    for each in spans:
        document = documents[f"{each.trace_id}-{each.span_id}"]
        wanted = msgspec.to_builtins(each)
        document |= msgspec.json.decode(document.get("unparsed", "{}"))
        document["attributes"] |= document.get("other_attributes", {})
        assert document[field] == wanted[field], each.name
        assert document["trace_id"] == each.trace_id
    if not search_server.is_opensearch:
        assert not any("unparsed" in document for document in documents.values())


def test_long_names_and_numbers_out_of_range_cost_no_document(search_server, sink_to):
    spans = [
        span(name="n" * 50_000),
        span(workload_id="w" * 50_000),
        span(error=SpanError("E" * 50_000, "m" * 300_000)),
        span(attributes={"gen_ai.request.model": "m" * 50_000}),
        span(usage=msgspec.convert({"input_tokens": 2**63}, span().usage.__class__)),
    ]
    assert sink_to(search_server.url).send(spans) == [None] * len(spans)
    assert len(search_server.documents(INDEX)) == len(spans)


def test_a_foreign_strict_mapping_is_one_clear_error(search_server, sink_to):
    search_server.call(
        "PUT",
        f"/{INDEX}",
        {"mappings": {"dynamic": "strict", "properties": {"timestamp": {"type": "date"}}}},
    )
    with pytest.raises(RefusedError) as caught:
        sink_to(search_server.url).send([span(), span()])
    product = "OpenSearch" if search_server.is_opensearch else "Elasticsearch"
    assert str(caught.value) == (
        f"index 'spans' of {product} at {search_server.url} was made for other documents: its mapping is "
        "strict and has no field '@timestamp'; name another `index`, or mend its mapping"
    )
    assert search_server.documents(INDEX) == []


def test_a_foreign_index_whose_fields_conflict_takes_spans_in_another_form(search_server, sink_to):
    properties = {"input": {"type": "long"}, "attributes": {"type": "keyword"}, "output": {"type": "date"}}
    search_server.call("PUT", f"/{INDEX}", {"mappings": {"dynamic": False, "properties": properties}})
    sent = [span(), span()]

    assert sink_to(search_server.url).send(sent) == [None, None]

    for document, each in zip(
        search_server.documents(INDEX), sorted(sent, key=lambda one: one.trace_id), strict=True
    ):
        assert document["trace_id"] == each.trace_id
        assert msgspec.json.decode(document["unparsed"])["input"] == each.input


def test_a_document_that_cannot_be_taken_is_rejected_without_its_content(search_server, sink_to):
    search_server.call(
        "PUT", f"/{INDEX}", {"mappings": {"dynamic": False, "properties": {"name": {"type": "long"}}}}
    )
    kind = "mapper_parsing_exception" if search_server.is_opensearch else "document_parsing_exception"

    results = sink_to(search_server.url).send([span(name="7"), span(name="secret words"), span(name="8")])

    assert results == [None, Rejected(f"{kind}: field 'name' is mapped as long"), None]
    assert len(search_server.documents(INDEX)) == 2


def test_an_alias(search_server, sink_to):
    search_server.call("PUT", "/behind", {"aliases": {"front": {}}})
    assert sink_to(search_server.url, index="front").send([span()]) == [None]
    assert len(search_server.documents("behind")) == 1


def test_a_data_stream(opensearch3, sink_to):
    """Elasticsearch from its jars alone has none."""
    streams = {"index_patterns": ["stream-*"], "data_stream": {}, "priority": 200}
    opensearch3.call("PUT", "/_index_template/streams", streams)
    sent = [span() for _ in range(3)]
    assert sink_to(opensearch3.url, index="stream-a").send(sent) == [None] * 3
    assert sink_to(opensearch3.url, index="stream-a").send(sent) == [None] * 3
    assert [each["_id"] for each in opensearch3.documents("stream-a")] == ids(sent)
    (stream,) = opensearch3.call("GET", "/_data_stream/stream-*")["data_streams"]
    assert stream["name"] == "stream-a"


def test_an_index_that_was_removed_comes_back_with_our_mapping(search_server, sink_to):
    sink = sink_to(search_server.url)
    sink.send([span()])
    before = mapping(search_server)

    search_server.call("DELETE", f"/{INDEX}")
    assert sink.send([span()]) == [None]

    assert mapping(search_server) == before


def test_a_server_that_comes_back_empty_gets_the_template_again(search_server, sink_to, toxiproxy):
    proxy = toxiproxy.proxy(search_server)
    sink = sink_to(proxy.url)
    sink.send([span()])
    before = mapping(search_server)

    proxy.disable()
    with pytest.raises(UnreachableError, match="does not answer: connection refused"):
        sink.send([span()])
    search_server.wipe()
    proxy.enable()

    assert sink.send([span()]) == [None]
    assert mapping(search_server) == before


def test_an_index_that_may_not_be_made(search_server, sink_to):
    search_server.call("PUT", "/_cluster/settings", {"persistent": {"action.auto_create_index": "false"}})
    assert sink_to(search_server.url).send([span()]) == [None]


def test_too_busy_halves_what_is_sent_until_it_is_taken(search_server, sink_to):
    spans = [span(input="x" * 2_000) for _ in range(256)]
    sink = sink_to(search_server.url)
    sink.send([span()])
    limit = {"network.breaker.inflight_requests.limit": "100kb"}
    if search_server.version.startswith("9"):  # it would take a bulk in pieces
        limit["rest.incremental_bulk"] = False
    search_server.call("PUT", "/_cluster/settings", {"persistent": limit})
    begun = sink._bulk.limit

    refused = 0
    left = spans
    for _ in range(200):
        try:
            results = sink.send(left)
        except UnreachableError as error:
            refused += "is too busy now (429" in str(error)
            continue
        left = [each for each, result in zip(left, results, strict=True) if isinstance(result, Retry)]
        if not left:
            break

    assert refused > 0
    assert sink._bulk.limit < begun
    search_server.call("PUT", "/_cluster/settings", {"persistent": dict.fromkeys(limit)})
    assert not set(ids(spans)) - {each["_id"] for each in search_server.documents(INDEX)}
    sink.send([span() for _ in range(2000)])
    assert sink._bulk.limit > 64


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (
            "read_only_allow_delete",
            "(429: disk usage exceeded flood-stage watermark, index has read-only-allow-delete block)",
        ),
        ("write", "(403: index write (api))"),
    ],
)
def test_a_block_is_a_reason_to_try_again(search_server, sink_to, block, why):
    sink = sink_to(search_server.url)
    sink.send([span()])
    search_server.call("PUT", f"/{INDEX}/_settings", {f"index.blocks.{block}": True})

    (result,) = sink.send([span()])
    product = "OpenSearch" if search_server.is_opensearch else "Elasticsearch"
    assert result == Retry(f"index 'spans' of {product} at {search_server.url} is blocked now {why}")

    search_server.call("PUT", f"/{INDEX}/_settings", {f"index.blocks.{block}": None})
    assert sink.send([span()]) == [None]


SECRET = "nosuchword"


@pytest.mark.parametrize(
    ("mapped", "why"),
    [
        ({"input": {"type": "long"}}, "field 'input' is mapped as long"),
        ({"input": {"type": "date"}}, "field 'input' is mapped as date"),
        ({"input": {"type": "geo_point"}}, "field 'input' is mapped as geo_point"),
        ({"input": {"type": "object"}}, "field 'input' is mapped as object"),
        ({"attributes": {"properties": {"tenant": {"type": "ip"}}}}, "field 'attributes.*' is mapped as ip"),
    ],
)
def test_a_conflict_says_what_the_mapping_wants(search_server, mapped, why):
    search_server.call("PUT", f"/{INDEX}", {"mappings": {"properties": mapped}})
    client = HttpClient(search_server.url, name=SEARCH_SERVER, extra="elasticsearch")
    bulk = BulkIndex(client, INDEX, span_mapping)
    (result,) = bulk.send([to_document(span(input=SECRET, attributes={"tenant": SECRET}))])
    bulk.close()
    kind = "mapper_parsing_exception" if search_server.is_opensearch else "document_parsing_exception"
    assert result == Rejected(f"{kind}: {why}")


def test_no_reason_holds_what_the_mapping_could_not_read(search_server):
    """As many kinds of fields and of content as servers have words for."""
    kinds = "long double boolean date ip geo_point integer_range date_range object nested binary"
    kinds += " flat_object geo_shape" if search_server.is_opensearch else " flattened dense_vector"
    values = [SECRET, {SECRET: SECRET}, [SECRET], [[SECRET]], {"gte": SECRET}, {"type": SECRET}]
    values += [f"({SECRET})", f"POINT ({SECRET})", f"POINT {SECRET}", f"'{SECRET}' {SECRET}", {"lat": SECRET}]
    client = HttpClient(search_server.url, name=SEARCH_SERVER, extra="elasticsearch")
    said = set()
    for kind in kinds.split():
        search_server.http.delete(f"/{INDEX}")
        search_server.call("DELETE", "/_index_template/*")
        search_server.call("PUT", f"/{INDEX}", {"mappings": {"properties": {"input": {"type": kind}}}})
        bulk = BulkIndex(client, INDEX, span_mapping)
        for value in values:
            (result,) = bulk.send([to_document(span(input=value, attributes={}))])
            said.add((kind, getattr(result, "reason", None)))
    client.close()
    assert len(said) > 10
    assert not [each for each in said if SECRET in str(each)]


def test_a_request_that_is_too_large_is_split(search_server, sink_to, guard):
    guarded = guard(search_server, max_body_bytes=50_000)
    sink = sink_to(guarded.url)
    spans = [span(input="x" * 2_000) for _ in range(200)]
    large = span(input="x" * 60_000)

    results = sink.send([*spans, large])

    assert results[:-1] == [None] * 200
    assert isinstance(results[-1], Rejected)
    assert "no request as large as this" in results[-1].reason
    assert [each["_id"] for each in search_server.documents(INDEX)] == ids(spans)
    refused = sum(each["status"] == 413 for each in guarded.requests())
    sink.send([span(input="x" * 2_000) for _ in range(200)])
    assert sum(each["status"] == 413 for each in guarded.requests()) <= refused + 1


def test_the_server_starts_while_we_send(opensearch3, sink_to):
    opensearch3.kill()
    sink = sink_to(opensearch3.url)
    with pytest.raises(UnreachableError) as caught:
        sink.send([span()])
    assert str(caught.value) == f"the search server at {opensearch3.url} does not answer: connection refused"

    opensearch3.start()
    assert sink.send([span()]) == [None]


def test_an_index_that_is_red(elasticsearch8, sink_to):
    settings = {"index.routing.allocation.require.name": "no such node"}
    elasticsearch8.call("PUT", f"/{INDEX}?wait_for_active_shards=0", {"settings": settings})
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match="cannot write to index 'spans' yet: it is red"):
        sink_to(elasticsearch8.url).send([span()])
    assert time.monotonic() - begun < 10


def test_a_hanging_server_is_waited_for_so_long(elasticsearch8, sink_to):
    sink = sink_to(elasticsearch8.url, timeout=1)
    sink.send([span()])
    elasticsearch8.pause()
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match="does not answer: nothing came within 1 s"):
        sink.send([span()])
    assert time.monotonic() - begun < 3
