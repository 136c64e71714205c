"""CrewAI."""

import asyncio
import contextlib
import gc
import inspect
import os
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

os.environ["CREWAI_DISABLE_TELEMETRY"] = "true"  # read at its import; it would try the network
os.environ["CREWAI_TRACING_ENABLED"] = "false"
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ImportWarning)  # of a module that does not let itself be changed
    from crewai import LLM, Agent, BaseLLM, Crew, CrewOutput, Flow, Task
    from crewai.agents import step_executor
    from crewai.events import crewai_event_bus
    from crewai.flow.flow import listen, start
    from crewai.mcp import MCPServerStdio
    from crewai.tools import BaseTool, tool
    from crewai.tools.structured_tool import CrewStructuredTool
    from crewai.tools.tool_failure import ToolFailure

import millstream
from millstream import SpanKind, Status, semconv
from millstream.record.live import LiveSpan
from tests.integrations.conformance import SYSTEM, Conformance, look_up, model_calls, of_kind, text_of
from tests.simulate.process import running

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # it reads deprecated fields of its own


@pytest.fixture(autouse=True)
def storage(tmp_path, monkeypatch):
    """It keeps the outputs of the last tasks, on disk."""
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path / "crewai"))


@tool("weather")
def weather(city: str) -> str:
    """The weather in a city."""
    return look_up(city)


def model(base_url, name="able", **options):
    return LLM(
        model=name,
        provider="openai",
        base_url=base_url,
        api_key="right",
        temperature=0.25,
        max_tokens=50,
        max_retries=0,
        **options,
    )


def messages(question):
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


class TestCrewAI(Conformance):
    framework = "crewai"
    title = "CrewAI"
    absent = {"embeddings": "its memory leaves them to the vector store's client library; instrument that"}
    options = {}

    def ask(self, base_url, question):
        return model(base_url, **self.options).call(messages(question))

    async def ask_async(self, base_url, question, name="able"):
        llm = model(base_url, name, **self.options)
        try:
            return await llm.acall(messages(question))
        finally:
            await llm._get_async_client().close()

    def stream(self, base_url, question):
        return model(base_url, stream=True, **self.options).call(messages(question))

    async def use_tool(self, base_url, question):
        agent = Agent(
            role="helper",
            goal="Help",
            backstory=SYSTEM,
            tools=[weather],
            llm=model(base_url, **self.options),
        )
        task = Task(description=question, expected_output="The weather", agent=agent)
        return (await Crew(agents=[agent], tasks=[task]).kickoff_async()).raw


class TestCrewAIResponses(TestCrewAI):
    options = {"api": "responses"}


# What is special to the framework

RULES = r"""
models:
  able: {latency: {time_to_first_token_s: 0.01, time_per_output_token_s: 0.002}}
  late: {latency: {time_to_first_token_s: 1}}
  writer: {}
api_key: right
rules:
  - when: {last_user_matches: 'break it'}
    reply: {error: {status: 400, message: This model breaks on demand.}}
  - when: {last_message_matches: 'Analyze the tool result', model: writer}
    reply: "Thought: I know\nFinal Answer: it rains"
  - when: {last_user_matches: 'weather', model: writer}
    reply: "Thought: I look\nAction: weather\nAction Input: {\"city\": \"Oslo\"}"
  - when: {last_message_role: tool}
    reply: "The tool said: $last"
  - when: {last_user_matches: 'two cities', has_tool: weather}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}, {name: weather, arguments: {city: Rome}}]}
  - when: {last_user_matches: 'one city', has_tool: weather}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}]}
  - when: {last_user_matches: 'fall', has_tool: fall}
    reply: {tool_calls: [{name: fall, arguments: {height_m: 3}}]}
  - when: {last_user_matches: 'pass it on', has_tool: delegate_work_to_coworker}
    reply:
      tool_calls:
        - name: delegate_work_to_coworker
          arguments: {task: Count., context: none, coworker: second}
  - when: {last_user_matches: 'say (?P<word>\w+)'}
    reply: "$word"
default: "one two three four five"
"""


