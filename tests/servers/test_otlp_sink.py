"""Spans as users record them, sent to real receivers of OTLP, and read back there."""

import json

import httpx
import pytest
from openai import OpenAI

import millstream
from millstream import SpanKind, Status, start_span, track_function
from millstream.deliver.otlp import OtlpSink
from millstream.deliver.presets import mlflow as mlflow_sink
from millstream.deliver.presets import phoenix as phoenix_sink
from millstream.deliver.sink import Rejected
from millstream.errors import RefusedError, UnreachableError
from tests.integrations.conformance import RULES
from tests.servers.spans import span
from tests.simulate.process import running

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
PATIENCE_S = 60.0
"""For machines that are busy: a request that is given up may still arrive, and its spans twice."""
PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture(scope="module")
def base_url(tmp_path_factory):
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    with running(rules) as stand_in:
        yield stand_in.base_url


@pytest.fixture
def recorded(base_url, spans):
    """A run with two calls of a model, a tool, a retriever and an error; name: span."""
    client = OpenAI(
        base_url=base_url, api_key="right", max_retries=0, http_client=httpx.Client(trust_env=False)
    )
    millstream.instrument("openai")
    try:
        with start_span(
            "answering", kind=SpanKind.WORKFLOW, input={"question": "Is it raining?"}
        ) as workflow:
            workflow.set_output({"answer": "yes"})
            first = ask(client, [{"role": "user", "content": "What of Oslo?"}], tools=[WEATHER])
            (call,) = first.tool_calls
            weather(**json.loads(call.function.arguments))
            asked = [
                {"role": "system", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What of Oslo?"},
                        {"type": "image_url", "image_url": {"url": PIXEL}},
                    ],
                },
                first.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": call.id, "content": "rain in Oslo"},
            ]
            ask(client, asked, temperature=0.25)
            with start_span("find", kind=SpanKind.RETRIEVER, input="rain") as found:
                found.set_output(
                    [{"content": "It rains.", "metadata": {"page": 7}}, {"content": "It pours."}]
                )
            with (
                pytest.raises(KeyError),
                start_span("plan", attributes={"sacks": [1, 2], "deep": {"a": None}}),
            ):
                raise KeyError("no plan")
    finally:
        millstream.uninstrument()
        client.close()
    made = spans()
    assert len(made) == 6
    return made


def ask(client, messages, **options):
    return client.chat.completions.create(model="able", messages=messages, **options).choices[0].message


@track_function
def look_up(city):
    return f"rain in {city}"


def weather(city):
    with start_span("weather", kind=SpanKind.TOOL, input={"city": city}) as tool:
        tool.set_output(f"rain in {city}")


def send(sink, spans):
    try:
        return sink.send(spans)
    finally:
        sink.close()


def by_id(received):
    return {each["spanId"]: each for each in received}


# The collector


def transports(collector):
    return {
        "http": {"endpoint": collector.url},
        "http, whole path": {"endpoint": f"{collector.url}/v1/traces/"},
        "http, not compressed": {"endpoint": collector.url, "compression": "none"},
        "grpc": {"endpoint": collector.grpc, "protocol": "grpc"},
        "grpc, URL": {"endpoint": f"http://{collector.grpc}", "protocol": "grpc", "compression": "none"},
    }


@pytest.mark.parametrize(
    "transport", ["http", "http, whole path", "http, not compressed", "grpc", "grpc, URL"]
)
def test_spans_arrive_as_they_were_recorded(transport, collector, recorded, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mill")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=grain%20store,service.name=another")
    sink = OtlpSink(**transports(collector)[transport], resource_attributes={"shift": 2})

    assert send(sink, recorded) == [None] * 6

    received = by_id(collector.wait_for(6, PATIENCE_S))
    assert len(received) == 6
    for sent in recorded:
        got = received[sent.span_id]
        assert (got["traceId"], got.get("parentSpanId"), got["name"]) == (
            sent.trace_id,
            sent.parent_id,
            sent.name,
        )
        assert (got["startTimeUnixNano"], got["endTimeUnixNano"]) == (sent.start_ns, sent.end_ns)
        assert got["scope"] == "millstream"
        resource = got["resource"]
        assert (resource["service.name"], resource["team"], resource["shift"]) == ("mill", "grain store", 2)


