"""The Responses API: the real openai SDK against the real process."""

import json
import time
from typing import Literal

import httpx
import openai
import pydantic
import pytest

from tests.simulate.process import running
from tests.simulate.test_server_faults import BROKEN_STREAM, client_of, wait_for

RULES = r"""
models:
  quick: {}
  slow: {latency: {time_to_first_token_s: 0.4, time_per_output_token_s: 0.05}}
  thinking: {reasoning_tokens: 9, prefix_cache: true}
  grouped: {tokens_per_chunk: 4}
rules:
  - when: {last_user_matches: 'weather in (?P<a>\w+) and (?P<b>\w+)', last_message_role: user}
    reply:
      text: I look both up.
      tool_calls:
        - {name: get_weather, arguments: {city: $a}}
        - {name: get_weather, arguments: {city: $b}}
  - when: {last_user_matches: 'weather in (?P<city>\w+)', last_message_role: user}
    reply: {tool_calls: [{name: get_weather, arguments: {city: $city}}]}
  - when: {last_message_role: tool}
    reply: "It is $last in turn $turn."
  - when: {last_user_matches: '^count$'}
    reply: >-
      one two three four five six seven eight nine ten
      eleven twelve thirteen fourteen fifteen sixteen seventeen
  - when: {last_user_matches: '^who am I'}
    reply: "First you said: $first_user [$system]"
  - when: {last_user_matches: '^nothing$'}
    reply: ""
  - when: {last_user_matches: '^break$'}
    reply: {text: one two three, error: {status: 429, message: Enough., after_tokens: 2}}
  - when: {last_user_matches: '^crash$'}
    reply: {text: one two three, error: {status: 500, after_tokens: 2}}
  - when: {last_user_matches: '^cut$'}
    reply: {text: one two three, error: {fault: reset, after_tokens: 2}}
  - when: {last_user_matches: '^busy$'}
    reply: {error: {status: 503}}
  - when: {last_user_matches: '^form$'}
    reply: {json: {city: Oslo, kind: a}}
default: "You said: $user"
"""
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": True}]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    with running(rules, "--seed", "7") as stand_in:
        yield stand_in


@pytest.fixture
def client(server):
    with client_of(server) as client:
        yield client


def ask(client, text="hello", model="quick", **more):
    return client.responses.create(model=model, input=text, **more)


def events_of(client, text="hello", **more):
    with ask(client, text, stream=True, **more) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events


def kinds_of(events):
    """The events' types, equal neighbours once."""
    kinds = [event.type.removeprefix("response.") for event in events]
    return [kind for index, kind in enumerate(kinds) if kinds[index - 1 : index] != [kind]]


def apart_from_times(response):
    return response.model_dump(exclude={"id", "created_at", "completed_at", "output"})


def test_a_plain_answer_with_its_usage(client):
    answer = ask(client, instructions="Be kind.", metadata={"run": "7"}, temperature=0.3)
    assert (answer.object, answer.status, answer.output_text) == ("response", "completed", "You said: hello")
    assert answer.id.startswith("resp_")
    assert abs(answer.created_at - time.time()) < 60
    (item,) = answer.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "completed")
    assert (item.content[0].type, item.content[0].annotations) == ("output_text", [])
    assert (answer.error, answer.incomplete_details) == (None, None)
    assert (answer.instructions, answer.metadata) == ("Be kind.", {"run": "7"})
    assert (answer.temperature, answer.top_p, answer.tool_choice, answer.tools) == (0.3, 1.0, "auto", [])
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (7 + 3 + 3, 4, 17)
    assert usage.input_tokens_details.cached_tokens == 0
    assert usage.output_tokens_details.reasoning_tokens == 0


def test_it_counts_as_the_same_chat_does(client):
    chat = client.chat.completions.create(model="quick", messages=[{"role": "user", "content": "count"}])
    usage = ask(client, "count").usage
    assert (usage.input_tokens, usage.output_tokens) == (
        chat.usage.prompt_tokens,
        chat.usage.completion_tokens,
    )


