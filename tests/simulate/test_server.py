"""The real openai SDK against the real process."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.simulate.process import running

RULES = r"""
models:
  quick: {}
  slow: {latency: {time_to_first_token_s: 0.2, time_per_output_token_s: 0.05}}
  narrow: {latency: {time_to_first_token_s: 0.2}, max_concurrency: 2}
  noisy: {latency: {time_to_first_token_s: 0.02, jitter: 0.5}, errors: [{status: 500, probability: 0.3}]}
  thinking: {reasoning_tokens: 9, prefix_cache: true}
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
    reply: "It is $last."
  - when: {last_user_matches: '^count$'}
    reply: one two three four five six
  - when: {last_user_matches: '^pick$'}
    reply: ["one two", "three four five", six]
  - when: {model: noisy}
    reply: [a, b, c, d, e, f, g, h]
default: "You said: $user"
"""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    with running(rules, "--seed", "7") as stand_in:
        yield stand_in


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0, timeout=20) as client:
        yield client


def user(text):
    return [{"role": "user", "content": text}]


def ask(client, text="hello", model="quick", **more):
    return client.chat.completions.create(model=model, messages=user(text), **more)


def test_several_choices_whole_and_streamed(client):
    one = ask(client, "pick", n=1).usage
    answer = ask(client, "pick", n=3)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert set(texts) <= {"one two", "three four five", "six"}
    assert len({ask(client, "pick", n=3, seed=seed).choices[1].message.content for seed in range(9)}) > 1
    assert answer.usage.prompt_tokens == one.prompt_tokens
    assert answer.usage.completion_tokens == sum(len(text.split()) for text in texts)
    options = {"stream_options": {"include_usage": True}}
    *chunks, last = ask(client, "count", n=2, stream=True, **options)
    assert last.usage.completion_tokens == 12
    order = [choice.index for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert order == [0, 1] * 6
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert reasons == ["stop", "stop"]
    called = ask(client, "weather in Oslo and Rome", n=2, tools=TOOLS)
    ids = [call.id for choice in called.choices for call in choice.message.tool_calls]
    assert len(set(ids)) == 4


def test_several_choices_take_the_time_of_the_longest(client):
    start_s = time.monotonic()
    ask(client, "count", "slow", n=4)
    assert time.monotonic() - start_s < 1.2


def test_a_plain_answer_with_its_usage(client):
    answer = ask(client)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert abs(answer.created - time.time()) < 60
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        "You said: hello",
        "stop",
    )
    assert choice.message.tool_calls is None
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, 4, 11)
    assert usage.prompt_tokens_details.cached_tokens == 0
    assert usage.completion_tokens_details.reasoning_tokens == 0


def test_reasoning_and_cached_tokens_are_reported(client):
    long = "word " * 100
    first, second = ask(client, long, "thinking").usage, ask(client, long + "more", "thinking").usage
    assert first.completion_tokens_details.reasoning_tokens == 9
    assert first.prompt_tokens_details.cached_tokens == 0
    assert second.prompt_tokens_details.cached_tokens == 96


def test_a_stream_comes_token_by_token_and_is_the_same_answer(client):
    with ask(client, "count", stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    whole = ask(client, "count")
    *deltas, last = chunks
    texts = [chunk.choices[0].delta.content for chunk in deltas]
    assert texts == ["", "one", " two", " three", " four", " five", " six", None]
    assert [chunk.choices[0].delta.role for chunk in deltas] == ["assistant"] + [None] * 7
    assert [chunk.choices[0].finish_reason for chunk in deltas] == [None] * 7 + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.object == "chat.completion.chunk" and chunk.usage is None for chunk in deltas)
    assert (last.choices, last.usage) == ([], whole.usage)


def test_without_include_usage_a_stream_has_none(client):
    with ask(client, "count", stream=True) as stream:
        chunks = list(stream)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_a_tool_call_there_and_back(client):
    messages = user("What is the weather in Oslo?")
    answer = client.chat.completions.create(model="quick", messages=messages, tools=TOOLS)
    (choice,) = answer.choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "snowing"}]
    final = client.chat.completions.create(model="quick", messages=messages, tools=TOOLS)
    assert (final.choices[0].message.content, final.choices[0].finish_reason) == ("It is snowing.", "stop")


def test_parallel_calls_are_streamed_as_deltas(client):
    messages = user("the weather in Oslo and Rome")
    with client.chat.completions.stream(model="quick", messages=messages, tools=TOOLS) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_completion().choices[0].message
    assert kinds.count("tool_calls.function.arguments.done") == 2
    assert kinds.count("tool_calls.function.arguments.delta") > 4
    assert message.content == "I look both up."
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [
        {"city": "Oslo"},
        {"city": "Rome"},
    ]
    whole = client.chat.completions.create(model="quick", messages=messages, tools=TOOLS).choices[0].message
    assert [call.function.arguments for call in whole.tool_calls] == [
        call.function.arguments for call in message.tool_calls
    ]


def test_max_tokens_is_honoured_streamed_or_not(client):
    answer = ask(client, "count", max_tokens=3)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one two three", "length")
    assert answer.usage.completion_tokens == 3
    with ask(client, "count", max_completion_tokens=3, stream=True) as stream:
        chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"


def test_the_models_are_listed_and_described(client):
    assert [model.id for model in client.models.list()] == ["quick", "slow", "narrow", "noisy", "thinking"]
    assert client.models.retrieve("slow").owned_by == "millstream"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")


def test_errors_have_openais_shape(client):
    with pytest.raises(openai.NotFoundError) as missing:
        ask(client, model="gpt-9")
    assert missing.value.body == {
        "message": "The model `gpt-9` does not exist or you do not have access to it.",
        "type": "invalid_request_error",
        "param": None,
        "code": "model_not_found",
    }
    with pytest.raises(openai.BadRequestError, match="Expected a value >= 1") as none:
        ask(client, n=0)
    assert none.value.param == "n"
    with pytest.raises(openai.NotFoundError, match=r"Invalid URL \(POST /v1/completions\)"):
        client.completions.create(model="quick", prompt="x")
    with pytest.raises(openai.APIStatusError, match="Not allowed to POST"):
        client.post("/models", cast_to=object)


def test_the_header_says_which_rule_answered(client):
    raw = client.chat.completions.with_raw_response
    assert raw.create(model="quick", messages=user("count")).headers["x-millstream-rule"] == "rule 4"
    assert raw.create(model="quick", messages=user("hi")).headers["x-millstream-rule"] == "default"


def test_a_whole_answer_takes_the_time_of_all_its_tokens(client):
    start = time.monotonic()
    ask(client, "count", "slow")
    assert time.monotonic() - start >= 0.2 + 5 * 0.05


def test_streamed_tokens_come_at_their_own_times(client):
    start = time.monotonic()
    with ask(client, "count", "slow", stream=True) as stream:
        times = [time.monotonic() - start for chunk in stream if chunk.choices[0].delta.content]
    assert len(times) == 6
    assert all(at >= 0.2 + index * 0.05 for index, at in enumerate(times))
    assert times[0] < 0.2 + 5 * 0.05  # the first does not wait for the last


async def test_requests_run_at_the_same_time(server):
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        start = time.monotonic()
        answers = await asyncio.gather(*(ask(client, f"hello {n}", "slow", max_tokens=1) for n in range(30)))
    assert {answer.choices[0].message.content for answer in answers} == {"You"}
    assert time.monotonic() - start < 30 * 0.2 / 2


async def test_beyond_max_concurrency_requests_queue(server):
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        start = time.monotonic()
        tasks = [asyncio.create_task(ask(client, f"hello {n}", "narrow")) for n in range(6)]
        most = {"in_flight": 0, "queued": 0}
        while not all(task.done() for task in tasks):
            now = (await asyncio.to_thread(server.stats))["models"]["narrow"]
            most = {name: max(value, now[name]) for name, value in most.items()}
        assert time.monotonic() - start >= 3 * 0.2
    assert (most["in_flight"], 0 < most["queued"] <= 4) == (2, True)
    after = server.stats()["models"]["narrow"]
    assert (after["in_flight"], after["queued"], after["completed"]) == (0, 0, 6)


def outcome(client, text):
    try:
        return ask(client, text, "noisy").choices[0].message.content
    except openai.InternalServerError as error:
        return error.status_code


def test_the_same_seed_gives_the_same_answers_and_errors_in_any_order(server, client, start):
    texts = [f"question {n}" for n in range(24)]
    in_order = [outcome(client, text) for text in texts]
    assert 500 in in_order
    assert len(set(in_order)) > 4
    again = [outcome(client, text) for text in texts]
    assert again != in_order  # a request repeated is drawn anew
    with (
        start(RULES, "--seed", "7") as second,
        openai.OpenAI(base_url=second.base_url, api_key="x", max_retries=0) as other,
    ):
        with ThreadPoolExecutor(8) as pool:
            backwards = list(pool.map(lambda text: outcome(other, text), reversed(texts)))
        assert list(reversed(backwards)) == in_order
    with (
        start(RULES, "--seed", "8") as third,
        openai.OpenAI(base_url=third.base_url, api_key="x", max_retries=0) as other,
    ):
        assert [outcome(other, text) for text in texts] != in_order


def test_stats_count_what_happened(start):
    with start("models: {m: , e: {errors: [{status: 503, every: 2}]}}") as server:
        with openai.OpenAI(base_url=server.base_url, api_key="x", max_retries=0) as client:
            usage = ask(client, model="m").usage
            ask(client, model="e")
            with pytest.raises(openai.InternalServerError, match="overloaded"):
                ask(client, model="e")
            with pytest.raises(openai.BadRequestError):
                ask(client, model="m", temperature=7)
        stats = server.stats()
    assert (stats["requests"], stats["completed"], stats["errors"]) == (4, 2, {"400": 1, "503": 1})
    assert stats["models"]["e"]["errors"] == {"503": 1}
    assert stats["models"]["m"]["prompt_tokens"] == usage.prompt_tokens
    assert stats["models"]["m"]["completion_tokens"] == usage.completion_tokens
