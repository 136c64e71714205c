"""LangChain and LangGraph."""

import asyncio
import gc
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import BadRequestError

import millstream
from millstream import SpanKind, Status, context, semconv, start_span, track_function
from millstream.record.integrations.langchain import _handler
from tests.integrations.conformance import SYSTEM, Conformance, look_up, model_calls, text_of
from tests.living import living_spans

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def clean():
    yield
    millstream.uninstrument()


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


def many(base_url, **options):
    """Models to be called at once: with the pool of connections that they share."""
    return ChatOpenAI(
        model="able", base_url=base_url, api_key="right", max_retries=0, stream_usage=True, **options
    )


async def by_every_way(model, question):
    """Call a model once in every way there is; each is one call."""
    prompt = messages(question)
    model.invoke(prompt)
    await model.ainvoke(prompt)
    for _piece in model.stream(prompt):
        assert context.current.get() is None
    async for _piece in model.astream(prompt):
        assert context.current.get() is None
    model.generate([prompt])
    await model.agenerate([prompt])
    model.batch([prompt])
    await model.abatch([prompt])
    assert context.current.get() is None


@pytest.mark.parametrize("everything", [False, True])
async def test_a_call_is_one_span_in_every_way(base_url, spans, everything):
    millstream.instrument(*([] if everything else ["langchain"]))
    async with httpx.AsyncClient() as client:
        await by_every_way(many(base_url, http_async_client=client), "Count.")
    assert [(span.kind, span.parent_id) for span in spans()] == [(SpanKind.LLM, None)] * 8
    for span in spans():
        assert text_of(span.output) == "one two three four five"
        assert span.attributes[semconv.FRAMEWORK] == "langchain"
        assert span.usage.output_tokens == 12
        assert span.attributes.get(semconv.CHUNK_COUNT) in (None, 5)
    assert sum(semconv.CHUNK_COUNT in span.attributes for span in spans()) == 2


@pytest.mark.parametrize("everything", [False, True])
async def test_all_choices_are_recorded(base_url, spans, everything):
    millstream.instrument(*([] if everything else ["langchain"]))
    prompt = messages("say hello")
    async with httpx.AsyncClient() as client:
        model = many(base_url, n=2, http_async_client=client)
        whole = model.generate([prompt])
        await model.agenerate([prompt])
    assert len(whole.generations[0]) == 2
    for call in spans():
        assert call.output == [{"role": "assistant", "content": "hello"}] * 2
        assert call.attributes[semconv.RESPONSE_FINISH_REASONS] == ["stop", "stop"]
        assert call.usage.output_tokens == 16
    assert len(spans()) == 2


# langchain-openai adds up the details of usage, of which some are null
@pytest.mark.filterwarnings("ignore:Unexpected type for token usage:UserWarning")
async def test_prompts_of_one_batch_keep_apart(base_url, spans):
    millstream.instrument()
    words = [f"word{number}" for number in range(6)]
    prompts = [messages(f"say {word}") for word in words]
    async with httpx.AsyncClient() as client:
        model = many(base_url, http_async_client=client)
        model.generate(prompts)
        await model.agenerate(prompts)
        await model.abatch(prompts)
        await asyncio.gather(*(drain(model.astream(prompt)) for prompt in prompts))
    assert [span.kind for span in spans()] == [SpanKind.LLM] * 24
    for span in spans():
        assert text_of(span.input[-1]) == f"say {text_of(span.output)}"
        assert span.attributes[semconv.RESPONSE_ID]
    assert len({span.attributes[semconv.RESPONSE_ID] for span in spans()}) == 24


async def drain(stream):
    return [piece async for piece in stream]


async def test_streams_that_are_left_end_well_with_what_had_come(base_url, spans):
    millstream.instrument()
    async with httpx.AsyncClient() as client:
        model = many(base_url, http_async_client=client)
        pieces = model.stream(messages("Count."))
        assert next(pieces) is not None
        assert context.current.get() is None
        pieces.close()
        async for piece in model.astream(messages("Count.")):
            if piece.text == "two ":
                break
        other = model.astream(messages("Count."))
        await anext(other)
        await asyncio.create_task(other.aclose())  # another context than it was begun in
    assert context.current.get() is None
    await asyncio.sleep(0.05)
    assert [span.status for span in spans()] == [Status.OK] * 3
    assert all(span.kind is SpanKind.LLM for span in spans())
    assert "one" in text_of(spans()[1].output)


async def test_what_runs_between_two_pieces_is_not_in_the_model_call(base_url, spans):
    millstream.instrument()

    @track_function
    def consume(piece):
        return None

    with start_span("flow") as flow:
        for piece in many(base_url).stream(messages("Count.")):
            consume(piece.text)
    (call,) = model_calls(spans())
    assert call.parent_id == flow.span_id
    assert {span.parent_id for span in spans() if span.name == "consume"} == {flow.span_id}


