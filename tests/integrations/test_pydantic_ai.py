"""Pydantic AI."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from pydantic_ai import Agent, ModelSettings
from pydantic_ai.embeddings import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.integrations.conformance import SYSTEM, Conformance, look_up

SETTINGS = ModelSettings(temperature=0.25, max_tokens=50)


def provider(base_url):
    return OpenAIProvider(base_url=base_url, api_key="right")


def chat(base_url, model="able"):
    return OpenAIChatModel(model, provider=provider(base_url))


def assistant(model, **options):
    return Agent(model, name="assistant", system_prompt=SYSTEM, model_settings=SETTINGS, **options)


def weather(city: str) -> str:
    """The weather in a city."""
    return look_up(city)


def apart(coroutine):
    """Run in a loop and a thread of its own; the recorder carries the current span there."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


async def run(base_url, question, model="able", **options):
    async with chat(base_url, model) as llm:
        return (await assistant(llm, **options).run(question)).output


class TestPydanticAI(Conformance):
    framework = "pydantic-ai"
    title = "Pydantic AI"

    def ask(self, base_url, question):
        return apart(run(base_url, question))

    async def ask_async(self, base_url, question, model="able"):
        return await run(base_url, question, model)

    async def stream(self, base_url, question):
        async with chat(base_url) as llm, assistant(llm).run_stream(question) as result:
            return "".join([text async for text in result.stream_text(delta=True, debounce_by=None)])

    async def use_tool(self, base_url, question):
        return await run(base_url, question, tools=[weather])

    async def embed(self, base_url, text):
        async with provider(base_url) as openai:
            embedder = Embedder(OpenAIEmbeddingModel("embedder", provider=openai))
            return (await embedder.embed_query(text)).embeddings[0]
