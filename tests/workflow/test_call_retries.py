"""Calls to a server that refuses, fails and breaks: patient with what passes, quick with the rest."""

import asyncio
import time
from contextlib import asynccontextmanager
from email.utils import formatdate

import openai
import pytest

from millstream import semconv
from millstream.span import SpanKind, Status
from millstream.workflow import load_config
from millstream.workflow.builder import Builder
from millstream.workflow.explain import explain
from millstream.workflow.limiter import Limiter
from millstream.workflow.retries import Attempts, Failure, Kind, Retries, failure_of_answer
from tests.scripted_server import Answer, completion, refusal, scripted


@pytest.fixture
def model(write):
    @asynccontextmanager
    async def model(url, **options):
        entry = {"_type": "openai", "model_name": "m", "base_url": url, **options}
        text = "llms: {main: {" + ", ".join(f"{key}: {value!r}" for key, value in entry.items()) + "}}"
        builder = Builder(load_config(write(text.replace("True", "true").replace("False", "false"))))
        try:
            yield await builder.get_llm("main")
        finally:
            await builder.aclose()

    return model


def first(*answers):
    """A script: these answers, then good ones."""

    def script(asked):
        return answers[asked.number] if asked.number < len(answers) else completion(asked)

    return script


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    "failure",
    [
        refusal(429, "slow down", retry_after_ms="60"),
        refusal(503, "starting"),
        refusal(500, "on fire"),
        refusal(408),
        refusal(409),
        Answer(200, b"", {"content-type": "text/html"}, breaks=True),
    ],
    ids=["429", "503", "500", "408", "409", "broken"],
)
async def test_what_passes_is_asked_again_and_is_one_span(model, spans, streaming, failure):
    if failure.breaks and streaming:
        pytest.skip("a stream that has begun is not begun again")
    with scripted(first(failure)) as server:
        async with model(server.url, streaming=streaming) as llm:
            assert (await llm.ainvoke("hi")).text == "yes"
            assert (await asyncio.to_thread(llm.invoke, "ho")).text == "yes"
    assert len(server.asked) == 3
    one, other = [span for span in spans() if span.kind is SpanKind.LLM]
    assert one.status is Status.OK
    assert one.usage.input_tokens == 7
    assert one.attributes[semconv.RESEND_COUNT] == 1
    (event,) = one.events
    assert event.name == semconv.RETRY
    assert event.attributes["reason"] == ("RemoteProtocolError" if failure.breaks else str(failure.status))
    assert event.attributes["wait_s"] >= 0.05
    assert semconv.RESEND_COUNT not in other.attributes


async def test_a_call_that_blocks_is_as_patient(model, spans):
    with scripted(first(refusal(429, retry_after_ms="60"), refusal(502))) as server:
        async with model(server.url) as llm:
            assert (await asyncio.to_thread(llm.invoke, "hi")).text == "yes"
    assert len(server.asked) == 3
    (span,) = (span for span in spans() if span.kind is SpanKind.LLM)
    assert [event.attributes["reason"] for event in span.events] == ["429", "502"]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (refusal(400, "too long"), "rejected the request (400): too long"),
        (refusal(401, "bad key"), "refused the API key (401)"),
        (refusal(404, "no model"), "does not know this address or model (404)"),
        (refusal(422, "odd"), "rejected the request (422): odd"),
        (refusal(429, "insufficient_quota"), "refused more calls for now (429): insufficient_quota"),
        (refusal(500, "never", x_should_retry="false"), "failed (500): never"),
    ],
)
async def test_what_does_not_pass_fails_at_once(model, spans, failure, words):
    with scripted(lambda _: failure) as server:
        async with model(server.url) as llm:
            with pytest.raises(openai.OpenAIError) as caught:
                await llm.ainvoke("hi")
    assert words in explain(caught.value)
    assert len(server.asked) == 1
    (span,) = (span for span in spans() if span.kind is SpanKind.LLM)
    assert span.status is Status.ERROR
    assert span.events == []


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_kept(model, form):
    told = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    with scripted(first(refusal(429, retry_after=told))) as server:
        async with model(server.url) as llm:
            await llm.ainvoke("hi")
    waited_s = server.asked[1].at_s - server.asked[0].at_s
    assert (1 if form == "seconds" else 0.9) <= waited_s < 2.6


async def test_who_asks_for_more_than_the_budget_is_not_waited_for(model):
    with scripted(lambda _: refusal(429, "come back tomorrow", retry_after="86400")) as server:
        async with model(server.url) as llm:
            began_s = time.monotonic()
            with pytest.raises(openai.RateLimitError):
                await llm.ainvoke("hi")
            assert time.monotonic() - began_s < 5
    assert len(server.asked) == 1


async def test_max_retries_and_max_retry_s_are_the_most(model):
    with scripted(lambda _: refusal(429, retry_after_ms="50")) as server:
        async with model(server.url, max_retries=2) as llm:
            with pytest.raises(openai.RateLimitError):
                await llm.ainvoke("hi")
        assert len(server.asked) == 3
        async with model(server.url, max_retries=0) as llm:
            with pytest.raises(openai.RateLimitError):
                await llm.ainvoke("hi")
        assert len(server.asked) == 4
        began_s = time.monotonic()
        async with model(server.url, max_retry_s=1) as llm:
            with pytest.raises(openai.RateLimitError):
                await llm.ainvoke("hi")
        assert 0.5 < time.monotonic() - began_s < 3
        assert len(server.asked) > 8


