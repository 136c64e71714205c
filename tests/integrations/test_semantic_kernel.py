"""Semantic Kernel: services, functions, agents and their orchestrations."""

import asyncio
import contextlib
import gc
import warnings

import httpx
import openai
import pytest

import millstream
from millstream import SpanKind, Status, semconv
from millstream.record import faults
from millstream.record.not_recorded import NOT_RECORDED
from tests.integrations.conformance import SYSTEM, Conformance, look_up
from tests.living import living_spans
from tests.simulate.process import running

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of pydantic, which it uses the old way
    from semantic_kernel import Kernel
    from semantic_kernel.agents import (
        Agent,
        AgentGroupChat,
        ChatCompletionAgent,
        ConcurrentOrchestration,
        SequentialOrchestration,
    )
    from semantic_kernel.agents.orchestration.orchestration_base import OrchestrationBase
    from semantic_kernel.agents.runtime import InProcessRuntime
    from semantic_kernel.agents.runtime.in_process.in_process_runtime import SendMessageEnvelope
    from semantic_kernel.agents.strategies import DefaultTerminationStrategy
    from semantic_kernel.connectors.ai import FunctionChoiceBehavior
    from semantic_kernel.connectors.ai.chat_completion_client_base import ChatCompletionClientBase
    from semantic_kernel.connectors.ai.open_ai import (
        OpenAIChatCompletion,
        OpenAIChatPromptExecutionSettings,
        OpenAITextEmbedding,
    )
    from semantic_kernel.connectors.ai.text_completion_client_base import TextCompletionClientBase
    from semantic_kernel.contents import (
        ChatHistory,
        ChatMessageContent,
        StreamingTextContent,
        TextContent,
    )
    from semantic_kernel.exceptions import ServiceResponseException
    from semantic_kernel.functions import (
        KernelArguments,
        KernelFunction,
        KernelPlugin,
        kernel_function,
    )

# Semantic Kernel uses pydantic the old way.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")


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