@tool("fall")
def fall(height_m: int) -> str:
    """Fall."""
    raise ValueError(f"fell {height_m} m")


@tool("fall")
def fall_quietly(height_m: int) -> str:
    """Fall."""
    return ToolFailure(message=f"fell {height_m} m")


class Writer(BaseLLM):
    """A model class of the user's own, whose agents read calls of tools from text."""

    def call(self, messages, *args, **kwargs):
        said = [{"role": one["role"], "content": one["content"]} for one in messages]
        with httpx.Client() as client:
            answer = client.post(
                f"{self.base_url}/chat/completions",
                headers={"Authorization": "Bearer right"},
                json={"model": self.model, "messages": said},
            )
        return answer.json()["choices"][0]["message"]["content"]

    def supports_function_calling(self):
        return False


@pytest.fixture(scope="module")
def own_url(tmp_path_factory):
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    with running(rules) as stand_in:
        yield stand_in.base_url


@pytest.fixture
def instrumented():
    millstream.instrument("crewai")
    yield
    millstream.uninstrument()


@pytest.fixture
def llm(own_url, instrumented):
    return model(own_url)


def agent(llm, name="helper", tools=(weather,), **options):
    return Agent(role=name, goal="Help", backstory=SYSTEM, tools=list(tools), llm=llm, **options)


def crew(llm, *questions, tools=(weather,), **options):
    helper = agent(llm, tools=tools)
    tasks = [
        Task(name=f"task {number}", description=question, expected_output="An answer", agent=helper)
        for number, question in enumerate(questions)
    ]
    return Crew(name="team", agents=[helper], tasks=tasks, **options)


def tree(spans):
    """The spans as kind and name, children in order of start."""

    def below(parent_id):
        return [
            (span.kind.value, span.name, *below(span.span_id))
            for span in spans
            if span.parent_id == parent_id
        ]

    return below(None)


def all_ok(spans):
    return all(span.status is Status.OK for span in spans)


MODEL = ("LLM", "able")
TOOL = ("TOOL", "weather", ("FUNCTION", "look_up"))


def run_of(*steps):
    return (
        "WORKFLOW",
        "team",
        *[("TASK", f"task {n}", ("AGENT", "helper", *step)) for n, step in enumerate(steps)],
    )


WAYS = ["kickoff", "kickoff_async", "akickoff"]


async def consumed(made):
    """A crew's output, or the output of its stream, read to the end."""
    made = await made if inspect.isawaitable(made) else made
    if isinstance(made, CrewOutput):
        return made.raw
    if hasattr(made, "__aiter__") and made._async_iterator is not None:
        return "".join([piece.content async for piece in made])
    return "".join(piece.content for piece in made)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("way", WAYS)
async def test_a_crew_is_one_tree(llm, spans, way, streamed):
    team = crew(llm, "one city", "say hello", stream=streamed)
    if way == "kickoff":
        answer = await asyncio.to_thread(lambda: asyncio.run(consumed(team.kickoff({"year": 2026}))))
    else:
        answer = await consumed(getattr(team, way)({"year": 2026}))
    assert "hello" in answer
    assert tree(spans()) == [run_of((MODEL, TOOL, MODEL), (MODEL,))]
    assert all_ok(spans())
    (root,) = of_kind(spans(), SpanKind.WORKFLOW)
    assert (root.input, root.output) == ({"year": 2026}, "hello")
    first, second = of_kind(spans(), SpanKind.TASK)
    assert first.input["description"] == "one city"
    assert "rain in Oslo" in second.input["context"]
    assert second.output == "hello"
    assert of_kind(spans(), SpanKind.AGENT)[0].attributes[semconv.AGENT_NAME] == "helper"


async def test_each_input_is_a_trace(llm, spans):
    await asyncio.to_thread(crew(llm, "say {word}").kickoff_for_each, [{"word": "one"}, {"word": "two"}])
    await crew(llm, "say {word}").kickoff_for_each_async([{"word": "three"}, {"word": "four"}])
    roots = of_kind(spans(), SpanKind.WORKFLOW)
    assert sorted(root.output for root in roots) == ["four", "one", "three", "two"]
    assert all(root.output == root.input["word"] for root in roots)
    assert tree(spans()) == [run_of((MODEL,))] * 4


