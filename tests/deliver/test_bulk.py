"""What bulks make of answers that no server of tests/servers can be brought to give: rights, 503, odd ones.

The answers are those that Elasticsearch 8 gives, word for word where a word counts.
"""

import json
import logging
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from millstream.deliver import connections
from millstream.deliver.bulk import BulkIndex, Document
from millstream.deliver.elasticsearch import ElasticsearchSink
from millstream.deliver.http import HttpClient
from millstream.deliver.index_template import SEARCH_SERVER, span_mapping
from millstream.deliver.sink import Rejected, Retry
from millstream.errors import RefusedError, UnreachableError
from tests.servers.spans import span

FORBIDDEN = (403, {"error": {"type": "security_exception", "reason": "action is unauthorized"}}, {})
FINE = (200, {"errors": False}, {})


def item(status, kind=None, reason="secret"):
    error = {"error": {"type": kind, "reason": reason}} if kind else {}
    return {"create": {"status": status, **error}}


def items(*told):
    return 200, {"errors": True, "items": list(told)}, {}


class Server(ThreadingHTTPServer):
    """Answers bulks with what is in `bulks`, in turn, the last for ever; and the rest with `others`."""

    daemon_threads = True
    bulks = (FINE,)
    others = FINE

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        told = self.server.others
        if "_bulk" in self.path:
            self.server.sizes.append(body.count(b"\n") // 2)
            told, *rest = self.server.bulks
            self.server.bulks = rest or [told]
        status, content, headers = told
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = answer  # noqa: N815

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as made:
        made.sizes = []
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def bulk(server):
    made = BulkIndex(HttpClient(server.url, name=SEARCH_SERVER, extra="elasticsearch"), "spans", span_mapping)
    yield made
    made.close()


def documents(count):
    return [Document(str(number), (b"{}",)) for number in range(count)]


def test_the_right_to_create_documents_is_enough(server, bulk, caplog):
    server.others = FORBIDDEN
    with caplog.at_level(logging.WARNING, "millstream"):
        assert bulk.send(documents(3)) == [None] * 3
        assert bulk.send(documents(3)) == [None] * 3
    (said,) = (record.getMessage() for record in caplog.records)
    assert said == (
        f"millstream: the search server at {server.url} makes neither an index template nor index 'spans'"
        " for us (403 action is unauthorized)"
    )


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ((200, {"version": {"number": "9.1.0"}}, {"X-elastic-product": "Elasticsearch"}), "Elasticsearch"),
        ((200, {"version": {"distribution": "opensearch", "number": "3.8.0"}}, {}), "OpenSearch"),
        (FORBIDDEN, "the search server"),
    ],
)
def test_messages_call_the_server_what_it_says_it_is(server, bulk, root, name):
    server.others = root
    server.bulks = [FINE, (503, {}, {})]
    assert bulk.send(documents(1)) == [None]
    with pytest.raises(UnreachableError, match=rf"^{name} at {server.url} cannot answer now \(503\)"):
        bulk.send(documents(1))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (item(403, "security_exception"), "may not be written to by this user"),
        (item(404, "index_not_found_exception"), "is not there, and may not be made"),
        (item(400, "strict_dynamic_mapping_exception"), "its mapping is strict; name another `index`"),
    ],
)
def test_what_a_person_has_to_mend(server, bulk, told, said):
    server.bulks = [items(told, told)]
    with pytest.raises(RefusedError) as caught:
        bulk.send(documents(2))
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_each_document_has_its_result(server, bulk):
    server.bulks = [
        items(
            item(201),
            item(409, "version_conflict_engine_exception"),
            item(429, "es_rejected_execution_exception"),
            item(503, "unavailable_shards_exception"),
            item(
                403, "cluster_block_exception", "index [spans] blocked by: [FORBIDDEN/8/index write (api)];"
            ),
            item(403, "security_exception"),
            item(500, "null_pointer_exception", 'Cannot read field "secret" because it is null'),
            item(400, "mapper_parsing_exception", "failed to parse field [a.b] of type [long] 'secret'"),
            item(400, "illegal_argument_exception", "Limit of total fields [1000] has been exceeded"),
            item(400, "illegal_argument_exception", "[1:7] Document is 'secret'"),
            item(400, "strict_dynamic_mapping_exception", "dynamic introduction of [x] within [_doc]"),
        )
    ]
    where = f"index 'spans' of the search server at {server.url}"
    assert bulk.send(documents(11)) == [
        None,
        None,
        Retry(f"{where} takes nothing now (429: es_rejected_execution_exception: secret)"),
        Retry(f"{where} takes nothing now (503: unavailable_shards_exception: secret)"),
        Retry(f"{where} is blocked now (403: index write (api))"),
        Retry(f"{where} may not be written to by this user: give it the right `create_doc`"),
        Retry(f"{where} takes nothing now (500: null_pointer_exception: Cannot read field)"),
        Rejected("mapper_parsing_exception: field 'a.*' is mapped as long"),
        Rejected("illegal_argument_exception: over its limit of total fields [1000]"),
        Rejected("illegal_argument_exception: Document is"),
        Rejected("strict_dynamic_mapping_exception: no field 'x'"),
    ]
    assert bulk.limit == 5  # one was refused for the load


