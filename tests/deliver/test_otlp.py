"""The OTLP sink: its options, and what it makes of a receiver's answers."""

import logging
import ssl
import subprocess
import sys

import grpc
import msgspec
import pytest
import trustme
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from millstream.deliver.exporters import build
from millstream.deliver.otlp import OtlpSink
from millstream.deliver.sink import Rejected, Retry
from millstream.errors import ConfigError, MissingExtraError, RefusedError, UnreachableError
from tests.deliver.receivers import PROTOBUF, grpc_receiver, http_receiver, names_of, taken
from tests.servers.spans import span


@pytest.fixture
def receiver():
    with http_receiver() as started:
        yield started


@pytest.fixture
def sink(receiver):
    made = OtlpSink(endpoint=receiver.url)
    yield made
    made.close()


@pytest.fixture
def rpc_receiver():
    with grpc_receiver() as started:
        yield started


@pytest.fixture
def rpc_sink(rpc_receiver):
    made = OtlpSink(endpoint=rpc_receiver.address, protocol="grpc")
    yield made
    made.close()


def status(message, *details):
    told = RpcStatus(code=8, message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        told.details.append(packed)
    return told.SerializeToString()


# What is sent


def test_a_request_over_http(receiver):
    sink = OtlpSink(endpoint=f"{receiver.url}/otel/v1/traces", headers={"X-Team": "grain"})
    assert sink.send([span(), span()]) == [None, None]
    sink.close()

    ((path, headers, request),) = receiver.heard
    assert path == "/otel/v1/traces"
    assert (headers["content-type"], headers["content-encoding"], headers["x-team"]) == (
        PROTOBUF,
        "gzip",
        "grain",
    )
    assert len(names_of(request)) == 2


def test_a_user_in_the_endpoint(receiver, rpc_receiver):
    with_user = receiver.url.replace("http://", "http://miller:flour@")
    sink = OtlpSink(endpoint=with_user)
    sink.send([span()])
    sink.close()
    assert receiver.heard[0][1]["authorization"] == "Basic bWlsbGVyOmZsb3Vy"
    assert "flour" not in sink.summary()

    sink = OtlpSink(endpoint=f"http://miller:flour@{rpc_receiver.address}", protocol="grpc")
    sink.send([span()])
    sink.close()
    assert rpc_receiver.heard[0][0]["authorization"] == "Basic bWlsbGVyOmZsb3Vy"


def test_spans_of_one_scope_stay_together(receiver, sink):
    of_library = {"otel.scope.name": "grinding", "otel.scope.version": "2"}
    sink.send([span(name="a"), span(name="b", attributes=of_library), span(name="c", attributes=of_library)])

    (group,) = receiver.heard[0][2].resource_spans
    scopes = [
        (one.scope.name, one.scope.version, [each.name for each in one.spans]) for one in group.scope_spans
    ]
    assert scopes[0][::2] == ("millstream", ["a"])
    assert scopes[1] == ("grinding", "2", ["b", "c"])


def test_what_makes_the_spans(receiver, monkeypatch):
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=env, team=a%2Cb,,")

    def resource(**options):
        sink = OtlpSink(endpoint=receiver.url, **options)
        sink.send([span()])
        sink.close()
        (group,) = receiver.heard[-1][2].resource_spans
        return {
            each.key: each.value.string_value or each.value.int_value for each in group.resource.attributes
        }

    assert (resource()["service.name"], resource()["team"]) == ("env", "a,b")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named")
    assert resource()["service.name"] == "named"
    assert resource(resource_attributes={"service.name": "chosen", "n": 3})["service.name"] == "chosen"
    assert resource(resource_attributes={"service.name": "chosen", "n": 3})["n"] == 3
    assert resource()["telemetry.sdk.name"] == "millstream"


def test_a_resource_that_cannot_be_read_is_said(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team")
    OtlpSink(endpoint="http://127.0.0.1:1").close()
    assert "'team'" in caplog.text


# What is answered


def test_a_partial_success_counts_as_rejected_with_the_reason(receiver, sink):
    batch = [span(name=name) for name in "abcd"]
    reason = f"span {batch[2].span_id} has too many attributes"
    receiver.answer = lambda request: (200, {"content-type": PROTOBUF}, taken(2, reason))

    results = sink.send(batch)

    assert results[2] == Rejected(reason)  # the one that is named
    assert sorted(map(str, results)).count(str(Rejected(reason))) == 2
    assert results.count(None) == 2
    assert len(receiver.heard) == 1  # what was taken is not sent again


def test_a_partial_success_in_json(receiver, sink):
    body = b'{"partialSuccess": {"rejectedSpans": "1", "errorMessage": "too old"}}'
    receiver.answer = lambda request: (200, {"content-type": "application/json"}, body)
    assert sink.send([span()]) == [Rejected("too old")]
    receiver.answer = lambda request: (200, {"content-type": "application/json"}, b"{}")
    assert sink.send([span()]) == [None]


def test_a_partial_success_over_grpc(rpc_receiver, rpc_sink):
    rpc_receiver.answer = lambda request, context: ExportTraceServiceResponse.FromString(taken(3))
    assert rpc_sink.send([span(), span()]) == [Rejected("rejected by the receiver, without a reason")] * 2


def test_a_warning_of_the_receiver_is_passed_on_once(receiver, sink, caplog):
    receiver.answer = lambda request: (200, {"content-type": PROTOBUF}, taken(0, "use a newer version"))
    with caplog.at_level(logging.WARNING, "millstream"):
        assert [sink.send([span()]) for _ in range(3)] == [[None]] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"millstream: the OTLP receiver at {receiver.url} took all spans and says: use a newer version"
    ]


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_a_receiver_that_is_busy_says_when(code, receiver, sink):
    receiver.answer = lambda request: (code, {"retry-after": "7"}, b"")
    with pytest.raises(UnreachableError, match=rf"takes nothing now \({code}\)") as busy:
        sink.send([span()])
    assert busy.value.retry_after_s == 7


@pytest.mark.parametrize("code", [301, 401, 403, 404, 405, 415, 501])
def test_a_receiver_that_takes_nothing_as_things_are(code, receiver, sink):
    receiver.answer = lambda request: (code, {"content-type": "application/json"}, b'{"message": "told so"}')
    with pytest.raises(RefusedError, match=rf"{code}: told so"):
        sink.send([span()])


TEXT = {"content-type": "text/plain; charset=utf-8"}


@pytest.mark.parametrize("headers", [TEXT, {"content-type": "Text/Plain"}, {}])
@pytest.mark.parametrize("body", [b"span 7 has\n no name\x00", b"413"])
def test_a_reason_in_plain_text(receiver, sink, headers, body):
    receiver.answer = lambda request: (400, headers, body)
    words = "span 7 has no name" if body != b"413" else "413"
    if headers or body != b"413":
        assert sink.send([span()]) == [Rejected(words)]
    receiver.answer = lambda request: (503, headers, b"the disk is full")
    with pytest.raises(UnreachableError, match=r"takes nothing now \(503: the disk is full\)$"):
        sink.send([span()])
    receiver.answer = lambda request: (415, headers, b"use json")
    with pytest.raises(RefusedError, match=r"refuses what is sent \(415: use json\)$"):
        sink.send([span()])


def test_a_plain_reason_that_a_request_is_too_large(receiver, sink):
    receiver.answer = lambda request: (413, TEXT, b"too big")
    assert sink.send([span(), span()]) == [Rejected("too big")] * 2


def test_a_page_for_people_is_no_reason(receiver, sink):
    for headers in ({"content-type": "text/html"}, {}):
        receiver.answer = lambda request, headers=headers: (400, headers, b"\n<html><p>Bad request")
        assert sink.send([span()]) == [Rejected("refused without a reason (400)")]


def test_a_long_reason_is_shortened_and_holds_no_half_of_a_secret(receiver):
    secret = "flour-in-a-sack"
    sink = OtlpSink(endpoint=receiver.url, headers={"x-key": secret})
    for length in range(150, 205):
        receiver.answer = lambda request, length=length: (400, TEXT, b"a" * length + b" flour-in-a-sack" * 9)
        (result,) = sink.send([span()])
        assert "flour" not in result.reason
        assert len(result.reason) <= 200
    sink.close()


def test_a_page_for_people_is_no_receiver(receiver, sink):
    receiver.answer = lambda request: (200, {"content-type": "text/html; charset=utf-8"}, b"<p>Welcome")
    with pytest.raises(RefusedError, match="is no receiver of OTLP: correct `endpoint`"):
        sink.send([span()])


def test_grpc_says_when(rpc_receiver, rpc_sink):
    def busy(request, context):
        wait = RetryInfo(retry_delay=Duration(seconds=3, nanos=500_000_000))
        context.set_trailing_metadata((("grpc-status-details-bin", status("too much", wait)),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")

    rpc_receiver.answer = busy
    with pytest.raises(UnreachableError, match="takes nothing now: too much") as told:
        rpc_sink.send([span(), span()])
    assert told.value.retry_after_s == 3.5
    assert len(rpc_receiver.heard) == 1  # it is not taken for too large


LATER = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED", "DATA_LOSS", "INTERNAL", "UNKNOWN")
MEND = ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "NOT_FOUND", "FAILED_PRECONDITION")


@pytest.mark.parametrize("name", [*LATER, *MEND])
def test_errors_of_grpc(name, rpc_receiver, rpc_sink):
    rpc_receiver.answer = lambda request, context: context.abort(grpc.StatusCode[name], "told so")
    with pytest.raises(UnreachableError if name in LATER else RefusedError):
        rpc_sink.send([span()])
    rpc_receiver.answer = lambda request, context: ExportTraceServiceResponse()
    assert rpc_sink.send([span()]) == [None]


def refuse_bad(request):
    """A receiver that refuses a whole request for one span of it."""
    if "bad" in names_of(request):
        return 400, {"content-type": PROTOBUF}, status("a span is bad")
    return 200, {"content-type": PROTOBUF}, taken()


def taken_names(receiver):
    return sorted(name for names in receiver.names if "bad" not in names for name in names)


def test_a_bad_span_is_found_and_the_others_are_taken_once(receiver, sink):
    receiver.answer = refuse_bad
    names = [f"span {number:02}" for number in range(40)]
    batch = [span(name=name) for name in names]
    batch[17:17] = [span(name="bad")]

    results = sink.send(batch)

    assert results[17] == Rejected("a span is bad")
    assert results[:17] + results[18:] == [None] * 40
    assert taken_names(receiver) == names


def test_a_bad_span_over_grpc(rpc_receiver, rpc_sink):
    def answer(request, context):
        if "bad" in names_of(request):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a span is bad")
        return ExportTraceServiceResponse()

    rpc_receiver.answer = answer
    assert rpc_sink.send([span(name="a"), span(name="bad"), span(name="c")]) == [
        None,
        Rejected("a span is bad"),
        None,
    ]
    assert taken_names(rpc_receiver) == ["a", "c"]


def test_what_was_taken_before_an_outage_is_not_sent_again(receiver, sink):
    batch = [span(input="x" * 400_000) for _ in range(4)]  # two requests
    answers = [(200, {"content-type": PROTOBUF}, taken()), (503, {"retry-after": "2"}, b"")]
    receiver.answer = lambda request: answers.pop(0)

    results = sink.send(batch)

    assert results[:2] == [None, None]
    assert [(type(each), each.after_s) for each in results[2:]] == [(Retry, 2.0)] * 2


def test_a_span_that_no_protobuf_can_hold_is_rejected(receiver, sink):
    good, bad, worse = span(), span(trace_id="not hexadecimal"), span(name="half a \ud83d character")
    results = sink.send([bad, good, worse])
    assert (type(results[0]), results[1], type(results[2])) == (Rejected, None, Rejected)
    assert "cannot be written as OTLP" in results[0].reason
    assert [len(names) for names in receiver.names] == [1]


def test_secrets_are_not_shown_in_the_receivers_words(receiver):
    sink = OtlpSink(endpoint=receiver.url, headers={"authorization": "Bearer flour-42", "x-key": "grain-17"})
    receiver.answer = lambda request: (200, {"content-type": PROTOBUF}, taken(1, "flour-42\nmay not"))
    assert sink.send([span()]) == [Rejected("[redacted] may not")]
    body = msgspec.json.encode({"message": "no such token: flour-42, and grain-17"})
    for code in (400, 401, 503):
        receiver.answer = lambda request, code=code: (code, {"content-type": "application/json"}, body)
        try:
            said = str(sink.send([span()]))
        except (RefusedError, UnreachableError) as error:
            said = str(error)
        assert "no such token" in said
        assert "flour-42" not in said
        assert "grain-17" not in said
    sink.close()


def test_a_user_in_the_endpoint_is_not_shown_in_the_receivers_words(receiver):
    receiver.answer = lambda request: (401, {"content-type": "application/json"}, body)
    body = msgspec.json.encode({"message": "Basic bWlsbGVyOmZsb3VyLTQy is not known, nor flour-42"})
    sink = OtlpSink(endpoint=receiver.url.replace("://", "://miller:flour-42@"))
    with pytest.raises(RefusedError, match="is not known, nor") as caught:
        sink.send([span()])
    assert "bWlsbGVyOmZsb3VyLTQy" not in str(caught.value)
    assert "flour-42" not in str(caught.value)
    sink.close()


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint": "localhost:4318"}, "begins with http:// or https://"),
        ({"endpoint": "http://"}, "'http://' names no server: write its host, as in http://localhost:4318"),
        ({"endpoint": ""}, "empty"),
        ({"endpoint": "localhost", "protocol": "grpc"}, "host:port"),
        ({"endpoint": "http://localhost:4317/v2", "protocol": "grpc"}, "takes no path"),
        ({"endpoint": "http://x", "protocol": "grcp"}, "did you mean 'grpc'"),
        ({"endpoint": "http://x", "compression": "zip"}, "compression"),
        ({"endpoint": "http://x", "timeout": 0}, "timeout"),
        ({"endpoint": "http://x", "headers": {"a b": "c"}}, "no name of a header"),
        ({"endpoint": "http://x", "headers": {"a": "b\nc"}}, "cannot stand in a header"),
        ({"endpoint": "http://user@x"}, "password"),
        (
            {"endpoint": "https://x", "tls": {"ca_flie": "x"}},
            "tls.ca_flie: unknown key; did you mean 'ca_file'",
        ),
        (
            {"endpoint": "https://x", "tls": {"ca_file": "/nowhere.pem"}},
            "tls.ca_file: /nowhere.pem cannot be read",
        ),
        ({"endpoint": "https://x", "tls": {"ca_file": __file__}}, "no usable certificate"),
        ({"endpoint": "https://x", "tls": {"key_file": __file__}}, "without tls.cert_file"),
        (
            {"endpoint": "https://x:1", "protocol": "grpc", "tls": {"insecure": True}},
            "always checks certificates",
        ),
    ],
)
def test_options_that_are_wrong(options, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        OtlpSink(**options)


@pytest.fixture
def files(tmp_path):
    """Certificates of a CA: of the server, and of a client; paths."""
    ca = trustme.CA()
    made = {name: tmp_path / f"{name}.pem" for name in ("ca", "server", "client")}
    ca.cert_pem.write_to_path(made["ca"])
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(made["server"])
    ca.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(made["client"])
    return made


def test_a_certificate_is_shown_over_http(files):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files["ca"])
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(files["server"])
    tls = {"ca_file": str(files["ca"])}
    with http_receiver(context) as receiver:
        shown = OtlpSink(endpoint=receiver.url, tls={**tls, "cert_file": str(files["client"])})
        assert shown.send([span()]) == [None]
        shown.close()
        without = OtlpSink(endpoint=receiver.url, tls=tls)
        with pytest.raises((RefusedError, UnreachableError)):
            without.send([span()])
        assert len(receiver.heard) == 1


