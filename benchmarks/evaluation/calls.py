"""The workflows that are evaluated: one model call each, by the OpenAI client or LangChain, or none.

`bare.py` makes the same calls without an engine. BENCH_URL says where the stand-in is.
"""

import os
from functools import cache
from typing import Any, Final

MODEL: Final = "small"


async def none(question: str) -> str:
    return question


async def openai(question: str) -> str:
    messages: Any = [{"role": "user", "content": question}]
    completion = await _client().chat.completions.create(model=MODEL, messages=messages)
    return completion.choices[0].message.content or ""


async def langchain(question: str) -> str:
    return str((await chat_model().ainvoke(question)).content)


@cache
def _client() -> Any:
    from openai import AsyncOpenAI  # noqa: PLC0415  # the others do without it

    return AsyncOpenAI(base_url=os.environ["BENCH_URL"], api_key="none", max_retries=0)


@cache
def chat_model() -> Any:
    """It streams and asks for usage, as the models of `llms` do."""
    from langchain_openai import ChatOpenAI  # noqa: PLC0415  # the others do without it

    return ChatOpenAI(
        model=MODEL,
        base_url=os.environ["BENCH_URL"],
        api_key="none",
        max_retries=0,
        streaming=True,
        stream_usage=True,
    )