async def test_a_server_that_is_not_there_is_told_soon(model):
    with scripted(first()) as server:
        pass
    began_s = time.monotonic()
    async with model(server.url) as llm:
        with pytest.raises(openai.APIConnectionError) as caught:
            await llm.ainvoke("hi")
    assert time.monotonic() - began_s < 4
    assert f"no model server answers at {server.url}" in explain(caught.value)


async def test_all_calls_leave_a_server_alone_that_says_429(model):
    """After the refusal nobody asks until the time is over; then the first few see whether it is well."""
    with scripted(first(refusal(429, retry_after="1"))) as server:
        async with model(server.url, max_concurrency=2) as llm:
            began_s = time.monotonic()
            answers = await asyncio.gather(*(llm.ainvoke(f"q{number}") for number in range(12)))
            assert time.monotonic() - began_s >= 1
    assert [answer.text for answer in answers] == ["yes"] * 12
    assert len(server.asked) == 13
    refused_s = server.asked[0].at_s
    early = [one for one in server.asked[1:] if one.at_s < refused_s + 1]
    assert len(early) <= 1  # what was under way when it refused
    assert server.most <= 2


async def test_a_call_that_waits_gives_its_turn_to_the_next(model):
    def script(asked):
        is_bad = asked.body["messages"][0]["content"] == "bad" and len(server.asked) < 4
        return refusal(500) if is_bad else completion(asked)

    with scripted(script) as server:
        async with model(server.url, max_concurrency=1) as llm:
            order = []

            async def ask(text):
                await llm.ainvoke(text)
                order.append(text)

            await asyncio.gather(ask("bad"), *(ask(f"good {number}") for number in range(3)))
    assert order[0] == "good 0"
    assert server.most == 1


async def test_a_stream_that_broke_off_is_not_begun_again(model):
    def script(asked):
        whole = completion(asked)
        return whole._replace(body=whole.body[:150], breaks=True)

    with scripted(script) as server:
        async with model(server.url, streaming=True) as llm:
            with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is the SDK's affair
                await llm.ainvoke("hi")
    assert "broke" in explain(caught.value)
    assert len(server.asked) == 1


async def test_a_limited_server_lets_everybody_in_in_their_order():
    """64 callers at a server that takes one call in 20 ms: no caller is refused over and over."""
    limiter = Limiter()
    refusals = []
    free_at_s = 0.0

    async def call(_):
        nonlocal free_at_s
        attempts = Attempts(Retries(budget_s=2), limiter)
        while True:
            await limiter.wait_async(attempts.ticket)
            attempts.begin()
            await asyncio.sleep(0.005)
            now_s = time.monotonic()
            if now_s >= free_at_s:
                free_at_s = now_s + 0.02
                limiter.answered()
                limiter.give_back(answered=True)
                return attempts.repeats
            wait_s = attempts.again_in(Failure(Kind.LATER, "429", free_at_s - now_s))
            limiter.give_back()
            refusals.append(1)
            assert wait_s is not None, "gave up on a server that answers"

    repeats = await asyncio.gather(*(call(number) for number in range(64)))
    assert max(repeats) < 20
    assert limiter.running == 0


async def test_calls_that_are_cancelled_while_they_wait_give_their_turn_back(model):
    with scripted(first(refusal(429, retry_after="30"))) as server:
        async with model(server.url, max_concurrency=1) as llm:
            calls = [asyncio.create_task(llm.ainvoke("hi")) for _ in range(3)]
            await asyncio.sleep(1)
            assert len(server.asked) == 1
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            assert llm.http_async_client._calls.limiter.running == 0


def test_waits_grow_at_random_and_have_a_limit():
    limiter = Limiter()
    waits = []
    for _ in range(200):
        attempts = Attempts(Retries(most=12, budget_s=1e9), limiter)
        waits.append([attempts.again_in(Failure(Kind.FAILED, "500")) for _ in range(13)])
    for number, at in enumerate(zip(*waits, strict=True)):
        if number == 12:
            assert set(at) == {None}
            continue
        longest_s = min(30, 0.5 * 2**number)
        assert max(at) <= longest_s
        mean_s = sum(at) / len(at)
        assert abs(mean_s - longest_s / 2) < 0.12 * longest_s  # full jitter: even from 0 up
    assert [failure_of_answer(status, {}, b"") for status in (200, 400, 401, 404, 422)] == [None] * 5


async def test_streams_that_are_open_may_ask_the_same_server_though_it_refuses(model):
    """The calls of a narrowed endpoint count until they are answered, not until their stream is read."""
    opened = asyncio.Barrier(4)

    def script(asked):
        return refusal(429, retry_after_ms="60") if 4 <= asked.number < 8 else completion(asked)

    with scripted(script) as server:
        async with model(server.url) as llm:

            async def nested(number):
                stream = llm.astream(f"outer {number}")
                await anext(stream)
                await opened.wait()
                try:
                    return (await llm.ainvoke(f"inner {number}")).text
                finally:
                    await stream.aclose()

            async with asyncio.timeout(20):
                assert await asyncio.gather(*(nested(number) for number in range(4))) == ["yes"] * 4


async def test_code_that_blocks_the_loop_does_not_wait_for_a_call_of_that_loop(model):
    def slow(asked):
        return completion(asked)._replace(delay_s=0.3)

    with scripted(slow) as server:
        async with model(server.url, max_concurrency=1) as llm:
            awaited = asyncio.create_task(llm.ainvoke("awaited"))
            while not server.asked:  # noqa: ASYNC110  # what happens in another thread
                await asyncio.sleep(0.01)
            assert llm.invoke("blocking").text == "yes"
            assert (await awaited).text == "yes"
            assert llm.http_client._calls.limiter.running == 0
