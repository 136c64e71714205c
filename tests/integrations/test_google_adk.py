"""Google's Agent Development Kit, with models over LiteLLM."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from google.adk.agents import LlmAgent, RunConfig
from google.adk.agents.run_config import StreamingMode
from google.adk.models.lite_llm import LiteLlm
from google.adk.runners import InMemoryRunner
from google.genai import types

from tests.integrations.conformance import SYSTEM, Conformance, look_up

SETTINGS = types.GenerateContentConfig(temperature=0.25, max_output_tokens=50)


def chat(base_url, model="able"):
    return LiteLlm(f"openai/{model}", api_base=base_url, api_key="right", num_retries=0)


def assistant(base_url, model="able", **options):
    return LlmAgent(
        name="assistant",
        model=chat(base_url, model),
        instruction=SYSTEM,
        generate_content_config=SETTINGS,
        **options,
    )


def weather(city: str) -> str:
    """The weather in a city."""
    return look_up(city)


async def events(agent, question, run_config=None):
    runner = InMemoryRunner(agent, app_name="app")
    session = await runner.session_service.create_session(app_name="app", user_id="someone")
    message = types.UserContent(question)
    return [
        event
        async for event in runner.run_async(
            user_id="someone", session_id=session.id, new_message=message, run_config=run_config
        )
    ]


def last_text(found):
    return "".join(part.text or "" for part in found[-1].content.parts)


async def run(agent, question, run_config=None):
    return last_text(await events(agent, question, run_config))


def apart(coroutine):
    """Run in a loop and a thread of its own; the recorder carries the current span there."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


pytestmark = pytest.mark.filterwarnings(  # of LiteLLM, which reads its own models in Pydantic's old way
    "ignore:Accessing the 'model_(computed_)?fields' attribute on the instance:DeprecationWarning"
)


class TestGoogleADK(Conformance):
    framework = "google-adk"
    title = "Google ADK"
    absent = {"embeddings": "it has none"}

    def ask(self, base_url, question):
        return apart(run(assistant(base_url), question))

    async def ask_async(self, base_url, question, model="able"):
        return await run(assistant(base_url, model), question)

    async def stream(self, base_url, question):
        sse = RunConfig(streaming_mode=StreamingMode.SSE)
        found = await events(assistant(base_url), question, sse)
        return "".join(last_text([event]) for event in found if event.partial)

    async def use_tool(self, base_url, question):
        return await run(assistant(base_url, tools=[weather]), question)
