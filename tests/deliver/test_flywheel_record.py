"""Flywheel records of what real frameworks do over HTTP, and of anything that a span may hold."""

import asyncio
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime
from importlib.util import find_spec
from typing import TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam, ChatCompletionToolUnionParam
from pydantic import TypeAdapter

import millstream
from millstream import SpanKind, semconv, start_span, track_function, track_unregistered_function
from millstream.deliver.chat_form import request_messages
from millstream.deliver.flywheel_record import (
    NOT_ANSWERED,
    WITHOUT_CONTENT,
    NoRecord,
    Record,
    record_of,
)
from millstream.deliver.sink import Rejected
from millstream.span import SpanError, Status, Usage
from tests.deliver import blueprint
from tests.integrations.conformance import RULES, result
from tests.servers.spans import span
from tests.simulate.process import running

DRIVERS = {
    "agent-framework": ("test_agent_framework", "TestAgentFramework", "agent_framework"),
    "agent-framework, responses": ("test_agent_framework", "TestAgentFrameworkResponses", "agent_framework"),
    "crewai": ("test_crewai", "TestCrewAI", "crewai"),
    "crewai, responses": ("test_crewai", "TestCrewAIResponses", "crewai"),
    "google-adk": ("test_google_adk", "TestGoogleADK", "google.adk"),
    "langchain": ("test_langchain", "TestLangChain", "langchain"),
    "llama-index": ("test_llama_index", "TestLlamaIndex", "llama_index"),
    "openai": ("test_openai", "TestChat", "openai"),
    "openai, responses": ("test_openai", "TestResponses", "openai"),
    "openai-agents": ("test_openai_agents", "TestResponses", "agents"),
    "openai-agents, chat": ("test_openai_agents", "TestChatCompletions", "agents"),
    "pydantic-ai": ("test_pydantic_ai", "TestPydanticAI", "pydantic_ai"),
    "semantic-kernel": ("test_semantic_kernel", "TestSemanticKernel", "semantic_kernel"),
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
MESSAGES = TypeAdapter(list[ChatCompletionMessageParam])
TOOLS = TypeAdapter(list[ChatCompletionToolUnionParam])


def is_installed(module):
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module")
def base_url(tmp_path_factory):
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    with running(rules) as stand_in:
        yield stand_in.base_url


@pytest.fixture(autouse=True)
def environment(base_url, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    monkeypatch.setenv("OPENAI_API_BASE", base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    yield
    millstream.uninstrument()


@pytest.fixture
def records(spans):
    """A function that gives the records of the model calls so far, as an index would."""

    def read(**options):
        made = [made_of(each, **options) for each in spans() if each.kind is SpanKind.LLM]
        return [as_json(one) if isinstance(one, Record) else one for one in made]

    return read


def made_of(a_span, **options):
    return record_of(a_span, **{"client_id": "my_app", **options})


def as_json(record):
    return json.loads(msgspec.json.encode(record))


def check_answer(record):
    """What every reader of an answer relies on: the Blueprint, and whoever has OpenAI's types."""
    assert blueprint.is_valid(record)
    tools = "tools" in record["request"]
    blueprint.training_example(record, tools=tools)
    if any(choice["message"].get("tool_calls") for choice in record["response"]["choices"]):
        assert blueprint.calls_tools(record)
    MESSAGES.validate_python(record["request"]["messages"])
    TOOLS.validate_python(record["request"].get("tools", []))
    choices = [
        {**one, "finish_reason": one["finish_reason"] or "stop"} for one in record["response"]["choices"]
    ]
    completion = ChatCompletion.model_validate({**record["response"], "choices": choices}, strict=True)
    assert completion.object == "chat.completion"
    assert datetime.fromisoformat(record["timestamp"]).utcoffset().total_seconds() == 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["timestamp"])
    ids = [call["id"] for message in record["request"]["messages"] for call in calls_of(message)]
    for message in record["request"]["messages"]:
        assert message["role"] != "tool" or message["tool_call_id"] in ids


def calls_of(message):
    return message.get("tool_calls") or ()


def check_failure(record):
    """No reader takes it for an answer, and none stumbles over it."""
    assert not blueprint.is_valid(record)
    assert not blueprint.is_tool_calling([record])
    assert record["response"]["choices"] == []
    assert record["error"]["type"]


def replayed(base_url, record):
    """What the model says when it is asked the same again, by the request of the record."""
    with OpenAI(base_url=base_url, api_key="right", max_retries=0) as client:
        return client.chat.completions.create(**record["request"]).choices[0].message


def check_replay(base_url, record):
    (choice,) = record["response"]["choices"]
    again = replayed(base_url, record)
    # Google's ADK is recorded with the results of tools as they are, and sends them with other white space
    assert (choice["message"]["content"] or "").replace(" ", "") == (again.content or "").replace(" ", "")
    called = [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in calls_of(choice["message"])
    ]
    assert called == [
        (call.function.name, json.loads(call.function.arguments)) for call in again.tool_calls or ()
    ]


# Every framework


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # CrewAI reads deprecated fields of its own
@pytest.mark.parametrize("name", DRIVERS)
async def test_records_of_every_framework(name, base_url, records, tmp_path, monkeypatch):
    module, driver, needs = DRIVERS[name]
    if not is_installed(needs):
        pytest.skip(f"{needs} is not in this environment")
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))
    driver = getattr(importlib.import_module(f"tests.integrations.{module}"), driver)()
    millstream.instrument(driver.framework)
    with start_span("scope", workload_id="weather_desk"):
        await result(driver.ask(base_url, "Count."))
        await result(driver.stream(base_url, "Count."))
        await result(driver.use_tool(base_url, "What is the weather in Oslo?"))
        with pytest.raises(Exception):  # noqa: B017, PT011  # each framework has its own
            await result(driver.ask(base_url, "Please break it."))

    *answered, failed = records()
    asked, streamed, called, told = answered
    for record in (asked, streamed, called, told):
        check_answer(record)
        check_replay(base_url, record)
        request, response = record["request"], record["response"]
        assert (record["client_id"], record["workload_id"]) == ("my_app", "weather_desk")
        assert request["model"] == response["model"] == "able"
        usage = response["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 20
        assert usage["completion_tokens_details"] == {"reasoning_tokens": 7}
        assert "error" not in record
        assert 0 < record["latency_s"] < 30
    assert len({record["response"]["id"] for record in (asked, streamed, called, told)}) == 4
    for record in (asked, streamed):
        (choice,) = record["response"]["choices"]
        assert choice["message"] == {"role": "assistant", "content": "one two three four five"}
        assert choice["finish_reason"] == "stop"
        assert (record["request"]["temperature"], record["request"]["max_tokens"]) == (0.25, 50)
        assert "tools" not in record["request"]
    (choice,) = called["response"]["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert call["type"] == "function"
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    (tool,) = called["request"]["tools"]
    assert tool["function"]["name"] == call["function"]["name"] == driver.tool
    (answer,) = [message for message in told["request"]["messages"] if message["role"] == "tool"]
    assert answer["tool_call_id"] == call["id"]
    check_failure(failed)
    assert "breaks on demand" in failed["error"]["message"]


@pytest.mark.filterwarnings("ignore:Support for class-based `config`")  # OpenLLMetry's
@pytest.mark.parametrize("name", ["openinference", "openllmetry", "logfire"])
def test_records_of_other_peoples_instrumentations(name, base_url, records):
    theirs = pytest.importorskip("tests.integrations.test_otel_instrumentations", exc_type=ImportError)
    with (
        OpenAI(base_url=base_url, max_retries=0) as client,
        start_span("scope", workload_id="weather_desk"),
        theirs.instrumented(name),
    ):
        asked = theirs.ask(client, temperature=0.25, max_tokens=50)
        called = theirs.ask(client, "Weather?", tools=[theirs.WEATHER])
        message = called.choices[0].message
        answer = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
        given = [*theirs.messages("Weather?"), message.model_dump(exclude_none=True), answer]
        client.chat.completions.create(model="able", messages=given, tools=[theirs.WEATHER])
        with pytest.raises(Exception, match="breaks on demand"):
            theirs.ask(client, "Please break it.")

    first, second, third, failed = records()
    for record in (first, second, third):
        check_answer(record)
        check_replay(base_url, record)
        assert record["workload_id"] == "weather_desk"
    assert first["response"]["id"] == asked.id
    assert (first["request"]["temperature"], first["request"]["max_tokens"]) == (0.25, 50)
    assert second["request"]["tools"] == [theirs.WEATHER]
    assert third["request"]["messages"][-1] == answer
    check_failure(failed)


# How an answer was wanted


CITY = {
    "name": "city",
    "schema": {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
        "additionalProperties": False,
    },
    "strict": True,
}
CHOICES = [
    "auto",
    "none",
    "required",
    {"type": "function", "function": {"name": "weather"}},
]


def the_tool(tool):
    return {"type": "function", **tool["function"]}


@pytest.mark.parametrize("choice", CHOICES)
def test_the_request_of_a_record_can_be_sent_again(base_url, records, choice):
    millstream.instrument("openai")
    wanted = {
        "model": "able",
        "messages": [{"role": "user", "content": "Count."}],
        "tools": [large_tool()],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": CITY},
        "reasoning_effort": "low",
    }
    with OpenAI(base_url=base_url, max_retries=0) as client:
        client.chat.completions.create(**wanted)
    (record,) = records()
    check_answer(record)
    assert record["request"] == wanted
    millstream.uninstrument()
    check_replay(base_url, record)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_request_of_the_responses_api_can_be_sent_again_as_a_chat(base_url, records, spans, choice):
    millstream.instrument("openai")
    flat = {"type": "function", "name": "weather"} if isinstance(choice, dict) else choice
    asked = {
        "model": "able",
        "tools": [the_tool(large_tool())],
        "tool_choice": flat,
        "parallel_tool_calls": False,
        "text": {"format": {"type": "json_schema", **CITY}},
        "reasoning": {"effort": "low"},
    }
    with OpenAI(base_url=base_url, max_retries=0) as client:
        first = client.responses.create(input="Count.", **asked)
    (record,) = records()
    check_answer(record)
    assert record["request"] == {
        "model": "able",
        "messages": [{"role": "user", "content": "Count."}],
        "tools": [large_tool()],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": CITY},
        "reasoning_effort": "low",
    }
    millstream.uninstrument()
    check_replay(base_url, record)
    assert first.id


def test_a_call_that_goes_on_from_a_response_says_from_which(base_url, spans):
    millstream.instrument("openai")
    with OpenAI(base_url=base_url, max_retries=0) as client, pytest.raises(Exception):  # noqa: B017, PT011
        client.responses.create(model="able", input="Go on.", previous_response_id="resp_1")
    (call,) = spans()
    assert call.attributes[semconv.REQUEST_PREVIOUS_RESPONSE_ID] == "resp_1"


@pytest.mark.parametrize(
    ("told", "choice"),
    [
        ({"type": "any"}, "required"),
        ("any", "required"),
        ({"type": "auto"}, "auto"),
        ({"type": "tool", "name": "weather"}, CHOICES[-1]),
        ({"type": "function", "name": "weather"}, CHOICES[-1]),
        (3, None),
        ({"name": "weather"}, None),
    ],
)
def test_tools_chosen_in_the_words_of_others(told, choice):
    attributes = {semconv.TOOL_DEFINITIONS: [large_tool()], semconv.REQUEST_TOOL_CHOICE: told}
    assert as_json(made_of(span(attributes=attributes)))["request"].get("tool_choice") == choice


def test_what_no_server_would_take_is_left_out():
    """OpenAI refuses a choice without tools; and a framework's name for a format is none."""
    attributes = {
        semconv.REQUEST_TOOL_CHOICE: "auto",
        semconv.REQUEST_PARALLEL_TOOL_CALLS: True,
        semconv.REQUEST_RESPONSE_FORMAT: "<app.City>",
    }
    request = as_json(made_of(span(attributes=attributes)))["request"]
    assert not request.keys() & {"tool_choice", "parallel_tool_calls", "response_format"}


# LangChain and LangGraph


def chat(base_url, **options):
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        **{"model": "able", "base_url": base_url, "api_key": "right", "max_retries": 0, "stream_usage": True}
        | options
    )


def large_tool(properties=20):
    """What NVIDIA's exporter leaves out: a tool with more than eight properties, and what is strict in it."""
    return {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather.",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {
                    f"property_{n}": {"type": "string", "description": "It."} for n in range(properties)
                },
                "required": ["property_0"],
                "additionalProperties": False,
                "$defs": {"Unused": {"enum": [1, None, "x"]}},
            },
        },
    }


