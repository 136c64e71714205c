"""OpenAI's SDK beside other instrumentations whose spans we do not see, put on and taken off in any order.

Each call is one span while we are on, and none while we are off, of a client that is new and of one that was
made and used before all of them.
"""

import functools
import inspect
from collections import Counter
from itertools import product

import logfire
import openai
import pytest
from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInference
from opentelemetry.instrumentation.openai import OpenAIInstrumentor as OpenLLMetry
from opentelemetry.sdk.trace import TracerProvider

import millstream
from millstream import SpanKind, start_span
from millstream.record.integrations.openai.in_place import Bodies
from tests.integrations.conformance import text_of
from tests.integrations.test_otel_instrumentations import as_before
from tests.simulate.process import running

pytestmark = pytest.mark.filterwarnings("ignore:Support for class-based `config`")  # OpenLLMetry's

ASKED = {"model": "able", "messages": [{"role": "user", "content": "Count."}]}
CALLS = ("chat", "stream", "raw", "responses", "embeddings", "async", "async stream")
TEXT = "one two three four five"


class Ours:
    def put_on(self, clients):
        millstream.instrument("openai")

    def take_off(self):
        millstream.uninstrument("openai")


class OfOpenTelemetry:
    def __init__(self, kind):
        self.instrumentor = kind()
        self.provider = TracerProvider()

    def put_on(self, clients):
        self.instrumentor.instrument(tracer_provider=self.provider)

    def take_off(self):
        self.instrumentor.uninstrument()


class Logfire:
    """Of the classes of clients or, as its documentation shows first, of the clients there are."""

    def __init__(self, *, of_clients):
        self.of_clients = of_clients
        self.recording = logfire.configure(
            local=True,
            send_to_logfire=False,
            console=False,
            inspect_arguments=False,
            distributed_tracing=True,
            metrics=False,
        )

    def put_on(self, clients):
        self.on = self.recording.instrument_openai(clients if self.of_clients else None)
        self.on.__enter__()

    def take_off(self):
        self.on.__exit__(None, None, None)


THEIRS = {
    "openinference": lambda: OfOpenTelemetry(OpenInference),
    "openllmetry": lambda: OfOpenTelemetry(OpenLLMetry),
    "logfire": lambda: Logfire(of_clients=False),
    "logfire of clients": lambda: Logfire(of_clients=True),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(f"models: {{able: {{}}, embedder: {{}}}}\ndefault: {TEXT}\n")
    with running(rules) as stand_in:
        yield stand_in


@pytest.fixture
async def clients(server):
    with openai.OpenAI(base_url=server.base_url, max_retries=0) as client:
        async with openai.AsyncOpenAI(base_url=server.base_url, max_retries=0) as async_client:
            yield client, async_client


async def ask_all(client, async_client, age):
    """Every kind of call, each below a span that is named by it."""
    with start_span(f"chat, {age}"):
        client.chat.completions.create(**ASKED)
    with start_span(f"stream, {age}"):
        list(client.chat.completions.create(**ASKED, stream=True))
    with start_span(f"raw, {age}"):
        client.chat.completions.with_raw_response.create(**ASKED).parse()
    with start_span(f"responses, {age}"):
        client.responses.create(model="able", input="Count.")
    with start_span(f"embeddings, {age}"):
        client.embeddings.create(model="embedder", input="a mill stream")
    with start_span(f"async, {age}"):
        await async_client.chat.completions.create(**ASKED)
    with start_span(f"async stream, {age}"):
        async for _ in await async_client.chat.completions.create(**ASKED, stream=True):
            pass


ORDERS = [order for order in product(("ours", "theirs"), repeat=3) if "ours" in order]
"""Each turns one of them on, or off where it is on. Every shorter order is the beginning of one of these."""


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("order", ORDERS, ids=", ".join)
async def test_each_call_is_recorded_once(name, order, clients, home):
    known = {"ours": Ours(), "theirs": THEIRS[name]()}
    on = set()
    wrong = []
    await ask_all(*clients, "old")
    with as_before():
        for step, who in enumerate(order):
            if who in on:
                on.remove(who)
                known[who].take_off()
            else:
                on.add(who)
                known[who].put_on(clients)
            with millstream.recording(home=home / str(step)):
                await ask_all(*clients, "old")
                await ask_all(*(client.copy() for client in clients), "new")
            wrong += [
                f"{call} after {', '.join(order[: step + 1])}: {times}"
                for call, times in calls_in(home / str(step)).items()
                if times != ("ours" in on)
            ]
        for who in on:
            known[who].take_off()
    assert not wrong, "\n".join(wrong)


def calls_in(home):
    """How often each call was recorded whole."""
    spans = list(millstream.open_store(home).spans())
    above = {span.span_id: span.name for span in spans}
    found = Counter()
    for span in spans:
        if span.kind is SpanKind.EMBEDDING:
            assert span.usage.input_tokens == 3
        elif span.kind is SpanKind.LLM:
            assert text_of(span.output) == TEXT
        else:
            continue
        found[above[span.parent_id]] += 1
    return {f"{call}, {age}": found[f"{call}, {age}"] for age in ("old", "new") for call in CALLS}


# What a body is put into


def greeting(word):
    def greet(self, whom="you"):
        return f"{word} {whom}"

    return greet


def twice(method):
    return lambda *args, **kwargs: f"{method(*args, **kwargs)}, {method(*args, **kwargs)}"


def test_of_a_wrapped_method_the_innermost_body_is_replaced_and_put_back():
    kept = greeting("hello")
    code, signature = kept.__code__, inspect.signature(kept)
    wrapper = functools.wraps(kept)(lambda *args, **kwargs: kept(*args, **kwargs).upper())
    owner = type("Owner", (), {"method": wrapper})
    bodies = Bodies()
    for _ in range(2):  # the second time it is there already
        bodies.put(owner, "method", twice)
    assert kept(owner()) == "hello you, hello you"
    assert owner().method(whom="me") == "HELLO ME, HELLO ME"
    assert inspect.signature(kept) == signature
    bodies.undo()
    assert kept(owner()) == "hello you"
    assert (kept.__code__, kept.__kwdefaults__, vars(kept)) == (code, None, {})
    assert owner.method is wrapper


def test_a_body_that_somebody_else_replaced_after_us_stays():
    kept = greeting("hello")
    bodies = Bodies()
    bodies.put(type("Owner", (), {"method": kept}), "method", twice)
    kept.__code__ = theirs = kept.__code__.replace(co_name="theirs")
    bodies.undo()
    assert kept.__code__ is theirs
    assert kept(None) == "hello you, hello you"


def test_a_compiled_function_is_replaced_on_its_class():
    owner = type("Owner", (list,), {"method": len})
    bodies = Bodies()
    bodies.put(owner, "method", lambda method: lambda *args: method(*args) + 100)
    assert owner([1, 2]).method() == 102
    bodies.undo()
    assert owner.method is len