def test_a_model_call_at_the_collector(collector, recorded):
    send(OtlpSink(endpoint=collector.url), recorded)

    received = by_id(collector.wait_for(6, PATIENCE_S))
    asking, asked = (received[each.span_id] for each in recorded if each.kind is SpanKind.LLM)
    told = asked["attributes"]
    assert asked["kind"] == 3  # CLIENT
    assert told["gen_ai.operation.name"] == "chat"
    assert told["openinference.span.kind"] == "LLM"
    assert told["gen_ai.request.temperature"] == 0.25
    usage = next(each.usage for each in recorded if each.span_id == asked["spanId"])
    assert told["gen_ai.usage.input_tokens"] == told["llm.token_count.prompt"] == usage.input_tokens > 0
    assert told["llm.token_count.total"] == usage.input_tokens + usage.output_tokens
    system, user, assistant, tool = json.loads(told["gen_ai.input.messages"])
    assert system == {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]}
    assert [part["type"] for part in user["parts"]] == ["text", "blob"]
    (call,) = assistant["parts"]
    assert (call["type"], call["name"], call["arguments"]) == ("tool_call", "weather", {"city": "Oslo"})
    assert tool["parts"] == [{"type": "tool_call_response", "id": call["id"], "response": "rain in Oslo"}]
    (made,) = json.loads(told["gen_ai.output.messages"])
    assert made["finish_reason"] == "stop"
    assert made["parts"] == [{"type": "text", "content": "The tool said: rain in Oslo"}]
    assert json.loads(told["output.value"])["content"] == "The tool said: rain in Oslo"
    (defined,) = json.loads(asking["attributes"]["gen_ai.tool.definitions"])
    assert (defined["type"], defined["name"]) == ("function", "weather")


def test_an_error_at_the_collector(collector, recorded):
    send(OtlpSink(endpoint=collector.url), recorded)

    (failed,) = (each for each in collector.wait_for(6, PATIENCE_S) if each["name"] == "plan")
    assert failed["status"] == {"code": 2, "message": "KeyError: 'no plan'"}
    assert failed["attributes"]["error.type"] == "KeyError"
    assert (failed["attributes"]["sacks"], failed["attributes"]["deep"]) == ([1, 2], {"a": None})
    (event,) = failed["events"]
    assert event["name"] == "exception"
    assert event["attributes"] == {"exception.type": "KeyError", "exception.message": "'no plan'"}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_tls(protocol, tls_collector, authority):
    endpoint = tls_collector.url if protocol == "http/protobuf" else f"https://{tls_collector.grpc}"
    trusted = OtlpSink(endpoint=endpoint, protocol=protocol, tls={"ca_file": str(authority.ca_file)})
    assert send(trusted, [span(name="trusted")]) == [None]
    for tls in (None, {"ca_file": str(authority.other_ca_file)}):
        with pytest.raises(RefusedError, match=r"cannot be trusted.*tls\.ca_file"):
            send(OtlpSink(endpoint=endpoint, protocol=protocol, tls=tls), [span()])
    assert [each["name"] for each in tls_collector.wait_for(1, PATIENCE_S)] == ["trusted"]


def test_any_certificate_where_that_is_asked_for(tls_collector):
    assert send(OtlpSink(endpoint=tls_collector.url, tls={"insecure": True}), [span()]) == [None]