def test_langchain_with_every_parameter_and_a_large_tool(base_url, records):
    millstream.instrument("langchain")
    model = chat(base_url, temperature=0.0, top_p=0.5, seed=7, stop=["zzz"], max_completion_tokens=40)
    model = model.bind(
        frequency_penalty=0.25, presence_penalty=0.5, n=1, tools=[large_tool()], tool_choice="none"
    )
    model.invoke([("developer", "Be brief."), ("human", "Count."), ("ai", "One."), ("human", "Go on.")])

    (record,) = records()
    check_answer(record)
    assert record["request"] == {
        "model": "able",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Count."},
            {"role": "assistant", "content": "One."},
            {"role": "user", "content": "Go on."},
        ],
        "temperature": 0.0,
        "top_p": 0.5,
        "max_tokens": 40,
        "stop": ["zzz"],
        "seed": 7,
        "frequency_penalty": 0.25,
        "presence_penalty": 0.5,
        "n": 1,
        "tools": [large_tool()],
        "tool_choice": "none",
    }
    assert record["response"]["choices"][0]["index"] == 0


def test_langchain_models_that_tell_their_parameters_as_langsmith_wants_them(records):
    """As ChatNVIDIA does, whose invocation parameters are empty."""
    from langchain_core.language_models import GenericFakeChatModel

    class ChatNIM(GenericFakeChatModel):
        temperature: float = 0.0
        max_tokens: int = 50

    millstream.instrument("langchain")
    model = ChatNIM(messages=iter(["One.", "Two."]))
    model.invoke("Count.", stop=["zzz"])
    model.invoke("Count.", temperature=0.5)

    first, second = records()
    assert {name: first["request"].get(name) for name in ("temperature", "max_tokens", "stop")} == {
        "temperature": 0.0,
        "max_tokens": 50,
        "stop": ["zzz"],
    }
    assert second["request"]["temperature"] == 0.5


