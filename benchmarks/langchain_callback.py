"""What recording costs a LangChain model call: a chat model that answers at once, in three ways.

    .venv/bin/python benchmarks/langchain_callback.py

Without callbacks; with a handler that does nothing, LangChain's own price of having one; and recorded.
One process, rounds in turn. The conversation has 41 messages of about 500 characters, of every role and with
a few tool calls, some 20 kB of JSON. The figure is CPU time of the calling thread alone, in microseconds a
call (CLOCK_THREAD_CPUTIME_ID), the journal on disk included.
"""

import argparse
import gc
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult

import millstream

CALLS = 50
WARM_UP = 10
MESSAGES = 41
TEXT = "The wheel turns as long as the stream runs, and the stream runs as long as there is rain. " * 6


class Instant(BaseChatModel):
    """Answers at once."""

    @property
    def _llm_type(self) -> str:
        return "instant"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": "instant", "temperature": 0.2, "max_tokens": 500}

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        answer = AIMessage(
            "A mill needs water.",
            usage_metadata={"input_tokens": 5000, "output_tokens": 6, "total_tokens": 5006},
            response_metadata={"model_name": "instant", "finish_reason": "stop", "id": f"r{len(messages)}"},
        )
        return ChatResult(generations=[ChatGeneration(message=answer)])


def conversation() -> list[BaseMessage]:
    messages: list[BaseMessage] = [SystemMessage(TEXT[:500])]
    while len(messages) < MESSAGES:
        number = len(messages)
        call = {"name": "look_up", "args": {"query": TEXT[:80], "limit": number}, "id": f"call_{number}"}
        if number % 8 == 1:
            messages += [AIMessage("", tool_calls=[call]), ToolMessage(TEXT[:500], tool_call_id=call["id"])]
        else:
            messages += [HumanMessage(TEXT[:500]), AIMessage(TEXT[:500])]
    return messages[:MESSAGES]


def round_us(call: Callable[[], object]) -> float:
    """Microseconds of the calling thread's CPU a call, over one round, after some that warm up."""
    for _ in range(WARM_UP):
        call()
    started = time.thread_time_ns()
    for _ in range(CALLS):
        call()
    return (time.thread_time_ns() - started) / CALLS / 1000


class Idle(BaseCallbackHandler):
    """Does nothing."""

    run_inline = True

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        """Else LangChain makes one text of all messages."""


def measure(variants: dict[str, Callable[[Any], object]], rounds: int) -> dict[str, list[tuple[float, ...]]]:
    """Rounds of each variant: without callbacks, with an idle handler, recorded; taken in turn."""
    samples: dict[str, list[tuple[float, ...]]] = {name: [] for name in variants}
    idle = {"callbacks": [Idle()]}
    for number in range(rounds + 1):
        with millstream.start_span("bench"):
            for name, call in variants.items():
                figures = [round_us(lambda: call(None)), round_us(lambda: call(idle))]  # noqa: B023  # called at once
                millstream.instrument("langchain")
                figures.append(round_us(lambda: call(None)))  # noqa: B023
                millstream.uninstrument("langchain")
                if number:  # the first warms up
                    samples[name].append(tuple(figures))
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    messages, model = conversation(), Instant()
    chain = model | StrOutputParser()
    variants: dict[str, Callable[[Any], object]] = {
        "model.invoke, 41 messages": lambda config: model.invoke(messages, config),
        "model.invoke, 1 message": lambda config: model.invoke(messages[:1], config),
        "(model | parser).invoke, 41 messages": lambda config: chain.invoke(messages, config),
    }
    with tempfile.TemporaryDirectory() as folder, millstream.recording(home=folder) as recording:
        gc.disable()
        samples = measure(variants, rounds)
        stored = recording.stats()["stored"]
        spans = [span for span in millstream.open_store(folder).spans() if span.kind == "LLM"]
        on_disk = sum(path.stat().st_size for path in Path(folder).rglob("*.jsonl"))
    if len(spans[0].input) != MESSAGES:
        raise SystemExit("the messages were not recorded")
    print(f"Python {platform.python_version()}, langchain-core {version('langchain-core')},")
    print(f"{rounds} rounds of {CALLS} calls each; {on_disk / stored / 1000:.1f} kB a span on disk\n")
    heads = ("bare", "idle", "recorded", "above idle", "10 %", "90 %")
    print(f"{'caller CPU, us a call':38}" + "".join(f"{head:>11}" for head in heads))
    for name, rows in samples.items():
        above = [recorded - idle for _, idle, recorded in rows]
        cuts = statistics.quantiles(above, n=10)
        medians = [statistics.median(column) for column in (*zip(*rows, strict=True), above)]
        print(f"{name:38}" + "".join(f"{figure:11.1f}" for figure in (*medians, cuts[0], cuts[-1])))


if __name__ == "__main__":
    main()