def test_a_certificate_of_ours(servers, tls_collector, authority):
    files = {"cert_file": str(authority.certificate_file), "key_file": str(authority.key_file)}
    sink = OtlpSink(
        endpoint=tls_collector.grpc, protocol="grpc", tls={"ca_file": str(authority.ca_file), **files}
    )
    assert send(sink, [span()]) == [None]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_token(protocol, token_collector):
    endpoint = token_collector.url if protocol == "http/protobuf" else token_collector.grpc
    right = {"Authorization": f"Bearer {token_collector.token}"}
    assert send(OtlpSink(endpoint=endpoint, protocol=protocol, headers=right), [span()]) == [None]

    with pytest.raises(RefusedError, match="asks for credentials"):
        send(OtlpSink(endpoint=endpoint, protocol=protocol), [span()])
    with pytest.raises(RefusedError, match="does not accept the credentials") as refused:
        send(
            OtlpSink(endpoint=endpoint, protocol=protocol, headers={"Authorization": "Bearer grain"}),
            [span()],
        )
    assert "grain" not in str(refused.value)  # this collector repeats what it was sent


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_full_receiver(protocol, full_collector):
    endpoint = full_collector.url if protocol == "http/protobuf" else full_collector.grpc
    with pytest.raises(UnreachableError, match=r"takes nothing now.*high memory usage"):
        send(OtlpSink(endpoint=endpoint, protocol=protocol), [span()])


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_receiver_that_hangs_dies_and_returns(protocol, collector):
    endpoint = collector.url if protocol == "http/protobuf" else collector.grpc
    sink = OtlpSink(endpoint=endpoint, protocol=protocol, timeout=0.5)
    assert sink.send([span()]) == [None]
    collector.pause()
    with pytest.raises(UnreachableError, match=r"nothing came within 0\.5 s"):
        sink.send([span()])
    collector.resume()
    collector.kill()
    for _ in range(3):
        with pytest.raises(UnreachableError, match="refused"):
            sink.send([span()])
    collector.start()
    assert sink.send([span()]) == [None]
    collector.wait_for(1, PATIENCE_S)  # else it is written in the middle of the next test
    sink.close()


def test_more_than_a_receiver_of_grpc_takes(collector):
    """It takes 4 MiB: more go in several requests, and one of which the content alone is nearly that much."""
    many = [span(input=[{"role": "user", "content": "x" * 400_000}]) for _ in range(8)]
    large = span(name="large", input=[{"role": "user", "content": "é" * 1_500_000}])
    too_large = span(input=[{"role": "user", "content": "x" * 5_000_000}])
    sink = OtlpSink(endpoint=collector.grpc, protocol="grpc", timeout=PATIENCE_S)

    *taken, refused = send(sink, [*many, large, too_large])

    assert taken == [None] * 9
    assert isinstance(refused, Rejected)
    assert "larger than max" in refused.reason
    received = collector.wait_for(9, PATIENCE_S)
    assert len(received) == 9
    (got,) = (each for each in received if each["name"] == "large")
    assert json.loads(got["attributes"]["input.value"]) == large.input


def test_a_body_that_a_proxy_does_not_let_through(collector, guard):
    halved = guard(collector, max_body_bytes=4_000)
    many = [span(input={"noise": millstream.sources.RandomIds().trace_id()}) for _ in range(40)]
    too_large = span(input="".join(each.trace_id for each in (span() for _ in range(400))))

    results = send(OtlpSink(endpoint=halved.url), [*many, too_large])

    assert results[:-1] == [None] * 40
    assert isinstance(results[-1], Rejected)
    assert len(collector.wait_for(40, PATIENCE_S)) == 40
    assert {each["status"] for each in halved.requests(3)} == {200, 413}


def test_what_answers_is_no_receiver(collector):
    with pytest.raises(RefusedError, match="correct `endpoint`"):
        send(OtlpSink(endpoint=f"{collector.url}/elsewhere"), [span()])
    with pytest.raises(RefusedError, match="correct `endpoint` or `protocol`"):
        send(OtlpSink(endpoint=f"127.0.0.1:{collector.port}", protocol="grpc"), [span()])
    with pytest.raises(RefusedError, match="does not speak TLS"):
        send(OtlpSink(endpoint=f"https://127.0.0.1:{collector.grpc_port}", protocol="grpc"), [span()])


