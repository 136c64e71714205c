"""OpenAI's SDK, in the versions of both environments."""

import asyncio
import gc
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pydantic
import pytest
from openai import AsyncOpenAI, OpenAI
from openai._base_client import AsyncAPIClient, SyncAPIClient

import millstream
from millstream import SpanKind, Status, current_span, semconv, start_span, track_function
from millstream.deliver import otlp_attributes
from millstream.deliver.flywheel_record import record_of
from millstream.deliver.otlp_attributes import told as attributes_of
from millstream.record.integrations.openai.streams import Reply
from tests.integrations.conformance import (
    SYSTEM,
    Conformance,
    look_up,
    model_calls,
    of_kind,
    only_model_call,
    text_of,
)
from tests.living import living_spans
from tests.simulate.process import running

MAJOR = int(openai.__version__.split(".")[0])
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
CHAT_WEATHER = {"type": "function", "function": {key: WEATHER[key] for key in WEATHER if key != "type"}}


def messages(question):
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def asked(question, model="able", **more):
    return {"model": model, "messages": messages(question), "temperature": 0.25, "max_tokens": 50, **more}


class TestChat(Conformance):
    framework = "openai"
    title = "OpenAI SDK, chat completions"
    absent = {"tool_runs": "the library runs no tools for them"}

    def ask(self, base_url, question):
        with OpenAI(base_url=base_url, max_retries=0) as client:
            return client.chat.completions.create(**asked(question)).choices[0].message.content

    async def ask_async(self, base_url, question, model="able"):
        async with AsyncOpenAI(base_url=base_url, max_retries=0) as client:
            completion = await client.chat.completions.create(**asked(question, model))
            return completion.choices[0].message.content

    def stream(self, base_url, question):
        with OpenAI(base_url=base_url, max_retries=0) as client:
            chunks = client.chat.completions.create(
                **asked(question), stream=True, stream_options={"include_usage": True}
            )
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    def use_tool(self, base_url, question):
        with OpenAI(base_url=base_url, max_retries=0) as client:
            request = asked(question, tools=[CHAT_WEATHER])
            message = client.chat.completions.create(**request).choices[0].message
            (call,) = message.tool_calls
            answer = {"role": "tool", "tool_call_id": call.id, "content": look_up("Oslo")}
            request["messages"] += [message, answer]
            return client.chat.completions.create(**request).choices[0].message.content

    def embed(self, base_url, text):
        with OpenAI(base_url=base_url, max_retries=0) as client:
            return client.embeddings.create(model="embedder", input=text).data[0].embedding


def responding(question, model="able", **more):
    return {
        "model": model,
        "instructions": SYSTEM,
        "input": question,
        "temperature": 0.25,
        "max_output_tokens": 50,
        **more,
    }


class TestResponses(Conformance):
    framework = "openai"
    title = "OpenAI SDK, responses"
    absent = {"embeddings": ""} | ({"tool_runs": "version 2 runs no tools"} if MAJOR == 2 else {})

    def ask(self, base_url, question):
        with OpenAI(base_url=base_url, max_retries=0) as client:
            return client.responses.create(**responding(question)).output_text

    async def ask_async(self, base_url, question, model="able"):
        async with AsyncOpenAI(base_url=base_url, max_retries=0) as client:
            return (await client.responses.create(**responding(question, model))).output_text

    def stream(self, base_url, question):
        with OpenAI(base_url=base_url, max_retries=0) as client:
            events = client.responses.create(**responding(question), stream=True)
            return "".join(event.delta for event in events if event.type == "response.output_text.delta")

    @track_function
    def use_tool(self, base_url, question):
        with OpenAI(base_url=base_url, max_retries=0) as client:
            request = responding(question, tools=[WEATHER])
            if MAJOR > 2:
                from openai.lib.responses_tool_runner import RegisteredFunction, ResponsesToolRunner

                function = RegisteredFunction(WEATHER, lambda arguments: look_up(arguments["city"]))
                del request["tools"]
                request["input"] = [{"role": "user", "content": question}]
                return ResponsesToolRunner(functions=[function]).run(client, request, max_steps=3).output_text
            output = client.responses.create(**request).output
            call_id = output[-1].call_id
            answer = {"type": "function_call_output", "call_id": call_id, "output": look_up("Oslo")}
            request["input"] = [{"role": "user", "content": question}, *output, answer]
            return client.responses.create(**request).output_text

    def test_the_table_tells_what_is_captured(self, request):
        if MAJOR == 2:
            pytest.skip("the row is version 3's")
        super().test_the_table_tells_what_is_captured(request)


