"""What an integration must capture, asked of every framework in the same way.

A framework's test is a class that inherits `Conformance` and drives the framework: its own code, over HTTP,
against the stand-in server. Each feature is one test. What a framework does not have is named in `absent`
with the reason. The row of the table in docs/integrations.md is made from what the tests found; with
`pytest --write-table` it is written there.
"""

import asyncio
import inspect
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

import millstream
from millstream import Span, SpanKind, Status, semconv, track_function

RULES = r"""
models:
  able:
    prefix_cache: true
    reasoning_tokens: 7
    latency: {time_to_first_token_s: 0.02, time_per_output_token_s: 0.001}
  slow: {latency: {time_to_first_token_s: 30}}
  embedder: {}
api_key: right
rules:
  - when: {last_user_matches: 'break it'}
    reply: {error: {status: 400, message: This model breaks on demand.}}
  - when: {has_tool: weather, last_message_role: user}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}]}
  - when: {has_tool: forecast-weather, last_message_role: user}
    reply: {tool_calls: [{name: forecast-weather, arguments: {city: Oslo}}]}
  - when: {last_message_role: tool}
    reply: "The tool said: $last"
  - when: {last_user_matches: 'say (?P<word>\w+)'}
    reply: "$word"
default: "one two three four five"
"""
SYSTEM = "Be brief."
LONG = "Count. " + "This sentence makes the prompt long enough to be cached. " * 20
TABLE = Path(__file__).parents[2] / "docs" / "integrations.md"

FEATURES = {
    "model": "model, provider",
    "messages": "messages",
    "parameters": "parameters",
    "tools": "tools offered",
    "tool_calls": "tool calls",
    "tool_runs": "tool runs",
    "usage": "usage",
    "details": "cached, reasoning tokens",
    "first_chunk": "time to first chunk",
    "answer": "answer's id, model, finish reason",
    "errors": "errors",
    "concurrency": "parent under concurrency",
    "asynchronous": "async",
    "cancelled": "cancellation",
    "embeddings": "embeddings",
}
"""What is asked, with the heading of its column."""


@track_function
def look_up(city: str) -> str:
    """What the tool `weather` of every driver calls."""
    return f"rain in {city}"


