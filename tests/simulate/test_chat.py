import json

import pytest

from millstream.simulate.api_error import ApiError
from millstream.simulate.chat import parse_chat_request

HI = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def parse(**body):
    return parse_chat_request(json.dumps({"model": "m", "messages": [HI], **body}).encode())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "We could not parse the JSON body"),
        (b"\xff", "We could not parse the JSON body"),
        (b'{"temperature": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "We could not parse the JSON body"),
        (b"[]", "must be a JSON object"),
        (b"{}", "you must provide a model parameter"),
        (b'{"model": "m"}', "Missing required parameter: 'messages'."),
    ],
)
def test_bodies_that_are_no_request(raw, message):
    with pytest.raises(ApiError) as caught:
        parse_chat_request(raw)
    assert caught.value.status == 400
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"messages": []}, "empty array", "messages"),
        ({"messages": "hi"}, "expected an array, but got a string", "messages"),
        ({"messages": [1]}, "expected an object, but got an integer", "messages[0]"),
        ({"messages": [{"role": "robot", "content": ""}]}, "Invalid value: 'robot'", "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "got null", "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": 1}]},
            "a string or an array of parts",
            "messages[0].content",
        ),
        ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "a 'type'", "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "a 'text'",
            "messages[0].content[0].text",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
            "must have an 'id'",
            "messages[0].tool_calls[0]",
        ),
        ({"messages": [HI, {"role": "tool", "content": "x"}]}, "tool_call_id", "messages[1].tool_call_id"),
        (
            {"messages": [HI, {"role": "tool", "content": "x", "tool_call_id": "c1"}]},
            "must be a response to a preceeding message with 'tool_calls'",
            "messages[1]",
        ),
        (
            {"messages": [HI, {"role": "assistant", "tool_calls": [CALL]}]},
            "did not have response messages: c1",
            "messages[1]",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [CALL]}, HI]},
            "did not have response messages: c1",
            "messages[1]",
        ),
        ({"n": 0}, "Expected a value >= 1", "n"),
        ({"n": 129}, "Expected a value <= 128", "n"),
        ({"n": True}, "expected an integer, but got a boolean", "n"),
        ({"temperature": 3}, "between 0 and 2", "temperature"),
        ({"temperature": "hot"}, "a decimal number", "temperature"),
        ({"max_tokens": 0}, "Expected a value >= 1", "max_tokens"),
        ({"max_tokens": True}, "expected an integer, but got a boolean", "max_tokens"),
        ({"stream": "yes"}, "expected a boolean", "stream"),
        (
            {"stream_options": {"include_usage": True}},
            "only allowed when 'stream' is enabled",
            "stream_options",
        ),
        ({"stop": [""]}, "a string or an array of strings", "stop"),
        ({"tools": [{"name": "f"}]}, "must be an object with type 'function'", "tools[0]"),
        ({"tool_choice": "auto"}, "only allowed when 'tools' are specified", "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "not none, auto, required", "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "one of the tools",
            "tool_choice",
        ),
    ],
)
def test_what_openai_would_not_take(body, message, param):
    with pytest.raises(ApiError) as caught:
        parse(**body)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert message in caught.value.message
    assert caught.value.body["error"]["type"] == "invalid_request_error"


def test_nulls_are_as_if_absent():
    request = parse(
        max_tokens=None, stop=None, tools=None, tool_choice=None, stream=None, stream_options=None, n=None
    )
    assert (request.max_tokens, request.stop, request.tools, request.stream) == (None, [], {}, False)


def test_max_completion_tokens_counts_before_max_tokens():
    assert parse(max_completion_tokens=3, max_tokens=9).max_tokens == 3


def test_the_turn_starts_again_at_each_user_message():
    asked = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "content": "x", "tool_call_id": "c1"}
    assert parse(messages=[HI]).turn == 1
    assert parse(messages=[HI, asked, result]).turn == 2
    assert parse(messages=[HI, asked, result, asked, result]).turn == 3
    assert parse(messages=[HI, asked, result, {"role": "assistant", "content": "done"}, HI]).turn == 1


def test_parts_of_text_are_read_as_text_and_images_are_counted():
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "b"},
    ]
    with_image = parse(messages=[{"role": "user", "content": parts}])
    without = parse(messages=[{"role": "user", "content": "a\nb"}])
    assert with_image.user_messages == ["a\nb"]
    assert len(with_image.prompt_tokens) == len(without.prompt_tokens) + 85


def test_the_prompt_counts_messages_calls_and_tools():
    plain = len(parse().prompt_tokens)
    assert plain == 1 + 3 + 3
    assert len(parse(tools=[TOOL]).prompt_tokens) > plain
    called = parse(
        messages=[
            HI,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "content": "", "tool_call_id": "c1"},
        ]
    )
    assert len(called.prompt_tokens) == plain + 3 + 2 + 3
