import json

import pytest

from millstream.simulate.answer import Answer, Piece
from millstream.simulate.api_error import ApiError
from millstream.simulate.chat import parse_chat_request
from millstream.simulate.conversations import Conversations
from millstream.simulate.responses import parse_responses_request

HI = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_1"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "done"}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}


def parse(conversations=None, **body):
    raw = json.dumps({"model": "m", "input": "hi", **body}).encode()
    return parse_responses_request(raw, conversations or Conversations())


def messages_of(*items, **body):
    return list(parse(input=list(items), **body).chat.messages)


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"input": None}, "Missing required parameter: 'input'.", "input"),
        ({"input": 1}, "a string or an array of items", "input"),
        ({"input": []}, "empty array", "input"),
        ({"input": ["hi"]}, "expected an object, but got a string", "input[0]"),
        ({"input": [{"type": "web_search_call"}]}, "Invalid value: 'web_search_call'", "input[0]"),
        ({"input": [{"type": ["message"]}]}, "Supported values are: 'message'", "input[0]"),
        ({"input": [{"role": "tool", "content": "x"}]}, "Invalid value: 'tool'", "input[0].role"),
        ({"input": [{"role": "user"}]}, "Missing required parameter", "input[0].content"),
        ({"input": [{"role": "user", "content": 1}]}, "a string or an array of parts", "input[0].content"),
        ({"input": [{"role": "user", "content": [1]}]}, "expected an object", "input[0].content[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
            "Invalid value: 'text'. Supported values are: 'input_text'",
            "input[0].content[0]",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "Missing required parameter",
            "input[0].content[0].text",
        ),
        ({"input": [HI, {**CALL, "arguments": {}}]}, "expected a string", "input[1].arguments"),
        ({"input": [HI, {**CALL, "call_id": None}]}, "Missing required parameter", "input[1].call_id"),
        ({"input": [HI, OUTPUT]}, "No tool call found for function call output with call_id c1.", "input"),
        ({"input": [OUTPUT, CALL]}, "No tool call found for function call output", "input"),
        ({"input": [HI, CALL]}, "No tool output found for function call c1.", "input"),
        ({"input": [HI, CALL, {**OUTPUT, "output": None}]}, "Missing required", "input[2].output"),
        ({"instructions": 1}, "expected a string, but got an integer", "instructions"),
        ({"previous_response_id": 1}, "expected a string", "previous_response_id"),
        ({"metadata": "x"}, "expected an object", "metadata"),
        ({"include": "x"}, "expected an array", "include"),
        ({"store": "yes"}, "expected a boolean", "store"),
        ({"stream": 1}, "expected a boolean", "stream"),
        ({"temperature": 3}, "between 0 and 2", "temperature"),
        ({"max_output_tokens": 15}, "Expected a value >= 16, but got 15 instead.", "max_output_tokens"),
        ({"background": True}, "'background' is not supported by the stand-in", "background"),
        ({"tools": ["f"]}, "expected an object", "tools[0]"),
        ({"tools": [{"name": "f"}]}, "Missing required parameter", "tools[0].type"),
        ({"tools": [{"type": "web_search"}]}, "Hosted tool 'web_search' is not supported with m.", "tools"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            "Missing required parameter: 'tools[0].name'.",
            "tools[0].name",
        ),
        ({"tool_choice": "required"}, "Tool choice 'required' not found", "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "Tool choice 'sometimes'", "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}},
            "Tool choice 'g' not found in 'tools' parameter.",
            "tool_choice",
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": []}}, "not found", "tool_choice"),
        ({"text": {"format": 1}}, "expected an object", "text.format"),
        ({"text": {"format": {"type": "xml"}}}, "Invalid value: 'xml'", "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "Missing required", "text.format.name"),
    ],
)
def test_what_openai_would_not_take(body, message, param):
    with pytest.raises(ApiError) as caught:
        parse(**body)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert message in caught.value.message


def test_nulls_are_as_if_absent():
    names = (
        "instructions",
        "tools",
        "tool_choice",
        "max_output_tokens",
        "text",
        "include",
        "store",
        "stream",
    )
    request = parse(**dict.fromkeys(names))
    assert (request.chat.max_tokens, request.chat.tools, request.chat.tool_choice) == (None, {}, "auto")
    assert (request.store, request.chat.stream) == (True, False)


def test_instructions_come_first_and_are_not_handed_on():
    request = parse(instructions="Be kind.")
    assert request.chat.system == "Be kind."
    assert list(request.messages) == [HI]


def test_calls_belong_to_the_message_before_them():
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]}
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    second = {**CALL, "call_id": "c2"}
    messages = messages_of(HI, thought, said, CALL, second, OUTPUT, {**OUTPUT, "call_id": "c2"})
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert messages[1]["content"] == "I look."
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["c1", "c2"]
    assert messages_of(HI, CALL, said, OUTPUT)[1]["content"] == "I look."
    one_by_one = messages_of(HI, CALL, OUTPUT, second, {**OUTPUT, "call_id": "c2"})
    assert [message["role"] for message in one_by_one] == ["user", "assistant", "tool", "assistant", "tool"]


def test_parts_of_text_become_text_and_others_are_kept():
    texts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert messages_of({"role": "user", "content": texts})[0]["content"] == "a\nb"
    image = {"type": "input_image", "image_url": "x"}
    (message,) = messages_of({"role": "user", "content": [*texts, image]})
    assert [part["type"] for part in message["content"]] == ["text", "text", "image_url"]
    refused = [{"type": "refusal", "refusal": "No."}]
    assert messages_of(HI, {"role": "assistant", "content": refused})[1]["content"] == "No."
    assert messages_of(HI, CALL, {**OUTPUT, "output": texts})[2]["content"] == "a\nb"


def test_it_is_the_same_prompt_as_the_chat():
    chat_tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    chat = parse_chat_request(json.dumps({"model": "m", "messages": [HI], "tools": [chat_tool]}).encode())
    assert parse(tools=[TOOL]).chat.prompt_tokens == chat.prompt_tokens


def test_a_format_becomes_that_of_a_chat():
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    described = {"name": "n", "schema": {"type": "object"}, "strict": True}
    body = parse(text={"format": form}).chat.body
    assert body["response_format"] == {"type": "json_schema", "json_schema": described}
    assert parse(text={"format": {"type": "json_object"}}).chat.body["response_format"] == {
        "type": "json_object"
    }
    assert parse(text={"format": {"type": "text"}, "verbosity": "low"}).chat.body["response_format"] is None


def answer_of(text):
    return Answer("chatcmpl-x", "default", [Piece("text", text)], "stop", 0, 0.0, None)


def test_a_chain_is_the_same_request_as_all_of_it_at_once():
    conversations = Conversations()
    conversations.keep("resp_1", [HI], answer_of("yes"))
    chained = parse(conversations, input="and?", previous_response_id="resp_1")
    at_once = parse(input=[HI, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}])
    assert chained.chat.fingerprint == at_once.chat.fingerprint
    assert [message["role"] for message in chained.messages] == ["user", "assistant", "user"]


def test_the_oldest_responses_are_forgotten():
    conversations = Conversations()
    for number in range(501):
        conversations.keep(f"resp_{number}", [HI], answer_of("yes"))
    assert conversations.until("resp_1")
    with pytest.raises(ApiError, match="'resp_0' not found"):
        conversations.until("resp_0")