def test_the_response_id_of_a_langchain_stream_is_the_providers(base_url, records):
    """LangChain loses it, and gives its messages ids of its own; OpenAI's client below it tells."""
    millstream.instrument("langchain", "openai")
    list(chat(base_url).stream("Count."))
    (record,) = records()
    assert record["response"]["id"].startswith("chatcmpl-")


def test_langchain_with_images_and_files_in_every_form(base_url, records):
    from langchain_core.messages import HumanMessage

    millstream.instrument("langchain")
    question = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
        {"type": "image", "base64": PIXEL, "mime_type": "image/png"},
        {"type": "image", "url": "https://images.test/mill.png"},
        {"type": "image", "source_type": "base64", "data": PIXEL, "mime_type": "image/png"},
        {"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"},
        {"type": "file", "base64": "AAAA", "mime_type": "application/pdf", "filename": "mill.pdf"},
    ]
    chat(base_url).invoke([HumanMessage(question)])

    (record,) = records()
    check_answer(record)
    check_replay(base_url, record)
    (message,) = record["request"]["messages"]
    pixel = {"url": f"data:image/png;base64,{PIXEL}"}
    assert message["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {**pixel, "detail": "low"}},
        {"type": "image_url", "image_url": pixel},
        {"type": "image_url", "image_url": {"url": "https://images.test/mill.png"}},
        {"type": "image_url", "image_url": pixel},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "mill.pdf"}},
    ]


