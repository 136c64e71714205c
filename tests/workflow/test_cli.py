"""`millstream run`, `validate` and `info`."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

SHOUT = """
import logging
from millstream.workflow import FunctionBaseConfig, FunctionInfo, register_function

class ShoutConfig(FunctionBaseConfig, name="shout"):
    marks: int = 1
    llm: str | None = None

@register_function(config_type=ShoutConfig)
async def shout(config, builder):
    async def call(text: str) -> str:
        logging.getLogger(__name__).warning("shouting")
        return text.upper() + config.marks * "!"
    yield FunctionInfo.from_fn(call, description="Shouts.")

def table(text):
    return {"text": text, "n": len(text)}
"""
YAML = "general: {modules: [shouting.py]}\nworkflow: {_type: shout}\n"


def test_run_prints_the_result_and_nothing_else(write, millstream_process, spans):
    path = write(YAML, shouting=SHOUT)
    done = millstream_process(
        "run", "--config_file", str(path), "--input", "héllo", "--override", "workflow.marks", "2"
    )
    assert (done.returncode, done.stdout) == (0, "HÉLLO!!\n")
    assert [(span.name, span.output) for span in spans()] == [("shout", "HÉLLO!!")]


def test_run_reads_the_input_from_a_file(write, millstream, tmp_path):
    path = write("workflow: {_type: python, target: 'shouting.py:table'}", shouting=SHOUT)
    (tmp_path / "in.txt").write_text("äb\n", encoding="utf-8")
    done = millstream("run", "--config-file", str(path), "--input-file", "in.txt")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"text": "äb\n", "n": 3})
    assert millstream("run", "--config_file", str(path), "--input_file", "no.txt").returncode == 2
    assert millstream("run", "--config_file", str(path)).returncode == 2


def test_run_needs_no_eval_section_to_be_right(write, millstream):
    path = write(YAML + "eval: {general: {dataset: '${NOT_SET_ANYWHERE}'}}", shouting=SHOUT)
    assert millstream("run", "--config_file", str(path), "--input", "x").stdout == "X!\n"


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        (None, 0, ""),
        (("llms.able.api_key", "wrong"), 4, "refused the API key (401)"),
        (("llms.able.base_url", "http://127.0.0.1:{port}/v1"), 4, "no model server answers at"),
        (("workflow.llm_name", "broken"), 3, "the GPU is on fire"),
        (("workflow.llm_name", "abel"), 2, "workflow.llm_name: there is no llms.abel; did you mean 'able'"),
        (("workflow.max_iteration", "3"), 2, "unknown key; did you mean 'max_iterations'"),
    ],
)
def test_run_says_what_went_wrong_and_exits_with_its_code(
    *, write, llms, millstream, override, code, message
):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    path = write(llms + "workflow: {_type: tool_calling_agent, llm_name: able}\n")
    extra = ("--override", override[0], override[1].format(port=port)) if override else ()
    done = millstream("run", "--config_file", str(path), "--input", "hi", *extra)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ("" if code else "You said hi\n")


def test_validate_says_ok_in_one_line_and_contacts_nobody(write, llms, millstream, tmp_path):
    llms = llms.replace("http://127.0.0.1", "http://192.0.2.1")  # an address that nobody has
    path = write(llms + YAML + "functions: {s: {_type: shout, llm: able}}\n", shouting=SHOUT)
    done = millstream("validate", "--config_file", str(path))
    assert (done.returncode, done.stdout) == (0, f"OK: {path} (workflow shout, 1 functions, 5 llms)\n")
    assert json.loads(millstream("validate", "--config_file", str(path), "--json").stdout) == {
        "ok": True,
        "problems": [],
    }


def test_validate_lists_every_problem(write, millstream):
    yaml = """
general: {modules: [shouting.py]}
llms:
  a: {_type: openai, model_nam: x}
  b: {_type: open_ai}
  c: {_type: openai, model_name: m}
functions:
  f: {_type: shout, llm: d, mark: 1}
  g: {_type: shout, llm: d}
