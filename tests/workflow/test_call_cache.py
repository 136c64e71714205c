"""The cache of model calls: the same question is asked once, and what differs or failed is never mixed up."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager

import openai
import pytest

from millstream import semconv
from millstream.errors import StorageError
from millstream.span import SpanKind
from millstream.workflow import load_config
from millstream.workflow.builder import Builder
from millstream.workflow.call_cache import (
    CallCache,
    Kept,
    cache_salt,
    cache_scope,
    cached_call,
    caching,
    is_whole,
)
from tests.scripted_server import Answer, completion, refusal, scripted


@pytest.fixture
def ask(write):
    """Asks a model in a scope of its own; all of it in one builder, as a run has one."""

    @asynccontextmanager
    async def opened(url, **options):
        entry = json.dumps({"_type": "openai", "model_name": "m", "base_url": url, **options})
        builder = Builder(load_config(write(f"llms: {{main: {entry}}}")))
        llm = await builder.get_llm("main")

        async def ask(text, scope="rep 1", *, blocking=False):
            with cache_scope(scope):
                return await (asyncio.to_thread(llm.invoke, text) if blocking else llm.ainvoke(text))

        ask.llm = llm
        try:
            yield ask
        finally:
            await builder.aclose()

    return opened


@pytest.fixture
def cache(tmp_path):
    with CallCache(tmp_path / "folder" / "calls.sqlite") as cache, caching(cache):
        yield cache


def numbered(asked):
    return completion(asked, f"answer {asked.number}")


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("blocking", [True, False])
async def test_the_same_call_is_answered_from_the_cache(ask, cache, spans, streaming, blocking):
    with scripted(numbered) as server:
        for _ in range(2):  # another run has another builder
            async with ask(server.url, streaming=streaming) as asking:
                answer = await asking("hi", blocking=blocking)
                assert answer.text == "answer 0"
                assert answer.usage_metadata["input_tokens"] == 7
                assert answer.response_metadata["finish_reason"] == "stop"
    assert len(server.asked) == 1
    assert cache.hits == 1
    first, second = [span for span in spans() if span.kind is SpanKind.LLM]
    assert semconv.CACHED not in first.attributes
    assert second.attributes[semconv.CACHED] is True
    assert second.usage == first.usage
    assert second.output == first.output


async def test_what_differs_is_another_call(ask, cache):
    with scripted(numbered) as server, scripted(numbered) as other:
        async with ask(server.url) as asking, ask(other.url) as elsewhere:
            said = {
                (await asking("hi")).text,
                (await asking("ho")).text,
                (await asking("hi", "rep 2")).text,
                (await ask_with_salt(asking, "hi", "vote 1")).text,
                (await ask_with_salt(asking, "hi", "vote 2")).text,
            }
            await elsewhere("hi")
        async with ask(server.url, temperature=1.0) as warm:
            said.add((await warm("hi")).text)
        assert len(said) == len(server.asked) == 6
        assert len(other.asked) == 1
        assert cache.hits == 0


async def ask_with_salt(asking, text, salt):
    with cache_scope("judge"), cache_salt(salt):
        return await asking.llm.ainvoke(text)


async def test_the_second_equal_call_of_one_scope_is_another_one_each_time(ask, cache):
    """A workflow that samples three answers gets three, and the same three when it is run again."""
    with scripted(numbered) as server:
        async with ask(server.url) as asking:
            runs = []
            for _ in range(2):
                with cache_scope("rep 1"):
                    runs.append([(await asking.llm.ainvoke("hi")).text for _ in range(3)])
    assert runs[0] == runs[1] == ["answer 0", "answer 1", "answer 2"]
    assert len(server.asked) == 3


@pytest.mark.parametrize("streaming", [True, False])
async def test_errors_and_halves_are_never_kept(ask, cache, streaming):
    bad = [
        refusal(400, "too long"),
        Answer(200, b'{"error": {"message": "no"}}', {"content-type": "application/json"}),
        Answer(200, b"<html>", {"content-type": "text/html"}),
        Answer(200, b'data: {"error": {"message": "x"}}\n\ndata: [DONE]\n\n', EVENTS),
    ]

    def script(asked):
        if asked.number < len(bad):
            return bad[asked.number]
        whole = completion(asked, "well")
        return whole._replace(body=whole.body[:150], breaks=True) if asked.number == len(bad) else whole

    with scripted(script) as server:
        async with ask(server.url, streaming=streaming, max_retries=0) as asking:
            for _ in range(len(bad) + 1):
                with pytest.raises(Exception):  # noqa: B017, PT011  # whatever the SDK makes of it
                    await asking("hi")
            assert (await asking("hi")).text == "well"
            assert (await asking("hi")).text == "well"
    assert len(server.asked) == len(bad) + 2


async def test_a_stream_that_is_left_is_not_kept(ask, cache):
    with scripted(numbered) as server:
        async with ask(server.url) as asking:
            for _ in range(2):
                with cache_scope("rep 1"):
                    async for _piece in asking.llm.astream("hi"):
                        break
    assert len(server.asked) == 2


async def test_a_cached_call_waits_for_nobody(ask, cache):
    with scripted(numbered) as server:
        async with ask(server.url, max_concurrency=1) as asking:
            await asking("hi")
            limiter = asking.llm.http_async_client._calls.limiter
            with limiter:
                assert (await asyncio.wait_for(asking("hi"), 5)).text == "answer 0"


async def test_without_a_cache_everything_is_asked(ask):
    with scripted(numbered) as server:
        async with ask(server.url) as asking:
            await asking("hi")
            await asking("hi")
    assert len(server.asked) == 2


async def test_structured_answers_and_embeddings_through_its_clients(ask, cache):
    def script(asked):
        if asked.path.endswith("/embeddings"):
            body = {"object": "list", "model": "e", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
            body["data"] = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
            return Answer(200, json.dumps(body).encode(), {"content-type": "application/json"})
        return completion(asked, '{"score": 4}')

    properties = {"score": {"type": "integer"}}
    schema = {"title": "Grade", "type": "object", "properties": properties, "required": ["score"]}
    with scripted(script) as server:
        async with ask(server.url) as asking:
            graded = asking.llm.with_structured_output(schema, method="json_schema")
            for _ in range(2):
                with cache_scope("judge"):
                    assert await graded.ainvoke("grade this") == {"score": 4}
            client = openai.AsyncOpenAI(
                base_url=server.url, api_key="x", http_client=asking.llm.http_async_client, max_retries=0
            )
            for _ in range(2):
                with cache_scope("x"):
                    made = await client.embeddings.create(model="e", input="a", encoding_format="float")
                assert made.data[0].embedding == [0.5, 0.25]
    assert len(server.asked) == 2


EVENTS = {"content-type": "text/event-stream"}
WRITER = """
import sys
from pathlib import Path
from millstream.workflow.call_cache import CallCache, Kept
with CallCache(Path(sys.argv[1])) as cache:
    for number in range(200):
        cache.put(f"{number}", "url", b"{}", Kept("application/json", sys.argv[2].encode()))
        assert cache.get(f"{number}").body in (b"1", b"2", b"3")
