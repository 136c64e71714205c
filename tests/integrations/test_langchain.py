"""LangChain and LangGraph."""

import httpx
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.integrations.conformance import SYSTEM, Conformance, look_up


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return look_up(city)


def chat(base_url, client=None, model="able"):
    return ChatOpenAI(
        model=model,
        base_url=base_url,
        api_key="right",
        temperature=0.25,
        max_tokens=50,
        max_retries=0,
        http_async_client=client,
        stream_usage=True,
    )


def messages(question):
    return [SystemMessage(SYSTEM), HumanMessage(question)]


class TestLangChain(Conformance):
    framework = "langchain"
    title = "LangChain, LangGraph"

    def ask(self, base_url, question):
        return chat(base_url).invoke(messages(question)).text

    async def ask_async(self, base_url, question, model="able"):
        async with httpx.AsyncClient() as client:
            return (await chat(base_url, client, model).ainvoke(messages(question))).text

    def stream(self, base_url, question):
        return "".join(chunk.text for chunk in chat(base_url).stream(messages(question)))

    def use_tool(self, base_url, question):
        agent = create_agent(chat(base_url), tools=[weather], system_prompt=SYSTEM)
        return agent.invoke({"messages": [HumanMessage(question)]})["messages"][-1].text

    def embed(self, base_url, text):
        # Without the check of lengths, which would fetch a tokenizer
        return OpenAIEmbeddings(
            model="embedder", base_url=base_url, api_key="right", check_embedding_ctx_length=False
        ).embed_query(text)
