"""Running: hanging functions, model servers that fail, log messages, limits."""

import asyncio
import logging
import re
import socket
import threading
import time

import openai
import pytest

from millstream.errors import ConfigError, ItemTimeoutError, UnreachableError, WorkflowError
from millstream.span import SpanKind, Status
from millstream.workflow import load_config, open_workflow
from millstream.workflow.explain import as_millstream_error, explain
from millstream.workflow.functions import in_thread
from millstream.workflow.limiter import Limiter

ASK = """
import logging, time
from millstream.workflow import FunctionBaseConfig, FunctionInfo, LLMFrameworkEnum, register_function

class AskConfig(FunctionBaseConfig, name="ask"):
    llm: str

@register_function(config_type=AskConfig, framework_wrappers=[LLMFrameworkEnum.LANGCHAIN])
async def ask(config, builder):
    llm = await builder.get_llm(config.llm)
    async def call(text: str) -> str:
        logging.getLogger("my.app").info("asking %s", text)
        return (await llm.ainvoke(text)).text
    yield FunctionInfo.from_fn(call)

def hang(text):
    time.sleep(60)

release = None
"""


@pytest.fixture
def asked(write, llms):
    async def asked(model, *overrides, message="hi"):
        yaml = f"{llms}\ngeneral: {{modules: [asking.py]}}\nworkflow: {{_type: ask, llm: {model}}}\n"
        async with open_workflow(load_config(write(yaml, asking=ASK), overrides)) as workflow:
            return await workflow.run(message)

    return asked


async def test_a_sync_function_that_hangs_can_be_given_up(write, spans):
    path = write("workflow: {_type: python, target: 'asking.py:hang'}", asking=ASK)
    started = time.monotonic()
    async with open_workflow(load_config(path)) as workflow:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(workflow.run("x"), 0.1)
    assert time.monotonic() - started < 5
    (root,) = spans()
    assert root.status is Status.CANCELLED


async def test_many_hanging_functions_do_not_block_the_next():
    release = threading.Event()
    hanging = [asyncio.create_task(in_thread(release.wait)) for _ in range(50)]
    await asyncio.sleep(0)
    assert await asyncio.wait_for(in_thread(lambda: 7), 5) == 7
    release.set()
    assert await asyncio.gather(*hanging) == [True] * 50


async def test_a_thread_sees_the_context_and_gives_back_what_was_raised():
    def fail():
        raise StopIteration(3)

    with pytest.raises(RuntimeError, match="StopIteration"):
        await in_thread(fail)


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("model", "override", "sentence", "kind"),
    [
        ("hanging", ("timeout", "0.2"), "did not answer in time; raise llms.hanging.timeout", WorkflowError),
        ("able", ("api_key", "wrong"), r"key \(401\).*; set .* or llms.able.api_key", UnreachableError),
        ("able", ("model_name", "other"), r"or model \(404\).*check llms.able.model_name", WorkflowError),
        ("busy", None, r"refused more calls for now \(429\): .*slow down; wait, lower", WorkflowError),
        ("broken", None, r"failed \(500\): .*the GPU is on fire; try again later", WorkflowError),
        ("slow", ("timeout", "0.2"), "within 0.2 s; raise llms.slow.timeout", WorkflowError),
        ("able", ("base_url", "http://127.0.0.1:{port}/v1"), "no model server answers at http://127.0.0.1:{port}/v1",
         UnreachableError),
    ],
)  # fmt: skip
async def test_what_a_model_server_does_is_one_sentence(
    *, asked, closed_port, spans, model, override, sentence, kind
):
    overrides = [(f"llms.{model}.{override[0]}", override[1].format(port=closed_port))] if override else []
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is the client's affair
        await asked(model, *overrides)
    text = explain(caught.value)
    assert "\n" not in text
    assert re.search(sentence.format(port=closed_port) if "{port}" in sentence else sentence, text)
    error = as_millstream_error(caught.value)
    assert type(error) is kind
    assert str(error) == text
    llm = next(span for span in spans() if span.kind is SpanKind.LLM)
    assert llm.status is Status.ERROR