def test_a_certificate_is_shown_over_grpc(files):
    both = files["server"].read_bytes()
    credentials = grpc.ssl_server_credentials(
        [(both, both)], root_certificates=files["ca"].read_bytes(), require_client_auth=True
    )
    tls = {"ca_file": str(files["ca"])}
    with grpc_receiver(credentials) as receiver:
        shown = OtlpSink(
            endpoint=receiver.address, protocol="grpc", tls={**tls, "cert_file": str(files["client"])}
        )
        assert shown.send([span()]) == [None]
        shown.close()
        without = OtlpSink(endpoint=receiver.address, protocol="grpc", tls=tls)
        with pytest.raises((RefusedError, UnreachableError)):
            without.send([span()])
        assert len(receiver.heard) == 1


def test_files_for_tls_without_tls(files):
    tls = {"ca_file": str(files["ca"])}
    with pytest.raises(ConfigError, match="is without TLS; write https://"):
        OtlpSink(endpoint="http://x", tls=tls)
    OtlpSink(endpoint="https://x", tls=tls).close()
    OtlpSink(endpoint="localhost:1", protocol="grpc", tls=tls).close()


@pytest.mark.parametrize(
    ("endpoint", "tls", "secure"),
    [
        ("localhost:4317", None, False),
        ("127.0.0.1:4317", None, False),
        ("[::1]:4317", None, False),
        ("collector:4317", None, True),
        ("collector:4317", {"insecure": True}, False),
        ("http://collector:4317", None, False),
        ("https://localhost:4317", None, True),
    ],
)
def test_whether_grpc_speaks_tls(endpoint, tls, secure):
    sink = OtlpSink(endpoint=endpoint, protocol="grpc", tls=tls)
    assert sink._target.secure is secure
    sink.close()


