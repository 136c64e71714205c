"""The flywheel sink against real servers, in an index of ours and in one of the Blueprint's."""

import logging
from datetime import UTC, datetime

import msgspec
import pytest

from millstream.deliver.flywheel import FlywheelSink
from millstream.deliver.flywheel_record import NOT_ANSWERED, WITHOUT_CONTENT
from millstream.deliver.sink import SKIPPED, Rejected, Skipped
from millstream.errors import ConfigError, RefusedError, UnreachableError
from millstream.span import SpanError, SpanKind, Status
from tests.deliver import blueprint
from tests.servers.spans import START, ids, span

VARIABLES = [
    f"ELASTICSEARCH_{name}"
    for name in ("URL", "INDEX", "CLIENT_ID", "USERNAME", "PASSWORD", "API_KEY", "CA_CERTS")
]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [*VARIABLES, "ES_COLLECTION_NAME"]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sink_to():
    made = []

    def make(endpoint=None, **options):
        made.append(FlywheelSink(**{"client_id": "my_app", "endpoint": endpoint, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def failed():
    return span(output=msgspec.UNSET, status=Status.ERROR, error=SpanError("RateLimitError", "slow down"))


def read_by_blueprint(server, workload_id="answer", client_id="my_app"):
    """The records that the Blueprint finds and does not leave out, newest first."""
    server.call("POST", "/flywheel/_refresh")
    query = blueprint.query(client_id, workload_id)
    hits = server.call("POST", "/flywheel/_search", query)["hits"]["hits"]
    return [hit["_source"] for hit in hits if blueprint.is_valid(hit["_source"])]


def test_records_of_model_calls_once_each(search_server, sink_to):
    calls = [span() for _ in range(25)]
    tool = span(kind=SpanKind.TOOL)

    assert sink_to(search_server.url).send([*calls[:10], tool]) == [None] * 10 + [SKIPPED]
    assert sink_to(search_server.url).send([*calls, failed()]) == [None] * 26

    stored = search_server.documents("flywheel")
    assert {one["_id"] for one in stored} > set(ids(calls))
    assert len(stored) == 26
    found = read_by_blueprint(search_server)
    assert len(found) == 25
    assert [record["timestamp"] for record in found] == sorted(
        (record["timestamp"] for record in found), reverse=True
    )
    first = datetime.fromtimestamp(calls[0].start_ns / 1e9, UTC)
    assert found[-1]["timestamp"] == f"{first:%Y-%m-%dT%H:%M:%S}.000Z"
    assert {"trace_id", "span_id", "latency_s", "contract_version"} | blueprint.FIELDS == set(found[0])
    assert not read_by_blueprint(search_server, "other")
    assert not read_by_blueprint(search_server, client_id="my")


def test_what_is_indexed_and_what_is_kept_as_it_is(search_server, sink_to):
    deep = {"a": {f"key {number}": {"b": [number, "x", None]} for number in range(2_000)}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": deep}}}
    attributes = {"gen_ai.request.model": "m", "gen_ai.tool.definitions": [tool]}
    sent = [span(attributes=attributes), span(attributes={"gen_ai.tool.definitions": [{"x": 1}]}), failed()]
    assert sink_to(search_server.url).send(sent) == [None] * 3

    mapping = search_server.call("GET", "/flywheel/_mapping")["flywheel"]["mappings"]["properties"]
    assert set(mapping) == blueprint.FIELDS | {
        "trace_id",
        "span_id",
        "latency_s",
        "error",
        "contract_version",
    }
    assert "properties" not in mapping["request"]
    assert "properties" not in mapping["response"]
    (first,) = [one for one in search_server.documents("flywheel") if one["_id"] == ids(sent[:1])[0]]
    assert first["request"]["tools"] == [tool]
    assert hits(search_server, {"term": {"error.type": "RateLimitError"}}) == ids(sent[2:])
    assert hits(search_server, {"term": {"trace_id": sent[0].trace_id}}) == ids(sent[:1])
    assert hits(search_server, {"range": {"latency_s": {"gte": 0.9}}}) == ids(sent)


HOSTILE = {
    "names that are none": {"": 1, " ": 2, ".": 3, "a..b": 4, "a.": 5, "x\0y": 6},
    "a name and its prefix": {"a": {"b": 1}, "a.b": 2, "a.b.c": 3},
    "a long name": {"n" * 40_000: 1},
    "lists of lists": [[1, [2, [{"a": [3]}]]], "x"],
    "a long text": "é" * 200_000,
}


@pytest.mark.parametrize("strict", [False, True])
def test_whatever_tools_hold_the_other_records_are_stored(search_server, sink_to, strict):
    """Of a strict index the server itself reads names within a request, and will not have some."""
    if strict:
        search_server.call("PUT", "/flywheel", blueprint.INDEX)
    calls = [
        span(attributes={"gen_ai.tool.definitions": [{"function": {"name": "f", "parameters": content}}]})
        for content in HOSTILE.values()
    ]
    good = span()

    *results, last = sink_to(search_server.url, strict_mapping=strict).send([*calls, good])

    assert last is None
    taken = [call for call, result in zip(calls, results, strict=True) if result is None]
    assert ids([*taken, good]) == [one["_id"] for one in search_server.documents("flywheel")]
    if strict:
        reasons = [result.reason for result in results if result is not None]
        assert len(reasons) <= 1, reasons
        assert all(isinstance(result, Rejected) for result in results if result is not None)
    else:
        assert taken == calls


def hits(server, query):
    server.call("POST", "/flywheel/_refresh")
    found = server.call("POST", "/flywheel/_search", {"query": query, "size": 100})["hits"]["hits"]
    return sorted(hit["_id"] for hit in found)


def test_records_of_older_writers_sort_among_ours(search_server, sink_to):
    """Epoch milliseconds, and ISO with an offset, as those before us wrote them."""
    middle = span()
    sink_to(search_server.url).send([middle])
    record = {"client_id": "my_app", "workload_id": "answer", "request": {"messages": [1]}}
    record["response"] = {"choices": [{"message": {}}]}
    before, after = middle.start_ns // 1_000_000 - 5, "2031-05-15T12:34:56.789+02:00"
    for number, timestamp in enumerate((before, after)):
        search_server.call("PUT", f"/flywheel/_doc/{number}", {**record, "timestamp": timestamp})

    newest, ours, oldest = read_by_blueprint(search_server)
    assert (newest["timestamp"], oldest["timestamp"]) == (after, before)
    assert ours["timestamp"].startswith("2025-12-01T")


def test_an_index_of_the_blueprint_takes_the_five_fields(search_server, sink_to):
    search_server.call("PUT", "/flywheel", blueprint.INDEX)
    calls = [span() for _ in range(3)]
    sink = sink_to(search_server.url, strict_mapping=True)

    results = sink.send([*calls, failed(), span(input=msgspec.UNSET)])
    assert results == [None] * 3 + [Skipped(NOT_ANSWERED), Skipped(WITHOUT_CONTENT)]

    found = read_by_blueprint(search_server)
    assert len(found) == 3
    assert all(set(record) == blueprint.FIELDS for record in found)
    assert sink.skipped == {NOT_ANSWERED: 1, WITHOUT_CONTENT: 1}
    mapping = search_server.call("GET", "/flywheel/_mapping")["flywheel"]["mappings"]
    assert mapping["dynamic"] == "strict"
    assert set(mapping["properties"]) == blueprint.FIELDS


def test_an_index_of_the_blueprint_without_strict_mapping_is_told_what_helps(search_server, sink_to):
    search_server.call("PUT", "/flywheel", blueprint.INDEX)
    calls = [span() for _ in range(3)]

    with pytest.raises(RefusedError, match=r"`strict_mapping: true`") as refused:
        sink_to(search_server.url).send(calls)

    assert "Blueprint" in str(refused.value)
    assert search_server.url in str(refused.value)
    assert search_server.documents("flywheel") == []
    # The same spans, kept by the delivery, after the option was set
    assert sink_to(search_server.url, strict_mapping=True).send(calls) == [None] * 3


@pytest.mark.parametrize("strict", [False, True])
def test_the_blueprint_starts_after_us(search_server, sink_to, strict):
    """It makes its index where there is none, which is there, and may be made anew after it was removed."""
    calls = [span(), span()]
    assert sink_to(search_server.url, strict_mapping=strict).send(calls) == [None] * 2
    assert len(read_by_blueprint(search_server)) == 2

    search_server.call("DELETE", "/flywheel")
    search_server.call("PUT", "/flywheel", blueprint.INDEX)
    assert sink_to(search_server.url, strict_mapping=True).send(calls) == [None] * 2
    assert len(read_by_blueprint(search_server)) == 2


def test_what_makes_no_record_is_rejected_and_the_rest_is_stored(search_server, sink_to, caplog):
    calls = [
        span(),
        span(input=[{"content": "no role"}]),
        span(output=msgspec.UNSET),
        span(output=msgspec.UNSET),
    ]
    sink = sink_to(search_server.url)

    with caplog.at_level(logging.WARNING, "millstream"):
        taken, rejected, *skipped = sink.send(calls)

    assert taken is None
    assert isinstance(rejected, Rejected)
    assert "no role" in rejected.reason
    assert skipped == [Skipped(WITHOUT_CONTENT)] * 2
    assert sink.skipped == {WITHOUT_CONTENT: 2}
    assert [record.getMessage().count(WITHOUT_CONTENT) for record in caplog.records] == [1]
    assert len(search_server.documents("flywheel")) == 1


def test_nothing_is_counted_twice_when_the_server_comes_back(elasticsearch9, sink_to):
    calls = [span(), span(output=msgspec.UNSET)]
    sink = sink_to(elasticsearch9.url)
    elasticsearch9.kill()
    with pytest.raises(UnreachableError):
        sink.send(calls)
    elasticsearch9.start()
    assert sink.send(calls) == [None, Skipped(WITHOUT_CONTENT)]
    assert sink.skipped == {WITHOUT_CONTENT: 1}
    assert len(elasticsearch9.documents("flywheel")) == 1


def test_the_environment_says_what_the_options_do_not(search_server, sink_to, guard, authority, monkeypatch):
    gate = guard(search_server, basic=("elastic", "s3cret"), api_key="aWQ6a2V5", tls=True)
    monkeypatch.setenv("ELASTICSEARCH_URL", gate.url)
    monkeypatch.setenv("ELASTICSEARCH_CA_CERTS", str(authority.ca_file))
    monkeypatch.setenv("ELASTICSEARCH_CLIENT_ID", "their_app")
    monkeypatch.setenv("ELASTICSEARCH_INDEX", "llm-logs")
    monkeypatch.setenv("ELASTICSEARCH_USERNAME", "elastic")
    monkeypatch.setenv("ELASTICSEARCH_PASSWORD", "s3cret")
    assert sink_to(client_id=None).send([span()]) == [None]
    (record,) = search_server.documents("llm-logs")
    assert record["client_id"] == "their_app"

    assert sink_to(username="elastic", index="named").send([span()]) == [None]
    assert {one["scheme"] for one in gate.requests()} == {"Basic"}
    monkeypatch.setenv("ES_COLLECTION_NAME", "flywheel")
    monkeypatch.setenv("ELASTICSEARCH_API_KEY", "id:key")
    assert sink_to().send([span()]) == [None]
    assert "ApiKey" in {one["scheme"] for one in gate.requests()}
    assert len(search_server.documents("flywheel")) == 1
    assert sink_to(gate.url, api_key="id:key", index="named").send([span()]) == [None]
    assert len(search_server.documents("named")) == 2
    with pytest.raises(RefusedError) as refused:
        sink_to(username="elastic", password="wr0ng").send([span()])
    assert "wr0ng" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"client_id": None}, "client_id.*ELASTICSEARCH_CLIENT_ID"),
        ({"endpoint": None}, "endpoint.*ELASTICSEARCH_URL"),
        ({"contract_version": "2.0"}, "contract_version.*2.0.*1.0, 1.1"),
        ({"index": "Flywheel"}, "Flywheel"),
        ({"endpoint": "localhost:9200"}, "http://"),
        ({"password": "s3cret"}, "without `username`"),
    ],
)
def test_wrong_options_are_said_without_a_server(options, said, sink_to):
    with pytest.raises(ConfigError, match=said) as wrong:
        sink_to(**{"endpoint": "http://localhost:9200", **options})
    assert "s3cret" not in str(wrong.value)


def test_both_contract_versions(elasticsearch8, sink_to):
    for version in ("1.0", 1.1):
        sink_to(elasticsearch8.url, contract_version=version).send([span(start_ns=START)])
    assert sorted(one["contract_version"] for one in elasticsearch8.documents("flywheel")) == ["1.0", "1.1"]
    assert sink_to(elasticsearch8.url).summary() == f"index 'flywheel' at {elasticsearch8.url}"
