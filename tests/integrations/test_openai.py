"""OpenAI's SDK, in the versions of both environments."""

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from millstream import track_function
from tests.integrations.conformance import SYSTEM, Conformance, look_up

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
