"""Google's Agent Development Kit, with models over LiteLLM."""

import asyncio
import contextlib
import gc
import logging

import pytest
from google.adk.agents import (
    BaseAgent,
    LlmAgent,
    LoopAgent,
    ParallelAgent,
    RunConfig,
    SequentialAgent,
)
from google.adk.agents.run_config import StreamingMode
from google.adk.models import BaseLlm, FallbackModel, Gemini, LlmResponse
from google.adk.models.lite_llm import LiteLlm, LiteLLMClient
from google.adk.runners import InMemoryRunner, Runner
from google.adk.tools import AgentTool, BaseTool, FunctionTool
from google.adk.workflow import Workflow
from google.genai import Client, errors, types
from google.oauth2.credentials import Credentials

import millstream
from millstream import SpanKind, Status, Usage, current_span, semconv, start_span, track_function
from millstream.errors import InputError
from millstream.record.integrations.google_adk.messages import usage_of
from millstream.record.not_recorded import NOT_RECORDED
from tests.integrations.conformance import SYSTEM, Conformance, look_up, model_calls, of_kind, text_of
from tests.living import living_spans
from tests.simulate.process import running

SSE = RunConfig(streaming_mode=StreamingMode.SSE)
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


pytestmark = [  # of LiteLLM, which reads its own models in Pydantic's old way, and logs in one loop only
    pytest.mark.filterwarnings(
        "ignore:Accessing the 'model_(computed_)?fields' attribute on the instance:DeprecationWarning"
    ),
    pytest.mark.filterwarnings(
        "ignore:coroutine 'Logging.async_success_handler' was never awaited:RuntimeWarning"
    ),
]


class TestGoogleADK(Conformance):
    framework = "google-adk"
    title = "Google ADK"
    absent = {"embeddings": "it has none"}

    async def ask(self, base_url, question):
        return await run(assistant(base_url), question)

    async def ask_async(self, base_url, question, model="able"):
        return await run(assistant(base_url, model), question)

    async def stream(self, base_url, question):
        found = await events(assistant(base_url), question, SSE)
        return "".join(last_text([event]) for event in found if event.partial)

    async def use_tool(self, base_url, question):
        return await run(assistant(base_url, tools=[weather]), question)


RULES = """
models:
  able: {reasoning_tokens: 7}
  slow: {latency: {time_to_first_token_s: 30}}
  steady: {latency: {time_per_output_token_s: 0.01}}
rules:
  - when: {last_user_matches: 'break it'}
    reply: {error: {status: 400, message: This model breaks on demand.}}
  - when: {last_user_matches: 'say (?P<word>\\w+)', last_message_role: user}
    reply: "$word"
  - when: {last_user_matches: 'both', last_message_role: user}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}, {name: weather, arguments: {city: Rome}}]}
  - when: {last_user_matches: 'help', last_message_role: user, system_contains: 'You pass on'}
    reply: {tool_calls: [{name: transfer_to_agent, arguments: {agent_name: helper}}]}
  - when: {last_message_role: user}
    reply: {tool_calls: [{name: helper, arguments: {request: say hello}}]}
  - when: {last_message_role: user}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}]}
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


@pytest.fixture(autouse=True)
def instrumented():
    millstream.instrument("google-adk")
    yield
    millstream.uninstrument()


@track_function
def note(text):
    """A step of the user's own."""


def tree(spans):
    """Each span's name below its parent's, in order of start."""
    names = {span.span_id: span.name for span in spans}
    return [(names.get(span.parent_id), span.name) for span in spans]


async def until(true):
    for _ in range(500):
        with contextlib.suppress(InputError):  # nothing has been recorded yet
            if true():
                return
        await asyncio.sleep(0.01)
    raise AssertionError


