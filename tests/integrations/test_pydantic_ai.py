"""Pydantic AI."""

import asyncio
import contextlib
import gc
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    BinaryContent,
    CallToolsNode,
    CancellationToken,
    DeferredToolRequests,
    DeferredToolResults,
    ExternalToolset,
    FunctionToolset,
    ImageUrl,
    ModelRequest,
    ModelRequestNode,
    ModelResponse,
    ModelRetry,
    ModelSettings,
    RunContext,
    TextPart,
    ToolDefinition,
    ToolOutput,
)
from pydantic_ai.agent import AgentRun
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.embeddings import Embedder, EmbeddingModel
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.exceptions import (
    ApprovalRequired,
    ModelConnectionError,
    ModelHTTPError,
    RunCancelled,
    RunTimedOut,
    UnexpectedModelBehavior,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.tool_manager import ToolManager

import millstream
from millstream import SpanKind, Status, current_span, semconv, start_span, track_function
from millstream.errors import InputError
from millstream.record.integrations.pydantic_ai import runs
from millstream.record.not_recorded import NOT_RECORDED
from tests.integrations.conformance import SYSTEM, Conformance, look_up, model_calls, of_kind, text_of
from tests.living import living_spans
from tests.simulate.process import running

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


RULES = """
models:
  able:
  slow: {latency: {time_to_first_token_s: 30}}
  steady: {latency: {time_per_output_token_s: 0.01}}
rules:
  - when: {last_user_matches: 'break it'}
    reply: {error: {status: 400, message: This model breaks on demand.}}
  - when: {last_user_matches: 'say (?P<word>\\w+)', last_message_role: user}
    reply: "$word"
  - when: {last_user_matches: 'both', has_tool: weather, last_message_role: user}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}, {name: weather, arguments: {city: Rome}}]}
  - when: {last_message_role: user}
    reply: {tool_calls: [{name: final_result, arguments: {city: Oslo, degrees: 7}}]}
  - when: {last_message_role: user}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}]}
  - when: {last_message_role: tool, last_message_matches: 'try again'}
    reply: {tool_calls: [{name: weather, arguments: {city: Rome}}]}
  - when: {last_message_role: tool}
    reply: "The tool said: $last"
default: "one two three four five"
"""


@pytest.fixture(scope="module")
def agent_url(tmp_path_factory):
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    with running(rules) as stand_in:
        yield stand_in.base_url


@pytest.fixture
def instrumented():
    millstream.instrument("pydantic-ai")
    yield
    millstream.uninstrument()


@pytest.fixture
async def able(agent_url):
    async with chat(agent_url) as model:
        yield model


async def _entered(model):
    return await model.__aenter__()


async def until(true):
    for _ in range(500):
        with contextlib.suppress(InputError):  # nothing has been recorded yet
            if true():
                return
        await asyncio.sleep(0.01)
    raise AssertionError


def user(text):
    return ModelRequest.user_text_prompt(text)


def tree(spans):
    """Each span's name below its parent's, in order of start."""
    names = {span.span_id: span.name for span in spans}
    return [(names.get(span.parent_id), span.name) for span in spans]


@track_function
def note(text):
    """A step of the user's own."""


class Report(BaseModel):
    city: str
    degrees: int


pytestmark = pytest.mark.usefixtures("instrumented")


class TestRuns:
    async def test_a_run_is_one_agent_span_with_all_below_it(self, able, spans):
        output = (await assistant(able, tools=[weather]).run("Weather in both cities?")).output
        assert "rain in Rome" in output
        found = spans()
        tools = [("assistant", "weather"), ("weather", "look_up")] * 2
        assert sorted(tree(found)[2:-1]) == sorted(tools)
        assert tree(found)[:2] == [(None, "assistant"), ("assistant", "able")]
        run = found[0]
        assert run.kind is SpanKind.AGENT
        assert (run.input, run.output) == ("Weather in both cities?", output)
        assert run.attributes[semconv.AGENT_NAME] == "assistant"
        assert run.attributes[semconv.OPERATION_NAME] == "invoke_agent"
        assert run.attributes[semconv.CONVERSATION_ID]
        parents = {span.span_id: span for span in found}
        for inside in of_kind(found, SpanKind.FUNCTION):
            assert parents[inside.parent_id].input == inside.input
        for tool in of_kind(found, SpanKind.TOOL):
            assert tool.attributes[semconv.TOOL_DESCRIPTION] == "The weather in a city."
            assert tool.attributes[semconv.TOOL_CALL_ID]

    def test_run_sync(self, agent_url, spans):
        with asyncio.Runner() as runner:
            asyncio.set_event_loop(runner.get_loop())
            model = runner.run(_entered(chat(agent_url)))
            with start_span("above"):
                nameless = Agent(model)
                assert nameless.run_sync("say hello").output == "hello"
            runner.run(model.__aexit__(None, None, None))
            asyncio.set_event_loop(None)
        assert nameless.name == "nameless", "the framework looks for its name where it is called"
        assert tree(spans()) == [(None, "above"), ("above", "nameless"), ("nameless", "able")]

    async def test_an_error_of_the_model_goes_through_and_ends_the_run(self, able, spans):
        with pytest.raises(ModelHTTPError) as caught:
            await assistant(able).run("break it")
        assert caught.value.status_code == 400
        run, call = spans()
        assert (run.status, call.status) == (Status.ERROR, Status.ERROR)
        assert run.error.type == call.error.type == type(caught.value).__name__

    async def test_runs_at_once_in_tasks_stay_apart(self, able, spans):
        agent = assistant(able)

        async def streamed(word):
            async with agent.run_stream(f"say {word}") as result:
                await asyncio.sleep(0.02)
                return await result.get_output()

        words = [f"word{number}" for number in range(8)]
        assert await asyncio.gather(*map(streamed, words)) == words
        found = spans()
        runs = {span.span_id: span for span in of_kind(found, SpanKind.AGENT)}
        assert len(runs) == 8
        for call in model_calls(found):
            assert runs[call.parent_id].output == text_of(call.output)

    async def test_an_agent_that_is_a_tool_of_another(self, able, spans):
        inner = Agent(able, name="inner")

        async def ask_inner(question: str) -> str:
            """Ask the other one."""
            return (await inner.run(f"say {question}")).output

        async def weather(city: str) -> str:
            """The weather."""
            return await ask_inner(city)

        await Agent(able, name="outer", tools=[weather]).run("What is the weather?")
        assert tree(spans()) == [
            (None, "outer"),
            ("outer", "able"),
            ("outer", "weather"),
            ("weather", "inner"),
            ("inner", "able"),
            ("outer", "able"),
        ]

    async def test_a_run_that_is_cancelled(self, agent_url, spans):
        async with chat(agent_url, "slow") as slow:
            task = asyncio.ensure_future(assistant(slow).run("say hello"))
            await until(lambda: model_calls(spans()))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert [span.status for span in spans()] == [Status.CANCELLED] * 2

    async def test_a_run_that_is_cancelled_by_its_token(self, agent_url, spans):
        token = CancellationToken()
        async with chat(agent_url, "slow") as slow:
            task = asyncio.ensure_future(assistant(slow).run("say hello", cancellation_token=token))
            await until(lambda: model_calls(spans()))
            token.cancel()
            with pytest.raises(RunCancelled):
                await task
        assert [span.status for span in spans()] == [Status.CANCELLED] * 2

    async def test_a_run_that_takes_too_long(self, agent_url, spans):
        async with chat(agent_url, "slow") as slow:
            with pytest.raises(RunTimedOut):
                await assistant(slow).run("say hello", timeout=0.2)
        run, call = spans()
        assert (run.status, run.error.type) == (Status.ERROR, "RunTimedOut")
        assert call.status is Status.CANCELLED

    async def test_the_content_is_nowhere_when_it_is_not_captured(self, able, home):
        with millstream.recording(home=home / "bare", capture_content=False):
            await assistant(able, tools=[weather]).run("Weather in both cities?")
            await assistant(able, output_type=Report).run("Tell.")
        text = "".join(path.read_text() for path in (home / "bare").rglob("*.jsonl"))
        assert len(of_kind(list(millstream.open_store(home / "bare").spans()), SpanKind.TOOL)) == 2
        for content in (SYSTEM, "both cities", "Oslo", "rain in", "tool said", "Tell."):
            assert content not in text

    async def test_nothing_is_kept_of_a_run(self, agent_url, spans):
        async def weather(city: str) -> str:
            """A function that is not asynchronous would run in a thread, which stays for a while."""
            return f"rain in {city}"

        async with chat(agent_url) as able:  # an open connection keeps the context that it was opened in
            agent = assistant(able, tools=[weather])
            await agent.run("What is the weather?")
            with pytest.raises(ModelHTTPError):
                await agent.run("break it")
            async with agent.run_stream("say hello") as result:
                await result.get_output()
            del result
        assert not runs._runs
        gc.collect()
        here = {span.trace_id for span in spans()}
        living = living_spans()
        assert [span.name for span in living if span.trace_id in here] == []


class TestStreams:
    async def test_the_block_around_a_stream_is_the_callers_own(self, agent_url, spans):
        async with chat(agent_url, "steady") as steady:
            with start_span("above"):
                async with assistant(steady).run_stream("What is new?") as result:
                    async for _ in result.stream_text(debounce_by=None):
                        note("piece")
                        break
                    note("between")
                    await result.get_output()
        assert {pair for pair in tree(spans()) if pair[1] == "note"} == {("above", "note")}
        run, call = [span for span in spans() if span.kind in (SpanKind.AGENT, SpanKind.LLM)]
        assert (call.parent_id, run.status, call.status) == (run.span_id, Status.OK, Status.OK)
        assert text_of(call.output) == run.output == "one two three four five"

    async def test_a_stream_that_is_left(self, agent_url, spans):
        async def answer(model):
            async with assistant(model).run_stream("What is new?") as result:
                async for text in result.stream_text(delta=True, debounce_by=None):
                    yield text

        async with chat(agent_url, "steady") as steady:
            pieces = answer(steady)
            assert await anext(pieces) == "one"
            assert current_span() is NOT_RECORDED
            await pieces.aclose()
            assert current_span() is NOT_RECORDED
        run, call = spans()
        assert (run.status, call.status) == (Status.OK, Status.OK)
        assert text_of(call.output).startswith("one")

    async def test_a_stream_that_nobody_closes(self, agent_url, spans):
        async with chat(agent_url, "steady") as steady:
            manager = steady.request_stream([user("Hello")], None, ModelRequestParameters())
            stream = await manager.__aenter__()
            async for _ in stream:
                break
            del manager, stream, _
            gc.collect()
            await until(lambda: all(span.end_ns for span in spans()))
        (call,) = spans()
        assert call.status is Status.OK

    async def test_nodes_and_their_events(self, able, spans):
        async with assistant(able, tools=[weather]).iter("What is the weather?") as run:
            async for node in run:
                note("node")
                if Agent.is_model_request_node(node) or Agent.is_call_tools_node(node):
                    async with node.stream(run.ctx) as events:
                        async for _ in events:
                            note("event")
        found = spans()
        assert {pair for pair in tree(found) if pair[1] == "note"} == {(None, "note")}
        assert [pair for pair in tree(found) if pair[1] != "note"] == [
            (None, "assistant"),
            ("assistant", "able"),
            ("assistant", "weather"),
            ("weather", "look_up"),
            ("assistant", "able"),
        ]

    async def test_run_stream_events(self, able, spans):
        async with assistant(able, tools=[weather]).run_stream_events("What is the weather?") as events:
            kinds = [event.event_kind async for event in events]
        assert kinds[-1] == "agent_run_result"
        assert [name for _, name in tree(spans())] == ["assistant", "able", "weather", "look_up", "able"]
        assert len({span.trace_id for span in spans()}) == 1

    async def test_functions_of_the_users_are_below_the_run(self, able, spans):
        agent = assistant(able)

        @agent.instructions
        def more():
            note("instructions")
            return "Be kind."

        async with agent.run_stream("say hello") as result:
            await result.get_output()
        await agent.run("say hello")
        assert [pair for pair in tree(spans()) if pair[1] == "note"] == [("assistant", "note")] * 2
        assert [message["content"] for message in model_calls(spans())[0].input] == [
            SYSTEM,
            "Be kind.",
            "say hello",
        ]

    async def test_a_stream_that_fails(self, able, spans):
        with pytest.raises(ModelHTTPError):
            async with assistant(able).run_stream("break it") as result:
                await result.get_output()
        assert [span.status for span in spans()] == [Status.ERROR] * 2

    async def test_what_the_user_raises_is_no_failure_of_the_model(self, able, spans):
        with pytest.raises(KeyError):
            async with model_request_stream(able, [user("Hello")]) as stream:
                async for _ in stream:
                    raise KeyError
        (call,) = spans()
        assert call.status is Status.OK

    async def test_a_stream_that_is_cancelled(self, agent_url, spans):
        async with (
            chat(agent_url, "steady") as steady,
            model_request_stream(steady, [user("Hello")]) as stream,
        ):
            with pytest.raises(ModelConnectionError):  # as without us
                async for _ in stream:
                    await stream.cancel()
        (call,) = spans()
        assert call.status is Status.CANCELLED

    async def test_a_stream_goes_on_when_the_framework_is_uninstrumented(self, agent_url, spans):
        async with (
            chat(agent_url, "steady") as steady,
            assistant(steady).run_stream("What is new?") as result,
        ):
            millstream.uninstrument()
            assert await result.get_output() == "one two three four five"
        run, call = spans()
        assert run.output == text_of(call.output) == "one two three four five"


class TestTools:
    async def test_a_tool_that_raises(self, able, spans):
        async def weather(city: str) -> str:
            raise KeyError(city)

        with pytest.raises(KeyError):
            await assistant(able, tools=[weather]).run("What is the weather?")
        run, _, tool = spans()
        assert (tool.kind, tool.status, tool.error.type) == (SpanKind.TOOL, Status.ERROR, "KeyError")
        assert (run.status, run.error.type) == (Status.ERROR, "KeyError")

    async def test_a_tool_that_asks_for_another_try(self, able, spans):
        async def weather(city: str) -> str:
            if city == "Oslo":
                raise ModelRetry("try again elsewhere")
            return f"rain in {city}"

        output = (await assistant(able, tools=[weather]).run("What is the weather?")).output
        assert "rain in Rome" in output
        failed, done = of_kind(spans(), SpanKind.TOOL)
        assert (failed.status, failed.error.type, failed.error.message) == (
            Status.ERROR,
            "ModelRetry",
            "try again elsewhere",
        )
        assert (done.status, done.output) == (Status.OK, "rain in Rome")
        (told,) = [message for message in model_calls(spans())[1].input if message["role"] == "tool"]
        assert "try again elsewhere" in told["content"]

    async def test_arguments_that_are_not_valid_run_no_tool(self, able, spans):
        async def weather(city: int) -> str:
            return str(city)

        with pytest.raises(UnexpectedModelBehavior):
            await assistant(able, tools=[weather], retries=0).run("What is the weather?")
        assert [span.kind for span in spans()] == [SpanKind.AGENT, SpanKind.LLM]

    async def test_a_tool_that_waits_for_approval_and_one_that_runs_elsewhere(self, able, spans):
        async def weather(ctx: RunContext, city: str) -> str:
            if not ctx.tool_call_approved:
                raise ApprovalRequired
            return f"rain in {city}"

        agent = assistant(able, tools=[weather], output_type=[str, DeferredToolRequests])
        first = await agent.run("What is the weather?")
        (call,) = first.output.approvals
        results = DeferredToolResults(approvals={call.tool_call_id: True})
        second = await agent.run(message_history=first.all_messages(), deferred_tool_results=results)
        assert "rain in Oslo" in second.output
        assert [(tool.status, tool.output) for tool in of_kind(spans(), SpanKind.TOOL)] == [
            (Status.OK, msgspec.UNSET),
            (Status.OK, "rain in Oslo"),
        ]

    async def test_a_tool_that_is_run_elsewhere(self, able, spans):
        schema = {"type": "object", "properties": {"city": {"type": "string"}}}
        toolset = ExternalToolset([ToolDefinition(name="weather", parameters_json_schema=schema)])
        agent = assistant(able, toolsets=[toolset], output_type=[str, DeferredToolRequests])
        assert (await agent.run("What is the weather?")).output.calls
        assert of_kind(spans(), SpanKind.TOOL) == []

    async def test_tools_of_toolsets(self, able, spans):
        toolset = FunctionToolset([weather]).filtered(lambda ctx, definition: True)
        await assistant(able, toolsets=[toolset]).run("What is the weather?")
        (tool,) = of_kind(spans(), SpanKind.TOOL)
        assert (tool.name, tool.input) == ("weather", {"city": "Oslo"})

    async def test_a_structured_answer_is_no_tool(self, able, spans):
        output = (await assistant(able, output_type=Report).run("Tell.")).output
        assert output == Report(city="Oslo", degrees=7)
        run, call = spans()
        assert run.output == {"city": "Oslo", "degrees": 7}
        assert call.output["tool_calls"][0]["function"]["name"] == "final_result"
        (tool,) = call.attributes[semconv.TOOL_DEFINITIONS]
        assert tool["function"]["name"] == "final_result"

    async def test_an_output_function_is_one(self, able, spans):
        def report(city: str, degrees: int) -> str:
            return note(city) or f"{city}: {degrees}"

        assert (await assistant(able, output_type=ToolOutput(report)).run("Tell.")).output == "Oslo: 7"
        (tool,) = of_kind(spans(), SpanKind.TOOL)
        assert (tool.name, tool.input, tool.output) == (
            "final_result",
            {"city": "Oslo", "degrees": 7},
            "Oslo: 7",
        )
        assert ("final_result", "note") in tree(spans())


class TestModels:
    async def test_a_fallback_is_as_many_calls_as_it_tries(self, able, agent_url, spans):
        async with chat(agent_url, "absent") as absent:
            output = (await assistant(FallbackModel(absent, able)).run("say hello")).output
            async with assistant(FallbackModel(absent, able)).run_stream("say again") as result:
                assert await result.get_output() == "again"
        assert output == "hello"
        calls = model_calls(spans())
        assert [(call.name, call.status) for call in calls] == [
            ("absent", Status.ERROR),
            ("able", Status.OK),
        ] * 2
        runs = of_kind(spans(), SpanKind.AGENT)
        assert [call.parent_id for call in calls] == [run.span_id for run in runs for _ in range(2)]

    async def test_a_wrapped_model_is_one_call(self, able, spans):
        await assistant(WrapperModel(able)).run("say hello")
        assert [span.kind for span in spans()] == [SpanKind.AGENT, SpanKind.LLM]

    async def test_the_responses_api(self, base_url, spans):
        async with OpenAIResponsesModel("able", provider=provider(base_url)) as model:
            agent = assistant(model, tools=[weather])
            assert "rain in Oslo" in (await agent.run("What is the weather in Oslo?")).output
            async with assistant(model).run_stream("Count.") as result:
                assert await result.get_output() == "one two three four five"
        first, second, third = model_calls(spans())
        (call,) = first.output["tool_calls"]
        assert [message.get("tool_call_id") for message in second.input][-1] == call["id"]
        assert third.attributes[semconv.RESPONSE_FINISH_REASONS] == ["completed"]
        assert third.usage.output_tokens == 12
        assert third.usage.reasoning_tokens == 7
        assert third.attributes[semconv.CHUNK_COUNT] == 5

    async def test_calls_without_an_agent(self, able, spans):
        with start_span("above"):
            response = await model_request(able, [user("say hello")], model_settings={"seed": 3})
            async with model_request_stream(able, [user("say again")]) as stream:
                async for _ in stream:
                    pass
        assert response.text == "hello"
        assert tree(spans()) == [(None, "above"), ("above", "able"), ("above", "able")]
        assert spans()[1].attributes[semconv.REQUEST_SEED] == 3
        assert text_of(spans()[2].output) == "again"

    async def test_content_that_is_not_text(self, able, spans):
        image = BinaryContent(b"\x89PNG", media_type="image/png")
        link = ImageUrl("https://example.org/a.png")
        await assistant(able).run(["say hello", image, link])
        _, question = model_calls(spans())[0].input
        assert question["content"] == [
            {"type": "text", "text": "say hello"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        ]

    async def test_a_model_class_of_the_users_made_later(self, spans):
        class Echo(Model):
            model_name = "echo"
            system = "mine"

            async def request(self, messages, model_settings, model_request_parameters):
                note("thinking")
                return ModelResponse(parts=[TextPart("hello")])

        assert (await assistant(Echo()).run("Hello")).output == "hello"
        assert tree(spans()) == [(None, "assistant"), ("assistant", "echo"), ("echo", "note")]
        call = model_calls(spans())[0]
        assert (call.usage, call.attributes[semconv.PROVIDER_NAME]) == (None, "mine")
        millstream.uninstrument()
        assert not hasattr(Echo.request, "_millstream_replacement")

    def test_uninstrumented_everything_is_as_it_was(self):
        def methods():
            classes = [Agent, AgentRun, ToolManager, ModelRequestNode, CallToolsNode, Model, WrapperModel]
            classes += [OpenAIChatModel, OpenAIResponsesModel, OpenAIEmbeddingModel, EmbeddingModel]
            return [dict(vars(owner)) for owner in classes]

        recorded = methods()
        millstream.uninstrument()
        before = methods()
        millstream.instrument("pydantic-ai")
        millstream.uninstrument()
        assert methods() == before != recorded
