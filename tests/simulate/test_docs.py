"""The examples of docs/simulate.md do what the page says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from pydantic import BaseModel

from millstream.simulate import rules as rules_module
from millstream.simulate.rules import load_rules

PAGE = (Path(__file__).parents[2] / "docs" / "simulate.md").read_text()
AGENT, REACT, FLAKY = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
RESPONSES, EMBEDDINGS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TOOLS = [{"type": "function", "function": {"name": "get_weather"}}]


def client_of(server):
    return openai.OpenAI(base_url=server.base_url, api_key="x", max_retries=0, timeout=20)


def test_the_tool_calling_agent(start):
    assert len(AGENT.splitlines()) < 15
    with start(AGENT) as server, client_of(server) as client:
        messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
        asked = (
            client.chat.completions.create(model="small", messages=messages, tools=TOOLS).choices[0].message
        )
        assert json.loads(asked.tool_calls[0].function.arguments) == {"city": "Oslo"}
        messages += [asked, {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "snow"}]
        told = (
            client.chat.completions.create(model="small", messages=messages, tools=TOOLS).choices[0].message
        )
        assert told.content == "The weather report says: snow"


def test_the_react_agent(start):
    assert len(REACT.splitlines()) < 15
    with start(REACT) as server, client_of(server) as client:

        def say(text):
            messages = [{"role": "user", "content": text}]
            answer = client.chat.completions.create(model="small", messages=messages, stop=["\nObservation:"])
            return answer.choices[0].message.content

        first = say("Question: How high is K2?\n")
        assert first == "Thought: I have to look it up\nAction: search\nAction Input: How high is K2?"
        assert say(f"Question: How high is K2?\n{first}\nObservation: 8611 m\n").endswith(
            "Final Answer: 8611 m"
        )


def test_the_flaky_model(start):
    with start(FLAKY) as server, client_of(server) as client:
        answer = client.chat.completions.create(model="flaky", messages=[{"role": "user", "content": "hi"}])
        assert 50 <= answer.usage.completion_tokens <= 200


@pytest.mark.parametrize(
    ("example", "printed"), [(RESPONSES, "The weather report says: snow\n"), (EMBEDDINGS, "")]
)
def test_the_scripts_of_the_page(start, example, printed):
    with start(AGENT) as server:
        script = example.replace("http://127.0.0.1:8765/v1", server.base_url)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.stdout, done.returncode) == (printed, 0), done.stderr


@pytest.mark.parametrize("example", [AGENT, REACT, FLAKY])
def test_the_examples_are_valid(tmp_path, example):
    (tmp_path / "rules.yml").write_text(example)
    assert load_rules(tmp_path / "rules.yml").models


def test_every_key_is_on_the_page():
    models = [m for m in vars(rules_module).values() if isinstance(m, type) and issubclass(m, BaseModel)]
    keys = {field.alias or name for model in models for name, field in model.model_fields.items()}
    assert keys
    missing = {key for key in keys if not re.search(rf"[`.{{ ]{key}\b", PAGE)}
    assert not missing