def test_parallel_calls_of_a_tool_are_siblings_with_their_ids(llm, spans):
    crew(llm, "two cities").kickoff()
    assert tree(spans()) == [run_of((MODEL, TOOL, TOOL, MODEL))]
    calls = {call["id"] for call in model_calls(spans())[0].output["tool_calls"]}
    tools = of_kind(spans(), SpanKind.TOOL)
    assert {span.attributes[semconv.TOOL_CALL_ID] for span in tools} == calls
    assert {span.input["city"] for span in tools} == {"Oslo", "Rome"}
    assert tools[0].attributes[semconv.TOOL_DESCRIPTION] == "The weather in a city."


def test_a_result_from_the_cache_is_a_tool_that_was_not_run(llm, spans):
    crew(llm, "one city", "one city again", cache=True).kickoff()
    known = ("TOOL", "weather")
    assert tree(spans()) == [run_of((MODEL, TOOL, MODEL), (MODEL, known, MODEL))]
    first, second = of_kind(spans(), SpanKind.TOOL)
    assert second.attributes["millstream.tool.from_cache"] is True
    assert second.attributes[semconv.TOOL_CALL_ID]
    assert (second.input, second.output) == (first.input, first.output)


def test_an_agent_that_writes_its_calls_as_text(own_url, instrumented, spans):
    writer = Writer(model="writer", base_url=own_url)
    answer = crew(writer, "weather please", "weather once more", cache=True).kickoff().raw
    assert answer == "it rains"
    written = ("LLM", "writer")
    known = ("TOOL", "weather")
    assert tree(spans()) == [run_of((written, TOOL, written), (written, known, written))]
    first, second = of_kind(spans(), SpanKind.TOOL)
    assert first.input == second.input == {"city": "Oslo"}
    assert "rain in Oslo" in second.output
    assert "Action: weather" in text_of(model_calls(spans())[0].output)
    assert all_ok(spans())


@pytest.mark.parametrize("tool_that_fails", [fall, fall_quietly])
def test_a_tool_that_fails_is_an_error_that_the_agent_survives(llm, spans, tool_that_fails):
    assert "fell 3 m" in crew(llm, "fall", tools=[tool_that_fails]).kickoff().raw
    (found,) = of_kind(spans(), SpanKind.TOOL)
    assert found.status is Status.ERROR
    assert found.error.type in ("ValueError", "ToolFailure")
    assert found.error.message == "fell 3 m"
    assert [span.status for span in spans() if span.kind is not SpanKind.TOOL] == [Status.OK] * 5


@pytest.mark.parametrize("way", WAYS)
async def test_a_failed_model_call_fails_all_around_it(llm, spans, way):
    team = crew(llm, "break it")
    with pytest.raises(Exception, match="breaks on demand"):
        await (asyncio.to_thread(team.kickoff) if way == "kickoff" else getattr(team, way)())
    assert len(of_kind(spans(), SpanKind.AGENT)) == 1, "its attempts are one step"
    assert all(span.status is Status.ERROR for span in spans())
    assert all("breaks on demand" in span.error.message for span in spans())


async def test_a_cancelled_crew_is_cancelled(own_url, instrumented, spans):
    working = asyncio.ensure_future(crew(model(own_url, "late"), "Count.").akickoff())
    await asyncio.sleep(0.5)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert [span.kind.value for span in spans()] == ["WORKFLOW", "TASK", "AGENT", "LLM"]
    assert [span.status for span in spans()[:3]] == [Status.CANCELLED] * 3
    await asyncio.get_running_loop().shutdown_default_executor()
    assert model_calls(spans())[0].status is Status.OK, "the thread that waits for the model goes on"