def test_langchain_by_the_responses_api(base_url, records):
    from langchain_core.tools import tool

    @tool
    def weather(city: str) -> str:
        """The weather in a city."""
        return f"rain in {city}"

    millstream.instrument("langchain")
    model = chat(base_url, use_responses_api=True, temperature=0.25).bind_tools([weather], strict=True)
    messages = [("system", "Be brief."), ("human", "What is the weather in Oslo?")]
    answer = model.invoke(messages)
    model.invoke([*messages, answer, weather.invoke(answer.tool_calls[0])])
    "".join(chunk.text for chunk in model.stream("Count."))

    called, told, streamed = records()
    for record in (called, told, streamed):
        check_answer(record)
        (offered,) = record["request"]["tools"]
        assert offered["function"]["strict"] is True
    (call,) = called["response"]["choices"][0]["message"]["tool_calls"]
    assert told["request"]["messages"][2]["tool_calls"] == [call]
    assert told["request"]["messages"][3]["tool_call_id"] == call["id"]
    assert told["response"]["choices"][0]["message"]["content"] == "The tool said: rain in Oslo"


async def test_workloads_of_a_graph(base_url, records):
    """The nearest scope around the call, in nodes that run at once."""
    from langgraph.graph import END, START, StateGraph

    millstream.instrument("langchain")
    model = chat(base_url)

    @track_unregistered_function(name="document_summarizer", metadata={"task_type": "summarization"})
    def summarize(state):
        return {"summary": model.invoke(f"say {state['text']}").text}

    @track_unregistered_function
    def question_answerer(state):
        return {"answer": model.invoke("say answer").text}

    @track_function
    def plain(state):
        return {"plain": model.invoke("say plain").text}

    class State(TypedDict, total=False):
        text: str
        summary: str
        answer: str
        plain: str

    graph = StateGraph(State)
    for node in (summarize, question_answerer, plain):
        graph.add_node(node.__name__, node)
        graph.add_edge(START, node.__name__)
        graph.add_edge(node.__name__, END)
    graph.compile().invoke({"text": "summary"})
    with start_span("pipeline", workload_id="pipeline"):
        plain({})

    said = {
        (record["workload_id"], record["response"]["choices"][0]["message"]["content"])
        for record in records()
    }
    assert said == {
        ("document_summarizer", "summary"),
        ("question_answerer", "answer"),
        ("root", "plain"),
        ("pipeline", "plain"),
    }