RULES_OF_AGENTS = r"""
models:
  able: {latency: {time_per_output_token_s: 0.001}}
  slow: {latency: {time_to_first_token_s: 30}}
  embedder: {dimensions: 8}
rules:
  - when: {last_user_matches: 'fail'}
    reply: {error: {status: 400, message: Broken on demand.}}
  - when: {last_message_role: user, last_user_matches: 'both', has_tool: forecast-weather}
    reply:
      tool_calls:
        - {name: forecast-weather, arguments: {city: Oslo}}
        - {name: forecast-weather, arguments: {city: Rome}}
  - when: {last_message_role: user, last_user_matches: 'storm', has_tool: forecast-storm}
    reply: {tool_calls: [{name: forecast-storm, arguments: {city: Oslo}}]}
  - when: {last_message_role: user, last_user_matches: 'unknown', has_tool: forecast-storm}
    reply: {tool_calls: [{name: forecast-storm, arguments: {town: Oslo}}]}
  - when: {last_message_role: user, has_tool: colleague-colleague}
    reply: {tool_calls: [{name: colleague-colleague, arguments: {messages: the weather}}]}
  - when: {last_message_role: user, last_user_matches: weather, has_tool: forecast-weather}
    reply: {tool_calls: [{name: forecast-weather, arguments: {city: Oslo}}]}
  - when: {last_message_role: tool}
    reply: "So: $last"
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
    millstream.instrument("semantic-kernel", "openai")
    yield
    millstream.uninstrument()


@pytest.fixture
async def chat(agents_url):
    async with service(agents_url) as made:
        yield made


@kernel_function(description="The storms in a city.")
async def storm(city: str) -> str:
    raise RuntimeError(f"no connection to {city}")


BOTH = KernelPlugin("forecast", functions=[weather, storm])


def clerk(chat, name="clerk", plugins=(BOTH,)):
    return ChatCompletionAgent(name=name, service=chat, plugins=list(plugins))


def kernel(chat):
    made = Kernel(services=[chat])
    made.add_plugin(BOTH)
    return made


def auto():
    return OpenAIChatPromptExecutionSettings(function_choice_behavior=FunctionChoiceBehavior.Auto())


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


TOOL_LOOP = (("LLM able",), ("TOOL forecast-weather", ("FUNCTION look_up",)), ("LLM able",))
QUESTION = "How is the weather?"


@pytest.mark.usefixtures("recorded")
class TestServices:
    async def test_a_loop_that_runs_functions_is_a_span_for_each_call(self, chat, spans):
        with millstream.start_span("request"):
            answer = await chat.get_chat_message_content(history(QUESTION), auto(), kernel=kernel(chat))
        assert str(answer) == "So: rain in Oslo"
        assert tree(spans()) == [("FUNCTION request", *TOOL_LOOP)]
        _, first, tool, _, second = spans()
        assert tool.attributes[semconv.TOOL_CALL_ID] == first.output["tool_calls"][0]["id"]
        assert tool.attributes[semconv.TOOL_DESCRIPTION] == "The weather in a city."
        assert tool.output == "rain in Oslo"
        assert second.input[-1]["content"] == "rain in Oslo"

    async def test_a_streamed_loop_likewise_and_current_nowhere_else(self, chat, spans):
        pieces = []
        with millstream.start_span("request") as request:
            stream = chat.get_streaming_chat_message_content(history(QUESTION), auto(), kernel=kernel(chat))
            async for piece in stream:
                pieces.append(str(piece))
                assert millstream.current_span() is request
        assert "So: rain in Oslo" in "".join(pieces)
        assert tree(spans()) == [("FUNCTION request", *TOOL_LOOP)]
        _, first, _, _, second = spans()
        (call,) = first.output["tool_calls"]
        assert call["function"] == {"name": "forecast-weather", "arguments": '{"city": "Oslo"}'}
        assert second.output["content"] == "So: rain in Oslo"
        assert second.usage.output_tokens > 0

    async def test_a_stream_that_is_left_is_ok(self, chat, spans):
        stream = chat.get_streaming_chat_message_content(history("Count."), settings())
        async for piece in stream:
            if str(piece):
                break
        await stream.aclose()
        assert await no_span_is_left()
        (span,) = spans()
        assert span.status is Status.OK
        assert span.output["content"] == "one"

    async def test_a_stream_goes_on_when_recording_is_taken_back(self, chat, spans):
        stream = chat.get_streaming_chat_message_content(history("Count."), settings())
        texts = [str(await anext(stream))]
        millstream.uninstrument()
        texts += [str(piece) async for piece in stream]
        assert "".join(texts) == "one two three four five"
        assert spans()[0].output["content"] == "one two three four five"

    async def test_what_fails_in_a_stream_fails_as_it_did(self, chat, spans):
        with pytest.raises(ServiceResponseException):
            [piece async for piece in chat.get_streaming_chat_message_content(history("fail"), settings())]
        (span,) = spans()
        assert (span.status, span.error.type) == (Status.ERROR, "ServiceResponseException")

    async def test_batches_of_texts_are_a_span_each(self, agents_url, spans):
        async with service(agents_url, "embedder", OpenAITextEmbedding) as embedder:
            vectors = await embedder.generate_embeddings(["a mill", "a stream", "a wheel"], batch_size=2)
        assert vectors.shape == (3, 8)
        assert [span.output for span in spans()] == [
            {"count": 2, "dimensions": 8},
            {"count": 1, "dimensions": 8},
        ]
        assert all(span.usage.input_tokens > 0 for span in spans())

    async def test_services_of_the_users_own_are_seen(self, spans):
        class Parrot(ChatCompletionClientBase):
            async def _inner_get_chat_message_contents(self, chat_history, settings):
                return [ChatMessageContent(role="assistant", content=str(chat_history.messages[-1]))]

        class Echo(TextCompletionClientBase):
            async def _inner_get_text_contents(self, prompt, settings):
                return [TextContent(text=prompt)]

            async def _inner_get_streaming_text_contents(self, prompt, settings):
                for word in prompt.split():
                    yield [StreamingTextContent(choice_index=0, text=word)]

        parrot = Parrot(ai_model_id="parrot")
        assert str(await parrot.get_chat_message_content(history("Hello."), settings())) == "Hello."
        echo = Echo(ai_model_id="echo")
        assert str(await echo.get_text_content("Hello, you.", settings())) == "Hello, you."
        assert (
            len([piece async for piece in echo.get_streaming_text_contents("Hello, you.", settings())]) == 2
        )
        chat, text, streamed = spans()
        assert (chat.name, chat.output["content"]) == ("parrot", "Hello.")
        assert text.attributes[semconv.OPERATION_NAME] == "text_completion"
        assert (text.input[0]["content"], text.output["content"]) == ("Hello, you.", "Hello, you.")
        assert (streamed.output["content"], streamed.attributes[semconv.CHUNK_COUNT]) == ("Hello,you.", 2)

    async def test_a_fault_of_ours_costs_what_it_hides_and_no_more(self, chat, spans, monkeypatch):
        monkeypatch.setattr(faults, "strict", False)
        for name in ("models.messages_json", "models._provider", "messages._reason"):
            monkeypatch.delattr(f"millstream.record.integrations.semantic_kernel.{name}")
        assert "five" in str(await chat.get_chat_message_content(history("Count."), settings()))
        stream = chat.get_streaming_chat_message_content(history("Count."), settings())
        assert "".join([str(piece) async for piece in stream]) == "one two three four five"
        assert tree(spans()) == [("LLM able",), ("LLM able",)]
        assert all(span.status is Status.OK for span in spans())

    async def test_everything_is_put_back(self):
        millstream.uninstrument()
        before = {owner: dict(vars(owner)) for owner in CLASSES}
        millstream.instrument("semantic-kernel")
        assert vars(KernelFunction)["invoke"] is not before[KernelFunction]["invoke"]
        millstream.uninstrument()
        assert {owner: dict(vars(owner)) for owner in CLASSES} == before


CLASSES = (
    ChatCompletionClientBase,
    OpenAIChatCompletion,
    *OpenAIChatCompletion.__mro__[1:4],
    OpenAITextEmbedding,
    KernelFunction,
    Agent,
    ChatCompletionAgent,
    AgentGroupChat,
    OrchestrationBase,
    InProcessRuntime,
    SendMessageEnvelope,
)


@pytest.mark.usefixtures("recorded")
class TestFunctions:
    async def test_a_function_is_recorded_where_nothing_else_is(self, chat, spans):
        result = await kernel(chat).invoke_prompt(
            "Count.", arguments=KernelArguments(settings(), topic="mills")
        )
        assert str(result) == "one two three four five"
        assert tree(spans()) == [("CHAIN prompt", ("LLM able",))]
        assert spans()[0].input == {"topic": "mills"}
        assert spans()[0].output == "one two three four five"
        await kernel(chat).invoke(plugin_name="forecast", function_name="weather", city="Oslo")
        assert tree(spans())[1:] == [("CHAIN forecast-weather", ("FUNCTION look_up",))]
        with millstream.start_span("mine"):
            await kernel(chat).invoke(plugin_name="forecast", function_name="weather", city="Oslo")
        assert tree(spans())[2:] == [("FUNCTION mine", ("FUNCTION look_up",))]

    async def test_a_streamed_prompt_that_fails_has_failed(self, chat, spans):
        with pytest.raises(ServiceResponseException):
            [piece async for piece in kernel(chat).invoke_prompt_stream("fail")]
        assert [span.status for span in spans()] == [Status.ERROR, Status.ERROR]

    async def test_functions_that_run_at_once_are_siblings(self, chat, spans):
        await clerk(chat).get_response("both")
        tools = [span for span in spans() if span.kind is SpanKind.TOOL]
        assert sorted(span.input["city"] for span in tools) == ["Oslo", "Rome"]
        assert len({span.parent_id for span in tools}) == 1
        for tool in tools:
            (inside,) = [span for span in spans() if span.parent_id == tool.span_id]
            assert inside.input == tool.input

    async def test_a_function_that_fails_has_failed_and_the_agent_goes_on(self, chat, spans):
        assert "no connection to Oslo" in str(await clerk(chat).get_response("storm"))
        (tool,) = [span for span in spans() if span.kind is SpanKind.TOOL]
        assert tool.status is Status.ERROR
        assert "no connection to Oslo" in tool.error.message
        assert spans()[0].status is Status.OK

    async def test_a_call_that_runs_nothing_is_no_run(self, chat, spans):
        await clerk(chat).get_response("unknown")
        assert tree(spans()) == [("AGENT clerk", ("LLM able",), ("LLM able",))]


@pytest.mark.usefixtures("recorded")
class TestAgents:
    async def test_an_agent_however_it_is_asked(self, chat, spans):
        agent = clerk(chat)
        await agent.get_response(QUESTION)
        async for answer in agent.invoke(QUESTION):
            assert str(answer) == "So: rain in Oslo"
            assert millstream.current_span() is NOT_RECORDED
        async for _ in agent.invoke_stream(QUESTION):
            assert millstream.current_span() is NOT_RECORDED
        assert tree(spans()) == [("AGENT clerk", *TOOL_LOOP)] * 3
        for span in spans():
            if span.kind is SpanKind.AGENT:
                assert span.input == QUESTION
                assert span.output == "So: rain in Oslo"
                assert span.attributes[semconv.AGENT_NAME] == "clerk"
                assert span.attributes[semconv.AGENT_ID] == agent.id

    async def test_an_agent_whose_model_fails_has_failed(self, chat, spans):
        with pytest.raises(ServiceResponseException):
            await clerk(chat).get_response("fail")
        with pytest.raises(ServiceResponseException):
            [piece async for piece in clerk(chat).invoke_stream("fail")]
        assert [span.status for span in spans()] == [Status.ERROR] * 4

    async def test_a_run_that_is_cancelled_or_left(self, agents_url, chat, spans):
        async with service(agents_url, "slow") as slow:
            task = asyncio.ensure_future(clerk(slow).get_response("Count."))
            for _ in range(500):
                await asyncio.sleep(0.01)
                if any(span.kind is SpanKind.LLM for span in spans()):
                    break
            task.cancel()
            await asyncio.wait([task])
        assert [span.status for span in spans()] == [Status.CANCELLED] * 2
        stream = clerk(chat).invoke_stream("Count.")
        await anext(stream)
        await stream.aclose()
        gc.collect()
        await asyncio.sleep(0.1)  # it leaves its inner generators to the event loop
        assert [span.status for span in spans()][2:] == [Status.OK] * 2

    async def test_an_agent_that_another_one_asks_is_inside_its_tool(self, chat, spans):
        inner = clerk(chat, "colleague")
        await clerk(chat, "outer", [inner]).get_response("ask around")
        assert tree(spans()) == [
            (
                "AGENT outer",
                ("LLM able",),
                ("TOOL colleague-colleague", ("AGENT colleague", *TOOL_LOOP)),
                ("LLM able",),
            )
        ]

    async def test_a_group_chat_is_one_trace(self, chat, spans):
        group = AgentGroupChat(
            agents=[clerk(chat, "one"), clerk(chat, "two")],
            termination_strategy=DefaultTerminationStrategy(maximum_iterations=2),
        )
        await group.add_chat_message("Count.")
        assert len([answer async for answer in group.invoke()]) == 2
        assert tree(spans()) == [
            ("CHAIN AgentGroupChat", ("AGENT one", ("LLM able",)), ("AGENT two", ("LLM able",)))
        ]

    async def test_agents_that_work_together_are_one_trace(self, chat, spans):
        runtime = InProcessRuntime()
        runtime.start()
        try:
            for _ in range(2):
                together = SequentialOrchestration([clerk(chat, "one"), clerk(chat, "two")])
                result = await together.invoke("Count.", runtime)
                assert millstream.current_span() is NOT_RECORDED
                await result.get(timeout=20)
            with millstream.start_span("mine"):
                concurrent = ConcurrentOrchestration([clerk(chat, "one"), clerk(chat, "two")])
                await (await concurrent.invoke("Count.", runtime)).get(timeout=20)
        finally:
            await runtime.stop_when_idle()
        *sequential, at_once = tree(spans())
        agents = (("AGENT one", ("LLM able",)), ("AGENT two", ("LLM able",)))
        assert sequential == [("CHAIN SequentialOrchestration", *agents)] * 2
        assert at_once[0] == "FUNCTION mine"
        assert sorted(at_once[1:]) == sorted(agents)
        assert all(span.status is Status.OK for span in spans())
        del result, runtime, together, concurrent
        assert await no_span_is_left()

    async def test_work_together_that_is_cancelled_or_fails(self, agents_url, chat, spans):
        runtime = InProcessRuntime()
        runtime.start()
        async with service(agents_url, "slow") as slow:
            result = await SequentialOrchestration([clerk(slow, "one")]).invoke("Count.", runtime)
            await asyncio.sleep(0.1)
            result.cancel()
            failing = await SequentialOrchestration([clerk(chat, "one")]).invoke("fail", runtime)
            with pytest.raises(ServiceResponseException):
                await failing.get(timeout=20)
            roots = [span for span in spans() if span.parent_id is None]
            assert [span.status for span in roots] == [Status.CANCELLED, Status.ERROR]
            await runtime.stop()

    async def test_nothing_is_kept_and_runs_do_not_mix(self, chat, spans):
        agent = clerk(chat)
        await asyncio.gather(*[agent.get_response(QUESTION) for _ in range(5)])
        assert tree(spans()) == [("AGENT clerk", *TOOL_LOOP)] * 5
        assert len({span.trace_id for span in spans()}) == 5
        assert await no_span_is_left()
