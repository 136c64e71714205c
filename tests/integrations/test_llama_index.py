"""LlamaIndex: models, embeddings, retrievers, engines, tools, agents and workflows."""

import httpx
import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai_like import OpenAILike

import millstream
from tests.integrations.conformance import SYSTEM, Conformance, look_up

# LlamaIndex looks at every attribute of its agents, and so at those that pydantic has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")


def weather(city: str) -> str:
    """The weather in a city."""
    return look_up(city)


def model(base_url, client=None, name="able", **options):
    return OpenAILike(
        model=name,
        api_base=base_url,
        api_key="right",
        is_chat_model=True,
        is_function_calling_model=True,
        temperature=0.25,
        max_tokens=50,
        max_retries=0,
        additional_kwargs={"stream_options": {"include_usage": True}},
        async_http_client=client,
        **options,
    )


def messages(question):
    return [ChatMessage(role="system", content=SYSTEM), ChatMessage(role="user", content=question)]


class TestLlamaIndex(Conformance):
    framework = "llama-index"
    title = "LlamaIndex"

    def ask(self, base_url, question):
        return model(base_url).chat(messages(question)).message.content

    async def ask_async(self, base_url, question, model_name="able"):
        async with httpx.AsyncClient() as client:
            return (await model(base_url, client, model_name).achat(messages(question))).message.content

    def stream(self, base_url, question):
        return "".join(piece.delta for piece in model(base_url).stream_chat(messages(question)))

    async def use_tool(self, base_url, question):
        async with httpx.AsyncClient() as client:
            agent = FunctionAgent(
                tools=[FunctionTool.from_defaults(weather)], llm=model(base_url, client), system_prompt=SYSTEM
            )
            return str(await agent.run(question))

    def embed(self, base_url, text):
        return OpenAIEmbedding(
            model_name="embedder", api_base=base_url, api_key="right", max_retries=0
        ).get_query_embedding(text)

    async def check_embeddings(self, base_url, spans):
        millstream.instrument("openai")  # LlamaIndex keeps to itself how many tokens were used
        await super().check_embeddings(base_url, spans)