def test_calls_in_a_workflow_without_a_scope_are_named_by_it(base_url, records):
    from millstream import ObservabilityWorkflowInvoker

    millstream.instrument("openai")

    class Workflow:
        async def run(self, message):
            with OpenAI(base_url=base_url, max_retries=0) as client:
                client.chat.completions.create(model="able", messages=[{"role": "user", "content": message}])

    asyncio.run(
        ObservabilityWorkflowInvoker.invoke_workflow_with_context(
            workflow=Workflow(), message="Count.", workflow_name="claims"
        )
    )
    assert [record["workload_id"] for record in records()] == ["claims"]


# Calls that were not answered


async def test_what_was_not_answered_is_no_answer(base_url, spans, records):
    millstream.instrument("openai")
    question = [{"role": "user", "content": "Count."}]
    with OpenAI(base_url=base_url, max_retries=0) as client:
        stream = client.chat.completions.create(model="able", messages=question, stream=True)
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        stream.close()
        with pytest.raises(Exception, match="breaks on demand"):
            client.chat.completions.create(
                model="able", messages=[{"role": "user", "content": "Please break it."}]
            )
    async with AsyncOpenAI(base_url=base_url, max_retries=0) as client:
        task = asyncio.ensure_future(client.chat.completions.create(model="slow", messages=question))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    left, failed, cancelled = records()
    for record in (left, failed, cancelled):
        check_failure(record)
    assert left["error"] == {"type": "incomplete", "message": "the answer did not come whole"}
    assert (failed["error"]["type"], cancelled["error"]["type"]) == ("BadRequestError", "CancelledError")
    assert [each.status for each in spans()] == [Status.OK, Status.ERROR, Status.CANCELLED]
    assert [made_of(each, strict=True) for each in spans()] == [NoRecord(NOT_ANSWERED)] * 3