FAULTS = {
    "reset": lambda proxy: proxy.reset(),
    "cut off": lambda proxy: proxy.cut(5),  # before the status is told
    "cut off while it is sent": lambda proxy: proxy.cut(1_000, upstream=True),
    "hangs": lambda proxy: proxy.hang(),
    "refused": lambda proxy: proxy.disable(),
}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_on_the_way(fault, protocol, collector, toxiproxy):
    proxy = toxiproxy.proxy(collector if protocol == "http/protobuf" else collector.grpc_port)
    endpoint = proxy.url if protocol == "http/protobuf" else proxy.address
    sink = OtlpSink(endpoint=endpoint, protocol=protocol, timeout=1, compression="none")
    large = [span(input="x" * 5_000)]
    assert sink.send(large) == [None]
    FAULTS[fault](proxy)
    for _ in range(2):
        with pytest.raises(UnreachableError):
            sink.send(large)
    proxy.enable()
    proxy.clear()
    assert sink.send(large) == [None]
    sink.close()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_nothing_is_lost_or_sent_twice_over_an_outage(protocol, collector, spans):
    endpoint = collector.url if protocol == "http/protobuf" else collector.grpc
    section = {
        "_type": "otlp",
        "endpoint": endpoint,
        "protocol": protocol,
        "timeout": PATIENCE_S,
        "flush_interval": 0.05,
    }
    with millstream.deliver_to({"collector": section}):
        for number in range(30):
            if number == 10:
                assert millstream.flush(PATIENCE_S).left == 0
                collector.wait_for(10, PATIENCE_S)  # it writes later than it answers
                collector.kill()
            if number == 20:
                assert millstream.flush(0.5).left == 10
                collector.start()
            with start_span(f"span {number}", input={"n": number}):
                pass
        told = millstream.flush(PATIENCE_S)
    assert (told.left, told.rejected) == (0, {})
    received = [each["spanId"] for each in collector.wait_for(30, PATIENCE_S)]
    assert sorted(received) == sorted(each.span_id for each in spans())


# Arize Phoenix


def in_phoenix(server, names):
    """What Phoenix shows of its spans, by name."""
    query = """
        query ($name: String!) { getProjectByName(name: $name) { spans(first: 100) { edges { node {
            name spanKind statusCode tokenCountTotal tokenCountPrompt tokenCountCompletion
            input { value mimeType } output { value mimeType } parentId attributes
        } } } } }"""
    answer = server.call("POST", "/graphql", json={"query": query, "variables": {"name": server.project}})
    shown = [edge["node"] for edge in answer["data"]["getProjectByName"]["spans"]["edges"]]
    return [each for each in shown if each["name"] in names]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_phoenix_shows_a_run(protocol, phoenix, recorded):
    endpoint = phoenix.url if protocol == "http/protobuf" else f"127.0.0.1:{phoenix.grpc_port}"
    sink = phoenix_sink(endpoint=endpoint, protocol=protocol, project=phoenix.project)
    assert send(sink, recorded) == [None] * 6

    received = by_id(phoenix.wait_for(6))
    for sent in recorded:
        got = received[sent.span_id]
        assert (got["traceId"], got.get("parentSpanId"), got["name"]) == (
            sent.trace_id,
            sent.parent_id,
            sent.name,
        )
        assert got["startTimeUnixNano"] == pytest.approx(sent.start_ns, abs=1_000, rel=0)
        assert got["endTimeUnixNano"] == pytest.approx(sent.end_ns, abs=1_000, rel=0)
    asking, asked = (each for each in recorded if each.kind is SpanKind.LLM)
    told = received[asked.span_id]["attributes"]
    assert told["llm.input_messages.0.message.role"] == "system"
    assert told["llm.input_messages.1.message.contents.0.message_content.text"] == "What of Oslo?"
    assert told["llm.input_messages.1.message.contents.1.message_content.image.image.url"] == PIXEL
    calling = "llm.input_messages.2.message.tool_calls.0.tool_call"
    assert told[f"{calling}.function.name"] == "weather"
    assert json.loads(told[f"{calling}.function.arguments"]) == {"city": "Oslo"}
    assert told["llm.input_messages.3.message.tool_call_id"] == told[f"{calling}.id"]
    assert told["llm.output_messages.0.message.content"] == "The tool said: rain in Oslo"
    assert json.loads(told["llm.invocation_parameters"])["temperature"] == 0.25
    assert told["llm.model_name"] == "able"
    offered = json.loads(received[asking.span_id]["attributes"]["llm.tools.0.tool.json_schema"])
    assert offered == WEATHER