async def test_streamed_as_events(base_url, spans):
    millstream.instrument()
    async with httpx.AsyncClient() as client:
        model = many(base_url, http_async_client=client)
        events = [event async for event in model.astream_events(messages("Count."), version="v2")]
    assert events
    (call,) = model_calls(spans())
    assert call.attributes[semconv.CHUNK_COUNT] == 5
    assert text_of(call.output) == "one two three four five"


@pytest.mark.filterwarnings("ignore:.*(beta|experimental):Warning")
@pytest.mark.skipif(not hasattr(BaseChatModel, "_iter_v2_events"), reason="came with langchain-core 1.4")
async def test_streamed_as_events_of_the_third_version(base_url, spans):
    millstream.instrument()
    async with httpx.AsyncClient() as client:
        model = many(base_url, http_async_client=client)
        assert "five" in str(model.stream_events(messages("Count."), version="v3").text)
        stream = await model.astream_events(messages("Count."), version="v3")
        assert "five" in str(await stream.text)
        await asyncio.sleep(0.1)  # the text is whole a little before the call has ended
    first, second = model_calls(spans())
    for call in (first, second):
        assert text_of(call.output) == "one two three four five"
        assert call.attributes[semconv.CHUNK_COUNT] >= 5
        assert call.usage.output_tokens == 12
        assert call.status is Status.OK
    assert context.current.get() is None


class Router(BaseChatModel):
    """A model that has another one answer."""

    other: Any

    @property
    def _llm_type(self):
        return "router"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        answer = self.other.invoke(messages)
        return ChatResult(generations=[ChatGeneration(message=answer)])


async def test_a_model_that_asks_another_is_one_call(base_url, spans):
    millstream.instrument()
    Router(other=many(base_url)).invoke(messages("Count."))
    (call,) = spans()
    assert call.usage.output_tokens == 12
    assert call.attributes[semconv.REQUEST_MODEL] == "able"
    assert text_of(call.output) == "one two three four five"


async def test_an_agent_of_a_graph_in_a_tool(base_url, spans):
    millstream.instrument()
    inner = create_agent(many(base_url), tools=[weather], name="meteorologist")

    @tool("weather")
    def ask_the_meteorologist(city: str) -> str:
        """The weather in a city."""
        return inner.invoke({"messages": [HumanMessage(f"What is the weather in {city}?")]})["messages"][
            -1
        ].text

    agent = create_agent(many(base_url), tools=[ask_the_meteorologist], name="receptionist")
    agent.invoke({"messages": [HumanMessage("What is the weather in Oslo?")]})
    assert len(model_calls(spans())) == 4
    assert len({span.trace_id for span in spans()}) == 1
    assert [span.name for span in spans() if span.parent_id is None] == ["receptionist"]


async def test_embeddings_of_every_kind(base_url, spans):
    millstream.instrument()
    options = {"base_url": base_url, "api_key": "right", "check_embedding_ctx_length": False}
    async with httpx.AsyncClient() as client:
        remote = OpenAIEmbeddings(model="embedder", chunk_size=2, http_async_client=client, **options)
        remote.embed_documents(["a", "b", "c"])
        await remote.aembed_query("a mill stream")

    class Local(Embeddings):
        def embed_documents(self, texts):
            return [[0.0, 1.0] for _ in texts]

        def embed_query(self, text):
            return self.embed_documents([text])[0]

    assert Local().embed_query("x") == [0.0, 1.0]
    await Local().aembed_documents(["x", "y"])
    documents, query, local, aside = spans()
    assert {span.kind for span in spans()} == {SpanKind.EMBEDDING}
    assert documents.input == ["a", "b", "c"]
    assert documents.attributes[semconv.EMBEDDINGS_COUNT] == 3
    assert documents.usage.input_tokens >= 3, "of two requests"
    assert query.input == "a mill stream"
    assert (local.name, local.output) == ("Local", {"count": 1, "dimensions": 2})
    assert aside.output == {"count": 2, "dimensions": 2}
    millstream.uninstrument()
    Local().embed_query("x")
    assert len(spans()) == 4


async def test_uninstrumented_in_the_middle_of_a_stream(base_url, spans):
    millstream.instrument()
    pieces = many(base_url).stream(messages("Count."))
    next(pieces)
    millstream.uninstrument()
    assert "".join(piece.text for piece in pieces).endswith("five")
    (call,) = spans()
    assert (call.status, text_of(call.output)) == (Status.OK, "one two three four five")
    assert not hasattr(BaseChatModel.stream, "__wrapped__")


async def test_nothing_is_kept(base_url, spans):
    millstream.instrument()
    async with httpx.AsyncClient() as client:
        model = many(base_url, http_async_client=client)
        await by_every_way(model, "Count.")
        with pytest.raises(BadRequestError):
            model.invoke(messages("Please break it."))
        next(model.stream(messages("Count.")))
    gc.collect()
    assert _handler.runs.known == {}
    assert living_spans() == []