PROGRAM = """
import millstream, openai, sys
millstream.instrument("openai")
millstream.subscribe(lambda step: print("asked", flush=True))  # told once the opening is written
client = openai.OpenAI(base_url=sys.argv[1], api_key="right", max_retries=0)
client.chat.completions.create(model="slow", messages=[{"role": "user", "content": "Count."}])
"""


def test_a_call_whose_process_was_killed(base_url, spans):
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, base_url], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"asked\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    (interrupted,) = spans()
    assert (interrupted.kind, interrupted.status) == (SpanKind.LLM, Status.INTERRUPTED)
    assert isinstance(made_of(interrupted), NoRecord)
    interrupted.input = [{"role": "user", "content": "Count."}]
    record = as_json(made_of(interrupted))
    check_failure(record)
    assert record["error"]["type"] == "interrupted"
    assert "latency_s" not in record


def test_calls_without_content_make_no_record(base_url, home):
    millstream.instrument("openai")
    with millstream.recording(home=home / "bare", capture_content=False), OpenAI(base_url=base_url) as client:
        client.chat.completions.create(model="able", messages=[{"role": "user", "content": "Count."}])
    (call,) = millstream.open_store(home / "bare").spans()
    assert made_of(call) == made_of(call, strict=True) == NoRecord(WITHOUT_CONTENT)


def test_content_that_was_cut_makes_no_record(base_url, home):
    """Half a prompt with half an answer would be learnt as it stands."""
    millstream.instrument("openai")
    with millstream.recording(home=home / "cut", content_limit=5_000), OpenAI(base_url=base_url) as client:
        client.chat.completions.create(model="able", messages=[{"role": "user", "content": "long " * 2_000}])
        about = "What does … [cut: 12 characters in all] mean? I read: … [cut: 12 characters in all]"
        client.chat.completions.create(model="able", messages=[{"role": "user", "content": about}])
    cut, about = sorted(millstream.open_store(home / "cut").spans(), key=lambda one: one.start_ns)
    refused = made_of(cut)
    assert isinstance(refused, Rejected)
    assert "content_limit" in refused.reason
    assert "long long" not in refused.reason
    check_answer(as_json(made_of(about)))


# What the mapping knows


def test_the_five_fields_of_a_strict_index(base_url, spans):
    millstream.instrument("openai")
    with OpenAI(base_url=base_url) as client:
        client.chat.completions.create(model="able", messages=[{"role": "user", "content": "Count."}])
    (call,) = spans()
    strict, full = as_json(made_of(call, strict=True)), as_json(made_of(call, contract_version="1.0"))
    assert list(strict) == ["timestamp", "client_id", "workload_id", "request", "response"]
    assert strict == {name: full[name] for name in strict}
    assert full["contract_version"] == "1.0"
    assert as_json(made_of(call))["contract_version"] == "1.1"
    assert (full["trace_id"], full["span_id"]) == (call.trace_id, call.span_id)
    assert full["latency_s"] == pytest.approx(call.duration_s)


def answered(output, **attributes):
    return as_json(made_of(span(output=output, attributes=attributes)))["response"]


