"""A real model server on a real port: the product's own stand-in, started by its command line."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from millstream.cli import main
from millstream.workflow.registry import scratch_registry

CODE = "from millstream.cli import main; main()"

RULES = r"""
models:
  able: {}
  truncating: {tool_calling: {malformed: 1}}
  slow: {latency: {time_per_output_token_s: 0.05}}
  broken: {errors: [{status: 500, message: the GPU is on fire, every: 1}]}
  hanging: {errors: [{fault: hang, every: 1}]}
  busy: {errors: [{status: 429, message: slow down, retry_after_s: 0, every: 1}]}
api_key: the-key
rules:
  - when: {model: slow}
    reply: {tokens: 400}
  - when: {has_tool: add, last_user_matches: 'clumsy', last_message_role: user}
    reply: {tool_calls: [{name: add, arguments: 'a = 1'}]}
  - when: {has_tool: add, last_user_matches: 'clumsy once', last_message_matches: 'not a valid JSON'}
    reply: {tool_calls: [{name: add, arguments: {a: 3, b: 4}}]}
  - when: {has_tool: add, last_message_role: tool, last_message_matches: 'not a valid JSON'}
    reply: {tool_calls: [{name: add, arguments: 'still not'}]}
  - when: {has_tool: add, last_user_matches: 'list', last_message_role: user}
    reply: {tool_calls: [{name: add, arguments: '[1, 2]'}]}
  - when: {has_tool: add, last_user_matches: 'half', last_message_role: user}
    reply: {tool_calls: [{name: add, arguments: {a: 1, b: 2}}, {name: add, arguments: '{"a": 5'}]}
  - when: {has_tool: add, last_user_matches: 'loop', last_message_role: user}
    reply: {tool_calls: [{name: add, arguments: {a: 1, b: 1}}]}
  - when: {has_tool: add, last_user_matches: 'loop'}
    reply: {tool_calls: [{name: add, arguments: {a: 1, b: 1}}]}
  - when: {has_tool: add, last_user_matches: '(?P<a>\d+) plus (?P<b>\d+)', last_message_role: user}
    reply: {tool_calls: [{name: add, arguments: {a: $a, b: $b}}]}
  - when: {has_tool: add, last_message_role: tool, last_message_matches: '(?s)(?P<sum>.*)'}
    reply: The tool says $sum
  - when: {has_tool: calc_add, last_message_role: user, last_user_matches: 'mcp (?P<a>\d+) and (?P<b>\d+)'}
    reply: {tool_calls: [{name: calc_add, arguments: '{"a": $a, "b": $b}'}]}
  - when: {has_tool: calc_add, last_message_role: tool, last_message_matches: '(?s)(?P<said>.*)'}
    reply: The server says $said
  - when: {has_tool: helper, last_message_role: user}
    reply: {tool_calls: [{name: helper, arguments: {message: 2 plus 3}}]}
  - when: {has_tool: helper, last_message_role: tool, last_message_matches: '(?s)(?P<said>.*)'}
    reply: 'My helper says: $said'
  - when: {system_contains: 'Action Input', last_user_matches: 'Observation: (?P<seen>\d+)$'}
    reply: "Thought: I know the final answer\nFinal Answer: it is $seen"
  - when: {system_contains: 'Action Input', last_user_matches: 'Observation: -'}
    reply: "Action: add\nAction Input: {\"a\": 1}"
  - when: {system_contains: 'Action Input', last_user_matches: 'neither an'}
    reply: "Thought: sorry\nFinal Answer: mended"
  - when: {system_contains: 'Action Input', last_user_matches: 'mumble'}
    reply: I would rather talk about the weather.
  - when: {system_contains: 'Action Input', last_user_matches: '(?P<a>\d+) plus (?P<b>\d+)'}
    reply: "**Action:** add\nAction Input: {\"a\": $a, \"b\": $b}\nObservation: 9\nFinal Answer: 9"
  - when: {system_contains: 'Be stubborn'}
    reply: nobody
  - when: {system_contains: 'talk: Anything but numbers.'}
    reply: talk
  - when: {system_contains: 'Choose which one', last_user_matches: 'none of them'}
    reply: shout
  - when: {system_contains: 'Choose which one', last_user_matches: 'route to (?P<name>\w+)'}
    reply: $name
default: You said $user
"""


@pytest.fixture(scope="session")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the stand-in listens."""
    folder = tmp_path_factory.mktemp("stand_in")
    rules = folder / "rules.yml"
    rules.write_text(RULES)
    command = [sys.executable, "-c", CODE, "simulate", "llm", "--config", str(rules), "--exit-with-parent"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), "the stand-in did not start"
            yield url
        finally:
            process.terminate()


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither the environment nor other tests' components are seen."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "NVIDIA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    path = list(sys.path)
    with scratch_registry():
        yield
    sys.path[:] = path


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a workflow file, and Python files beside it."""

    def write(yaml: str, **files: str) -> Path:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        path = tmp_path / "flow.yml"
        path.write_text(yaml)
        return path

    return write


@pytest.fixture
def llms(base_url: str) -> str:
    """The section `llms` with the stand-in's models."""
    models = ("able", "slow", "broken", "busy", "hanging")
    lines = [
        f"  {name}: {{_type: openai, model_name: {name}, base_url: '{base_url}', api_key: the-key,"
        " max_retries: 0}"
        for name in models
    ]
    return "\n".join(["llms:", *lines, ""])


@pytest.fixture
def millstream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, printed.out, printed.err)

    return run


@pytest.fixture
def millstream_process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in a process of its own, where warnings are errors."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-c", CODE, *arguments]
        folders = os.pathsep.join(filter(None, sys.path))
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": folders} | environment,
            check=False,
            timeout=60,
        )

    return run