@pytest.mark.parametrize("way", ["kickoff", "kickoff in a loop", "kickoff_async"])
async def test_an_agent_asked_by_itself(llm, spans, way):
    helper = agent(llm)
    if way == "kickoff":
        answer = await asyncio.to_thread(helper.kickoff, "one city")
    else:
        answer = await (helper.kickoff("one city") if "loop" in way else helper.kickoff_async("one city"))
    assert "rain in Oslo" in answer.raw
    assert tree(spans()) == [("AGENT", "helper", MODEL, TOOL, MODEL)]
    (root,) = of_kind(spans(), SpanKind.AGENT)
    assert root.input == [{"role": "user", "content": "one city"}]
    assert "rain in Oslo" in root.output
    assert all_ok(spans())


def test_work_passed_on_is_below_the_tool_that_passes_it_on(llm, spans):
    first, second = agent(llm, "first", (), allow_delegation=True), agent(llm, "second", ())
    task = Task(name="task 0", description="pass it on", expected_output="An answer", agent=first)
    Crew(name="team", agents=[first, second], tasks=[task]).kickoff()
    passing = ("TOOL", "delegate_work_to_coworker", ("AGENT", "second", MODEL))
    assert tree(spans()) == [
        ("WORKFLOW", "team", ("TASK", "task 0", ("AGENT", "first", MODEL, passing, MODEL)))
    ]


def test_tasks_at_the_same_time(llm, spans):
    helpers = [agent(llm) for _ in range(3)]
    tasks = [
        Task(
            name=f"task {number}",
            description=f"say {word}",
            expected_output="A word",
            agent=helpers[number],
            async_execution=number < 2,
        )
        for number, word in enumerate(("one", "two", "three"))
    ]
    Crew(name="team", agents=helpers, tasks=tasks).kickoff()
    assert tree(spans()) == [run_of((MODEL,), (MODEL,), (MODEL,))]
    for task in of_kind(spans(), SpanKind.TASK):
        assert task.output == task.input["description"].removeprefix("say ")