workflow: {_type: tool_calling_agent, llm_name: aa, tool_names: [f, ff]}
eval: {general: {max_concurency: 2}}
"""
    path = write(yaml, shouting=SHOUT)
    done = millstream("validate", "--config_file", str(path))
    assert done.returncode == 2
    assert done.stdout == ""
    for line in (
        "has 9 problems:",
        "llms.a: the key 'model_name' is missing",
        "llms.a.model_nam: unknown key; did you mean 'model_name'?",
        "llms.b: unknown _type 'open_ai'; did you mean 'openai'?",
        "llms.c: api.openai.com needs an API key; set the environment variable OPENAI_API_KEY",
        "functions.f.mark: unknown key; did you mean 'marks'?",
        "functions.g.llm: there is no llms.d; known: a, b, c",
        "workflow.llm_name: there is no llms.aa; did you mean 'a'?",
        "workflow.tool_names: there is no functions.ff; did you mean 'f'?",
        "eval.general.max_concurency: unknown key; did you mean 'max_concurrency'?",
    ):
        assert line in done.stderr
    listed = json.loads(millstream("validate", "--config_file", str(path), "--json").stdout)
    assert listed["ok"] is False
    assert len(listed["problems"]) == 9


def test_validate_checks_evaluators(write, millstream):
    evaluation = (
        "eval: {general: {dataset: {_type: csv, file_path: x.csv}}, evaluators: {e: {_type: regexx}}}"
    )
    done = millstream("validate", "--config_file", str(write(YAML + evaluation, shouting=SHOUT)))
    assert done.returncode == 2
    assert "eval.evaluators.e" in done.stderr
    assert "did you mean 'regex'?" in done.stderr


def test_without_langchain_the_extra_is_named(write, llms, millstream_process, tmp_path):
    (tmp_path / "langchain_core").mkdir()
    (tmp_path / "langchain_core" / "__init__.py").write_text("raise ModuleNotFoundError('no langchain_core')")
    path = write(llms + "workflow: {_type: tool_calling_agent, llm_name: able}\n")
    folders = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = millstream_process("run", "--config_file", str(path), "--input", "hi", PYTHONPATH=folders)
    assert done.returncode == 4
    assert done.stderr == (
        "millstream: this workflow needs the extra [langchain]: pip install 'millstream[langchain]'\n"
    )


def test_the_workflow_layer_is_imported_without_langchain():
    code = "import sys, millstream.workflow.runner; print(*({'langchain_core', 'openai'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_validate_checks_whom_evaluators_name(write, llms, millstream, tmp_path):
    (tmp_path / "plugin.py").write_text("def same(item): return 1\n")
    (tmp_path / "data.json").write_text('[{"id": 1, "question": "q", "answer": "a"}]')
    path = write(
        llms
        + "embedders: {near: {_type: hash}}\n"
        + "eval:\n"
        + "  general: {output_dir: out, dataset: {_type: json, file_path: data.json}}\n"
        + "  evaluators:\n"
        + "    judge: {_type: python, target: 'plugin.py:same', llm_name: abel, embedder_name: naer}\n"
    )
    done = millstream("validate", "--config_file", str(path), "--json")
    assert done.returncode == 2
    problems = json.loads(done.stdout)["problems"]
    llm, embedder, *_ = problems
    assert llm.startswith("eval.evaluators.judge.llm_name: there is no llms.abel; did you mean 'able'")
    assert embedder.startswith(
        "eval.evaluators.judge.embedder_name: there is no embedders.naer; did you mean"
    )
    assert len(set(problems)) == len(problems)


def test_info_lists_components_with_their_keys(millstream):
    listed = json.loads(millstream("info", "--json").stdout)
    assert [agent["name"] for agent in listed["agents"]] == [
        "react_agent",
        "router_agent",
        "tool_calling_agent",
    ]
    keys = {key["name"]: key for key in listed["agents"][2]["keys"]}
    assert keys["llm_name"] == {
        "name": "llm_name",
        "type": "LLMRef",
        "required": True,
        "default": None,
        "aliases": [],
    }
    assert keys["max_iterations"] == {
        "name": "max_iterations",
        "type": "int",
        "required": False,
        "default": 15,
        "aliases": [],
    }
    assert {llm["name"] for llm in listed["llms"]} >= {"openai", "nim"}
    evaluators = {item["name"]: item for item in listed["evaluators"]}
    assert "rubric" in {key["name"] for key in evaluators["llm_judge"]["keys"]}
    assert evaluators["similarity"]["keys"][0] == {
        "name": "method",
        "type": "'edit' | 'rouge_l' | 'embedding'",
        "required": True,
        "default": None,
        "aliases": [],
    }
    assert evaluators["avg_llm_latency"]["description"]
    text = millstream("info").stdout
    assert "      temperature: float | None (default null)" in text
    assert "tool_calling_agent  A LangGraph agent" in text


def test_info_lists_keys_of_datasets_and_other_names_of_keys(millstream):
    listed = json.loads(millstream("info", "--json").stdout)
    datasets = {item["name"]: item for item in listed["datasets"]}
    keys = {name: {key["name"]: key for key in item["keys"]} for name, item in datasets.items()}
    shared = ["file_path", "id_key", "structure", "filter"]
    assert {name: list(found) for name, found in keys.items()} == {
        "csv": shared,
        "custom": ["function", *shared],
        "json": shared,
        "jsonl": shared,
        "parquet": shared,
        "xls": ["sheet", *shared],
    }
    assert keys["custom"]["function"]["required"]
    assert [keys["csv"]["file_path"]["required"], keys["custom"]["file_path"]["required"]] == [True, False]
    assert keys["csv"]["structure"]["default"]["question_key"] == "question"
    router = next(item for item in listed["agents"] if item["name"] == "router_agent")
    assert {key["name"]: key["aliases"] for key in router["keys"]}["tool_names"] == ["branches"]
    text = millstream("info").stdout
    assert "  xls  The files that end in .xls, .xlsx\n      sheet: str | None (default null)\n" in text
    assert "      path: Path (required; also output_path, file_path)\n" in text
    assert "      tool_names: list[FunctionRef] (required; also tool_list)\n" in text


def test_run_says_when_nothing_could_be_recorded(write, millstream_process, tmp_path):
    upper = "def upper(text): return text.upper()"
    path = write("workflow: {_type: python, target: flow.py:upper}", flow=upper)
    (tmp_path / "file").write_text("")
    home = str(tmp_path / "file" / "home")
    result = millstream_process("run", "--config_file", str(path), "--input", "a", MILLSTREAM_HOME=home)
    assert (result.returncode, result.stdout) == (4, "A\n")
    assert "could not be recorded" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("code", [None, "raise ValueError('broken here')"])
def test_a_module_that_cannot_be_imported_is_the_only_problem(write, millstream, code):
    yaml = "general: {modules: [mine.py]}\nfunctions: {f: {_type: mine}}\nworkflow: {_type: mine}\n"
    path = write(yaml, **({} if code is None else {"mine": code}))
    done = millstream("validate", "--config_file", str(path))
    assert done.returncode == 2
    assert "general.modules.0" in done.stderr
    assert "unknown _type" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_run_names_the_key_of_the_model_that_was_refused(write, llms, millstream):
    path = write(llms + "workflow: {_type: tool_calling_agent, llm_name: able}\n")
    done = millstream(
        "run", "--config_file", str(path), "--input", "hi", "--override", "llms.able.api_key", "wrong"
    )
    assert "set OPENAI_API_KEY or llms.able.api_key" in done.stderr


BLOCK = """
import time

