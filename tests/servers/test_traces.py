"""The collector, Phoenix and MLflow take a span of OpenTelemetry's own exporters and give it back."""

import grpc
import httpx
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_HEADERS", raising=False)


def span(**resource: str) -> ReadableSpan:
    """A span of one event and attributes of each type, ended."""
    provider = TracerProvider(resource=Resource({"service.name": "mill", **resource}), shutdown_on_exit=False)
    ended = provider.get_tracer("grinding").start_span("grind")
    ended.set_attributes(
        {"sacks": 2, "load": 0.5, "wet": False, "grain": "rye", "stones": ["upper", "lower"]}
    )
    ended.add_event("poured", {"sacks": 1})
    ended.end()
    return ended


def send(exporter, sent: ReadableSpan) -> SpanExportResult:
    try:
        return exporter.export([sent])
    finally:
        exporter.shutdown()


def trace_id(sent: ReadableSpan) -> str:
    return f"{sent.context.trace_id:032x}"


def assert_is(received, sent, **more):
    assert (received["traceId"], received["name"]) == (trace_id(sent), "grind")
    assert received["spanId"] == f"{sent.context.span_id:016x}"
    # Arize Phoenix keeps microseconds.
    assert received["startTimeUnixNano"] == pytest.approx(sent.start_time, abs=1_000, rel=0)
    expected = {"sacks": 2, "load": 0.5, "wet": False, "grain": "rye", "stones": ["upper", "lower"]}
    assert received["attributes"] == {**expected, **more}
    assert [(event["name"], event["attributes"]) for event in received["events"]] == [
        ("poured", {"sacks": 1})
    ]


@pytest.mark.parametrize("time", [1, 2])
def test_collector_over_http(collector, time):
    assert collector.spans() == []

    sent = span()
    assert send(HttpExporter(f"{collector.url}/v1/traces"), sent) is SpanExportResult.SUCCESS

    (received,) = collector.wait_for(1)
    assert_is(received, sent)
    assert (received["resource"]["service.name"], received["scope"]) == ("mill", "grinding")


def test_collector_over_grpc(collector):
    sent = span()
    assert send(GrpcExporter(collector.grpc, insecure=True), sent) is SpanExportResult.SUCCESS

    (received,) = collector.wait_for(1)
    assert_is(received, sent)


def test_collector_keeps_spans_over_a_kill(collector):
    sent = [span(), span()]
    send(HttpExporter(f"{collector.url}/v1/traces"), sent[0])
    collector.wait_for(1)

    collector.kill()
    collector.start()
    send(HttpExporter(f"{collector.url}/v1/traces"), sent[1])

    assert [each["traceId"] for each in collector.wait_for(2)] == [trace_id(each) for each in sent]


def test_tls_collector(tls_collector, authority):
    ca = authority.ca_file
    sent = [span(), span()]
    assert (
        send(HttpExporter(f"{tls_collector.url}/v1/traces", certificate_file=str(ca)), sent[0]).name
        == "SUCCESS"
    )
    credentials = grpc.ssl_channel_credentials(ca.read_bytes())
    assert send(GrpcExporter(tls_collector.grpc, credentials=credentials), sent[1]).name == "SUCCESS"

    assert [each["traceId"] for each in tls_collector.wait_for(2)] == [trace_id(each) for each in sent]


def test_token_collector(token_collector):
    url, bearer = f"{token_collector.url}/v1/traces", f"Bearer {token_collector.token}"
    sent = [span(), span()]
    assert send(HttpExporter(url, headers={"authorization": "Bearer another"}), span()).name == "FAILURE"
    assert send(HttpExporter(url, headers={"authorization": bearer}), sent[0]).name == "SUCCESS"
    with_token = GrpcExporter(token_collector.grpc, insecure=True, headers=(("authorization", bearer),))
    assert send(with_token, sent[1]).name == "SUCCESS"

    assert [each["traceId"] for each in token_collector.wait_for(2)] == [trace_id(each) for each in sent]


def test_full_collector(full_collector):
    request = encode_spans([span()])
    headers = {"Content-Type": "application/x-protobuf"}
    answer = httpx.post(
        f"{full_collector.url}/v1/traces",
        content=request.SerializeToString(),
        headers=headers,
        trust_env=False,
    )
    assert answer.status_code == 503
    with (
        grpc.insecure_channel(full_collector.grpc) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        TraceServiceStub(channel).Export(request, timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert full_collector.spans() == []


@pytest.mark.parametrize("time", [1, 2])
def test_phoenix(phoenix, time):
    assert phoenix.spans() == []

    sent = span(**{"openinference.project.name": phoenix.project})
    assert send(HttpExporter(f"{phoenix.url}/v1/traces"), sent) is SpanExportResult.SUCCESS

    (received,) = phoenix.wait_for(1)
    assert_is(received, sent)


@pytest.mark.parametrize("time", [1, 2])
def test_mlflow(mlflow, time):
    assert mlflow.spans() == []

    sent = span()
    exporter = HttpExporter(f"{mlflow.url}/v1/traces", headers=mlflow.headers)
    assert send(exporter, sent) is SpanExportResult.SUCCESS

    (received,) = mlflow.wait_for(1)
    assert_is(received, sent, **{"mlflow.traceRequestId": f"tr-{trace_id(sent)}"})
