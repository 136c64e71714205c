"""What recording costs a LangChain model call, beside LangChain's own callbacks and a span of OpenTelemetry.

    .venv/bin/python benchmarks/langchain_callback.py [--rounds 60]

A chat model that answers at once is called without callbacks; with a handler that does nothing, LangChain's
own price of having one; and recorded. The conversation has 41 messages of about 500 characters, of every role
and with a few tool calls, some 20 kB of JSON. Each way runs in a process of its own, as a program would; they
take turns, since the speed of a shared machine changes by the minute. The figure is CPU time of the calling
thread alone, in microseconds a call (CLOCK_THREAD_CPUTIME_ID), the journal on disk included.
"""

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Final

CALLS: Final = 100
WARM_UP: Final = 5
BEFORE: Final = 300
"""Calls before the first round: by then Python has specialised its code."""
MESSAGES: Final = 41
TEXT: Final = "The wheel turns as long as the stream runs, and the stream runs as long as there is rain. " * 6
WAYS: Final = ("bare", "idle", "recorded")
CASES: Final = {
    "model.invoke, 41 messages": ("model", MESSAGES),
    "model.invoke, 1 message": ("model", 1),
    "(model | parser).invoke, 41 messages": ("chain", MESSAGES),
}


def conversation() -> list[Any]:
    """Messages of every role."""
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage  # noqa: PLC0415

    messages: list[Any] = [SystemMessage(TEXT[:500])]
    while len(messages) < MESSAGES:
        number = len(messages)
        call = {"name": "look_up", "args": {"query": TEXT[:80], "limit": number}, "id": f"call_{number}"}
        if number % 8 == 1:
            messages += [AIMessage("", tool_calls=[call]), ToolMessage(TEXT[:500], tool_call_id=call["id"])]
        else:
            messages += [HumanMessage(TEXT[:500]), AIMessage(TEXT[:500])]
    return messages[:MESSAGES]


def langchain_call(what: str, count: int, way: str) -> Callable[[], object]:
    """A call of a model, or of a chain of one and a parser."""
    from langchain_core.callbacks import BaseCallbackHandler  # noqa: PLC0415
    from langchain_core.language_models import BaseChatModel  # noqa: PLC0415
    from langchain_core.messages import AIMessage  # noqa: PLC0415
    from langchain_core.output_parsers import StrOutputParser  # noqa: PLC0415
    from langchain_core.outputs import ChatGeneration, ChatResult  # noqa: PLC0415

    class Instant(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "instant"

        @property
        def _identifying_params(self) -> dict[str, Any]:
            return {"model": "instant", "temperature": 0.2, "max_tokens": 500}

        def _generate(self, messages: list[Any], *_: Any, **__: Any) -> ChatResult:
            answer = AIMessage(
                "A mill needs water.",
                usage_metadata={"input_tokens": 5000, "output_tokens": 6, "total_tokens": 5006},
                response_metadata={
                    "model_name": "instant",
                    "finish_reason": "stop",
                    "id": f"r{len(messages)}",
                },
            )
            return ChatResult(generations=[ChatGeneration(message=answer)])

    class Idle(BaseCallbackHandler):
        run_inline = True

        def on_chat_model_start(self, *_: Any, **__: Any) -> None:
            """Else LangChain makes one text of all messages."""

    messages = conversation()[:count]
    called = Instant() if what == "model" else Instant() | StrOutputParser()
    config: Any = {"callbacks": [Idle()]} if way == "idle" else None
    return lambda: called.invoke(messages, config)


def opentelemetry_call() -> Callable[[], object]:
    """A span of OpenTelemetry's SDK with a small input and output, which nobody exports."""
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult  # noqa: PLC0415

    class Discard(SpanExporter):
        def export(self, *_: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Discard()))
    tracer = provider.get_tracer("benchmark")

    def call() -> object:
        with tracer.start_as_current_span("work") as span:
            span.set_attribute("input.value", json.dumps({"a": 1, "b": 2}))
            result = {"a": 1, "sum": 3, "ok": True}
            span.set_attribute("output.value", json.dumps(result))
            return result

    return call


def serve(case: str, way: str) -> None:
    """Time a round whenever a line comes, and say it."""
    import millstream  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        with millstream.recording(home=folder):
            call = opentelemetry_call() if way == "opentelemetry" else langchain_call(*CASES[case], way)
            if way == "recorded":
                millstream.instrument("langchain")
            with millstream.start_span("bench"):
                gc.disable()
                for _ in range(BEFORE):
                    call()
                for _ in sys.stdin:
                    for _ in range(WARM_UP):
                        call()
                    started = time.thread_time_ns()
                    for _ in range(CALLS):
                        call()
                    print((time.thread_time_ns() - started) / CALLS / 1000, flush=True)
        if way == "recorded":
            spans = [span for span in millstream.open_store(folder).spans() if span.kind == "LLM"]
            if {len(span.input) for span in spans} != {CASES[case][1]}:
                raise SystemExit("the messages were not recorded")


class Way:
    """A process that times one way of one case."""

    def __init__(self, case: str, way: str) -> None:
        command = [sys.executable, str(Path(__file__)), "--serve", case, way]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.us: list[float] = []

    def round(self) -> None:
        """Time one round."""
        given, told = self._pipes()
        given.write("\n")
        given.flush()
        self.us.append(float(told.readline()))

    def close(self) -> None:
        """End the process, which looks at what it recorded."""
        self._pipes()[0].close()
        if self._process.wait():
            raise SystemExit("a process failed")

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("no pipes")
        return self._process.stdin, self._process.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    other = Way("", "opentelemetry")
    ways = {case: [Way(case, way) for way in WAYS] for case in CASES}
    for _ in range(options.rounds):
        for one in (other, *(way for case in ways.values() for way in case)):
            one.round()
    print(f"Python {platform.python_version()}, langchain-core {version('langchain-core')},", end=" ")
    print(f"opentelemetry-sdk {version('opentelemetry-sdk')}")
    print(f"{options.rounds} rounds of {CALLS} calls each, medians; a span of OpenTelemetry: ", end="")
    print(f"{statistics.median(other.us):.1f} us\n")
    heads = ("bare", "idle", "recorded", "above idle", "10 %", "90 %", "x OTel")
    print(f"{'caller CPU, us a call':38}" + "".join(f"{head:>11}" for head in heads))
    for case, (bare, idle, recorded) in ways.items():
        above = [one - base for one, base in zip(recorded.us, idle.us, strict=True)]
        cuts = statistics.quantiles(above, n=10)
        ratio = statistics.median(one / span for one, span in zip(above, other.us, strict=True))
        medians = [statistics.median(column) for column in (bare.us, idle.us, recorded.us, above)]
        print(f"{case:38}" + "".join(f"{figure:11.1f}" for figure in (*medians, cuts[0], cuts[-1], ratio)))
    for one in (other, *(way for case in ways.values() for way in case)):
        one.close()


if __name__ == "__main__":
    main()