def test_reasoning_is_an_item_and_cached_tokens_are_reported(client):
    long = "word " * 100
    first = ask(client, long, "thinking")
    second = ask(client, long + "more", "thinking", include=["reasoning.encrypted_content"])
    assert [item.type for item in first.output] == ["reasoning", "message"]
    assert (first.output[0].summary, first.output[0].encrypted_content) == ([], None)
    assert second.output[0].encrypted_content
    assert first.usage.output_tokens_details.reasoning_tokens == 9
    assert first.usage.input_tokens_details.cached_tokens == 0
    assert second.usage.input_tokens_details.cached_tokens == 96


def test_the_events_of_a_stream_and_the_same_answer_whole(client):
    events = events_of(client, "count")
    assert kinds_of(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [event.delta for event in deltas][:4] == ["one", " two", " three", " four"]
    assert {(event.output_index, event.content_index, event.logprobs == []) for event in deltas} == {
        (0, 0, True)
    }
    created, done = events[0].response, events[-1].response
    assert (created.status, created.output, created.usage, created.id) == ("in_progress", [], None, done.id)
    assert events[2].item.content == []
    assert {event.item_id for event in deltas} == {events[2].item.id} == {done.output[0].id}
    assert events[-2].item == done.output[0]
    whole = ask(client, "count")
    assert done.output_text == whole.output_text == "".join(event.delta for event in deltas)
    assert apart_from_times(done) == apart_from_times(whole)


def test_several_tokens_may_come_in_one_delta(client):
    deltas = [event.delta for event in events_of(client, "count", model="grouped") if "delta" in event.type]
    assert deltas[:2] == ["one", " two three four five"]


def test_the_stream_helper_puts_calls_together(client):
    with client.responses.stream(
        model="thinking", input="the weather in Oslo and Rome", tools=TOOLS
    ) as stream:
        kinds = kinds_of(stream)
        answer = stream.get_final_response()
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done"]
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        *call,
        "output_item.done",
        *call,
        "output_item.done",
        "completed",
    ]
    reasoning, message, *calls = answer.output
    assert (reasoning.type, message.content[0].text) == ("reasoning", "I look both up.")
    assert [json.loads(call.arguments) for call in calls] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert len({item.id for item in answer.output}) == 4


def test_arguments_are_streamed_token_by_token(client):
    events = events_of(client, "the weather in Oslo", tools=TOOLS)
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert len(deltas) > 2
    assert "".join(deltas) == done.arguments == '{"city": "Oslo"}'
    assert done.item_id == events[-1].response.output[0].id
    added = next(event.item for event in events if event.type == "response.output_item.added")
    assert (added.arguments, added.status, added.name) == ("", "in_progress", "get_weather")


def test_a_tool_call_there_and_back_with_the_items_sent_again(client):
    items = [{"role": "user", "content": [{"type": "input_text", "text": "the weather in Oslo and Rome"}]}]
    asked = ask(client, items, "thinking", tools=TOOLS)
    calls = [item for item in asked.output if item.type == "function_call"]
    assert [call.name for call in calls] == ["get_weather", "get_weather"]
    items += asked.output
    items += [
        {"type": "function_call_output", "call_id": call.call_id, "output": text}
        for call, text in zip(calls, ("snow", "sun"), strict=True)
    ]
    assert ask(client, items, "thinking", tools=TOOLS).output_text == "It is sun in turn 2."


def test_a_chain_of_responses_is_the_same_conversation(client):
    question = {"role": "user", "content": "the weather in Oslo"}
    asked = ask(client, [question], tools=TOOLS, instructions="Be brief.")
    output = {"type": "function_call_output", "call_id": asked.output[0].call_id, "output": "snow"}
    chained = ask(client, [output], tools=TOOLS, previous_response_id=asked.id)
    assert (chained.output_text, chained.previous_response_id) == ("It is snow in turn 2.", asked.id)
    again = ask(client, [question, *asked.output, output], tools=TOOLS)
    assert again.usage.input_tokens == chained.usage.input_tokens
    last = ask(client, "who am I?", previous_response_id=chained.id, instructions="Be long.")
    assert last.output_text == "First you said: the weather in Oslo [Be long.]"