class TestRuns:
    async def test_a_run_is_one_trace(self, agent_url, spans):
        answer = await run(assistant(agent_url, tools=[weather]), "What is the weather in both cities?")
        assert "rain in" in answer
        found = spans()
        assert tree(found)[:3] == [(None, "app"), ("app", "assistant"), ("assistant", "able")]
        assert sorted(tree(found)[3:-1]) == sorted([("assistant", "weather"), ("weather", "look_up")] * 2)
        assert tree(found)[-1] == ("assistant", "able")
        root, agent = found[:2]
        assert (root.kind, agent.kind) == (SpanKind.WORKFLOW, SpanKind.AGENT)
        for span in (root, agent):
            assert (span.input, span.output) == ("What is the weather in both cities?", answer)
            assert span.attributes[semconv.CONVERSATION_ID]
        parents = {span.span_id: span for span in found}
        for inside in of_kind(found, SpanKind.FUNCTION):
            assert parents[inside.parent_id].input == inside.input
        for tool in of_kind(found, SpanKind.TOOL):
            assert tool.attributes[semconv.TOOL_DESCRIPTION] == "The weather in a city."
            assert tool.attributes[semconv.TOOL_CALL_ID]

    def test_the_synchronous_runner(self, agent_url, spans):
        runner = InMemoryRunner(assistant(agent_url), app_name="app")
        session = runner.session_service.create_session_sync(app_name="app", user_id="someone")
        with start_span("above"):
            for _ in runner.run(
                user_id="someone", session_id=session.id, new_message=types.UserContent("say hello")
            ):
                note("between")
        assert sorted(tree(spans()), key=str) == sorted(
            [
                (None, "above"),
                ("above", "app"),
                ("above", "note"),
                ("app", "assistant"),
                ("assistant", "able"),
            ],
            key=str,
        )

    async def test_an_agent_that_passes_on_to_another(self, agent_url, spans):
        helper = LlmAgent(name="helper", model=chat(agent_url), description="Helps.")
        agent = LlmAgent(name="desk", model=chat(agent_url), instruction="You pass on.", sub_agents=[helper])
        assert await run(agent, "I need help.") == "one two three four five"
        assert ("app", "desk") in tree(spans())
        names = [name for _, name in tree(spans())]
        assert names == ["app", "desk", "able", "transfer_to_agent", "helper", "able"]
        assert len({span.trace_id for span in spans()}) == 1

    @pytest.mark.filterwarnings("ignore:The `plugins` argument is deprecated:DeprecationWarning")  # its own
    async def test_an_agent_that_is_a_tool(self, agent_url, spans):
        helper = LlmAgent(name="helper", model=chat(agent_url), description="Helps.")
        agent = LlmAgent(name="desk", model=chat(agent_url), tools=[AgentTool(helper)])
        assert "hello" in await run(agent, "What is new?")
        assert tree(spans()) == [
            (None, "app"),
            ("app", "desk"),
            ("desk", "able"),
            ("desk", "helper"),
            ("helper", "helper"),
            ("helper", "able"),
            ("desk", "able"),
        ]

    @pytest.mark.filterwarnings("ignore:(Sequential|Parallel|Loop)Agent is deprecated:DeprecationWarning")
    async def test_agents_in_sequence_in_parallel_and_in_a_loop(self, agent_url, spans):
        def one(name):
            return LlmAgent(name=name, model=chat(agent_url))

        together = ParallelAgent(name="together", sub_agents=[one("left"), one("right")])
        again = LoopAgent(name="again", sub_agents=[one("looped")], max_iterations=2)
        await run(SequentialAgent(name="all", sub_agents=[one("first"), together, again]), "say hello")
        found = [pair for pair in tree(spans()) if pair[1] != "able"]
        assert found[:4] == [(None, "app"), ("app", "all"), ("all", "first"), ("all", "together")]
        assert sorted(found[4:6]) == [("together", "left"), ("together", "right")]
        assert found[6:] == [("all", "again"), ("again", "looped"), ("again", "looped")]
        callers = {parent for parent, name in tree(spans()) if name == "able"}
        assert callers == {"first", "left", "right", "looped"}
        assert len({span.trace_id for span in spans()}) == 1

    async def test_a_workflow(self, agent_url, spans):
        def shout(node_input: str) -> str:
            note(node_input)
            return node_input.upper()

        agent = LlmAgent(name="asked", model=chat(agent_url))
        workflow = Workflow(name="flow", edges=[("START", agent, shout)])
        found = await events(workflow, "say hello")
        assert found[-1].output == "HELLO"
        assert tree(spans()) == [(None, "app"), ("app", "asked"), ("asked", "able"), ("app", "note")]
        assert spans()[0].output == "HELLO"

    async def test_an_error_of_the_model_ends_every_step(self, agent_url, spans):
        millstream.uninstrument()
        with pytest.raises(Exception) as without:  # noqa: PT011  # LiteLLM's own
            await run(assistant(agent_url), "break it")
        millstream.instrument("google-adk")
        with pytest.raises(Exception) as caught:  # noqa: PT011
            await run(assistant(agent_url), "break it")
        assert (caught.type, str(caught.value)) == (without.type, str(without.value))
        assert [span.status for span in spans()] == [Status.ERROR] * 3

    async def test_runs_at_once_stay_apart(self, agent_url, spans):
        agent = assistant(agent_url)
        words = [f"word{number}" for number in range(8)]
        assert await asyncio.gather(*(run(agent, f"say {word}") for word in words)) == words
        found = {span.span_id: span for span in spans()}
        assert len(of_kind(spans(), SpanKind.WORKFLOW)) == 8
        for call in model_calls(spans()):
            agent_run = found[call.parent_id]
            assert text_of(call.output) == agent_run.output == found[agent_run.parent_id].output

    async def test_a_run_that_is_cancelled(self, agent_url, spans):
        task = asyncio.ensure_future(run(assistant(agent_url, "slow"), "say hello"))
        await until(lambda: model_calls(spans()))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [span.status for span in spans()] == [Status.CANCELLED] * 3

    async def test_the_content_is_nowhere_when_it_is_not_captured(self, agent_url, home):
        with millstream.recording(home=home / "bare", capture_content=False):
            await run(assistant(agent_url, tools=[weather]), "Weather in both cities?")
        text = "".join(path.read_text() for path in (home / "bare").rglob("*.jsonl"))
        assert len(of_kind(list(millstream.open_store(home / "bare").spans()), SpanKind.TOOL)) == 2
        for content in (SYSTEM, "both cities", "Oslo", "rain in", "tool said"):
            assert content not in text


