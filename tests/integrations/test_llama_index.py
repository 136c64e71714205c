"""LlamaIndex: models, embeddings, retrievers, engines, tools, agents and workflows."""

import asyncio
import gc
import inspect

import httpx
import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.agent.workflow.base_agent import BaseWorkflowAgent
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.llms import ChatMessage, CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.postprocessor import LLMRerank, SimilarityPostprocessor
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import (
    Context,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai_like import OpenAILike
from openai import BadRequestError

import millstream
from millstream import SpanKind, Status, semconv, track_function
from millstream.record import faults
from millstream.record.not_recorded import NOT_RECORDED
from tests.integrations.conformance import SYSTEM, Conformance, look_up
from tests.living import living_spans
from tests.simulate.process import running

# LlamaIndex looks at every attribute of its agents, and so at those that pydantic has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]


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


RULES_OF_AGENTS = r"""
models: {able: {latency: {time_per_output_token_s: 0.001}}, embedder: {dimensions: 8}}
rules:
  - when: {last_user_matches: 'fail'}
    reply: {error: {status: 400, message: Broken on demand.}}
  - when: {system_contains: You receive, last_message_role: user}
    reply: {tool_calls: [{name: handoff, arguments: {to_agent: expert, reason: knows}}]}
  - when: {last_user_matches: 'Observation: (?P<seen>.+)'}
    reply: "Thought: I can answer without using any more tools.\nAnswer: $seen"
  - when: {system_contains: 'Thought: The current language'}
    reply: "Thought: I need to use a tool.\nAction: weather\nAction Input: {\"city\": \"Oslo\"}"
  - when: {last_message_role: user, last_user_matches: 'both'}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}, {name: weather, arguments: {city: Rome}}]}
  - when: {last_message_role: user, last_user_matches: 'ask around'}
    reply: {tool_calls: [{name: colleague, arguments: {question: 'What is the weather?'}}]}
  - when: {last_message_role: user, last_user_matches: 'storm'}
    reply: {tool_calls: [{name: storm, arguments: {city: Oslo}}]}
  - when: {last_message_role: user, has_tool: weather}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}]}
  - when: {last_message_matches: now handling}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}]}
  - when: {last_message_role: tool}
    reply: "So: $last"
  - when: {last_user_matches: 'most relevant|numbered list|relevance'}
    reply: "Doc: 2, Relevance: 9\nDoc: 1, Relevance: 3"
default: "one two three four five"
"""


@pytest.fixture(scope="module")
def agents_url(tmp_path_factory):
    rules = tmp_path_factory.mktemp("agents") / "rules.yml"
    rules.write_text(RULES_OF_AGENTS)
    with running(rules) as stand_in:
        yield stand_in.base_url


@pytest.fixture
def recorded():
    """Recorded, with the client library, which then has nothing to add but must not be seen twice."""
    millstream.instrument("llama-index", "openai")
    yield
    millstream.uninstrument()


@pytest.fixture
async def llm(agents_url):
    async with httpx.AsyncClient() as client:
        yield model(agents_url, client)


@track_function
def storm(city: str) -> str:
    """The storms in a city."""
    raise RuntimeError(f"no connection to {city}")


def tree(spans, parent=None):
    """Kind and name of each span, with those inside it."""
    return [
        (f"{span.kind.value} {span.name}", *tree(spans, span.span_id))
        for span in spans
        if span.parent_id == parent
    ]


async def no_span_is_left():
    for _ in range(50):
        gc.collect()
        if not living_spans():
            return True
        await asyncio.sleep(0.01)  # generators that were collected are closed by tasks
    return False


@pytest.mark.usefixtures("recorded")
class TestModels:
    def test_a_completion_is_a_chat_of_one_message(self, llm, spans):
        assert llm.complete("Count.").text == "one two three four five"
        (span,) = spans()
        assert span.input == [{"role": "user", "content": "Count."}]
        assert span.output == {"role": "assistant", "content": "one two three four five"}
        assert span.attributes[semconv.OPERATION_NAME] == "chat"

    async def test_every_way_to_ask_is_one_span(self, llm, spans):
        assert "".join(piece.delta for piece in llm.stream_complete("Count.")) == "one two three four five"
        assert (await llm.acomplete("Count.")).text == "one two three four five"
        pieces = [piece.delta async for piece in await llm.astream_complete("Count.")]
        assert "".join(pieces) == "one two three four five"
        pieces = [piece.delta async for piece in await llm.astream_chat(messages("Count."))]
        assert "".join(pieces) == "one two three four five"
        assert tree(spans()) == [("LLM able",)] * 4
        for span in spans():
            assert span.output == {"role": "assistant", "content": "one two three four five"}
            assert span.usage.output_tokens == 5

    async def test_a_stream_that_is_left_is_ok_and_current_nowhere_else(self, llm, spans):
        stream = llm.stream_chat(messages("Count."))
        assert inspect.isgenerator(stream)
        assert [next(stream).delta, next(stream).delta] == ["", "one"]
        assert millstream.current_span() is NOT_RECORDED
        stream.close()
        stream = await llm.astream_chat(messages("Count."))
        assert inspect.isasyncgen(stream)
        assert (await anext(stream)).delta + (await anext(stream)).delta == "one"
        assert millstream.current_span() is NOT_RECORDED
        await stream.aclose()
        assert [span.status for span in spans()] == [Status.OK, Status.OK]
        assert [span.output["content"] for span in spans()] == ["one", "one"]

    async def test_a_stream_that_is_thrown_away_ends_its_span(self, llm, spans):
        llm.stream_chat(messages("Count."))
        await llm.astream_chat(messages("Count."))
        assert [span.status for span in spans()] == [Status.OK, Status.OK]
        assert await no_span_is_left()

    def test_a_stream_goes_on_when_recording_is_taken_back(self, llm, spans):
        stream = llm.stream_chat(messages("Count."))
        assert [next(stream).delta, next(stream).delta] == ["", "one"]
        millstream.uninstrument()
        assert [piece.delta for piece in stream if piece.delta] == [" two", " three", " four", " five"]
        (span,) = spans()
        assert span.output["content"] == "one two three four five"

    async def test_what_fails_in_a_stream_fails_as_it_did(self, llm, spans):
        with pytest.raises(BadRequestError, match="Broken on demand"):
            list(llm.stream_chat(messages("fail")))
        with pytest.raises(BadRequestError, match="Broken on demand"):
            [piece async for piece in await llm.astream_chat(messages("fail"))]
        assert [(span.status, span.error.type) for span in spans()] == [(Status.ERROR, "BadRequestError")] * 2

    def test_a_model_of_the_users_own_is_seen(self, spans):
        class Parrot(CustomLLM):
            @property
            def metadata(self):
                return LLMMetadata(model_name="parrot")

            @llm_completion_callback()
            def complete(self, prompt, formatted=False, **kwargs):
                return CompletionResponse(text=prompt)

            @llm_completion_callback()
            def stream_complete(self, prompt, formatted=False, **kwargs):
                return (CompletionResponse(text=prompt, delta=word) for word in prompt.split())

        assert Parrot().chat(messages("Say it.")).message.content.endswith("Say it.\nassistant: ")
        assert [piece.delta for piece in Parrot().stream_complete("a b")] == ["a", "b"]
        assert tree(spans()) == [("LLM parrot",), ("LLM parrot",)]
        assert spans()[0].input[0] == {"role": "system", "content": SYSTEM}
        assert spans()[1].attributes[semconv.CHUNK_COUNT] == 2

    async def test_a_method_that_only_hands_on_a_coroutine(self, llm, spans):
        class Wrapping(OpenAILike):
            def achat(self, messages, **kwargs):
                return super().achat(messages, **kwargs)

            def astream_chat(self, messages, **kwargs):
                return super().astream_chat(messages, **kwargs)

        wrapping = Wrapping(**llm.model_dump(), async_http_client=llm._async_http_client)
        assert (await wrapping.achat(messages("Count."))).message.content == "one two three four five"
        assert [piece.delta async for piece in await wrapping.astream_chat(messages("Count."))]
        assert tree(spans()) == [("LLM able",), ("LLM able",)]
        assert [span.output["content"] for span in spans()] == ["one two three four five"] * 2

    def test_a_fault_of_ours_costs_what_it_hides_and_no_more(self, llm, spans, monkeypatch):
        monkeypatch.setattr(faults, "strict", False)
        for name in ("messages.message_json", "models.provider_of", "models.usage_of"):
            monkeypatch.delattr(f"millstream.record.integrations.llama_index.{name}")
        assert llm.chat(messages("Count.")).message.content == "one two three four five"
        stream = llm.stream_chat(messages("Count."))
        assert "".join(piece.delta for piece in stream) == "one two three four five"
        assert tree(spans()) == [("LLM able",), ("LLM able",)]
        assert all(span.status is Status.OK for span in spans())

    def test_everything_is_put_back(self, llm):
        millstream.uninstrument()
        before = {owner: dict(vars(owner)) for owner in CLASSES}
        millstream.instrument("llama-index")
        assert vars(OpenAILike)["chat"] is not before[OpenAILike]["chat"]
        assert isinstance(llm, OpenAILike)
        millstream.uninstrument()
        assert {owner: dict(vars(owner)) for owner in CLASSES} == before


CLASSES = (
    BaseLLM,
    OpenAILike,
    OpenAIEmbedding,
    BaseRetriever,
    BaseQueryEngine,
    FunctionTool,
    Workflow,
    BaseWorkflowAgent,
    FunctionAgent,
    AgentWorkflow,
)


@pytest.mark.usefixtures("recorded")
class TestRetrieval:
    @pytest.fixture
    async def index(self, agents_url):
        async with httpx.AsyncClient() as client:
            yield VectorStoreIndex.from_documents(
                [Document(text=f"Mill number {number}.", metadata={"number": number}) for number in range(3)],
                embed_model=OpenAIEmbedding(
                    model_name="embedder",
                    api_base=agents_url,
                    api_key="right",
                    embed_batch_size=2,
                    async_http_client=client,
                ),
            )

    def test_a_query_is_one_trace(self, index, llm, spans):
        assert len(spans()) == 2, "one span for each batch"
        assert [len(span.input) for span in spans()] == [2, 1]
        answer = index.as_query_engine(llm=llm, similarity_top_k=2).query("Which mill?")
        assert str(answer) == "one two three four five"
        (root,) = tree(spans()[2:])
        assert root == (
            "CHAIN RetrieverQueryEngine",
            ("RETRIEVER VectorIndexRetriever", ("EMBEDDING embedder",)),
            ("LLM able",),
        )
        _, retrieval, embedding, _ = spans()[2:]
        assert retrieval.input == "Which mill?"
        assert [set(found) for found in retrieval.output] == [{"content", "metadata", "score"}] * 2
        assert embedding.output == {"count": 1, "dimensions": 8}
        assert embedding.usage.input_tokens > 0

    async def test_an_answer_that_is_streamed_stays_in_its_trace(self, index, llm, spans):
        chat = index.as_chat_engine(chat_mode="context", llm=llm)
        answer = chat.stream_chat("Which mill?")
        assert "".join(answer.response_gen) == "one two three four five"
        answer = await chat.astream_chat("Which mill?")
        assert "".join([token async for token in answer.async_response_gen()]) == "one two three four five"
        roots = tree(spans()[2:])
        assert [root[0] for root in roots] == ["CHAIN ContextChatEngine"] * 2
        assert all(root[-1] == ("LLM able",) for root in roots)
        assert await no_span_is_left()

    def test_a_reranker_is_recorded_and_other_postprocessors_are_not(self, index, llm, spans):
        nodes = index.as_retriever(similarity_top_k=2).retrieve("mill")
        best = LLMRerank(llm=llm, top_n=1).postprocess_nodes(nodes, query_str="mill")
        SimilarityPostprocessor(similarity_cutoff=0).postprocess_nodes(nodes)
        assert len(best) == 1
        *_, reranker, call = spans()
        assert (reranker.kind, reranker.name) == (SpanKind.RERANKER, "LLMRerank")
        assert reranker.input["query"] == "mill"
        assert len(reranker.input["nodes"]) == 2
        assert len(reranker.output) == 1
        assert call.parent_id == reranker.span_id


@pytest.mark.usefixtures("recorded")
class TestAgents:
    async def test_a_run_is_one_trace_and_current_nowhere_else(self, llm, spans):
        agent = FunctionAgent(name="clerk", tools=[weather], llm=llm)
        handler = agent.run("What is the weather in Oslo?")
        assert millstream.current_span() is NOT_RECORDED
        async for _ in handler.stream_events():
            assert millstream.current_span() is NOT_RECORDED
        assert str(await handler) == "So: rain in Oslo"
        assert tree(spans()) == [
            (
                "AGENT clerk",
                ("LLM able",),
                ("TOOL weather", ("FUNCTION look_up",)),
                ("LLM able",),
            )
        ]
        agent_span, first, tool, _, _ = spans()
        assert agent_span.input == "What is the weather in Oslo?"
        assert agent_span.output == "So: rain in Oslo"
        assert agent_span.attributes[semconv.AGENT_NAME] == "clerk"
        assert tool.attributes[semconv.TOOL_CALL_ID] == first.output["tool_calls"][0]["id"]
        assert tool.output == "rain in Oslo"

    async def test_tools_that_run_at_once_are_siblings(self, llm, spans):
        agent = FunctionAgent(tools=[weather], llm=llm, streaming=False)
        await agent.run("both cities")
        tools = [span for span in spans() if span.kind is SpanKind.TOOL]
        assert sorted(span.input["city"] for span in tools) == ["Oslo", "Rome"]
        assert len({span.parent_id for span in tools}) == 1
        assert len({span.attributes[semconv.TOOL_CALL_ID] for span in tools}) == 2
        for tool in tools:
            (inside,) = [span for span in spans() if span.parent_id == tool.span_id]
            assert inside.input == tool.input

    async def test_a_tool_that_fails_has_failed_and_the_agent_goes_on(self, llm, spans):
        agent = FunctionAgent(tools=[storm], llm=llm)
        assert str(await agent.run("Is there a storm?")) == "So: no connection to Oslo"
        (tool,) = [span for span in spans() if span.kind is SpanKind.TOOL]
        assert (tool.status, tool.error.type, tool.error.message) == (
            Status.ERROR,
            "RuntimeError",
            "no connection to Oslo",
        )
        assert spans()[0].status is Status.OK

    async def test_an_agent_whose_model_fails_has_failed(self, llm, spans):
        with pytest.raises(BadRequestError):
            await FunctionAgent(tools=[weather], llm=llm).run("fail")
        assert [(span.kind, span.status) for span in spans()] == [
            (SpanKind.AGENT, Status.ERROR),
            (SpanKind.LLM, Status.ERROR),
        ]

    def test_a_model_that_is_asked_and_obeyed_is_one_trace(self, llm, spans):
        answer = llm.predict_and_call([FunctionTool.from_defaults(weather)], "What is the weather in Oslo?")
        assert str(answer) == "rain in Oslo"
        assert tree(spans()) == [
            ("CHAIN predict_and_call", ("LLM able",), ("TOOL weather", ("FUNCTION look_up",)))
        ]
        assert spans()[0].input == "What is the weather in Oslo?"

    async def test_a_react_agent(self, llm, spans):
        agent = ReActAgent(name="thinker", tools=[weather], llm=llm)
        assert str(await agent.run("What is the weather in Oslo?")) == "rain in Oslo"
        assert tree(spans()) == [
            ("AGENT thinker", ("LLM able",), ("TOOL weather", ("FUNCTION look_up",)), ("LLM able",))
        ]

    async def test_agents_that_hand_over_take_turns_in_one_trace(self, llm, spans):
        first = FunctionAgent(
            name="desk",
            description="receives",
            system_prompt="You receive.",
            llm=llm,
            can_handoff_to=["expert"],
        )
        second = FunctionAgent(name="expert", description="knows", tools=[weather], llm=llm)
        workflow = AgentWorkflow(agents=[first, second], root_agent="desk")
        assert str(await workflow.run("What is the weather in Oslo?")) == "So: rain in Oslo"
        assert tree(spans()) == [
            (
                "AGENT AgentWorkflow",
                ("AGENT desk", ("LLM able",)),
                ("TOOL handoff",),
                ("AGENT expert", ("LLM able",)),
                ("TOOL weather", ("FUNCTION look_up",)),
                ("AGENT expert", ("LLM able",)),
            )
        ]

    async def test_an_agent_in_a_tool_is_inside_it(self, llm, spans):
        inner = FunctionAgent(name="inner", tools=[weather], llm=llm)

        async def colleague(question: str) -> str:
            """Ask a colleague."""
            return str(await inner.run(question))

        assert "rain" in str(await FunctionAgent(name="outer", tools=[colleague], llm=llm).run("ask around"))
        (root,) = tree(spans())
        assert root[0] == "AGENT outer"
        assert root[2][:2] == (
            "TOOL colleague",
            ("AGENT inner", ("LLM able",), ("TOOL weather", ("FUNCTION look_up",)), ("LLM able",)),
        )

    async def test_a_run_that_is_cancelled(self, base_url, spans):
        async with httpx.AsyncClient() as client:
            handler = FunctionAgent(tools=[weather], llm=model(base_url, client, "slow")).run("Count.")
            for _ in range(500):
                await asyncio.sleep(0.01)
                if any(span.kind is SpanKind.LLM for span in spans()):
                    break
            await handler.cancel_run()
        assert [(span.kind, span.status) for span in spans()] == [
            (SpanKind.AGENT, Status.CANCELLED),
            (SpanKind.LLM, Status.CANCELLED),
        ]

    async def test_a_tool_that_waits_for_somebody_has_not_failed(self, llm, spans):
        async def ask(ctx: Context, city: str) -> str:
            """The weather in a city."""
            answer = await ctx.wait_for_event(
                HumanResponseEvent, waiter_event=InputRequiredEvent(prefix=city)
            )
            return answer.response

        tool = FunctionTool.from_defaults(async_fn=ask, name="weather")
        handler = FunctionAgent(tools=[tool], llm=llm).run("What is the weather in Oslo?")
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                handler.ctx.send_event(HumanResponseEvent(response=f"sun in {event.prefix}"))
        assert str(await handler) == "So: sun in Oslo"
        waited, answered = [span for span in spans() if span.kind is SpanKind.TOOL]
        assert waited.status is answered.status is Status.OK
        assert answered.input == {"city": "Oslo"}
        assert answered.output == "sun in Oslo"

    async def test_a_workflow_is_recorded_where_nothing_else_is(self, llm, spans):
        class Flow(Workflow):
            @step
            async def only(self, ev: StartEvent) -> StopEvent:
                return StopEvent(result=(await llm.acomplete(ev.question)).text)

        assert await Flow().run(question="Count.") == "one two three four five"
        assert tree(spans()) == [("CHAIN Flow", ("LLM able",))]
        assert spans()[0].input == {"question": "Count."}
        with millstream.start_span("mine"):
            await Flow().run(question="Count.")
        assert tree(spans())[1] == ("FUNCTION mine", ("LLM able",))

    async def test_nothing_is_kept_and_runs_do_not_mix(self, llm, spans):
        agent = FunctionAgent(name="clerk", tools=[weather], llm=llm)
        await asyncio.gather(*[agent.run("What is the weather in Oslo?") for _ in range(5)])
        roots = tree(spans())
        assert len(roots) == 5
        assert len(set(roots)) == 1
        assert len({span.trace_id for span in spans()}) == 5
        assert await no_span_is_left()
