"""The examples and the page on cross-workflow observability are run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from millstream import open_store

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "cross_workflow"


def run(file, folder):
    environment = {key: value for key, value in os.environ.items() if key != "OPENAI_BASE_URL"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def tree(printed):
    """Name, depth and status of each line of the tree, and what was called in it."""
    lines = re.findall(r"^[│├└─ ]*(\S+) +depth (\d)  (\w+) +[\d.]+ s ?(.*)$", printed, re.MULTILINE)
    return [(name, int(depth), status, calls.strip()) for name, depth, status, calls in lines]


def test_example(tmp_path):
    printed = run(FOLDER / "example.py", tmp_path)
    assert "stored ORDER 7\n14\ninvoice\n" in printed
    assert tree(printed) == [
        ("sequential_processing", 0, "completed", ""),
        ("validation", 1, "completed", ""),
        ("transformation", 2, "completed", ""),
        ("storage", 2, "completed", ""),
        ("distributed_processing", 0, "completed", ""),
        ("task_processor_0", 1, "completed", ""),
        ("task_processor_1", 1, "completed", ""),
        ("task_processor_2", 1, "completed", ""),
        ("aggregation", 1, "completed", ""),
        ("document_processing", 0, "completed", ""),
        ("ocr", 1, "completed", ""),
        ("clean_up", 2, "completed", ""),
        ("ocr", 1, "completed", ""),
        ("clean_up", 2, "completed", ""),
        ("classification", 1, "completed", ""),
        ("sender", 0, "completed", ""),
        ("receiver", 1, "completed", ""),
    ]


def test_cross_workflow_tracking_example(tmp_path):
    printed = run(FOLDER / "cross_workflow_tracking_example.py", tmp_path)
    assert "order 7 was sent on Monday" in printed
    assert tree(printed) == [
        ("customer_support", 0, "completed", ""),
        ("support_query_1", 1, "completed", "2 LLM, 1 TOOL"),
        ("support_query_2", 1, "completed", "2 LLM, 1 TOOL"),
        ("support_query_3", 1, "completed", "1 LLM"),
    ]


def test_workflow_integration_example(tmp_path):
    printed = run(FOLDER / "workflow_integration_example.py", tmp_path)
    assert "Sorry, we cannot say" in printed
    assert tree(printed) == [
        ("router", 0, "completed", ""),
        ("classification", 1, "completed", "1 LLM"),
        ("billing", 1, "completed", ""),
        ("router", 0, "completed", ""),
        ("classification", 1, "completed", "1 LLM"),
        ("technical", 1, "failed", ""),
        ("apology", 1, "completed", ""),
        ("router", 0, "completed", ""),
        ("classification", 1, "completed", "1 LLM"),
        ("general", 1, "completed", "2 LLM, 1 TOOL"),
    ]


def test_integrated_example_and_its_exporter(tmp_path, home):
    printed = run(FOLDER / "integrated_example.py", tmp_path)
    assert tree(printed) == [
        ("sequential", 0, "completed", ""),
        ("look_up", 1, "completed", "2 LLM, 1 TOOL"),
        ("translation", 2, "completed", "2 LLM, 1 TOOL"),
        ("parallel", 0, "completed", ""),
        ("order_7", 1, "completed", "2 LLM, 1 TOOL"),
        ("order_8", 1, "completed", "2 LLM, 1 TOOL"),
        ("order_9", 1, "failed", ""),
        ("distributed", 0, "completed", ""),
        ("worker_by_dict", 1, "completed", ""),
        ("worker_by_environment", 1, "completed", ""),
    ]
    assert "relationship.hierarchy_path = sequential -> look_up" in printed
    lines = [json.loads(line) for line in (tmp_path / "traces.jsonl").read_text().splitlines()]
    recorded = {span.span_id for span in open_store(home).spans()}
    assert sorted(line["span_id"] for line in lines) == sorted(recorded)
    models = [line["attributes"] for line in lines if line["kind"] == "LLM"]
    assert {told["relationship.hierarchy_path"] for told in models} == {
        "sequential -> look_up",
        "sequential -> look_up -> translation",
        "parallel -> order_7",
        "parallel -> order_8",
    }
    statuses = {
        line["name"]: line["attributes"]["observability.workflow_status"]
        for line in lines
        if line["kind"] == "WORKFLOW"
    }
    assert {name for name, status in statuses.items() if status != "completed"} == {"order_9"}
    (workers,) = {
        line["attributes"].get("observability.workflow_name")
        for line in lines
        if line["name"] == "worker_by_dict"
    }
    assert workers == "worker_by_dict"


@pytest.mark.parametrize("page", [ROOT / "docs" / "cross_workflow.md", FOLDER / "README.md"])
def test_the_python_of_a_page_runs(page, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "app.py").write_text("\n\n".join(blocks))
    printed = run(tmp_path / "app.py", tmp_path)
    expected = "stored 7\ncompleted\nstored 9\n" if page.name == "cross_workflow.md" else "INPUT\n"
    assert printed == expected


def test_the_readme_shows_the_exporter_of_the_configuration():
    (shown,) = re.findall(r"```yaml\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    section = shown.split("telemetry:\n")[1].replace('"traces.jsonl"', "${TRACES_FILE:-traces.jsonl}")
    assert section in (FOLDER / "observability_config.yml").read_text()


def test_a_run_of_the_configuration_tells_of_its_workflow(tmp_path, home):
    code = """
import asyncio
from common import CONFIG, model_server
from millstream.workflow import load_config, open_workflow

async def main():
    async with open_workflow(load_config(CONFIG)) as workflow:
        print(await workflow.run("Where is order 8?"))

with model_server():
    asyncio.run(main())
"""
    (tmp_path / "run.py").write_text(f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n{code}")
    assert "waits for its payment" in run(tmp_path / "run.py", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "traces.jsonl").read_text().splitlines()]
    (root,) = [line for line in lines if line["kind"] == "WORKFLOW"]
    assert root["attributes"]["observability.workflow_status"] == "completed"
    assert {line["attributes"]["observability.workflow_id"] for line in lines} == {root["span_id"]}
    assert {line["attributes"]["relationship.hierarchy_path"] for line in lines} == {"support_desk"}
    assert {line["kind"] for line in lines} >= {"LLM", "TOOL"}