class TestStreams:
    async def test_what_the_user_does_between_two_events_is_outside(self, agent_url, spans):
        with start_span("above"):
            agent = assistant(agent_url, "steady")
            runner = InMemoryRunner(agent, app_name="app")
            session = await runner.session_service.create_session(app_name="app", user_id="someone")
            async for _ in runner.run_async(
                user_id="someone",
                session_id=session.id,
                new_message=types.UserContent("What is new?"),
                run_config=SSE,
            ):
                note("event")
        assert {pair for pair in tree(spans()) if pair[1] == "note"} == {("above", "note")}

    async def test_a_run_that_is_left(self, agent_url, spans):
        runner = InMemoryRunner(assistant(agent_url, "steady"), app_name="app")
        session = await runner.session_service.create_session(app_name="app", user_id="someone")
        found = runner.run_async(
            user_id="someone",
            session_id=session.id,
            new_message=types.UserContent("What is new?"),
            run_config=SSE,
        )
        await anext(found)
        assert current_span() is NOT_RECORDED
        await found.aclose()
        assert current_span() is NOT_RECORDED
        root, agent, call = spans()
        assert root.status is Status.OK
        assert all(span.end_ns <= root.end_ns for span in (agent, call))
        assert text_of(call.output).startswith("one")
        assert Status.ERROR not in (agent.status, call.status)

    async def test_a_run_goes_on_when_the_framework_is_uninstrumented(self, agent_url, spans):
        runner = InMemoryRunner(assistant(agent_url, "steady"), app_name="app")
        session = await runner.session_service.create_session(app_name="app", user_id="someone")
        async for _ in runner.run_async(
            user_id="someone",
            session_id=session.id,
            new_message=types.UserContent("What is new?"),
            run_config=SSE,
        ):
            millstream.uninstrument()
        root, agent, call = spans()
        assert root.output == agent.output == text_of(call.output) == "one two three four five"
        assert call.usage.output_tokens == 5

    async def test_a_streamed_tool_call(self, agent_url, spans):
        assert "rain in Oslo" in await run(assistant(agent_url, tools=[weather]), "What is new?", SSE)
        first, second = model_calls(spans())
        (call,) = first.output["tool_calls"]
        assert call["function"]["name"] == "weather"
        assert second.attributes[semconv.RESPONSE_ID].startswith("chatcmpl")
        (tool,) = of_kind(spans(), SpanKind.TOOL)
        assert tool.attributes[semconv.TOOL_CALL_ID] == call["id"]

    async def test_nothing_is_kept_of_a_run(self, spans, monkeypatch):
        """Of a model of our own, for LiteLLM keeps the context of every call."""

        class Echo(BaseLlm):
            async def generate_content_async(self, llm_request, stream=False):
                if text_part := llm_request.contents[-1].parts[0].text:
                    yield LlmResponse(content=types.ModelContent(text_part), partial=True)
                    call = types.Part.from_function_call(name="weather", args={"city": "Oslo"})
                    yield LlmResponse(content=types.ModelContent(call))
                elif self.model == "broken":
                    raise KeyError
                else:
                    yield LlmResponse(content=types.ModelContent("Rain."))

        async def weather(city: str) -> str:
            """A function that is not asynchronous would run in a thread, which stays for a while."""
            return f"rain in {city}"

        # ADK logs the error, whose traceback holds everything, and pytest keeps what is logged
        monkeypatch.setattr(logging.getLogger("google_adk"), "propagate", False)

        def agent(model):
            return LlmAgent(name="assistant", model=Echo(model=model), tools=[weather])

        assert await run(agent("echo"), "Hello", SSE) == "Rain."
        with pytest.raises(KeyError):
            await run(agent("broken"), "Hello", SSE)
        here = {span.trace_id for span in spans()}
        assert len(spans()) == 10
        gc.collect()
        living = living_spans()
        assert [span.name for span in living if span.trace_id in here] == []