def test_the_response_id_is_the_providers_or_made_of_the_span():
    one, other = span(), span()
    ids = {as_json(made_of(each))["response"]["id"] for each in (one, one, other)}
    assert ids == {f"millstream-{each.trace_id}-{each.span_id}" for each in (one, other)}
    assert answered("x", **{semconv.RESPONSE_ID: "resp_1"})["id"] == "resp_1"


def test_every_choice_that_was_recorded():
    messages = [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    response = answered(messages, **{semconv.RESPONSE_FINISH_REASONS: ["stop", "length"]})
    assert response["choices"] == [
        {"index": 0, "message": messages[0], "finish_reason": "stop"},
        {"index": 1, "message": messages[1], "finish_reason": "length"},
    ]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("completed", "stop"),
        ("end_turn", "stop"),
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("tool_use", "tool_calls"),
        ("content_filter", "content_filter"),
        ("eos", "eos"),
    ],
)
def test_finish_reasons_of_other_providers(told, said):
    assert answered("x", **{semconv.RESPONSE_FINISH_REASONS: [told]})["choices"][0]["finish_reason"] == said


def test_usage_that_is_not_known_is_left_out():
    assert "usage" not in as_json(made_of(span(usage=None)))["response"]
    assert as_json(made_of(span(usage=Usage(output_tokens=3))))["response"]["usage"] == {
        "completion_tokens": 3
    }
    usage = Usage(12, 5, 4, 0)
    assert as_json(made_of(span(usage=usage)))["response"]["usage"] == {
        "prompt_tokens": 12,
        "completion_tokens": 5,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"input": []}, "no messages"),
        ({"input": 5}, "no messages"),
        ({"input": [[1, 2, 3]]}, "no role"),
        ({"input": [{"content": "x"}]}, "no role"),
        ({"input": [{"role": "assistant", "content": None, "tool_calls": {"a": 1}}]}, "no list"),
        ({"input": [{"role": "assistant", "content": None, "tool_calls": ["x"]}]}, "no object"),
        ({"input": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]}, "no name"),
        ({"output": {"score": 1}}, "no message"),
        ({"output": []}, "no message"),
        ({"output": 7}, "no message"),
    ],
)
def test_what_makes_no_chat_is_rejected_with_the_reason(fields, reason):
    made = made_of(span(**fields))
    assert isinstance(made, Rejected)
    assert reason in made.reason


def test_spans_of_a_users_own(records):
    with start_span("my model", kind=SpanKind.LLM, input="What is a mill?") as call:
        call.set_output("A machine.")
    (record,) = records()
    check_answer(record)
    assert record["request"] == {
        "model": "my model",
        "messages": [{"role": "user", "content": "What is a mill?"}],
    }
    assert record["response"]["choices"][0]["message"] == {"role": "assistant", "content": "A machine."}