def test_in_a_workflow_file():
    section = {
        "_type": "otelcollector",
        "endpoint": "http://localhost:4318",
        "headers": {"x-team": "grain"},
        "timeout": 3,
        "resource_attributes": {"service.name": "mill"},
        "batch_size": 50,
    }
    configured = build("traces", section)
    assert isinstance(configured.sink, OtlpSink)
    assert configured.sink.summary() == "the OTLP receiver at http://localhost:4318"
    assert configured.policy.batch_size == 50
    with pytest.raises(ConfigError, match=r"tracing\.traces\.endpiont: unknown key; did you mean 'endpoint'"):
        build("traces", {"_type": "otlp", "endpiont": "http://localhost:4318"})
    with pytest.raises(ConfigError, match=r"tracing\.traces: tls\.ca_flie: unknown key"):
        build("traces", {"_type": "otlp", "endpoint": "https://x", "tls": {"ca_flie": "x"}})
    with pytest.raises(ConfigError, match=r"tracing\.traces\.protocol: 'http' is none of its values"):
        build("traces", {"_type": "otlp", "endpoint": "http://x", "protocol": "http"})


@pytest.mark.parametrize("missing", ["grpc", "opentelemetry.proto.trace.v1", "urllib3"])
def test_a_missing_extra(missing):
    code = f"""
import sys
sys.modules[{missing!r}] = None
from millstream.deliver.otlp import OtlpSink
try:
    OtlpSink(endpoint="http://localhost:1", protocol="grpc" if {missing!r} == "grpc" else "http/protobuf")
except ImportError as error:
    print(type(error).__name__, error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith(MissingExtraError.__name__)
    assert "[otlp]" in told


def test_the_extra_is_loaded_where_it_is_used():
    code = """
import sys, millstream.deliver.otlp, millstream.deliver.presets
print(sorted({"grpc", "google.protobuf", "urllib3"} & sys.modules.keys()))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


FORKING = """
import os, sys, threading, time
from millstream.deliver.otlp import OtlpSink
from tests.servers.spans import span

sink = OtlpSink(endpoint=sys.argv[1], protocol="grpc")
stop = threading.Event()
def send():
    while not stop.is_set():
        sink.send([span()])
thread = threading.Thread(target=send)
thread.start()
time.sleep(0.3)
for number in range(5):
    child = os.fork()
    if child == 0:
        sink.close()  # as an atexit hook would
        os._exit(7)
    time.sleep(0.05)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
stop.set()
thread.join()
sink.close()
print("done")
"""


def test_children_that_are_forked_in_the_middle_of_a_request(rpc_receiver):
    program = [sys.executable, "-c", FORKING, rpc_receiver.address]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
    assert len(rpc_receiver.heard) > 10