def test_too_busy_for_any(server, bulk):
    server.bulks = [(429, {}, {"retry-after": "7"})]
    with pytest.raises(UnreachableError, match=r"is too busy now \(429\)") as caught:
        bulk.send(documents(400))
    assert caught.value.retry_after_s == 7
    assert server.sizes == [100] * 4
    assert bulk.limit == 200


BLOCK = {
    "type": "cluster_block_exception",
    "reason": "blocked by: [FORBIDDEN/6/cluster read-only (api)];",
}
DENIED = {"type": "security_exception", "reason": "action [indices:data/write/bulk] is unauthorized"}


def test_a_cause_has_the_same_words_whether_the_request_or_each_document_is_refused(server, bulk):
    """Elasticsearch says 403 of the request where a user has no rights at all, else of each document."""
    said = set()
    for told in ((403, {"error": DENIED}, {}), items(item(403, *DENIED.values()), item(403))):
        server.bulks = [told]
        with pytest.raises(RefusedError) as caught:
            bulk.send(documents(2))
        said.add(str(caught.value))
    (one,) = said
    assert one == (
        f"index 'spans' of the search server at {server.url} may not be written to by this user: "
        "give it the right `create_doc`"
    )
    server.bulks = [(403, {"error": BLOCK}, {})]
    with pytest.raises(UnreachableError) as blocked:
        bulk.send(documents(1))
    server.bulks = [items(item(403, *BLOCK.values()))]
    assert bulk.send(documents(1)) == [Retry(str(blocked.value))]
    assert "is blocked now (403: cluster read-only (api))" in str(blocked.value)


def test_a_user_without_rights_gets_one_message(server, bulk, caplog):
    server.others = FORBIDDEN
    server.bulks = [(403, {"error": DENIED}, {})]
    with caplog.at_level(logging.WARNING, "millstream"), pytest.raises(RefusedError, match="create_doc"):
        bulk.send(documents(1))
    assert caplog.records == []


@pytest.mark.parametrize(
    ("reason", "cause", "told"),
    [
        ("[1:7] failed to parse: Limit of mapping depth [2]", None, "over its limit of mapping depth [2]"),
        ("failed to parse", "field name cannot be an empty string", "field name cannot be an empty string"),
        ("[1:7] failed to parse: field name is: ['SECRET..z']", "SECRET", "field name is"),
        ("[1:7] object mapping for [o.SECRET] tried to parse field [SECRET] as object, but", None,
         "field 'o.*' is mapped as object"),
        ("failed to parse field [n] of type [long] in document with id 'x'. Preview: 'SECRET'", "For: SECRET",
         "field 'n' is mapped as long"),
        ("failed to parse field [g] of type [geo_point]", "unsupported [S] in [SECRET]",
         "field 'g' is mapped as geo_point"),
        ('Document contains at least one immense term in field="k" (whose', None,
         "field 'k' holds more than a term may"),
        ("failed to parse", "Numeric value (4000111122223333) out of range", "Numeric value"),
        ("failed to parse", "expected a number but found SECRET", "expected a number"),
        ("can't merge a non object mapping [SECRET.a] with", None, "can't merge a non object mapping"),
    ],
)  # fmt: skip
def test_a_rejection_says_why_without_the_content(server, bulk, reason, cause, told):
    error = {
        "type": "e",
        "reason": reason,
        **({"caused_by": {"type": "c", "reason": cause}} if cause else {}),
    }
    server.bulks = [items({"create": {"status": 400, "error": error}})]
    assert bulk.send(documents(1)) == [Rejected(f"e: {told}")]


def test_some_of_the_requests_fail(server, bulk):
    server.bulks = [FINE, (503, {}, {"retry-after": "2"}), FINE, FINE]
    results = bulk.send(documents(400))
    assert sorted(map(str, set(results))) == sorted(
        [
            "None",
            str(Retry(f"the search server at {server.url} cannot answer now (503)", 2.0)),
        ]
    )
    assert results.count(None) == 300