"""


def test_several_processes_use_one_file(tmp_path):
    path = tmp_path / "calls.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n)]) for n in (1, 2, 3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    with sqlite3.connect(path) as file:  # a user can open it without us
        assert file.execute("SELECT count(*) FROM calls").fetchone() == (200,)
    assert path.stat().st_mode & 0o077 == 0


def test_a_file_that_is_no_cache_is_said(tmp_path):
    (tmp_path / "calls.sqlite").write_text("these are no tables" * 100)
    with pytest.raises(StorageError, match=r"calls\.sqlite cannot be used .*eval\.general\.cache\.path"):
        CallCache(tmp_path / "calls.sqlite")


def test_no_answer_is_replaced(tmp_path):
    with CallCache(tmp_path / "calls.sqlite") as cache:
        cache.put("k", "url", b"{}", Kept("a", b"1"))
        cache.put("k", "url", b"{}", Kept("a", b"2"))
        assert cache.get("k") == Kept("a", b"1")


def test_what_is_whole():
    assert is_whole("application/json", b'{"a": 1, "error": null}')
    assert not is_whole("application/json", b'{"a": 1')
    assert not is_whole("application/json", b"[1]")
    assert is_whole("text/event-stream; charset=utf-8", b'data: {"a": 1}\r\n\r\ndata: [DONE]\r\n\r\n')
    assert not is_whole("text/event-stream", b'data: {"a": 1}\n\n')
    assert not is_whole("text/event-stream", b"")


def test_a_password_in_the_url_is_not_written(tmp_path):
    with CallCache(tmp_path / "calls.sqlite") as cache, caching(cache):
        call = cached_call("http://user:SECRET@127.0.0.1:1/v1/chat/completions?api_key=SECRET", lambda: b"{}")
        call.put("application/json", b'{"id": "1"}')
        assert call.get() is not None
    for path in tmp_path.iterdir():
        assert b"SECRET" not in path.read_bytes(), path