async def block(text):
    print("blocking", flush=True)
    time.sleep(60)
"""


def test_the_first_interrupt_says_that_a_second_stops_at_once(write, tmp_path):
    path = write("workflow: {_type: python, target: 'blocking.py:block'}", blocking=BLOCK)
    command = [sys.executable, "-m", "millstream", "run", "--config_file", str(path), "--input", "x"]
    folders = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": folders},
    ) as process:
        assert process.stdout.readline() == "blocking\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "stopping; press Ctrl-C again to stop at once\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read().strip() == "interrupted"


LOUD = """
import logging

def loud(text):
    logging.getLogger("millstream.journal").warning("spans are lost")
    logging.getLogger("millstream.journal").info("all is well")
    logging.getLogger("my.app").warning("of the app")
    return text
"""


@pytest.mark.parametrize(("also", "lines"), [("", 1), (", c: {_type: console}", 1)])
def test_our_warnings_reach_the_terminal_with_only_a_log_file(
    write, millstream_process, tmp_path, also, lines
):
    path = write(
        f"general: {{telemetry: {{logging: {{f: {{_type: file, path: log.txt}}{also}}}}}}}\n"
        "workflow: {_type: python, target: 'loud.py:loud'}",
        loud=LOUD,
    )
    done = millstream_process("run", "--config_file", str(path), "--input", "a")
    assert done.stdout == "a\n"
    assert done.stderr.count("spans are lost") == lines
    assert ("of the app" in done.stderr) is bool(also)
    logged = (tmp_path / "log.txt").read_text()
    assert "spans are lost" in logged
    assert "of the app" in logged
    assert "all is well" in logged