def test_tool_calls_of_other_forms_keep_together_with_their_results():
    given = [
        {"role": "human", "content": "Compare."},
        {
            "role": "ai",
            "content": [
                {"type": "thinking", "thinking": "Two cities."},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "a1", "name": "weather", "input": {"city": "Oslo"}},
                {"type": "tool_call", "name": "weather", "args": {"city": "Rome"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a1", "content": [{"type": "text", "text": "rain"}]},
        {"role": "tool", "content": {"sky": "blue"}},
    ]
    record = as_json(made_of(span(input=given)))
    check_answer(record)
    _, asked, rain, blue = record["request"]["messages"]
    assert (asked["content"], asked["reasoning_content"]) == ("Let me see.", "Two cities.")
    first, second = asked["tool_calls"]
    assert (rain["content"], rain["tool_call_id"]) == ("rain", first["id"])
    assert (json.loads(blue["content"]), blue["tool_call_id"]) == ({"sky": "blue"}, second["id"])
    assert json.loads(second["function"]["arguments"]) == {"city": "Rome"}


def test_calls_without_an_id_get_one_and_the_span_is_left_as_it_was():
    call = {"id": "", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call, call]}
    told = [{"role": "user", "content": "x"}, answer, {"role": "tool", "content": "y"}]
    asked = span(input=told, output=answer)
    before = msgspec.json.encode(asked)
    record = as_json(made_of(asked))
    check_answer(record)
    first, second = record["response"]["choices"][0]["message"]["tool_calls"]
    assert first["id"] != second["id"]
    assert msgspec.json.encode(asked) == before


# Properties

text = st.text(max_size=20)
names = st.from_regex(r"[a-z_]{1,20}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)
parts = st.one_of(
    st.builds(lambda said: {"type": "text", "text": said}, text),
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": f"https://{url}.test"}}, names),
    st.just({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
)
calls = st.builds(
    lambda name, call_id, arguments: {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    },
    names,
    names,
    st.dictionaries(names, json_values, max_size=3),
)
nameless_calls = st.builds(
    lambda call, call_id: {**call, "id": call_id}, calls, st.sampled_from(["", None, 7])
)
openai_messages = st.lists(
    st.one_of(
        st.builds(
            lambda role, said: {"role": role, "content": said}, st.sampled_from(["system", "developer"]), text
        ),
        st.builds(
            lambda said: {"role": "user", "content": said}, text | st.lists(parts, min_size=1, max_size=3)
        ),
        st.builds(
            lambda said, made: {
                "role": "assistant",
                "content": said,
                **({"tool_calls": made} if made else {}),
            },
            st.none() | text,
            st.lists(calls, max_size=3),
        ),
        st.builds(
            lambda said, call_id: {"role": "tool", "content": said, "tool_call_id": call_id}, text, names
        ),
    ),
    min_size=1,
    max_size=6,
)


@given(openai_messages)
def test_openais_own_messages_stay_as_they_are(given_messages):
    MESSAGES.validate_python(given_messages)
    assert request_messages(given_messages) == given_messages


message_like = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "tool", "system", "human", "ai", "critic"])
        | json_values,
        "content": json_values
        | st.lists(
            st.fixed_dictionaries(
                {"type": names | st.sampled_from(["text", "image", "tool_use", "thinking", "file", "audio"])},
                optional={
                    "text": json_values,
                    "url": json_values,
                    "data": json_values,
                    "source": json_values,
                    "name": json_values,
                    "input": json_values,
                },
            ),
            max_size=3,
        ),
        "tool_calls": st.lists(calls | nameless_calls | json_values, max_size=2) | json_values,
        "tool_call_id": names | st.none(),
        "name": names | st.none(),
    },
)
anything = st.lists(message_like, max_size=4) | message_like | json_values


@given(
    asked=anything,
    told=anything,
    attributes=st.dictionaries(
        st.sampled_from(sorted(value for name, value in vars(semconv).items() if name.isupper())), json_values
    ),
    status=st.sampled_from([Status.OK, Status.OK, Status.ERROR, Status.CANCELLED, Status.INTERRUPTED]),
    strict=st.booleans(),
)
def test_anything_makes_a_record_that_readers_take_or_none(asked, told, attributes, status, strict):
    call = span(input=asked, output=told, attributes=attributes, status=status)
    before = msgspec.json.encode(call)
    made = made_of(call, strict=strict)
    assert msgspec.json.encode(call) == before
    if isinstance(made, (NoRecord, Rejected)):
        assert made.reason
        return
    record = as_json(made)
    messages = record["request"]["messages"]
    assert request_messages(messages) == messages
    assert all(isinstance(message["role"], str) and "content" in message for message in messages)
    if record.get("error"):
        assert not strict
        check_failure(record)
        return
    assert status is Status.OK
    assert blueprint.is_valid(record)
    blueprint.training_example(record, tools=False)
    for choice in record["response"]["choices"]:
        assert choice["message"]["role"] == "assistant"
        assert all(call["id"] for call in calls_of(choice["message"]))


def test_redacted_errors_keep_their_type():
    failed = span(status=Status.ERROR, error=SpanError("RateLimitError", ""), output=msgspec.UNSET)
    assert as_json(made_of(failed))["error"] == {"type": "RateLimitError", "message": ""}