def test_a_streamed_response_can_be_gone_on_from(client):
    first = events_of(client, "hello")[-1].response
    assert ask(client, "who am I?", previous_response_id=first.id).output_text == "First you said: hello []"


def test_what_is_not_stored_or_not_known_is_not_found(client):
    for unknown in (ask(client, store=False).id, "resp_none"):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, previous_response_id=unknown)
        assert caught.value.body == {
            "message": f"Previous response with id '{unknown}' not found.",
            "type": "invalid_request_error",
            "param": "previous_response_id",
            "code": "previous_response_not_found",
        }


def test_a_call_must_be_answered(client):
    asked = ask(client, "the weather in Oslo", tools=TOOLS)
    with pytest.raises(openai.BadRequestError, match="No tool output found for function call call_"):
        ask(client, "and now?", tools=TOOLS, previous_response_id=asked.id)


@pytest.mark.parametrize("streamed", [False, True])
def test_beyond_max_output_tokens_it_is_incomplete(client, streamed):
    if streamed:
        events = events_of(client, "count", max_output_tokens=16)
        assert events[-1].type == "response.incomplete"
        answer = events[-1].response
    else:
        answer = ask(client, "count", max_output_tokens=16)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (answer.output[0].status, answer.usage.output_tokens) == ("incomplete", 16)
    assert answer.output_text.endswith(" fifteen sixteen")
    assert answer.completed_at is None


def test_an_empty_answer_is_a_message_all_the_same(client):
    assert ask(client, "nothing").output[0].content[0].text == ""
    assert kinds_of(events_of(client, "nothing")) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


class Weather(pydantic.BaseModel):
    city: str
    kind: Literal["a", "b"]


def test_a_format_is_parsed_by_the_sdk(client):
    parsed = client.responses.parse(model="quick", input="form", text_format=Weather)
    assert parsed.output_parsed == Weather(city="Oslo", kind="a")
    assert parsed.text.format.name == "Weather"
    with client.responses.stream(model="quick", input="form", text_format=Weather) as stream:
        assert stream.get_final_response().output_parsed == Weather(city="Oslo", kind="a")


def test_a_value_is_made_up_where_a_form_is_demanded_and_no_rule_fits(start):
    with (
        start("{models: {m: }, rules: [{when: {turn: 9}, reply: x}]}") as server,
        client_of(server) as client,
    ):
        parsed = client.responses.parse(model="m", input="hi", text_format=Weather)
        assert parsed.output_parsed == Weather(city="text", kind="a")
        choice = {"type": "function", "name": "get_weather"}
        for demand in ("required", choice):
            (call,) = client.responses.create(model="m", input="hi", tools=TOOLS, tool_choice=demand).output
            assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "text"})


def test_an_image_is_counted(client):
    parts = [
        {"type": "input_text", "text": "hello"},
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
    ]
    assert ask(client, [{"role": "user", "content": parts}]).usage.input_tokens == 7 + 85


async def test_the_asynchronous_client(server):
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="x", max_retries=0) as client:
        assert (await ask(client)).output_text == "You said: hello"
        stream = await ask(client, "count", stream=True)
        events = [event async for event in stream]
        assert events[-1].response.output_text.startswith("one two three")
        async with client.responses.stream(model="quick", input="hello") as helper:
            assert (await helper.get_final_response()).output_text == "You said: hello"