def test_what_is_in_flight_grows_by_steps(server, bulk):
    bulk.limit = 100
    bulk.send(documents(1000))
    assert server.sizes[0] == 100
    assert bulk.limit > 250
    for _ in range(40):
        bulk.send(documents(1000))
    assert bulk.limit == 1000
    assert server.sizes[-4:] == [250] * 4


@pytest.mark.parametrize(
    "told",
    [b"<html>", b"", b'{"errors":true}', b'{"errors":true,"items":[]}', b'{"errors":true,"items":[{}]}'],
)
def test_an_answer_that_is_none_loses_nothing(server, bulk, told):
    server.bulks = [(200, told, {})]
    with pytest.raises(UnreachableError, match="answers"):
        bulk.send(documents(2))


def test_a_request_that_is_too_large_is_halved_down_to_one(server, bulk):
    server.bulks = [(413, {}, {})]
    results = bulk.send(documents(9))
    assert len(results) == 9
    assert all(isinstance(result, Rejected) and "as large as this" in result.reason for result in results)


@pytest.mark.parametrize(
    "options",
    [
        {"username": "miller", "password": "flour-in-a-sack"},
        {"api_key": "id:flour-in-a-sack"},
        {"bearer_token": "flour-in-a-sack"},
        {"headers": {"x-token": "flour-in-a-sack"}},
    ],
)
@pytest.mark.parametrize("status", [401, 403, 500])
def test_no_message_repeats_what_the_server_was_told_in_secret(server, options, status, caplog):
    client = HttpClient(server.url, name=SEARCH_SERVER, extra="elasticsearch", **options)
    sent = client._headers.get("authorization", "x")
    reason = f"neither flour-in-a-sack nor {sent} will do"
    server.others = (status, {"error": {"reason": reason}}, {})
    bulk = BulkIndex(client, "spans", span_mapping)
    with caplog.at_level(logging.WARNING, "millstream"):
        try:
            assert bulk.send(documents(1)) == [None]
            said = caplog.text
        except (UnreachableError, RefusedError) as error:
            said = str(error)
    assert "[redacted]" in said
    assert "flour-in-a-sack" not in said
    assert sent == "x" or sent.rpartition(" ")[2] not in said
    bulk.close()


@pytest.mark.parametrize("head", [b"content-length: 100000", b"transfer-encoding: chunked"])
def test_an_answer_that_does_not_end(head):
    """A byte now and then is no answer either."""
    over = threading.Event()

    def serve(listener):
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
            while not over.wait(0.05):
                connection.sendall(b"1\r\n \r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = HttpClient(url, name=SEARCH_SERVER, extra="elasticsearch", timeout_s=0.5)
        killer = threading.Timer(10, over.set)
        killer.start()
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=r"does not answer: its answer did not end within 0\.5 s"):
            client.request("GET", "/")
        assert time.monotonic() - began < 5
        over.set()
        killer.cancel()
        thread.join()
        client.close()


def test_an_answer_without_end_is_not_kept(server, bulk, monkeypatch):
    monkeypatch.setattr(connections, "_LARGEST_ANSWER", 1_000)
    server.bulks = [(200, b" " * 2_000, {})]
    with pytest.raises(UnreachableError, match="its answer is larger than 1,000 bytes"):
        bulk.send(documents(1))


CONFLICT = item(400, "mapper_parsing_exception", "failed to parse field [attributes.a] of type [long]")


@pytest.mark.parametrize(
    ("told", "result"),
    [
        (
            items(item(429, "es_rejected_execution_exception", "rejected execution [secret]")),
            Retry(
                "index 'spans' of the search server at URL takes nothing now "
                "(429: es_rejected_execution_exception: rejected execution)"
            ),
        ),
        ((503, {}, {"retry-after": "2"}), Retry("the search server at URL cannot answer now (503)", 2.0)),
        (
            items(item(400, "strict_dynamic_mapping_exception", "dynamic introduction of [unparsed] within")),
            Rejected("mapper_parsing_exception: field 'attributes.*' is mapped as long"),
        ),
        (items(CONFLICT), Rejected("mapper_parsing_exception: field 'attributes.*' is mapped as long")),
        (FINE, None),
    ],
)
def test_a_span_in_conflict_with_an_index_costs_only_itself(server, told, result):
    """Its content is sent again as a text; what becomes of that says nothing of the other spans."""
    server.bulks = [items(item(201), CONFLICT, item(201)), told]
    sink = ElasticsearchSink(endpoint=server.url, index="spans")
    if isinstance(result, Retry):
        result = Retry(result.reason.replace("URL", server.url), result.after_s)
    assert sink.send([span(), span(), span()]) == [None, result, None]
    sink.close()