def test_phoenix_understands_kinds_tokens_and_content(phoenix, recorded):
    send(phoenix_sink(endpoint=phoenix.url, project=phoenix.project), recorded)
    phoenix.wait_for(6)

    (workflow,) = in_phoenix(phoenix, ["answering"])
    assert (workflow["spanKind"], workflow["statusCode"]) == ("chain", "OK")
    assert json.loads(workflow["input"]["value"]) == {"question": "Is it raining?"}
    assert (workflow["input"]["mimeType"], workflow["parentId"]) == ("json", None)
    (tool,) = in_phoenix(phoenix, ["weather"])
    assert (tool["spanKind"], tool["output"]["value"], tool["output"]["mimeType"]) == (
        "tool",
        "rain in Oslo",
        "text",
    )
    assert json.loads(tool["attributes"])["tool"]["name"] == "weather"
    (plan,) = in_phoenix(phoenix, ["plan"])
    assert (plan["spanKind"], plan["statusCode"]) == ("chain", "ERROR")
    (found,) = in_phoenix(phoenix, ["find"])
    first, second = json.loads(found["attributes"])["retrieval"]["documents"]
    assert first["document"] == {"content": "It rains.", "metadata": {"page": 7}}
    assert second["document"] == {"content": "It pours."}
    calls = [each for each in recorded if each.kind is SpanKind.LLM]
    shown = in_phoenix(phoenix, [calls[0].name])
    assert [each["spanKind"] for each in shown] == ["llm", "llm"]
    totals = sorted(each.usage.input_tokens + each.usage.output_tokens for each in calls)
    assert sorted(each["tokenCountTotal"] for each in shown) == totals


# MLflow


def test_mlflow_shows_a_run(mlflow, recorded):
    sink = mlflow_sink(endpoint=mlflow.url, timeout=PATIENCE_S, experiment_id=mlflow.experiment_id)
    assert send(sink, recorded) == [None] * 6

    received = by_id(mlflow.wait_for(6))
    for sent in recorded:
        got = received[sent.span_id]
        assert (got["traceId"], got.get("parentSpanId"), got["name"]) == (
            sent.trace_id,
            sent.parent_id,
            sent.name,
        )
        assert (got["startTimeUnixNano"], got["endTimeUnixNano"]) == (sent.start_ns, sent.end_ns)
    asked = next(each for each in recorded if each.kind is SpanKind.LLM and len(each.input) > 1)
    told = received[asked.span_id]["attributes"]
    assert told["mlflow.spanType"] == "LLM"
    assert told["mlflow.spanInputs"][0] == {"role": "system", "content": "Be brief."}
    assert told["mlflow.spanOutputs"]["content"] == "The tool said: rain in Oslo"
    assert told["mlflow.chat.tokenUsage"]["input_tokens"] == asked.usage.input_tokens
    types = {got["name"]: got["attributes"]["mlflow.spanType"] for got in received.values()}
    assert (types["answering"], types["weather"], types["find"]) == ("CHAIN", "TOOL", "RETRIEVER")
    (trace,) = mlflow.traces()
    assert trace["trace_info"]["state"] == "OK"
    (failed,) = (got for got in received.values() if got["name"] == "plan")
    assert failed["status"]["code"] in (2, "STATUS_CODE_ERROR")


def test_a_run_that_failed_in_mlflow(mlflow):
    failed = span(kind=SpanKind.WORKFLOW, parent_id=None, status=Status.ERROR)
    assert send(
        mlflow_sink(endpoint=mlflow.url, timeout=PATIENCE_S, experiment_id=mlflow.experiment_id), [failed]
    ) == [None]
    (trace,) = mlflow.traces()
    assert trace["trace_info"]["state"] == "ERROR"


def test_a_span_that_comes_twice_is_shown_once(phoenix, mlflow):
    again, last = span(parent_id=None), span(parent_id=None)
    for server, sink in (
        (phoenix, phoenix_sink(endpoint=phoenix.url, project=phoenix.project)),
        (mlflow, mlflow_sink(endpoint=mlflow.url, timeout=PATIENCE_S, experiment_id=mlflow.experiment_id)),
    ):
        assert sink.send([again]) == [None]
        assert sink.send([again]) == [None]
        assert send(sink, [last]) == [None]
        shown = [each["spanId"] for each in server.wait_for(2)]
        assert sorted(shown) == sorted([again.span_id, last.span_id])


def test_mlflow_without_such_an_experiment(mlflow):
    with pytest.raises(RefusedError, match="No Experiment"):
        send(mlflow_sink(endpoint=mlflow.url, timeout=PATIENCE_S, experiment_id=987654), [span()])