def test_a_stream_begins_before_its_first_token_and_keeps_its_pace(client):
    start = time.monotonic()
    with ask(client, "count", "slow", stream=True) as stream:
        times = [(event.type, time.monotonic() - start) for event in stream]
    assert times[0][0] == "response.created"
    assert times[0][1] < 0.4
    deltas = [at for kind, at in times if kind == "response.output_text.delta"]
    assert all(at >= 0.4 + index * 0.05 for index, at in enumerate(deltas))


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [("break", "rate_limit_exceeded", "Enough."), ("crash", "server_error", "The server had an error")],
)
def test_an_error_in_the_middle_of_a_stream_is_a_failed_response(client, text, code, message):
    events = events_of(client, text)
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["one", " two"]
    last = events[-1]
    assert (last.type, last.response.status, last.response.error.code) == ("response.failed", "failed", code)
    assert last.response.error.message.startswith(message)
    assert (last.response.output_text, last.response.output[0].status) == ("one two", "incomplete")
    with pytest.raises(openai.APIStatusError, match=message):
        ask(client, text)
    with pytest.raises(openai.BadRequestError, match="not found"):
        ask(client, previous_response_id=last.response.id)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_error_before_the_first_token_is_an_answer_of_its_own(client, streamed):
    with pytest.raises(openai.InternalServerError, match="overloaded"):
        ask(client, "busy", stream=streamed)


def test_a_stream_may_break_with_its_connection(client):
    seen = []
    with pytest.raises(BROKEN_STREAM), ask(client, "cut", stream=True) as stream:
        seen.extend(event for event in stream)
    assert seen[-1].delta == " two"


def test_limits_errors_and_counts_are_those_of_the_model(start):
    rules = """
        models:
          m: {context_window: 30, errors: [{status: 500, every: 2}]}
          few: {rate_limits: {requests_per_minute: 1}}
        api_key: sk-right
        """
    with start(rules) as server, client_of(server, api_key="sk-right") as client:
        usage = ask(client, model="m", max_output_tokens=16).usage
        with pytest.raises(openai.InternalServerError):
            ask(client, model="m", max_output_tokens=16)
        with pytest.raises(openai.BadRequestError, match="your input resulted in 27 tokens") as caught:
            ask(client, "word " * 20, model="m", max_output_tokens=16)
        assert (caught.value.param, caught.value.code) == ("input", "context_length_exceeded")
        ask(client, model="few")
        with pytest.raises(openai.RateLimitError):
            ask(client, model="few")
        with pytest.raises(openai.NotFoundError, match="`none` does not exist"):
            ask(client, model="none")
        with client_of(server, api_key="sk-wrong") as stranger, pytest.raises(openai.AuthenticationError):
            ask(stranger, model="m")
        stats = server.stats()["models"]["m"]
    assert (stats["requests"], stats["completed"], stats["errors"]) == (3, 1, {"400": 1, "500": 1})
    assert (stats["prompt_tokens"], stats["completion_tokens"]) == (usage.input_tokens, usage.output_tokens)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_goes_away_frees_its_place(start, streamed):
    rules = "{models: {m: {max_concurrency: 1, latency: {time_per_output_token_s: 60}}}, default: one two}"
    with start(rules) as server, client_of(server, timeout=0.3) as client:
        with pytest.raises(BROKEN_STREAM), ask(client, model="m", stream=streamed) as stream:
            list(stream)
        wait_for(lambda: server.stats()["cancelled"] == 1)
        assert server.stats()["in_flight"] == 0


def test_the_wire_names_each_event(server):
    body = {"model": "quick", "input": "hello", "stream": True}
    answer = httpx.post(f"{server.base_url}/responses", json=body)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-millstream-rule"] == "default"
    *blocks, end = answer.text.split("\n\n")
    assert end == ""
    for block in blocks:
        name, data = block.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"model": ', "could not parse the JSON body"),
        (b"[]", "must be a JSON object"),
        (b"{}", "Missing required parameter: 'model'."),
        (b'{"model": "quick"}', "Missing required parameter: 'input'."),
    ],
)
def test_malformed_bodies_are_400(server, content, message):
    answer = httpx.post(f"{server.base_url}/responses", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert message in answer.json()["error"]["message"]
