"""Other people's instrumentations, alone and together with ours: their spans in our vocabulary, one a call.

OpenInference, OpenLLMetry and Logfire are driven over HTTP; pydantic-ai records itself.
"""

import asyncio
import contextlib
import importlib
import json
from collections import Counter
from itertools import combinations

import httpx2
import logfire
import openai
import pytest
from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInference
from opentelemetry.instrumentation.openai import OpenAIInstrumentor as OpenLLMetry
from opentelemetry.sdk.trace import TracerProvider
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import millstream
from millstream import SpanKind, Status, open_store, semconv, start_span
from tests.integrations.conformance import (
    LONG,
    SYSTEM,
    look_up,
    model_calls,
    of_kind,
    only_model_call,
    text_of,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for class-based `config`"),  # OpenLLMetry's
    pytest.mark.filterwarnings("ignore:Instrumentation format versions"),  # which are tried on purpose
]

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
USAGE = {"include_usage": True}


RESOURCES = [
    getattr(importlib.import_module(f"openai.resources.{module}"), prefix + name)
    for module, name in (
        ("chat.completions", "Completions"),
        ("completions", "Completions"),
        ("embeddings", "Embeddings"),
        ("responses", "Responses"),
        ("images", "Images"),
    )
    for prefix in ("", "Async")
]


RESOURCES += [openai.OpenAI, openai.AsyncOpenAI]


@contextlib.contextmanager
def as_before():
    """OpenLLMetry leaves some of its wrappers behind, OpenInference the methods of a base class."""
    before = {owner: dict(vars(owner)) for owner in RESOURCES}
    yield
    for owner, members in before.items():
        for name, member in list(vars(owner).items()):
            if name not in members:
                delattr(owner, name)
            elif member is not members[name]:
                setattr(owner, name, members[name])


WHOLE_LOGFIRE = "logfire, with whole requests"


@contextlib.contextmanager
def instrumented(*names):
    """The instrumentations, in this order, all of one provider that is copied."""
    provider = TracerProvider()
    provider.add_span_processor(millstream.OTelSpanProcessor())
    with contextlib.ExitStack() as stack:
        stack.callback(provider.shutdown)
        stack.enter_context(as_before())
        for name in names:
            if name == "ours":
                millstream.instrument("openai")
                stack.callback(millstream.uninstrument)
            elif name in ("logfire", WHOLE_LOGFIRE):
                made = stack.enter_context(local_logfire())
                stack.enter_context(made.instrument_openai(version=1 if name == WHOLE_LOGFIRE else 2))
            else:
                instrumentor = {"openinference": OpenInference, "openllmetry": OpenLLMetry}[name]()
                instrumentor.instrument(tracer_provider=provider)
                stack.callback(instrumentor.uninstrument)
        yield provider.get_tracer("tests")


@contextlib.contextmanager
def local_logfire():
    made = logfire.configure(
        local=True,
        send_to_logfire=False,
        console=False,
        inspect_arguments=False,
        distributed_tracing=True,  # else it warns of every traceparent, in the tests after these, too
        additional_span_processors=[millstream.OTelSpanProcessor()],
        metrics=False,
    )
    yield made
    made.shutdown()


@pytest.fixture
def client(base_url):
    with openai.OpenAI(base_url=base_url, api_key="right", max_retries=0) as client:
        yield client


def messages(question):
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def ask(client, question="Count.", **more):
    return client.chat.completions.create(model="able", messages=messages(question), **more)


THEIRS = ("openinference", "openllmetry", "logfire")


