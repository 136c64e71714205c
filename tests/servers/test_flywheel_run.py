"""Workflow files with a flywheel exporter, run by the command line against real servers."""

import json
import os
import subprocess
import sys

import pytest

from tests.deliver import blueprint
from tests.deliver.test_flywheel_record import check_answer, check_replay
from tests.integrations.conformance import RULES
from tests.simulate.process import running

# The exporter is written as NVIDIA's document of it has it.
CONFIG = """
general:
  modules: [desk.py]
  telemetry:
    tracing:
      data_flywheel:
        _type: data_flywheel_elasticsearch
        client_id: my_nat_app
        index: flywheel
        endpoint: ${ELASTICSEARCH_ENDPOINT}
        username: elastic
        password: elastic
        batch_size: 10
llms:
  large:
    _type: openai
    model_name: able
    base_url: ${BASE_URL}
    api_key: right
    temperature: 0.2
    max_tokens: 100
  small:
    _type: nim
    model_name: able
    base_url: ${BASE_URL}
    api_key: right
    temperature: 0.0
    max_tokens: 20
workflow:
  _type: weather_desk
  llm: large
  summarizer: small
"""
DESK = '''
import os

from langchain.agents import create_agent
from langchain_core.tools import tool

from millstream import Builder, FunctionBaseConfig, FunctionInfo, LLMFrameworkEnum, register_function
from millstream import track_unregistered_function


class WeatherDesk(FunctionBaseConfig, name="weather_desk"):
    llm: str
    summarizer: str


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


@register_function(config_type=WeatherDesk, framework_wrappers=[LLMFrameworkEnum.LANGCHAIN])
async def weather_desk(config: WeatherDesk, builder: Builder):
    llm = await builder.get_llm(config.llm, wrapper_type=LLMFrameworkEnum.LANGCHAIN)
    summarizer = await builder.get_llm(config.summarizer, wrapper_type=LLMFrameworkEnum.LANGCHAIN)
    agent = create_agent(llm, tools=[weather], system_prompt="Be brief.")

    @track_unregistered_function(name="document_summarizer", metadata={"task_type": "summarization"})
    async def summarize(text):
        return (await summarizer.ainvoke(f"say {text}")).text

    async def desk(text: str) -> str:
        """Answers questions."""
        answer = (await agent.ainvoke({"messages": [("human", text)]}))["messages"][-1].text
        summary = await summarize("summary")
        if "die" in text:
            os.kill(os.getpid(), 9)
        return f"{answer} ({summary})"

    yield FunctionInfo.from_fn(desk, description="Answers questions.")
'''


@pytest.fixture(scope="module")
def base_url(tmp_path_factory):
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    with running(rules) as stand_in:
        yield stand_in.base_url


@pytest.fixture
def millstream_at(tmp_path, home, base_url):
    """A function that runs the command with a workflow file that delivers to a server."""
    (tmp_path / "desk.py").write_text(DESK)
    (tmp_path / "flow.yml").write_text(CONFIG)

    def run(endpoint, *arguments):
        environment = {
            **os.environ,
            "ELASTICSEARCH_ENDPOINT": endpoint,
            "BASE_URL": base_url,
            "MILLSTREAM_HOME": str(home),
        }
        command = [sys.executable, "-m", "millstream", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def run_on(millstream_at, endpoint, question, *more):
    return millstream_at(endpoint, "run", "--config_file", "flow.yml", "--input", question, *more)


def records(server, workload_id):
    """What the Blueprint reads of a workload, oldest first."""
    server.call("POST", "/flywheel/_refresh")
    query = blueprint.query("my_nat_app", workload_id)
    hits = server.call("POST", "/flywheel/_search", query)["hits"]["hits"]
    return [hit["_source"] for hit in reversed(hits) if blueprint.is_valid(hit["_source"])]


def check_desk(server, base_url, runs=1):
    desk, summaries = records(server, "weather_desk"), records(server, "document_summarizer")
    assert (len(desk), len(summaries)) == (2 * runs, runs)
    for record in [*desk, *summaries]:
        check_answer(record)
        check_replay(base_url, record)
    called, told = desk[:2]
    assert [(one["request"]["temperature"], one["request"]["max_tokens"]) for one in desk[:2]] == [
        (0.2, 100)
    ] * 2
    (call,) = called["response"]["choices"][0]["message"]["tool_calls"]
    assert told["request"]["messages"][-1]["tool_call_id"] == call["id"]
    assert "rain in Oslo" in told["response"]["choices"][0]["message"]["content"]
    assert summaries[0]["request"]["temperature"] == 0.0
    assert summaries[0]["response"]["choices"][0]["message"]["content"] == "summary"


def test_a_run_is_in_the_index_when_it_has_ended(search_server, guard, millstream_at, base_url):
    gate = guard(search_server, basic=("elastic", "elastic"))

    done = run_on(millstream_at, gate.url, "What is the weather in Oslo?")

    assert done.returncode == 0, done.stderr
    assert "rain in Oslo (summary)" in done.stdout
    assert done.stderr == ""
    check_desk(search_server, base_url)


def test_what_a_run_could_not_send_is_shipped_once(elasticsearch9, guard, millstream_at, base_url):
    """One that was killed before it had sent everything, and one with the server away."""
    gate = guard(elasticsearch9, basic=("elastic", "elastic"))
    killed = run_on(millstream_at, gate.url, "What is the weather in Oslo? Then die.")
    assert killed.returncode == -9, killed.stderr
    away = run_on(
        millstream_at,
        "http://127.0.0.1:9",
        "What is the weather in Oslo?",
        *("--override", "general.telemetry.tracing.data_flywheel.shutdown_timeout", "1"),
    )
    assert away.returncode == 0, away.stderr
    assert "127.0.0.1:9" in away.stderr
    assert "millstream ship --config_file flow.yml" in away.stderr
    assert "elastic:" not in away.stderr

    for _ in range(2):
        shipped = millstream_at(gate.url, "ship", "--config_file", "flow.yml", "--once")
        assert shipped.returncode == 0, shipped.stdout + shipped.stderr
    check_desk(elasticsearch9, base_url, runs=2)
    assert len(elasticsearch9.documents("flywheel")) == 6


def test_an_index_of_the_blueprint(elasticsearch8, guard, millstream_at, base_url):
    """The message that a user gets who does not know of the option, and what helps."""
    elasticsearch8.call("PUT", "/flywheel", blueprint.INDEX)
    gate = guard(elasticsearch8, basic=("elastic", "elastic"))
    refused = run_on(millstream_at, gate.url, "What is the weather in Oslo?")
    assert refused.returncode == 0
    assert refused.stderr.count("`strict_mapping: true`") == 1, refused.stderr
    assert elasticsearch8.documents("flywheel") == []

    strict = ("--override", "general.telemetry.tracing.data_flywheel.strict_mapping", "true")
    done = run_on(millstream_at, gate.url, "What is the weather in Oslo?", *strict)

    assert (done.returncode, done.stderr) == (0, "")
    desk = records(elasticsearch8, "weather_desk")
    assert len(desk) == 4
    assert all(set(record) == blueprint.FIELDS for record in desk)


def test_a_wrong_option_ends_the_run_before_it_begins(millstream_at):
    wrong = run_on(
        millstream_at,
        "http://127.0.0.1:9",
        "x",
        *("--override", "general.telemetry.tracing.data_flywheel.client_ids", "x"),
    )
    assert wrong.returncode == 2
    assert "client_id" in wrong.stderr
    assert "general.telemetry.tracing.data_flywheel.client_ids" in wrong.stderr
    assert json.dumps("elastic") not in wrong.stderr