RULES = """
models:
  able: {latency: {time_per_output_token_s: 0.002}, reasoning_tokens: 7}
  slow: {latency: {time_per_output_token_s: 0.2}}
  flaky: {errors: [{status: 503, probability: 1}]}
  torn: {errors: [{fault: reset, probability: 1, after_tokens: 2}]}
  failing: {errors: [{status: 500, probability: 1, after_tokens: 2}]}
rules:
  - when: {last_user_matches: plainly}
    reply: one two three four five
  - when: {last_user_matches: structured}
    reply: {json: {city: Oslo, degrees: 7}}
  - when: {has_tool: weather, last_message_role: user}
    reply:
      tool_calls: [{name: weather, arguments: {city: Oslo}}, {name: weather, arguments: {city: Bergen}}]
default: one two three four five
"""
TEXT = "one two three four five"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    with running(rules) as stand_in:
        yield stand_in


@pytest.fixture
def instrumented():
    millstream.instrument("openai")
    yield
    millstream.uninstrument()


@pytest.fixture
def client(server, instrumented):
    with OpenAI(base_url=server.base_url, max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(server, instrumented):
    async with AsyncOpenAI(base_url=server.base_url, max_retries=0) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_stays():
    yield
    for _ in range(5):  # what the first one closes may be in a cycle with its exception
        gc.collect()
    assert not living_spans()
    assert not [each for each in gc.get_objects() if type(each) is Reply]


class City(pydantic.BaseModel):
    city: str
    degrees: int


def assert_whole(span, *, chunks=None, usage=True):
    assert span.status is Status.OK
    assert text_of(span.output) == TEXT
    assert text_of(span.input[-1]) == "Count."
    assert span.attributes[semconv.RESPONSE_FINISH_REASONS] == ["stop"]
    assert span.attributes[semconv.RESPONSE_MODEL] == "able"
    assert span.attributes.get(semconv.CHUNK_COUNT) == chunks
    assert not usage or span.usage.output_tokens == 12


def test_a_stream_stays_what_it_is(client, spans):
    with start_span("outer") as outer:
        stream = client.chat.completions.create(**asked("Count."), stream=True)
        assert type(stream) is openai.Stream
        assert stream.response.status_code == 200
        with stream as same:
            assert same is stream
            for chunk in stream:
                assert type(chunk).__name__ == "ChatCompletionChunk"
                assert current_span() is outer, "our span must not leak into the consumer"
        assert next(stream, None) is None
    root, call = spans()
    assert call.parent_id == root.span_id
    assert_whole(call, chunks=5, usage=False)
    assert call.usage is None, "the user did not ask for it"


@pytest.mark.parametrize("left_by", ["close", "with", "break", "response", "drop"])
def test_a_stream_that_is_left_ends_ok(client, spans, left_by):
    stream = client.chat.completions.create(**asked("Count."), stream=True)
    while left_by != "drop":
        if next(stream).choices[0].delta.content == "one":
            break
    if left_by == "close":
        stream.close()
    elif left_by == "with":
        with stream:
            pass
    elif left_by == "response":
        stream.response.close()
    del stream
    if left_by == "drop":
        gc.collect()  # a stream that was never begun is in a cycle of the library's
    call = only_model_call(spans())
    assert call.status is Status.OK
    assert call.output == {"role": "assistant", "content": "one"} or left_by == "drop"


@pytest.mark.parametrize("left_by", ["close", "with", "break"])
async def test_an_asynchronous_stream_that_is_left_ends_ok(async_client, spans, left_by):
    stream = await async_client.chat.completions.create(**asked("Count."), stream=True)
    assert type(stream) is openai.AsyncStream
    async for chunk in stream:
        if chunk.choices[0].delta.content == "one":
            break
    if left_by == "close":
        await stream.close()
    elif left_by == "with":
        async with stream:
            pass
    del stream, chunk
    for _ in range(5):
        await asyncio.sleep(0.01)  # the event loop closes generators in tasks
    call = only_model_call(spans())
    assert call.status is Status.OK
    assert call.output["content"] == "one"


async def test_a_cancelled_stream_is_cancelled(async_client, spans):
    async def read():
        stream = await async_client.chat.completions.create(**asked("Count.", "slow"), stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                came.set()

    came = asyncio.Event()
    task = asyncio.ensure_future(read())
    await came.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert only_model_call(spans()).status is Status.CANCELLED


async def test_streams_read_in_turns_have_their_own_parents(async_client, spans):
    async def consume(word):
        with start_span("outer", input=word):
            async for _ in await async_client.chat.completions.create(**asked(word), stream=True):
                await asyncio.sleep(0)

    await asyncio.gather(*map(consume, "abcdef"))
    roots = {span.span_id: span.input for span in spans() if span.parent_id is None}
    calls = model_calls(spans())
    assert sorted(roots[call.parent_id] for call in calls) == list("abcdef")
    assert all(text_of(call.input[-1]) == roots[call.parent_id] for call in calls)


def test_a_broken_stream_is_an_error(client, spans):
    stream = client.chat.completions.create(**asked("Count.", "torn"), stream=True)
    with pytest.raises(Exception, match=r"peer closed|Connection error|reset by peer") as raised:
        list(stream)
    call = only_model_call(spans())
    assert call.status is Status.ERROR
    assert call.error.type == type(raised.value).__name__
    assert call.output["content"].startswith("one")


def test_a_response_that_fails_is_an_error(client, spans):
    events = list(client.responses.create(**responding("Count.", "failing"), stream=True))
    assert events[-1].type == "response.failed"
    call = only_model_call(spans())
    assert call.status is Status.ERROR
    assert call.error.type == "ResponseFailed"


def test_retries_are_one_call(server, instrumented, spans):
    with (
        OpenAI(base_url=server.base_url, max_retries=2) as client,
        pytest.raises(openai.InternalServerError) as raised,
    ):
        client.chat.completions.create(**asked("Count.", "flaky"))
    call = only_model_call(spans())
    assert (call.status, call.error.type) == (Status.ERROR, "InternalServerError")
    assert call.error.message == str(raised.value)


def test_parsed_answers(client, spans):
    completion = client.chat.completions.parse(**asked("structured"), response_format=City)
    assert completion.choices[0].message.parsed == City(city="Oslo", degrees=7)
    response = client.responses.parse(**responding("structured"), text_format=City)
    assert response.output_parsed == City(city="Oslo", degrees=7)
    for call in spans():
        assert json.loads(text_of(call.output)) == {"city": "Oslo", "degrees": 7}
        assert "parsed" not in call.output


def test_an_answer_that_cannot_be_parsed_is_an_error_with_its_answer(client, spans):
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**{**asked("structured"), "max_tokens": 1}, response_format=City)
    call = only_model_call(spans())
    assert (call.status, call.error.type) == (Status.ERROR, "LengthFinishReasonError")
    assert call.attributes[semconv.RESPONSE_FINISH_REASONS] == ["length"]
    assert call.usage.output_tokens


def test_streams_of_events(client, spans):
    with client.chat.completions.stream(**asked("Count."), stream_options={"include_usage": True}) as stream:
        assert stream.get_final_completion().choices[0].message.content == TEXT
    with client.responses.stream(**responding("Count.")) as stream:
        assert stream.get_final_response().output_text == TEXT
    with client.chat.completions.stream(**asked("structured"), response_format=City) as stream:
        for event in stream:
            if event.type == "content.delta" and event.delta:
                break
    first, second, third = spans()
    assert_whole(first, chunks=5)
    assert_whole(second, chunks=5)
    assert (third.status, third.output["content"][0]) == (Status.OK, "{")


async def test_asynchronous_streams_of_events(async_client, spans):
    async with async_client.chat.completions.stream(**asked("Count.")) as stream:
        assert (await stream.get_final_completion()).choices[0].message.content == TEXT
    async with async_client.responses.stream(**responding("Count.")) as stream:
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
    first, second = spans()
    assert_whole(first, chunks=5, usage=False)
    assert (second.status, text_of(second.output)) == (Status.OK, "one")


def test_raw_responses(client, spans):
    raw = client.chat.completions.with_raw_response.create(**asked("Count."))
    assert raw.headers["content-type"]
    assert raw.parse().choices[0].message.content == TEXT
    raw = client.chat.completions.with_raw_response.create(
        **asked("Count."), stream=True, stream_options={"include_usage": True}
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in raw.parse() if chunk.choices) == TEXT
    whole, streamed = spans()
    assert_whole(whole)
    assert_whole(streamed, chunks=5)


@pytest.mark.parametrize(
    "way", ["parse", "json", "iter_bytes", "iter_lines", "stream", "stream_lines", "nothing"]
)
def test_streaming_responses(client, spans, way):
    more = {"stream": True, "stream_options": {"include_usage": True}} if way.startswith("stream") else {}
    with client.chat.completions.with_streaming_response.create(**asked("Count."), **more) as response:
        if way == "stream":
            list(response.parse())
        elif way == "stream_lines":
            list(response.iter_lines())
        elif way.startswith("iter"):
            assert list(getattr(response, way)())
        elif way != "nothing":
            assert TEXT in str(getattr(response, way)())
    call = only_model_call(spans())
    assert call.status is Status.OK
    if way != "nothing":
        assert_whole(call, chunks=5 if way == "stream" else None)


async def test_asynchronous_raw_and_streaming_responses(async_client, spans):
    completions = async_client.chat.completions
    raw = await completions.with_raw_response.create(**asked("Count."), stream=True)
    assert len([chunk async for chunk in raw.parse()]) > 5
    async with completions.with_streaming_response.create(**asked("Count.")) as response:
        assert (await response.parse()).choices[0].message.content == TEXT
    async with completions.with_streaming_response.create(**asked("Count."), stream=True) as response:
        assert len([chunk async for chunk in await response.parse()]) > 5
    first, second, third = spans()
    assert_whole(first, chunks=5, usage=False)
    assert_whole(second)
    assert_whole(third, chunks=5, usage=False)


def test_embeddings_by_number_and_size(client, spans):
    client.embeddings.create(model="able", input=["a", "b"], dimensions=8)
    client.embeddings.with_raw_response.create(model="able", input="a", dimensions=8, encoding_format="float")
    client.embeddings.with_raw_response.create(model="able", input="a", dimensions=8)
    assert [span.output for span in spans()] == [{"count": n, "dimensions": 8} for n in (2, 1, 1)]


def test_uninstrumented_in_the_middle_of_a_stream(client, spans):
    init, methods = openai.Stream.__init__, [SyncAPIClient.request, AsyncAPIClient.request]
    bodies = [method.__wrapped__.__code__ for method in methods]
    stream = client.chat.completions.create(**asked("Count."), stream=True)
    next(stream)
    millstream.uninstrument()
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == TEXT
    client.chat.completions.create(**asked("Count."))
    assert_whole(only_model_call(spans()), chunks=5, usage=False)
    assert [method.__code__ for method in methods] == bodies
    assert openai.Stream.__init__ is init.__wrapped__


@pytest.mark.parametrize("where", ["class", "client"])
def test_a_method_that_somebody_kept_is_recorded(where, server, spans, monkeypatch):
    with OpenAI(base_url=server.base_url, max_retries=0) as client:
        owner = OpenAI if where == "class" else client
        kept = owner.request  # as other instrumentations do; they leave it there when they are taken off
        monkeypatch.setattr(owner, "request", kept, raising=False)
        client.chat.completions.create(**asked("Count."))
        millstream.instrument("openai")
        client.chat.completions.create(**asked("Count."))
        assert len(list(client.chat.completions.create(**asked("Count."), stream=True))) > 5
        millstream.uninstrument()
        client.chat.completions.create(**asked("Count."))
    whole, streamed = spans()
    assert_whole(whole)
    assert_whole(streamed, chunks=5, usage=False)


def test_azure(server, instrumented, spans):
    with (
        openai.AzureOpenAI(base_url=server.base_url, api_key="x", api_version="1", max_retries=0) as client,
        pytest.raises(openai.NotFoundError),
    ):
        client.chat.completions.create(**asked("Count."))
    assert only_model_call(spans()).attributes[semconv.PROVIDER_NAME] == "azure.ai.openai"


def test_without_content_no_word_of_it_is_written(client, home):
    with millstream.recording(home=home / "bare", capture_content=False):
        list(client.chat.completions.create(**asked("Count."), stream=True))
        client.responses.create(**responding("Count."))
        client.embeddings.create(model="able", input="a mill stream")
        with pytest.raises(pydantic.ValidationError):
            client.chat.completions.parse(**asked("Say it plainly."), response_format=City)
    text = "".join(path.read_text() for path in (home / "bare").rglob("*.jsonl"))
    assert SYSTEM not in text
    assert "Count." not in text
    assert "one two" not in text
    assert "a mill stream" not in text
    assert "ValidationError" in text


def test_nothing_is_recorded_while_recording_is_off(client, spans):
    with start_span("seen"), millstream.recording(enabled=False):
        assert len(list(client.chat.completions.create(**asked("Count."), stream=True))) > 5
        assert client.responses.create(**responding("Count.")).output_text == TEXT
    assert [span.name for span in spans()] == ["seen"]


# Forms of requests


def test_parallel_tool_calls_whole_and_streamed(client, spans):
    for more in ({}, {"stream": True}):
        list(client.chat.completions.create(**asked("Both.", tools=[CHAT_WEATHER]), **more))
        list(client.responses.create(**responding("Both.", tools=[WEATHER]), **more))
    for call in model_calls(spans()):
        made = [json.loads(each["function"]["arguments"]) for each in call.output["tool_calls"]]
        assert made == [{"city": "Oslo"}, {"city": "Bergen"}]
        assert len({each["id"] for each in call.output["tool_calls"]}) == 2
        assert call.output["content"] is None
        assert call.attributes[semconv.RESPONSE_FINISH_REASONS] == ["tool_calls"]
        assert call.attributes[semconv.TOOL_DEFINITIONS] == [CHAT_WEATHER]


def test_the_input_of_a_response_becomes_messages(client, spans):
    client.responses.create(
        model="able",
        instructions=SYSTEM,
        input=[
            {"role": "developer", "content": "In English."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
            {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
            {"type": "function_call", "call_id": "2", "name": "weather", "arguments": '{"city": "Oslo"}'},
            {"type": "function_call_output", "call_id": "1", "output": "a cat"},
            {
                "type": "function_call_output",
                "call_id": "2",
                "output": [{"type": "input_text", "text": "rain"}],
            },
            {"role": "assistant", "content": [{"type": "output_text", "text": "A wet cat."}]},
            {"role": "user", "content": "Why?"},
        ],
        tools=[WEATHER],
    )
    made = [
        {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        {"id": "2", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
    ]
    image = {"url": "data:image/png;base64,AAAA", "detail": "low"}
    assert only_model_call(spans()).input == [
        {"role": "system", "content": SYSTEM},
        {"role": "developer", "content": "In English."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": image},
            ],
        },
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": made},
        {"role": "tool", "tool_call_id": "1", "content": "a cat"},
        {"role": "tool", "tool_call_id": "2", "content": "rain"},
        {"role": "assistant", "content": "A wet cat."},
        {"role": "user", "content": "Why?"},
    ]


def test_what_a_response_said_can_be_given_back(client, spans):
    first = client.responses.create(**responding("Count."))
    given = [{"role": "user", "content": "Count."}, *first.output, {"role": "user", "content": "Again."}]
    client.responses.create(**responding(given))
    _, second = spans()
    assert [message["role"] for message in second.input] == ["system", "user", "assistant", "user"]
    assert second.input[2] == {"role": "assistant", "content": TEXT}


# What the stand-in does not speak: the words of a server that does


def chunk(**choice):
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def completion(*choices):
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": list(choices)}


def said(index, reason="stop", **message):
    return {"index": index, "finish_reason": reason, "message": {"role": "assistant", **message}}


def text_completion(*choices, **more):
    return {"id": "t", "object": "text_completion", "created": 1, "model": "m", "choices": choices, **more}


@pytest.fixture
def canned(instrumented):
    """A client of a server that answers with what is put into the list."""
    answers = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            answer = answers.pop(0)
            streamed = isinstance(answer, list)
            events = (
                [f"data: {json.dumps(piece)}\n\n" for piece in answer] if streamed else [json.dumps(answer)]
            )
            self.send_response(200)
            self.send_header("content-type", "text/event-stream" if streamed else "application/json")
            self.end_headers()
            self.wfile.write("".join(events).encode() + (b"data: [DONE]\n\n" if streamed else b""))

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        with OpenAI(base_url=f"http://127.0.0.1:{http.server_port}/v1", max_retries=0) as made:
            yield made, answers
        http.shutdown()
        thread.join()


def assert_all_choices_of(call, completion_choices):
    """The span has every choice, the flywheel record and the OTLP form, too."""
    said = [message.model_dump(exclude_none=True) for message in completion_choices]
    told = [
        {key: value for key, value in message.items() if value is not None and key != "index"}
        for message in call.output
    ]
    assert [message.get("content") for message in told] == [message.get("content") for message in said]
    assert call.attributes[semconv.REQUEST_CHOICE_COUNT] == len(said)
    reasons = call.attributes[semconv.RESPONSE_FINISH_REASONS]
    assert len(reasons) == len(said)
    record = record_of(call, client_id="app")
    assert [choice["index"] for choice in record.response["choices"]] == list(range(len(said)))
    assert [choice["message"]["content"] for choice in record.response["choices"]] == [
        message.get("content") for message in said
    ]
    assert [choice["finish_reason"] for choice in record.response["choices"]] == reasons
    sent = json.loads(attributes_of(call)["gen_ai.output.messages"])
    assert len(sent) == len(said)
    assert all(message["finish_reason"] for message in sent)


SEVERAL = [{"n": 2}, {"n": 3, "tools": [CHAT_WEATHER]}]


@pytest.mark.parametrize("more", SEVERAL)
def test_all_choices_are_recorded(client, spans, more):
    completion = client.chat.completions.create(**asked("say hello"), **more)
    messages = [choice.message for choice in completion.choices]
    (call,) = spans()
    assert_all_choices_of(call, messages)
    ids = [each.id for message in messages for each in message.tool_calls or ()]
    assert [each["id"] for message in call.output for each in message.get("tool_calls", ())] == ids
    assert bool(ids) == ("tools" in more)
    assert call.usage.output_tokens == completion.usage.completion_tokens


@pytest.mark.parametrize("more", SEVERAL)
def test_all_choices_of_a_stream_are_recorded(client, spans, more):
    completion = client.chat.completions.create(**asked("say hello"), **more)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    list(client.chat.completions.create(**asked("say hello"), **more, **options))
    whole, streamed = spans()
    assert_all_choices_of(streamed, [choice.message for choice in completion.choices])
    for call in (whole, streamed):
        for message in call.output:
            for each in message.get("tool_calls", ()):
                del each["id"]
    assert streamed.output == whole.output
    assert streamed.usage == whole.usage
    assert (
        streamed.attributes[semconv.RESPONSE_FINISH_REASONS]
        == (whole.attributes[semconv.RESPONSE_FINISH_REASONS])
    )


async def test_all_choices_of_asynchronous_calls_are_recorded(async_client, spans):
    completion = await async_client.chat.completions.create(**asked("Count."), n=2)
    stream = await async_client.chat.completions.create(
        **asked("Count."), n=2, stream=True, stream_options={"include_usage": True}
    )
    async for _chunk in stream:
        pass
    for call in spans():
        assert_all_choices_of(call, [choice.message for choice in completion.choices])


def test_one_choice_is_one_message(client, spans):
    client.chat.completions.create(**asked("Count."), n=1)
    (call,) = spans()
    assert call.output == {"role": "assistant", "content": TEXT}


def test_a_stream_of_several_choices_that_is_left_makes_no_record(canned, spans):
    client, answers = canned
    answers.append(
        [
            chunk(index=0, delta={"role": "assistant", "content": "a"}),
            chunk(index=1, delta={"role": "assistant", "content": "b"}),
            chunk(index=1, delta={}, finish_reason="length"),
            chunk(index=0, delta={"content": "b"}),
        ]
    )
    list(client.chat.completions.create(**asked("Two."), n=2, stream=True))
    (call,) = spans()
    assert [message["content"] for message in call.output] == ["ab", "b"]
    assert semconv.RESPONSE_FINISH_REASONS not in call.attributes
    record = record_of(call, client_id="app")
    assert record.response["choices"] == []
    assert record.error.type == "incomplete"


def test_choices_come_in_any_order(canned, spans):
    client, answers = canned
    call = {"index": 0, "id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    made = {key: call[key] for key in call if key != "index"}
    answers += [
        completion(said(0, content="a"), said(1, "tool_calls", content=None, tool_calls=[made])),
        [
            chunk(index=1, delta={"role": "assistant", "tool_calls": [call]}, finish_reason=None),
            chunk(index=0, delta={"role": "assistant", "content": "a"}, finish_reason=None),
            chunk(index=1, delta={}, finish_reason="tool_calls"),
            chunk(index=0, delta={}, finish_reason="stop"),
        ],
    ]
    for more in ({}, {"stream": True}):
        list(client.chat.completions.create(**asked("Two."), n=2, **more))
    messages = [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [made]},
    ]
    for one in spans():
        assert one.output == messages
        assert one.attributes[semconv.RESPONSE_FINISH_REASONS] == ["stop", "tool_calls"]
        assert one.attributes[semconv.REQUEST_CHOICE_COUNT] == 2
        record = record_of(one, client_id="mill")
        assert record.error is None
        assert record.request["n"] == 2
        assert record.response["choices"] == [
            {"index": 0, "message": messages[0], "finish_reason": "stop"},
            {"index": 1, "message": messages[1], "finish_reason": "tool_calls"},
        ]
        told = json.loads(otlp_attributes.told(one)["gen_ai.output.messages"])
        assert [message["finish_reason"] for message in told] == ["stop", "tool_call"]
        assert [message["parts"][0]["type"] for message in told] == ["text", "tool_call"]


def test_refusals_and_thoughts(canned, spans):
    client, answers = canned
    answers += [
        completion(said(0, content=None, refusal="No.", reasoning_content="Should I?")),
        [
            chunk(index=0, delta={"role": "assistant", "reasoning_content": "Should "}),
            chunk(index=0, delta={"reasoning_content": "I?"}),
            chunk(index=0, delta={"refusal": "No."}),
            chunk(index=0, delta={}, finish_reason="stop"),
        ],
        {
            "id": "r",
            "object": "response",
            "model": "m",
            "status": "completed",
            "output": [
                {"type": "reasoning", "id": "1", "summary": [{"type": "summary_text", "text": "Should I?"}]},
                {
                    "type": "message",
                    "id": "2",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "refusal", "refusal": "No."}],
                },
            ],
        },
    ]
    client.chat.completions.create(**asked("Do it."))
    list(client.chat.completions.create(**asked("Do it."), stream=True))
    client.responses.create(**responding("Do it."))
    expected = {"role": "assistant", "content": None, "refusal": "No.", "reasoning_content": "Should I?"}
    assert [call.output for call in spans()] == [expected] * 3


def test_text_completions(canned, spans):
    client, answers = canned
    answers += [
        text_completion(
            {"index": 0, "text": "ab", "finish_reason": "stop"},
            usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        ),
        [
            text_completion({"index": 0, "text": "a", "finish_reason": None}),
            text_completion({"index": 0, "text": "b", "finish_reason": "stop"}),
        ],
    ]
    client.completions.create(model="m", prompt="Go on:", max_tokens=3)
    list(client.completions.create(model="m", prompt=["Go on:"], stream=True))
    first, second = spans()
    for call in (first, second):
        assert call.input == [{"role": "user", "content": "Go on:"}]
        assert call.output == {"role": "assistant", "content": "ab"}
        assert call.attributes[semconv.OPERATION_NAME] == "text_completion"
        assert call.attributes[semconv.RESPONSE_FINISH_REASONS] == ["stop"]
    assert first.usage.output_tokens == 2
    assert second.attributes[semconv.CHUNK_COUNT] == 2
    assert second.usage is None


def test_text_completions_of_several_prompts_and_choices(canned, spans):
    client, answers = canned
    texts = [{"index": index, "text": text, "finish_reason": "stop"} for index, text in enumerate("abcd")]
    answers += [text_completion(*texts), [text_completion(one) for one in reversed(texts)]]
    client.completions.create(model="m", prompt=["A:", "C:"], n=2)
    list(client.completions.create(model="m", prompt=["A:", "C:"], n=2, stream=True))
    first, second = spans()
    for call in (first, second):
        assert call.output == [{"role": "assistant", "content": text} for text in "abcd"]
        assert call.attributes[semconv.RESPONSE_FINISH_REASONS] == ["stop"] * 4
        record = record_of(call, client_id="app")
        assert [message["content"] for message in record.request["messages"]] == ["A:"]
        assert [choice["message"]["content"] for choice in record.response["choices"]] == ["a", "b"]


def test_answers_that_make_no_sense_break_nothing(canned, spans):
    client, answers = canned
    answers += [{}, {"choices": None}, {"choices": [{}]}, [{}, {"choices": [{"index": 0}]}], {"output": [{}]}]
    client.chat.completions.create(**asked("?"))
    client.chat.completions.create(**asked("?"))
    client.chat.completions.create(**asked("?"))
    list(client.chat.completions.create(**asked("?"), stream=True))
    client.responses.create(**responding("?"))
    assert [call.status for call in spans()] == [Status.OK] * 5


@pytest.mark.skipif(MAJOR == 2, reason="version 2 runs no tools")
async def test_the_tools_of_runners(server, client, async_client, spans):
    from openai.lib.responses_tool_runner import (
        AsyncRegisteredFunction,
        AsyncResponsesToolRunner,
        RegisteredFunction,
        ResponsesToolRunner,
        ToolRunnerError,
    )

    async def weather(arguments):
        await asyncio.sleep(0.01)
        return look_up(arguments["city"])

    request = responding([{"role": "user", "content": "Both."}])
    functions = [AsyncRegisteredFunction(WEATHER, weather)]
    with start_span("outer"):
        await AsyncResponsesToolRunner(functions=functions).run(async_client, request, max_steps=3)
    tools = of_kind(spans(), SpanKind.TOOL)
    inside = {span.parent_id: span.output for span in spans() if span.name == "look_up"}
    assert [tool.input for tool in tools] == [{"city": "Oslo"}, {"city": "Bergen"}]
    assert [inside[tool.span_id] for tool in tools] == [tool.output for tool in tools]
    functions = [RegisteredFunction(WEATHER, lambda arguments: 1 / 0)]
    with start_span("outer"), pytest.raises(ToolRunnerError):
        ResponsesToolRunner(functions=functions).run(client, request, max_steps=3)
    tool = of_kind(spans(), SpanKind.TOOL)[-1]
    assert (tool.status, tool.error.type) == (Status.ERROR, "ZeroDivisionError")
    assert tool.attributes[semconv.TOOL_CALL_ID]