@pytest.mark.parametrize("name", THEIRS)
def test_a_call_is_told_as_by_an_integration_of_ours(name, client, spans):
    with instrumented(name):
        ask(client, temperature=0.25, max_tokens=50)
    span = only_model_call(spans())
    assert span.input == messages("Count.")
    assert span.output == {"role": "assistant", "content": "one two three four five"}
    assert (span.usage.output_tokens, span.usage.reasoning_tokens) == (12, 7)
    expected = {
        semconv.OPERATION_NAME: "chat",
        semconv.PROVIDER_NAME: "openai",
        semconv.REQUEST_MODEL: "able",
        semconv.REQUEST_TEMPERATURE: 0.25,
        semconv.REQUEST_MAX_TOKENS: 50,
        semconv.RESPONSE_MODEL: "able",
        semconv.RESPONSE_FINISH_REASONS: ["stop"],
    }
    assert expected.items() <= span.attributes.items()
    assert span.attributes[semconv.RESPONSE_ID].startswith("chatcmpl-")
    left = [
        key for key in span.attributes if key.startswith(("llm.input", "llm.output", "input.", "output."))
    ]
    assert not left
    assert "gen_ai.input.messages" not in span.attributes


@pytest.mark.parametrize("name", ["openinference", "openllmetry", WHOLE_LOGFIRE, "ours"])
def test_what_was_asked_of_an_answer(name, client, spans):
    schema = {
        "title": "sky",
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "sky", "schema": schema}}
    choice = {"type": "function", "function": {"name": "weather"}}
    with instrumented(name):
        ask(
            client,
            "Weather?",
            tools=[WEATHER],
            tool_choice=choice,
            parallel_tool_calls=False,
            response_format=form,
            reasoning_effort="low",
        )
    told = only_model_call(spans()).attributes
    assert told[semconv.REQUEST_REASONING_LEVEL] == "low"
    assert told[semconv.REQUEST_RESPONSE_FORMAT] == form
    if name != "openllmetry":  # which does not tell it
        assert told[semconv.REQUEST_TOOL_CHOICE] == choice
        assert told[semconv.REQUEST_PARALLEL_TOOL_CALLS] is False


@pytest.mark.parametrize("name", THEIRS)
def test_cached_tokens(name, client, spans):
    with instrumented(name):
        for _ in range(2):
            ask(client, LONG)
    _, second = model_calls(spans())
    assert 100 < second.usage.cache_read_tokens <= second.usage.input_tokens


@pytest.mark.parametrize("name", THEIRS)
def test_tools(name, client, spans):
    with instrumented(name):
        first = ask(client, "Weather?", tools=[WEATHER]).choices[0].message
        client.chat.completions.create(
            model="able",
            messages=[
                *messages("Weather?"),
                first.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "rain"},
            ],
            tools=[WEATHER],
        )
    asking, telling = model_calls(spans())
    assert asking.attributes[semconv.TOOL_DEFINITIONS] == [WEATHER]
    (call,) = asking.output["tool_calls"]
    assert (call["id"], call["type"]) == (first.tool_calls[0].id, "function")
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    assert telling.input[-1] == {"role": "tool", "content": "rain", "tool_call_id": call["id"]}
    assert telling.input[-2]["tool_calls"][0]["id"] == call["id"]
    assert text_of(telling.output) == "The tool said: rain"


ANSWER = {
    "type": "json_schema",
    "json_schema": {"name": "City", "schema": {"title": "City", "type": "object", "properties": {}}},
}
REQUESTED = {
    semconv.REQUEST_TOOL_CHOICE: "none",
    semconv.REQUEST_PARALLEL_TOOL_CALLS: False,
    semconv.REQUEST_RESPONSE_FORMAT: ANSWER,
    semconv.REQUEST_REASONING_LEVEL: "low",
}


@pytest.mark.parametrize(
    ("name", "tells"),
    [
        ("ours", REQUESTED.keys()),
        ("openinference", REQUESTED.keys()),
        ("openllmetry", {semconv.REQUEST_RESPONSE_FORMAT, semconv.REQUEST_REASONING_LEVEL}),
        ("logfire", ()),  # of today; its first version has them in `request_data`
    ],
)
def test_parameters_that_are_no_numbers(name, tells, client, spans):
    with instrumented(name):
        ask(
            client,
            tools=[WEATHER],
            tool_choice="none",
            parallel_tool_calls=False,
            response_format=ANSWER,
            reasoning_effort="low",
        )
    told = only_model_call(spans()).attributes
    assert {key: told[key] for key in REQUESTED if key in told} == {key: REQUESTED[key] for key in tells}


