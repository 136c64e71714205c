"""Prompts in files beside the workflow file."""

import hashlib

import pytest

from millstream.errors import ConfigError
from millstream.workflow import load_config, open_workflow
from tests.workflow.test_agents import TOOLS

AGENT = """
general: {modules: [tools.py]}
functions:
  add: {_type: add_numbers}
workflow: {_type: KIND, llm_name: able, tool_names: [add], system_prompt: {file: prompts/agent.md}}
"""
TEXT = "You add numbers.\nNothing else: ${NOT_A_VARIABLE}."


@pytest.fixture
def flow(write, llms, tmp_path, monkeypatch):
    """Writes a workflow file and its prompt; the working directory is another one."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "agent.md").write_text(TEXT + "\n\n")
    return lambda kind="tool_calling_agent", text=AGENT: write(llms + text.replace("KIND", kind), tools=TOOLS)


@pytest.mark.parametrize("kind", ["tool_calling_agent", "react_agent", "router_agent"])
async def test_the_model_is_told_what_is_in_the_file(flow, spans, kind):
    async with open_workflow(load_config(flow(kind))) as workflow:
        if kind == "router_agent":
            with pytest.raises(Exception, match="chose 'shout'"):
                await workflow.run("1 plus 2")
        else:
            await workflow.run("1 plus 2")
    first = next(span for span in spans() if span.kind.value == "LLM").input[0]
    assert first["role"] == "system"
    assert first["content"].startswith(TEXT)


def test_what_is_written_down_names_the_file_and_its_hash(flow, tmp_path):
    config = load_config(flow())
    sha256 = hashlib.sha256((TEXT + "\n\n").encode()).hexdigest()
    assert config.workflow["system_prompt"] == TEXT
    assert config.raw_effective["workflow"]["system_prompt"] == {"file": "prompts/agent.md", "sha256": sha256}
    named = AGENT.replace("prompts/agent.md}", f"prompts/agent.md, sha256: {sha256}}}")
    assert load_config(flow(text=named)).workflow["system_prompt"] == TEXT
    (tmp_path / "prompts" / "agent.md").write_text("You multiply.")
    with pytest.raises(ConfigError, match=r"agent\.md has another content than sha256 says"):
        load_config(flow(text=named))


def test_prompts_of_functions_and_evaluators(write, tmp_path):
    (tmp_path / "p.md").write_text("P")
    config = load_config(
        write(
            "functions: {one: {_type: mine, prompt: {file: p.md}, other: {file: p.md}}}\n"
            "eval: {evaluators: {judge: {_type: mine, judge_prompt: {file: p.md}}}}\n"
        )
    )
    assert config.functions["one"] == {"_type": "mine", "prompt": "P", "other": {"file": "p.md"}}
    assert config.eval["evaluators"]["judge"]["judge_prompt"] == "P"
    assert config.raw_effective["functions"]["one"]["prompt"]["file"] == "p.md"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{file: gone.md}", r"workflow\.system_prompt\.file: .*gone\.md cannot be read: No such file"),
        ("{file: prompts}", r"workflow\.system_prompt\.file: .*prompts cannot be read: Is a directory"),
        ("{file: 7}", r"workflow\.system_prompt\.file: the path of a file is needed here, not 7"),
        ("{file: bytes.md}", r"workflow\.system_prompt\.file: .*bytes\.md is not UTF-8 text"),
        ("{file: empty.md}", r"workflow\.system_prompt\.file: .*empty\.md is empty"),
        ("{file: a.md, text: x}", r"workflow\.system_prompt\.text: unknown key"),
    ],
)
def test_files_that_are_no_prompts(flow, tmp_path, prompt, message):
    (tmp_path / "bytes.md").write_bytes(b"\xff")
    (tmp_path / "empty.md").write_text("\n")
    with pytest.raises(ConfigError, match=message):
        load_config(flow(text=AGENT.replace("{file: prompts/agent.md}", prompt)))


def test_validate_says_it(flow, millstream, tmp_path):
    path = flow()
    (tmp_path / "prompts" / "agent.md").unlink()
    done = millstream("validate", "--config_file", str(path))
    assert done.returncode == 2
    assert "workflow.system_prompt.file" in done.stderr
    assert "it is relative to the workflow file" in done.stderr


@pytest.mark.parametrize(
    "keys", ["path: prompts/agent.md", "fil: prompts/agent.md, sha256: ab", "text: You add."]
)
def test_a_mapping_that_names_no_file_is_told(flow, millstream, keys):
    path = flow(text=AGENT.replace("file: prompts/agent.md", keys))
    done = millstream("validate", "--config_file", str(path))
    hint = "; did you mean 'file'? Known: file, sha256" if "fil:" in keys else "; known: file, sha256"
    key = keys.partition(":")[0]
    assert done.returncode == 2
    assert done.stderr == (
        f"millstream: {path}: workflow.system_prompt.{key}: unknown key{hint}; a prompt is a text, or"
        " {file: PATH} of one\n"
    )
