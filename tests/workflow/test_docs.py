"""Every file shown in docs/workflow.md is written, checked and run."""

import re
import sys
from pathlib import Path

import pytest

from millstream.workflow import load_config, open_workflow
from millstream.workflow.checks import check_config
from millstream.workflow.registry import registered

PAGE = (Path(__file__).parents[2] / "docs" / "workflow.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
FLOWS = [text for language, text in BLOCKS if language == "yaml"]
FILES = {text.split("\n")[0].removeprefix("# "): text for language, text in BLOCKS if language == "python"}
FILES |= {
    text.split("\n")[0][5:-4]: text for language, text in BLOCKS if language == "markdown"
}  # the name is in <!-- -->
ANSWERS = [
    "The tool says 42",
    "you said what is 20 plus 22",
    "512 numbers for what is 20 plus 22",
    "My helper says: The tool says 5",
    "The tool says 42",
    "it is 42",
    "you said what is 20 plus 22",
    "22 SULP 02 SI TAHW",
    "22 sulp 02 si tahw",
    "the server says 42",
    "What is 20 plus 22?",
]


@pytest.fixture
def folder(tmp_path, monkeypatch, base_url):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "the-key")
    monkeypatch.setenv("MODEL", "able")
    return tmp_path


@pytest.mark.parametrize(("flow", "answer"), list(zip(FLOWS, ANSWERS, strict=True)))
async def test_the_workflow_files_run(folder, flow, answer):
    path = folder / "flow.yml"
    path.write_text(flow.replace("command: python,", f"command: {sys.executable},"))
    config = load_config(path)
    check_config(config)
    async with open_workflow(config) as workflow:
        said = await workflow.run("what is 20 plus 22")
        text = said if isinstance(said, str) else said[0]["content"]
        assert text.startswith(answer)


async def test_the_python_example_runs(folder):
    path = folder / "flow.yml"
    path.write_text(FLOWS[0])
    names: dict[str, object] = {"__name__": "run_it"}
    exec(FILES["run_it.py"], names)  # noqa: S102  # the page's own text
    assert await names["ask"](path, "what is 20 plus 22") == "The tool says 42"


@pytest.mark.parametrize(
    "kind",
    [
        "tool_calling_agent",
        "react_agent",
        "router_agent",
        "sequential_executor",
        "python",
        "mcp_client",
        "vector_retriever",
    ],
)
def test_every_key_is_on_the_page(kind):
    (component,) = [item for item in registered() if item.name == kind]
    for key in component.config_type.model_fields:
        assert f"`{key}`" in PAGE