@pytest.mark.parametrize("name", ["ours", "openinference", "openllmetry", "logfire"])
def test_all_of_several_choices(name, client, spans):
    with instrumented(name):
        ask(client, "say mill", n=2)
    call = only_model_call(spans())
    assert call.output == [{"role": "assistant", "content": "mill"}] * 2
    if name != "openinference":  # which tells none
        assert call.attributes[semconv.RESPONSE_FINISH_REASONS] == ["stop", "stop"]


@pytest.mark.parametrize("name", THEIRS)
def test_a_failed_call(name, client, spans):
    with instrumented(name), pytest.raises(openai.BadRequestError):
        ask(client, "break it")
    span = only_model_call(spans())
    assert span.status is Status.ERROR
    assert span.error.type == "BadRequestError"
    assert "breaks on demand" in span.error.message


@pytest.mark.parametrize("name", THEIRS)
def test_embeddings(name, client, spans):
    with instrumented(name):
        client.embeddings.create(model="embedder", input="a mill stream")
    (span,) = of_kind(spans(), SpanKind.EMBEDDING)
    assert span.attributes[semconv.REQUEST_MODEL] == "embedder"
    assert span.attributes[semconv.OPERATION_NAME] == "embeddings"
    assert span.usage.input_tokens == 3
    if name != "logfire":  # which does not tell it
        assert span.input == "a mill stream"


@pytest.mark.parametrize("name", ["openinference", "openllmetry"])
def test_the_first_chunk_of_a_stream(name, client, spans):
    with instrumented(name):
        list(ask(client, stream=True, stream_options=USAGE))
    span = only_model_call(spans())
    assert 0.02 <= span.attributes[semconv.TIME_TO_FIRST_CHUNK_S] < span.duration_s
    assert text_of(span.output) == "one two three four five"


def test_a_stream_that_logfire_tells_in_two_pieces_is_one_call(client, spans, home):
    with instrumented("logfire"), start_span("asking"):
        list(ask(client, stream=True, stream_options=USAGE))
        list(ask(client, "say mill", stream=True, stream_options=USAGE))
    first, second = model_calls(spans())
    assert [text_of(span.output) for span in (first, second)] == ["one two three four five", "mill"]
    assert all(0.02 < span.duration_s < 10 for span in (first, second))
    assert first.end_ns <= second.start_ns


@pytest.mark.parametrize("name", THEIRS)
def test_without_content_the_call_is_still_counted(name, client, home):
    with millstream.recording(home=home / "bare", capture_content=False), instrumented(name):
        ask(client, temperature=0.25)
    text = "".join(path.read_text() for path in (home / "bare").rglob("*.jsonl"))
    assert SYSTEM not in text
    assert "one two three" not in text
    span = only_model_call(open_store(home / "bare").spans())
    assert span.usage.output_tokens == 12
    assert span.attributes[semconv.REQUEST_MODEL] == "able"
    assert span.attributes[semconv.REQUEST_TEMPERATURE] == 0.25


ALL = ("ours", *THEIRS)
SETS = [names for size in (2, 3) for names in combinations(ALL, size)] + [ALL, ALL[::-1]]


