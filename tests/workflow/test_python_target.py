"""`_type: python`: whatever a user has already."""

import pytest

from millstream.errors import ConfigError, InputError, WorkflowError
from millstream.span import SpanKind
from millstream.workflow import load_config, open_workflow
from millstream.workflow.checks import check_config

APP = """
import os, sys, threading, time
from dataclasses import dataclass
from typing import TypedDict

def shout(text):
    return text.upper()

async def whisper(text: str) -> str:
    return text.lower()

def thread_name(text):
    return threading.current_thread() is not threading.main_thread()

def two(a, b=1):
    return {"a": a, "b": b}

def both(a, b):
    return [a, b]

def pieces(text):
    yield text
    yield "!"

async def numbers(text):
    for n in range(3):
        yield n

def leave(text):
    sys.exit(4)

def fail(text):
    raise KeyError(text)

@dataclass
class Result:
    text: str
    score: float

def result(text):
    return Result(text, 0.5)

class Greeter:
    def __init__(self, greeting="hi"):
        self.greeting = greeting
    def __call__(self, text):
        return f"{self.greeting} {text}"
    def part(self, text):
        return f"part {text}"

class Job:
    def run(self, text):
        return f"ran {text}"

class Crew:
    def kickoff(self, inputs):
        return f"crew {sorted(inputs.items())}"

class Useless:
    pass

a_string = "x"

class Nothing:
    attribute = 1

class State(TypedDict):
    question: str
    answer: str

def build_graph():
    from langgraph.graph import END, START, StateGraph
    graph = StateGraph(State)
    graph.add_node("think", lambda state: {"answer": state["question"][::-1]})
    graph.add_edge(START, "think")
    graph.add_edge("think", END)
    return graph

def build_agent():
    from langchain.agents import create_agent
    from langchain_openai import ChatOpenAI
    model = ChatOpenAI(model="able", base_url=os.environ["STAND_IN"], api_key="the-key", streaming=True)
    return create_agent(model, [])

def build_chain():
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_openai import ChatOpenAI
    model = ChatOpenAI(model="able", base_url=os.environ["STAND_IN"], api_key="the-key")
    return ChatPromptTemplate.from_template("Chain: {topic}") | model | StrOutputParser()

def build_two_inputs():
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnableLambda
    as_text = RunnableLambda(lambda value: value.to_string())
    return ChatPromptTemplate.from_template("{topic} {style}") | as_text
"""


@pytest.fixture
def ask(write):
    async def ask(target, message, options=""):
        path = write(f"workflow: {{_type: python, target: 'my_app.py:{target}'{options}}}", my_app=APP)
        async with open_workflow(load_config(path)) as workflow:
            return await workflow.run(message)

    return ask


@pytest.mark.parametrize(
    ("target", "message", "options", "answer"),
    [
        ("shout", "hi", "", "HI"),
        ("whisper", "HI", "", "hi"),
        ("thread_name", "x", "", True),
        ("two", "x", "", {"a": "x", "b": 1}),
        ("two", {"a": 1, "b": 2}, "", {"a": 1, "b": 2}),
        ("two", {"c": 3}, "", {"a": {"c": 3}, "b": 1}),
        ("pieces", "x", "", "x!"),
        ("numbers", "x", "", [0, 1, 2]),
        ("result", "x", "", {"text": "x", "score": 0.5}),
        ("Greeter", "you", "", "hi you"),
        ("Greeter", "you", ", init: {greeting: hello}", "hello you"),
        ("Greeter", "you", ", method: part", "part you"),
        ("Greeter.part", "you", "", "part you"),
        ("Job", "x", "", "ran x"),
        ("Crew", "x", "", "crew [('input', 'x')]"),
        ("Crew", "x", ", input_key: topic", "crew [('topic', 'x')]"),
        ("build_graph", "abc", ", input_key: question, output_key: answer", "cba"),
        ("build_graph", {"question": "abc"}, "", {"question": "abc", "answer": "cba"}),
        ("build_two_inputs", {"topic": "a", "style": "b"}, "", "Human: a b"),
    ],
)
async def test_targets(ask, target, message, options, answer):
    assert await ask(target, message, options) == answer


@pytest.mark.parametrize(
    ("target", "answer"), [("build_agent", "You said hello"), ("build_chain", "You said Chain: hello")]
)
def test_model_calls_of_a_target_are_recorded(*, write, base_url, millstream_process, spans, target, answer):
    # In a process of its own: ChatOpenAI keeps its connections past the end of the event loop.
    path = write(f"workflow: {{_type: python, target: 'my_app.py:{target}'}}", my_app=APP)
    done = millstream_process("run", "--config_file", str(path), "--input", "hello", STAND_IN=base_url)
    assert (done.returncode, done.stdout) == (0, answer + "\n"), done.stderr
    root, llm = spans()
    assert (root.kind, root.name) == (SpanKind.WORKFLOW, target)
    assert (llm.kind, llm.parent_id, llm.output["content"]) == (SpanKind.LLM, root.span_id, answer)


async def test_a_target_that_calls_sys_exit_fails_only_its_run(ask):
    with pytest.raises(WorkflowError, match=r"leave called sys.exit\(4\)"):
        await ask("leave", "x")


async def test_a_target_that_raises_is_recorded(ask, spans):
    with pytest.raises(KeyError):
        await ask("fail", "x")
    (root,) = spans()
    assert (root.status, root.error.type) == ("error", "KeyError")


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("shuot", "", "has no 'shuot'; did you mean 'shout'?"),
        ("Useless", "", "is a Useless, which cannot be called and has none of the methods"),
        ("a_string", "", "is a str, which cannot be called"),
        ("Job", ", method: walk", "has no method 'walk'"),
        ("Greeter", ", init: {greting: x}", "with init .*greting.* failed"),
        ("shout", ", init: {a: 1}", "is not a class, so it takes no init"),
        (
            "build_graph",
            "",
            "takes answer, question; say with input_key which of them the input is, and with output_key",
        ),
        ("build_two_inputs", "", "takes style, topic; say with input_key"),
        ("build_graph", ", input_key: question, output_key: anser", "gave no 'anser', but question, answer"),
    ],
)
async def test_targets_that_do_not_fit(ask, target, options, message):
    with pytest.raises(ConfigError, match=message):
        await ask(target, "x", options)


async def test_two_arguments_need_a_mapping(ask):
    assert await ask("both", {"a": 1, "b": 2}) == [1, 2]
    with pytest.raises(InputError, match="both needs a, b; give a mapping with these keys, not one str"):
        await ask("both", "x")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nothing", "'nothing' must be module:attribute"),
        ("gone.py:x", "workflow.target: there is no Python file"),
        ("gone_module:x", "workflow.target: there is no module 'gone_module'"),
        ("json:dumsp", "workflow.target: json has no 'dumsp'; did you mean 'dump'"),
    ],
)
def test_a_target_is_checked_without_running(write, target, message):
    with pytest.raises(ConfigError, match=message):
        check_config(load_config(write(f"workflow: {{_type: python, target: '{target}'}}")))


async def test_a_module_beside_the_file_is_found_by_name(write):
    path = write("workflow: {_type: python, target: 'beside_app:shout'}", beside_app=APP)
    async with open_workflow(load_config(path)) as workflow:
        assert await workflow.run("hi") == "HI"
        assert workflow.name == "shout"