def test_crews_at_the_same_time_keep_apart(llm, spans):
    words = [f"word{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert [one.raw for one in pool.map(lambda word: crew(llm, f"say {word}").kickoff(), words)] == words
    roots = {span.trace_id: span for span in of_kind(spans(), SpanKind.WORKFLOW)}
    assert len(roots) == 8
    for call in model_calls(spans()):
        assert roots[call.trace_id].output == text_of(call.output)


class Plan(Flow):
    model: Any = None

    @start()
    def first(self):
        return self.model.call("say first")

    @start()
    async def also_first(self):
        return await asyncio.to_thread(self.model.call, "say also")

    @listen(first)
    def second(self, word):
        return crew(self.model, f"say {word}").kickoff().raw


@pytest.mark.parametrize("way", [*WAYS, "stream"])
async def test_a_flow_is_the_root_of_what_it_does(llm, spans, way):
    plan = Plan()
    plan.model = llm
    plan.stream = way == "stream"
    if way == "kickoff":
        await asyncio.to_thread(plan.kickoff, {"year": 2026})
    elif way == "stream":
        await asyncio.to_thread(lambda: list(plan.kickoff({"year": 2026})))
    else:
        await getattr(plan, way)({"year": 2026})
    (root,) = tree(spans())
    assert root[:2] == ("WORKFLOW", "Plan")
    assert sorted(root[2:]) == [MODEL, MODEL, run_of((MODEL,))]
    (flow, *_) = of_kind(spans(), SpanKind.WORKFLOW)
    assert flow.input == {"year": 2026}
    assert flow.output in ("first", "also")
    assert all_ok(spans())


def test_a_function_that_is_run_within_a_model_call(llm, spans):
    answer = llm.call(
        messages("one city"),
        tools=[weather_schema()],
        available_functions={"weather": look_up},
    )
    assert answer == "rain in Oslo"
    assert tree(spans()) == [("LLM", "able", TOOL)]
    (call,) = model_calls(spans())
    assert call.output["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Oslo"}'}
    assert call.usage.output_tokens > 0
    (found,) = of_kind(spans(), SpanKind.TOOL)
    assert (found.input, found.output) == ({"city": "Oslo"}, "rain in Oslo")


def weather_schema():
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {
        "type": "function",
        "function": {"name": "weather", "description": "The weather.", "parameters": parameters},
    }


SERVER = """
from mcp.server.fastmcp import FastMCP
server = FastMCP("x", log_level="ERROR")
@server.tool()
def ping(text: str) -> str:
    return "pong " + text
server.run()
"""


def test_a_tool_of_a_server_is_one_step(llm, spans, tmp_path):
    millstream.instrument()
    (tmp_path / "server.py").write_text(SERVER)
    server = MCPServerStdio(command=sys.executable, args=[str(tmp_path / "server.py")])
    (ping,) = agent(llm).get_mcp_tools([server])
    assert ping.run(text="hi") == "pong hi"
    (found,) = of_kind(spans(), SpanKind.TOOL)
    assert found.name.endswith("ping")
    assert found.input == {"text": "hi"}
    assert "pong hi" in str(found.output)


def test_a_stream_of_events_of_a_model(llm, spans):
    frames = list(llm.stream_events("Count."))
    assert frames
    (call,) = model_calls(spans())
    assert call.attributes[semconv.CHUNK_COUNT] == 5
    assert text_of(call.output) == "one two three four five"


def test_a_stream_that_is_left_ends_well(llm, spans):
    stream = crew(llm, "Count.", "Count.", stream=True).kickoff()
    for piece in stream:
        assert piece.content
        break
    stream.close()
    deadline = time.monotonic() + 10
    while any(span.end_ns is None for span in spans()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tree(spans()) == [run_of((MODEL,), (MODEL,))], "it goes on without its reader"
    assert all_ok(spans())


def test_uninstrumented_in_the_middle_a_run_is_recorded_to_its_end(own_url, instrumented, spans):
    @tool("weather")
    def last(city: str) -> str:
        """The weather in a city."""
        millstream.uninstrument()
        return look_up(city)

    crew(model(own_url), "one city", tools=[last]).kickoff()
    assert tree(spans()) == [run_of((MODEL, TOOL))]
    assert all_ok(spans())


def test_uninstrument_puts_every_method_back(own_url):
    owners = [Crew, Task, Agent, Flow, LLM, BaseLLM, *type(model(own_url)).__mro__, Writer]
    owners += [type(weather), BaseTool, CrewStructuredTool, type(crewai_event_bus), step_executor]
    before = [dict(vars(owner)) for owner in owners]
    millstream.instrument("crewai")
    crew(model(own_url), "say hello").kickoff()

    class Later(Writer):
        def call(self, messages, *args, **kwargs):
            return super().call(messages)

    assert Later(model="writer").call.__func__ is not vars(Later)["call"].__wrapped__
    assert [dict(vars(owner)) for owner in owners] != before
    millstream.uninstrument("crewai")
    for owner, names in zip(owners, before, strict=True):
        changed = {name for name, value in vars(owner).items() if names.get(name) is not value}
        assert not {name for name in changed if not name.startswith(("_abc_", "__pydantic", "_post"))}, owner


def test_nothing_of_a_run_is_kept(llm, spans):
    crew(llm, "two cities", cache=True).kickoff()
    list(crew(llm, "Count.", stream=True).kickoff())
    with contextlib.suppress(Exception):
        crew(llm, "break it").kickoff()
    crewai_event_bus.flush()
    gc.collect()
    traces = {span.trace_id for span in spans()}
    live = [found for found in gc.get_objects() if type(found) is LiveSpan and found.trace_id in traces]
    assert [found.name for found in live] == []


def test_without_content_a_crew_leaves_no_word(llm, home):
    with millstream.recording(home=home / "bare", capture_content=False):
        crew(llm, "two cities").kickoff()
        crew(llm, "fall", tools=[fall_quietly]).kickoff()
    text = "".join(path.read_text() for path in (home / "bare").rglob("*.jsonl"))
    assert "helper" in text
    for said in (SYSTEM, "two cities", "Oslo", "rain", "fell 3 m"):
        assert said not in text
