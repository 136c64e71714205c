"""Semantic Kernel: services, functions, agents and their orchestrations."""

import contextlib
import warnings

import httpx
import openai

from tests.integrations.conformance import SYSTEM, Conformance, look_up

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of pydantic, which it uses the old way
    from semantic_kernel.agents import ChatCompletionAgent
    from semantic_kernel.connectors.ai.open_ai import (
        OpenAIChatCompletion,
        OpenAIChatPromptExecutionSettings,
        OpenAITextEmbedding,
    )
    from semantic_kernel.contents import ChatHistory
    from semantic_kernel.functions import KernelArguments, KernelPlugin, kernel_function


@kernel_function(description="The weather in a city.")
def weather(city: str) -> str:
    return look_up(city)


PLUGIN = KernelPlugin("forecast", functions=[weather])


@contextlib.asynccontextmanager
async def service(base_url, model="able", kind=OpenAIChatCompletion):
    async with httpx.AsyncClient() as http:
        client = openai.AsyncOpenAI(base_url=base_url, api_key="right", http_client=http, max_retries=0)
        yield kind(ai_model_id=model, async_client=client)


def settings():
    return OpenAIChatPromptExecutionSettings(temperature=0.25, max_tokens=50)


def history(question):
    made = ChatHistory(system_message=SYSTEM)
    made.add_user_message(question)
    return made


class TestSemanticKernel(Conformance):
    framework = "semantic-kernel"
    title = "Semantic Kernel"
    tool = "forecast-weather"

    async def ask(self, base_url, question, model="able"):
        async with service(base_url, model) as chat:
            return str(await chat.get_chat_message_content(history(question), settings()))

    ask_async = ask

    async def stream(self, base_url, question):
        async with service(base_url) as chat:
            return "".join(
                [
                    str(piece)
                    async for piece in chat.get_streaming_chat_message_content(history(question), settings())
                ]
            )

    async def use_tool(self, base_url, question):
        async with service(base_url) as chat:
            agent = ChatCompletionAgent(
                name="meteorologist",
                service=chat,
                instructions=SYSTEM,
                plugins=[PLUGIN],
                arguments=KernelArguments(settings()),
            )
            return str(await agent.get_response(question))

    async def embed(self, base_url, text):
        async with service(base_url, "embedder", OpenAITextEmbedding) as embedder:
            return (await embedder.generate_embeddings([text]))[0]