class TestTools:
    async def test_a_tool_that_raises(self, agent_url, spans):
        def weather(city: str) -> str:
            raise KeyError(city)

        with pytest.raises(KeyError):
            await run(assistant(agent_url, tools=[weather]), "What is new?")
        root, agent, _, tool = spans()
        assert (tool.status, tool.error.type) == (Status.ERROR, "KeyError")
        assert (agent.status, root.status) == (Status.ERROR, Status.ERROR)

    async def test_a_tool_that_is_to_be_confirmed_does_not_run(self, agent_url, spans):
        tool = FunctionTool(weather, require_confirmation=True)
        await events(assistant(agent_url, tools=[tool]), "What is new?")
        assert of_kind(spans(), SpanKind.TOOL) == []
        assert {span.status for span in spans()} == {Status.OK}

    async def test_a_tool_of_a_class_of_the_users_made_later(self, agent_url, spans):
        class Weather(BaseTool):
            def _get_declaration(self):
                schema = types.Schema(type="OBJECT", properties={"city": types.Schema(type="STRING")})
                return types.FunctionDeclaration(
                    name=self.name, description=self.description, parameters=schema
                )

            async def run_async(self, *, args, tool_context):
                note(args["city"])
                return {"weather": "rain"}

        tool = Weather(name="weather", description="The weather.")
        await run(assistant(agent_url, tools=[tool]), "What is new?")
        (found,) = of_kind(spans(), SpanKind.TOOL)
        assert (found.input, found.output) == ({"city": "Oslo"}, {"weather": "rain"})
        assert ("weather", "note") in tree(spans())
        (offered,) = model_calls(spans())[0].attributes[semconv.TOOL_DEFINITIONS]
        assert offered["function"]["parameters"] == {
            "type": "object",
            "properties": {"city": {"type": "string"}},
        }