@pytest.mark.parametrize("names", SETS, ids="+".join)
def test_however_many_see_a_call_it_is_one_span(names, client, base_url, home):
    with instrumented(*names):
        with start_span("chat"):
            ask(client)
        with start_span("stream"):
            list(ask(client, stream=True, stream_options=USAGE))
        with start_span("error"), contextlib.suppress(openai.BadRequestError):
            ask(client, "break it")
        with start_span("responses"):
            client.responses.create(model="able", input="Count.")
        with start_span("streamed responses"):
            list(client.responses.create(model="able", input="Count.", stream=True))
        with start_span("embeddings"):
            client.embeddings.create(model="embedder", input="a mill stream")
        asyncio.run(at_once(base_url))
    store = open_store(home)
    spans = list(store.spans())
    names_of = {span.span_id: span.name for span in spans}
    calls = [span for span in spans if span.kind in (SpanKind.LLM, SpanKind.EMBEDDING)]
    above = Counter(names_of.get(span.parent_id) for span in calls)
    asked = ["chat", "stream", "error", "responses", "streamed responses", "embeddings"]
    assert above == Counter(asked + [f"task {number}" for number in range(4)] * 2)
    by_name = {names_of[span.parent_id]: span for span in calls}
    for name in ("chat", "stream", "responses", "streamed responses"):
        assert by_name[name].usage.output_tokens == 12
        assert text_of(by_name[name].output) == "one two three four five"
    assert by_name["error"].status is Status.ERROR
    assert by_name["embeddings"].usage.input_tokens == 3
    assert sum(span.usage.output_tokens or 0 for span in spans if span.usage) == 4 * 12 + 8 * 12
    assert store.merged["LLM"] >= 6


async def at_once(base_url):
    async with openai.AsyncOpenAI(base_url=base_url, api_key="right", max_retries=0) as client:

        async def one(number):
            with start_span(f"task {number}"):
                stream = await ask(client, stream=True, stream_options=USAGE)
                async for _ in stream:
                    pass
                await ask(client)

        await asyncio.gather(*map(one, range(4)))


def test_children_of_a_merged_span_belong_to_the_one_that_stays(client, spans):
    with instrumented("openllmetry", "openinference") as tracer:
        original = client._client.send

        def send(*args, **kwargs):
            with tracer.start_as_current_span("HTTP"), start_span("ours"):
                return original(*args, **kwargs)

        client._client.send = send
        ask(client)
    by_name = {span.name: span for span in spans()}
    (call,) = model_calls(spans())
    assert set(by_name) == {call.name, "HTTP", "ours"}
    assert by_name["HTTP"].parent_id == call.span_id
    assert by_name["ours"].parent_id == by_name["HTTP"].span_id


# pydantic-ai records itself


@pytest.fixture
async def http_client():
    async with httpx2.AsyncClient() as client:
        yield client


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("names", [(), ("ours",), ("openinference",)], ids=str)
async def test_an_agent_of_pydantic_ai(version, names, base_url, spans, http_client):
    provider = OpenAIProvider(base_url=base_url, api_key="right", http_client=http_client)
    model = OpenAIChatModel("able", provider=provider)
    agent = Agent(model, system_prompt=SYSTEM, name="asker")

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather in a city."""
        return look_up(city)

    with local_logfire() as recording, instrumented(*names):
        recording.instrument_pydantic_ai(agent, version=version)
        result = await agent.run("What is the weather in Oslo?")
        assert result.output == "The tool said: rain in Oslo"
    recorded = spans()
    (run,) = of_kind(recorded, SpanKind.AGENT)
    assert run.parent_id is None
    assert run.attributes[semconv.AGENT_NAME] == "asker"
    assert run.output == "The tool said: rain in Oslo"
    assert [message["role"] for message in run.input] == ["system", "user"]
    assert run.usage is None
    first, second = model_calls(recorded)
    assert {first.parent_id, second.parent_id} == {run.span_id}
    assert (first.usage.reasoning_tokens, second.usage.reasoning_tokens) == (7, 7)
    assert first.attributes[semconv.TOOL_DEFINITIONS][0]["function"]["name"] == "weather"
    assert [message["role"] for message in second.input] == ["system", "user", "assistant", "tool"]
    (tool,) = of_kind(recorded, SpanKind.TOOL)
    assert (tool.input, tool.output) == ({"city": "Oslo"}, "rain in Oslo")
    assert tool.attributes[semconv.TOOL_NAME] == "weather"
    (inside,) = [span for span in recorded if span.name == "look_up"]
    above = {span.span_id: span for span in recorded}
    while inside.span_id != tool.span_id:
        inside = above[inside.parent_id]