class Conformance:
    """Inherit as `TestX`, and drive the framework in the methods below; each may be async.

    Attributes:
        framework: the integration's name.
        title: the framework's name in the table.
        provider: the `gen_ai.provider.name` of its calls.
        tool: what the tool is called by the model; of a framework with plugins, `forecast-weather`.
        absent: features that the framework does not have or cannot tell, with the reason; "" for what
            cannot be asked of it.
    """

    framework: ClassVar[str]
    title: ClassVar[str]
    provider: ClassVar[str] = "openai"
    tool: ClassVar[str] = "weather"
    absent: ClassVar[dict[str, str]] = {}
    captured: ClassVar[set[str]]

    def ask(self, base_url: str, question: str) -> Any:
        """Call model `able` with system message SYSTEM, temperature 0.25, max_tokens 50; give the text."""
        raise NotImplementedError

    def ask_async(self, base_url: str, question: str, model: str = "able") -> Any:
        """As `ask`, by the framework's asynchronous way, of any model."""
        raise NotImplementedError

    def stream(self, base_url: str, question: str) -> Any:
        """As `ask`, streamed: consume the stream, give the text."""
        raise NotImplementedError

    def use_tool(self, base_url: str, question: str) -> Any:
        """Have an agent of the framework answer with a tool `weather(city)` that returns `look_up(city)`."""
        raise NotImplementedError

    def embed(self, base_url: str, text: str) -> Any:
        """Call model `embedder`; give the vector."""
        raise NotImplementedError

    # The features: each method gives nothing, and fails where its feature is not captured

    async def check_model(self, base_url, spans):
        await result(self.ask(base_url, "Count."))
        span = only_model_call(spans())
        assert span.kind is SpanKind.LLM
        assert span.attributes[semconv.REQUEST_MODEL] == "able"
        assert span.attributes[semconv.PROVIDER_NAME] == self.provider
        assert span.attributes[semconv.OPERATION_NAME] == "chat"
        assert span.attributes[semconv.FRAMEWORK] == self.framework
        assert span.status is Status.OK

    async def check_messages(self, base_url, spans):
        assert "one two three" in str(await result(self.ask(base_url, "Count.")))
        span = only_model_call(spans())
        said = [(message["role"], text_of(message)) for message in span.input]
        assert said[0][0] in ("system", "developer")
        assert SYSTEM in said[0][1]
        assert said[-1][0] == "user"
        assert "Count." in said[-1][1]
        assert span.output["role"] == "assistant"
        assert text_of(span.output) == "one two three four five"

    async def check_parameters(self, base_url, spans):
        await result(self.ask(base_url, "Count."))
        attributes = only_model_call(spans()).attributes
        assert attributes[semconv.REQUEST_TEMPERATURE] == 0.25
        assert attributes[semconv.REQUEST_MAX_TOKENS] == 50

    async def check_tools(self, base_url, spans):
        await result(self.use_tool(base_url, "What is the weather in Oslo?"))
        first = model_calls(spans())[0]
        (tool,) = first.attributes[semconv.TOOL_DEFINITIONS]
        assert tool["type"] == "function"
        assert tool["function"]["name"] == self.tool
        assert "city" in tool["function"]["parameters"]["properties"]

    async def check_tool_calls(self, base_url, spans):
        await result(self.use_tool(base_url, "What is the weather in Oslo?"))
        first, second = model_calls(spans())
        (call,) = first.output["tool_calls"]
        assert call["type"] == "function"
        assert call["function"]["name"] == self.tool
        assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
        assert call["id"]
        (asked,) = [call for message in second.input for call in message.get("tool_calls") or ()]
        assert asked["id"] == call["id"]
        (answer,) = [message for message in second.input if message["role"] == "tool"]
        assert answer["tool_call_id"] == call["id"]
        assert "rain in Oslo" in text_of(answer)

    async def check_tool_runs(self, base_url, spans):
        answer = await result(self.use_tool(base_url, "What is the weather in Oslo?"))
        assert "rain in Oslo" in str(answer)
        (tool,) = of_kind(spans(), SpanKind.TOOL)
        assert tool.name == self.tool
        assert tool.input == {"city": "Oslo"}
        assert "rain in Oslo" in json.dumps(tool.output)
        assert tool.status is Status.OK
        (inside,) = [span for span in spans() if span.name == "look_up"]
        assert inside.parent_id == tool.span_id
        assert len({span.trace_id for span in spans()}) == 1
        assert len([span for span in spans() if span.parent_id is None]) == 1

    async def check_usage(self, base_url, spans):
        await result(self.ask(base_url, "Count."))
        usage = only_model_call(spans()).usage
        assert 8 <= usage.input_tokens < 100
        assert usage.output_tokens == 7 + 5

    async def check_details(self, base_url, spans):
        for _ in range(2):
            await result(self.ask(base_url, LONG))
        _, second = model_calls(spans())
        assert 100 < second.usage.cache_read_tokens <= second.usage.input_tokens
        assert second.usage.reasoning_tokens == 7

    async def check_first_chunk(self, base_url, spans):
        text = await result(self.stream(base_url, "Count."))
        assert "one two three four five" in str(text)
        span = only_model_call(spans())
        assert 0.02 <= span.attributes[semconv.TIME_TO_FIRST_CHUNK_S] < span.duration_s
        assert span.attributes[semconv.CHUNK_COUNT] == 5
        assert text_of(span.output) == "one two three four five"
        assert span.usage.output_tokens == 12
        assert span.status is Status.OK

    async def check_answer(self, base_url, spans):
        await result(self.ask(base_url, "Count."))
        attributes = only_model_call(spans()).attributes
        assert re.match(r"(chatcmpl|resp)[-_]\w+", attributes[semconv.RESPONSE_ID])
        assert attributes[semconv.RESPONSE_MODEL] == "able"
        assert attributes[semconv.RESPONSE_FINISH_REASONS] in (["stop"], ["completed"])

    async def check_errors(self, base_url, spans):
        with pytest.raises(Exception):  # noqa: B017, PT011  # each framework has its own
            await result(self.ask(base_url, "Please break it."))
        span = model_calls(spans())[-1]
        assert span.status is Status.ERROR
        assert span.error.type
        assert "breaks on demand" in span.error.message
        assert all(span.end_ns is not None for span in spans())

    async def check_concurrency(self, base_url, spans):
        words = [f"word{number}" for number in range(12)]
        await self.at_once(self.ask, words, base_url)
        roots = {span.span_id: span for span in spans() if span.name == "asking"}
        calls = model_calls(spans())
        assert len(calls) == len(roots) == 12
        above = {span.span_id: span for span in spans()}
        for call in calls:
            root = call
            while root.parent_id is not None:
                root = above[root.parent_id]
            assert root.name == "asking"
            assert text_of(call.output) == root.input["word"]

    async def check_asynchronous(self, base_url, spans):
        words = [f"word{number}" for number in range(12)]
        await self.at_once(self.ask_async, words, base_url)
        calls = model_calls(spans())
        assert sorted(text_of(call.output) for call in calls) == sorted(words)
        assert all(span.status is Status.OK for span in spans())
        assert len({span.trace_id for span in spans()}) == 12

    async def check_cancelled(self, base_url, spans):
        task = asyncio.ensure_future(result(self.ask_async(base_url, "Count.", "slow")))
        for _ in range(500):
            await asyncio.sleep(0.01)
            if any(span.kind is SpanKind.LLM for span in spans()):
                break
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert only_model_call(spans()).status is Status.CANCELLED
        assert all(span.end_ns is not None for span in spans())

    async def check_embeddings(self, base_url, spans):
        vector = await result(self.embed(base_url, "a mill stream"))
        assert len(vector) > 1
        (span,) = of_kind(spans(), SpanKind.EMBEDDING)
        assert span.attributes[semconv.OPERATION_NAME] == "embeddings"
        assert span.attributes[semconv.REQUEST_MODEL] == "embedder"
        assert "a mill stream" in json.dumps(span.input)
        assert span.usage.input_tokens > 0
        assert len(json.dumps(span.output)) < 200, "vectors are not kept, their number and size are"

    # The tests

    @pytest.fixture(autouse=True)
    def instrumented(self):
        assert self.framework in millstream.instrument(self.framework)
        assert self.framework in millstream.instrument(self.framework)
        yield
        millstream.uninstrument()

    async def test_feature(self, feature, base_url, spans):
        await getattr(self, f"check_{feature}")(base_url, spans)
        self.captured.add(feature)

    async def test_one_call_is_one_span_with_every_integration_on(self, base_url, spans):
        millstream.instrument()
        await result(self.ask(base_url, "Count."))
        span = only_model_call(spans())
        assert span.usage.output_tokens == 12

    async def test_one_tool_run_is_one_span_with_every_integration_on(self, base_url, spans):
        if "tool_runs" in self.absent:
            return
        millstream.instrument()
        await result(self.use_tool(base_url, "What is the weather in Oslo?"))
        assert len(of_kind(spans(), SpanKind.TOOL)) == 1
        assert len(model_calls(spans())) == 2

    async def test_uninstrumented_it_records_nothing(self, base_url, spans):
        await result(self.ask(base_url, "Count."))
        before = len(spans())
        millstream.uninstrument()
        await result(self.ask(base_url, "Count."))
        assert len(spans()) == before
        millstream.instrument(self.framework)
        await result(self.ask(base_url, "Count."))
        assert len(spans()) == 2 * before

    async def test_without_content_structure_usage_and_times_stay(self, base_url, home):
        with millstream.recording(home=home / "bare", capture_content=False):
            await result(self.ask(base_url, "Count."))
        text = "".join(path.read_text() for path in (home / "bare").rglob("*.jsonl"))
        span = only_model_call(millstream.open_store(home / "bare").spans())
        assert span.usage.output_tokens == 12
        assert SYSTEM not in text
        assert "one two three" not in text

    def test_the_table_tells_what_is_captured(self, request):
        if self.captured | set(self.absent) != set(FEATURES):
            pytest.skip("only after all features of the framework were tried")
        table_row(self.title, self.captured, self.absent, write=request.config.getoption("--write-table"))

    @staticmethod
    async def at_once(driver: Callable[..., Any], words: list[str], base_url: str) -> None:
        """Ask all at once, each in a span of its own: in tasks where the driver is async, else threads."""
        if inspect.iscoroutinefunction(driver):

            @track_function
            async def asking(word):
                return await driver(base_url, f"say {word}")

            await asyncio.gather(*map(asking, words))
            return

        def asking(word):
            return driver(base_url, f"say {word}")

        loop, tracked = asyncio.get_running_loop(), track_function(asking)
        with ThreadPoolExecutor(len(words)) as pool:
            await asyncio.gather(*(loop.run_in_executor(pool, tracked, word) for word in words))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a feature that the framework has; imported by tests/conftest.py."""
    if "feature" in metafunc.fixturenames and metafunc.cls is not None:
        metafunc.cls.captured = set()
        metafunc.parametrize("feature", [name for name in FEATURES if name not in metafunc.cls.absent])


async def result(value: Any) -> Any:
    """What a driver gave, awaited where it is to be awaited."""
    return await value if inspect.isawaitable(value) else value


def of_kind(spans: list[Span], kind: SpanKind) -> list[Span]:
    return [span for span in spans if span.kind is kind]


def model_calls(spans: list[Span]) -> list[Span]:
    return of_kind(spans, SpanKind.LLM)


def only_model_call(spans: Any) -> Span:
    (span,) = of_kind(list(spans), SpanKind.LLM)
    return span


def text_of(message: dict[str, Any]) -> str:
    """The text of an OpenAI message, whose content may be a list of parts."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


def table_row(title: str, captured: set[str], absent: dict[str, str], *, write: bool) -> None:
    """See that the table in the docs has this row, or write it there."""
    no = {name: f"no: {reason}" if reason else "n/a" for name, reason in absent.items()}
    cells = ["yes" if name in captured else no[name] for name in FEATURES]
    row = f"| {title} | {' | '.join(cells)} |"
    text = TABLE.read_text()
    if write:
        lines = [line for line in text.splitlines() if not line.startswith(f"| {title} |")]
        rows = [number for number, line in enumerate(lines) if line.startswith("|")]
        lines.insert(rows[-1] + 1, row)
        lines[rows[1] + 1 : rows[-1] + 2] = sorted(lines[rows[1] + 1 : rows[-1] + 2], key=str.lower)
        TABLE.write_text("\n".join(lines) + "\n")
    assert row in TABLE.read_text().splitlines(), "run pytest --write-table, and look at what changed"