class TestModels:
    @pytest.mark.filterwarnings("ignore:.*feature FALLBACK_MODEL is enabled:UserWarning")
    async def test_a_fallback_is_as_many_calls_as_it_tries(self, agent_url, spans):
        codes = frozenset({400, 404})
        fallback = FallbackModel(
            models=[chat(agent_url, "absent"), chat(agent_url)], retriable_status_codes=codes
        )
        assert await run(LlmAgent(name="assistant", model=fallback), "say hello") == "hello"
        assert [(call.name, call.status) for call in model_calls(spans())] == [
            ("absent", Status.ERROR),
            ("able", Status.OK),
        ]

    async def test_a_model_of_a_class_of_the_users_made_later(self, spans):
        class Echo(BaseLlm):
            async def generate_content_async(self, llm_request, stream=False):
                note("thinking")
                yield LlmResponse(content=types.ModelContent("hello"))

        assert await run(LlmAgent(name="assistant", model=Echo(model="echo")), "Hello") == "hello"
        assert tree(spans())[2:] == [("assistant", "echo"), ("echo", "note")]
        (call,) = model_calls(spans())
        assert (call.usage, text_of(call.output)) == (None, "hello")
        assert semconv.PROVIDER_NAME not in call.attributes

    @pytest.mark.parametrize(
        ("service", "provider"),
        [
            ({"api_key": "none"}, "gcp.gemini"),
            (
                {
                    "vertexai": True,
                    "project": "mill",
                    "location": "here",
                    "credentials": Credentials("none"),
                },
                "gcp.vertex_ai",
            ),
        ],
    )
    @pytest.mark.filterwarnings(
        "ignore:Inheritance class AiohttpClientSession:DeprecationWarning"
    )  # Google's
    async def test_gemini_is_called_by_its_service(self, agent_url, spans, service, provider):
        options = types.HttpOptions(base_url=agent_url)
        client = Client(http_options=options, **service)
        gemini = Gemini(model="gemini-able", client=client)
        with pytest.raises(errors.ClientError):
            await run(LlmAgent(name="assistant", model=gemini), "Hello")
        await client.aio.aclose()
        client.close()
        (call,) = model_calls(spans())
        assert call.attributes[semconv.PROVIDER_NAME] == provider
        assert call.attributes[semconv.REQUEST_MODEL] == "gemini-able"
        assert call.status is Status.ERROR

    @pytest.mark.parametrize(
        ("told", "usage"),
        [
            (
                {
                    "prompt_token_count": 10,
                    "candidates_token_count": 5,
                    "thoughts_token_count": 7,
                    "total_token_count": 22,
                },
                Usage(10, 12, None, 7),
            ),
            (
                {
                    "prompt_token_count": 10,
                    "candidates_token_count": 12,
                    "thoughts_token_count": 7,
                    "total_token_count": 22,
                    "cached_content_token_count": 4,
                },
                Usage(10, 12, 4, 7),
            ),
            (
                {
                    "prompt_token_count": 10,
                    "tool_use_prompt_token_count": 3,
                    "thoughts_token_count": 7,
                    "total_token_count": 20,
                },
                Usage(13, 7, None, 7),
            ),
            ({}, None),
        ],
    )
    def test_output_tokens_include_reasoning(self, told, usage):
        assert usage_of(types.GenerateContentResponseUsageMetadata(**told)) == usage

    async def test_content_that_is_not_text(self, agent_url, spans):
        parts = [types.Part(text="say hello"), types.Part.from_bytes(data=b"\x89PNG", mime_type="image/png")]
        await run(assistant(agent_url), parts)
        assert model_calls(spans())[0].input[-1]["content"] == [
            {"type": "text", "text": "say hello"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
        ]

    def test_uninstrumented_everything_is_as_it_was(self):
        def methods():
            classes = [Runner, BaseAgent, BaseLlm, LiteLlm, Gemini, LiteLLMClient, BaseTool, FunctionTool]
            return [dict(vars(owner)) for owner in classes]

        recorded = methods()
        millstream.uninstrument()
        before = methods()
        millstream.instrument("google-adk")
        millstream.uninstrument()
        assert methods() == before != recorded