async def test_a_stream_that_breaks_is_told(asked, write, spans):
    async def half_an_answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n")
        writer.write(b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n')
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(half_an_answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Exception) as caught:  # noqa: PT011
            await asked("able", ("llms.able.base_url", f"http://127.0.0.1:{port}/v1"))
    assert f"the connection to the model server at http://127.0.0.1:{port}/v1 broke (peer closed" in explain(
        caught.value
    )
    assert type(as_millstream_error(caught.value)) is WorkflowError


def test_other_exceptions_keep_their_words():
    assert explain(ValueError("a b")) == "ValueError: a b"
    assert explain(ZeroDivisionError()) == "ZeroDivisionError"
    assert explain(ConfigError("the words")) == "the words"
    assert explain(ExceptionGroup("g", [KeyError("x")])) == "KeyError: 'x'"
    timeout = ItemTimeoutError("late")
    assert as_millstream_error(timeout) is timeout
    assert as_millstream_error(ValueError("x")).exit_code == 3


def test_a_server_failure_behind_another_exception_is_found():
    import httpx2

    request = httpx2.Request("POST", "https://integrate.api.nvidia.com/v1/chat/completions")
    response = httpx2.Response(401, request=request)
    cause = openai.AuthenticationError("no", response=response, body={"message": "bad key"})
    error = RuntimeError("chain failed")
    error.__cause__ = cause
    assert explain(error) == (
        "the model server at https://integrate.api.nvidia.com/v1 refused the API key (401): bad key; set"
        " NVIDIA_API_KEY or llms.<name>.api_key"
    )


async def test_max_concurrency_is_per_endpoint(write, llms, asked, spans):
    llms = llms.replace("model_name: able,", "model_name: able, max_concurrency: 2,")
    path = write(
        f"{llms}\ngeneral: {{modules: [asking.py]}}\nworkflow: {{_type: ask, llm: able}}\n", asking=ASK
    )
    async with open_workflow(load_config(path)) as workflow:
        model = await workflow.builder.get_llm("able")
        other = await workflow.builder.get_llm("slow")
        limiter = model.http_async_client._calls.limiter
        assert other.http_async_client._calls.limiter is limiter
        assert limiter.running == 0
        assert await asyncio.gather(*(workflow.run(str(n)) for n in range(6))) == [
            f"You said {n}" for n in range(6)
        ]
        assert limiter.running == 0


async def test_a_limiter_lets_in_so_many_in_order_and_survives_those_who_give_up():
    limiter = Limiter(2)
    inside = most = 0
    order = []

    async def work(n):
        nonlocal inside, most
        async with limiter:
            order.append(n)
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    tasks = [asyncio.create_task(work(n)) for n in range(8)]
    await asyncio.sleep(0)
    tasks[4].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 2
    assert order == [0, 1, 2, 3, 5, 6, 7]
    with limiter, limiter:
        waiting = asyncio.create_task(work(9))
        await asyncio.sleep(0.01)
        waiting.cancel()
    await asyncio.wait([waiting])
    assert limiter.running == 0


def test_a_limiter_works_across_threads():
    limiter = Limiter(1)
    inside = []

    def work():
        with limiter:
            inside.append(1)
            assert len(inside) == 1
            time.sleep(0.001)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limiter.running == 0


LOGGING = ("general.telemetry", "{logging: {f: {_type: file, path: %s, level: info}, c: {_type: console}}}")


async def test_log_messages_go_to_file_and_console_once(asked, tmp_path, capsys):
    before = list(logging.getLogger().handlers), logging.getLogger().level
    path = tmp_path / "logs" / "flow.log"
    override = (LOGGING[0], LOGGING[1] % path)
    for message in ("one", "two"):
        await asked("able", override, message=message)
    await asyncio.gather(asked("able", override, message="three"), asked("able", override, message="four"))
    lines = [line for line in path.read_text().splitlines() if "my.app" in line]
    assert sorted(line.rpartition(": ")[2] for line in lines) == [
        "asking four",
        "asking one",
        "asking three",
        "asking two",
    ]
    assert capsys.readouterr().err.count("INFO my.app: asking one") == 1
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before


async def test_a_log_file_that_cannot_be_written(asked, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError,
        match=r"general.telemetry.logging.f.path: .*x.log cannot be made, for .*file is a file and no folder",
    ):
        await asked("able", (LOGGING[0], LOGGING[1] % (tmp_path / "file" / "x.log")))
