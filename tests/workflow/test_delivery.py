"""Exporters of a workflow file, through the real command line: what is recorded arrives, faults are told."""

import json
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from millstream import open_store

SHOUT = """
import os, sys, time
from millstream import start_span

def shout(text):
    with start_span("inside", input={"text": text, "api_key": "sk-0123456789abcdef0123"}):
        return text.upper()

def fail(text):
    raise ValueError("nobody listens")

def wait(text):
    print("waiting", file=sys.stderr, flush=True)
    time.sleep(60)

def die(text):
    with start_span("inside"):
        pass
    os._exit(9)
"""
TRACING = """
general: {{telemetry: {{tracing: {{out: {0}}}}}}}
workflow: {{_type: python, target: 'shouting.py:{1}'}}
"""


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def without_plugins(monkeypatch):
    """Logfire's plugin of pydantic takes seconds to load."""
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "__all__")


@pytest.fixture
def flow(write):
    def flow(section, function="shout"):
        return str(write(TRACING.format(section, function), shouting=SHOUT))

    return flow


def test_what_a_run_recorded_is_in_the_file_when_it_ends(flow, millstream_process, tmp_path, home):
    path = flow("{_type: file, path: traces.jsonl}")
    for text in ("hello", "again"):
        done = millstream_process("run", "--config_file", path, "--input", text)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{text.upper()}\n", "")
    written = list(open_store(tmp_path / "traces.jsonl").spans())
    assert [span.name for span in written] == ["inside", "shout"] * 2
    assert sorted(span.span_id for span in written) == sorted(
        span.span_id for span in open_store(home).spans()
    )


def test_the_form_with_config_and_processors(flow, millstream_process, tmp_path):
    section = (
        "{type: file_exporter, config: {file_path: traces.jsonl, processors: [{type: tagging, config:"
        " {tags: {team: search}}}, redaction, {type: redaction, config: {fields: [text]}}]}}"
    )
    done = millstream_process("run", "--config_file", flow(section), "--input", "hello")
    assert (done.returncode, done.stderr) == (0, "")
    inside, root = lines(tmp_path / "traces.jsonl")
    assert inside["input"] == {"text": "[redacted]", "api_key": "[redacted]"}
    assert inside["attributes"]["team"] == root["attributes"]["team"] == "search"


def test_a_sampled_trace_is_whole(write, millstream_process, tmp_path):
    write(
        TRACING.format(
            "{_type: file, path: traces.jsonl, processors: [{_type: sampling, rate: 0.5}]}", "shout"
        ),
        shouting=SHOUT,
    )
    program = """
        import asyncio
        from pathlib import Path
        from millstream.workflow.config import load_config
        from millstream.workflow.runner import open_workflow

        async def main():
            async with open_workflow(load_config(Path("flow.yml"))) as workflow:
                await asyncio.gather(*(workflow.run(str(number)) for number in range(60)))

        asyncio.run(main())
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, check=True, timeout=60)
    traces = {}
    for line in lines(tmp_path / "traces.jsonl"):
        traces.setdefault(line["trace_id"], []).append(line["name"])
    assert 10 < len(traces) < 50
    assert all(sorted(names) == ["inside", "shout"] for names in traces.values())


def test_a_run_that_fails_is_delivered(flow, millstream_process, tmp_path):
    path = flow("{_type: file, path: traces.jsonl}", "fail")
    done = millstream_process("run", "--config_file", path, "--input", "hello")
    assert done.returncode == 3
    (root,) = lines(tmp_path / "traces.jsonl")
    assert (root["status"], root["error"]["message"]) == ("error", "nobody listens")


def test_what_a_run_that_died_left_comes_with_the_next(flow, millstream_process, tmp_path):
    section = "{_type: file, path: traces.jsonl}"
    assert millstream_process("run", "--config_file", flow(section), "--input", "a").returncode == 0
    assert millstream_process("run", "--config_file", flow(section, "die"), "--input", "b").returncode == 9
    assert millstream_process("run", "--config_file", flow(section), "--input", "c").returncode == 0
    written = lines(tmp_path / "traces.jsonl")
    assert sorted((line["name"], line["status"]) for line in written) == [
        ("die", "interrupted"),
        ("inside", "ok"),
        ("inside", "ok"),
        ("inside", "ok"),
        ("shout", "ok"),
        ("shout", "ok"),
    ]


def test_an_evaluation_is_delivered(write, millstream_process, tmp_path):
    (tmp_path / "data.json").write_text(
        json.dumps([{"id": str(n), "question": f"q{n}", "answer": f"Q{n}"} for n in range(5)])
    )
    path = write(
        TRACING.format("{_type: file, path: traces.jsonl}", "shout")
        + "eval: {general: {output_dir: out, dataset: {_type: json, file_path: data.json}},"
        " evaluators: {same: {_type: exact_match}}}\n",
        shouting=SHOUT,
    )
    done = millstream_process("eval", "--config_file", str(path))
    assert done.returncode == 0, done.stderr
    assert sorted(line["name"] for line in lines(tmp_path / "traces.jsonl")) == ["inside"] * 5 + ["shout"] * 5


@pytest.mark.parametrize("command", ["run", "eval", "validate"])
@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "{_type: fil, path: x}",
            "general.telemetry.tracing.out._type: unknown exporter 'fil'; did you mean 'file'?",
        ),
        ("{_type: file, pat: x}", "general.telemetry.tracing.out.pat: unknown key; did you mean 'path'?"),
        (
            "{_type: file, path: x, processors: [redact]}",
            "out.processors.0._type: unknown processor 'redact'; did",
        ),
        ("{_type: elasticsearch, endpoint: 'localhost:9200', index: x}", "'localhost:9200' is no URL"),
        ("{_type: elasticsearch, endpoint: 'https://h', index: x, ca_certs: /no/ca.pem}", "/no/ca.pem"),
    ],
)
def test_what_is_seen_to_be_wrong_is_refused_before_anything_runs(
    write, millstream, home, command, section, message, tmp_path
):
    (tmp_path / "data.json").write_text('[{"id": "1", "question": "q", "answer": "Q"}]')
    path = write(
        TRACING.format(section, "shout")
        + "eval: {general: {output_dir: out, dataset: {_type: json, file_path: data.json}}}\n",
        shouting=SHOUT,
    )
    arguments = ("--input", "x") if command == "run" else ()
    done = millstream(command, "--config_file", str(path), *arguments)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert re.search(r"flow\.yml(: | has 2 problems:\n  )general\.telemetry", done.stderr), done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()
    assert not list(open_store(home).spans()) if (home / "journal").exists() else True


def test_every_command_tells_all_that_is_wrong_in_the_same_words(write, millstream_process, tmp_path):
    (tmp_path / "data.json").write_text('[{"id": "1", "question": "q", "answer": "Q"}]')
    path = write(
        TRACING.format("{_type: otlp, endpoint: 'localhost:4318', tls: {ca_file: /no/ca.pem}}", "shout")
        + "eval: {general: {output_dir: out, dataset: {_type: json, file_path: data.json}}}\n",
        shouting=SHOUT,
    )
    told = [
        millstream_process(*command, "--config_file", str(path))
        for command in (["validate"], ["run", "--input", "x"], ["eval"], ["ship"])
    ]
    assert [done.returncode for done in told] == [2] * 4
    here = "general.telemetry.tracing.out"
    (said,) = {done.stderr for done in told}
    assert said.splitlines() == [
        f"millstream: {path} has 2 problems:",
        f"  {here}: tls.ca_file: /no/ca.pem cannot be read: No such file or directory",
        f"  {here}: `endpoint` 'localhost:4318' is no URL: it begins with http:// or https://, as in http://localhost:4318",
    ]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            "{_type: file, path: /proc/nope/x.jsonl}",
            "out.path: /proc/nope/x.jsonl cannot be made, for /proc takes no files: No such file or",
        ),
        (
            "{_type: elasticsearch, index: spans, endpoint: 'https://localhost:1', ca_certs: empty}",
            "out: `ca_certs`: empty holds no usable certificate (PEM)",
        ),
        (
            "{_type: mlflow, experiment_id: abc}",
            "out.experiment_id: 'abc' is no id of an experiment, which is a number; MLflow shows it on",
        ),
    ],
)
def test_what_the_machine_tells_is_refused_alike_by_every_command(flow, millstream, tmp_path, section, said):
    (tmp_path / "empty").mkdir()
    path = flow(section)
    told = [
        millstream(*command, "--config_file", path)
        for command in (["validate"], ["run", "--input", "x"], ["ship", "--once"])
    ]
    assert [done.returncode for done in told] == [2] * 3
    (line,) = {done.stderr for done in told}
    assert line.startswith(f"millstream: {path}: general.telemetry.tracing.{said}")
    assert line.count("\n") == 1


def test_a_log_that_cannot_be_written_is_refused_alike(write, millstream, tmp_path):
    path = write(
        "general: {telemetry: {logging: {log: {_type: file, path: /proc/nope/x.log}}}}\n"
        "workflow: {_type: python, target: 'shouting.py:shout'}\n",
        shouting=SHOUT,
    )
    told = [
        millstream(*command, "--config_file", str(path))
        for command in (["validate"], ["run", "--input", "x"])
    ]
    assert [done.returncode for done in told] == [2, 2]
    (said,) = {done.stderr for done in told}
    assert said.startswith(f"millstream: {path}: general.telemetry.logging.log.path: /proc/nope/x.log cannot")


def test_a_file_that_cannot_be_written_never_fails_a_run(flow, millstream_process, tmp_path):
    (tmp_path / "folder").symlink_to("/proc/nowhere")
    path = flow("{_type: file, path: folder/traces.jsonl, shutdown_timeout: 1}")
    done = millstream_process("run", "--config_file", path, "--input", "hello")
    assert (done.returncode, done.stdout) == (0, "HELLO\n")
    assert "folder/traces.jsonl cannot be written" in done.stderr
    assert "millstream ship --config_file" in done.stderr
    (tmp_path / "folder").unlink()
    done = millstream_process("ship", "--config_file", path, "--once")
    assert done.returncode == 0, done.stderr
    assert len(lines(tmp_path / "folder" / "traces.jsonl")) == 2


@pytest.fixture
def silent():
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_the_answer_does_not_wait_for_a_server_that_hangs(flow, tmp_path, silent):
    section = f"{{_type: elasticsearch, endpoint: '{silent}', index: x, shutdown_timeout: 3, timeout: 60}}"
    command = [sys.executable, "-W", "error", "-m", "millstream", "run", "--config_file", flow(section)]
    began = time.monotonic()
    with subprocess.Popen(
        [*command, "--input", "hello"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as run:
        assert run.stdout.readline() == "HELLO\n"
        answered = time.monotonic()
        _, err = run.communicate(timeout=60)
    assert run.returncode == 0
    assert 2 < time.monotonic() - answered < 45
    assert time.monotonic() - began < 45
    assert "2 of 2 spans are not delivered to out yet" in err
    assert "millstream ship --config_file" in err


@pytest.mark.parametrize("interrupts", [1, 2])
def test_who_interrupts_twice_waits_for_nothing(flow, tmp_path, silent, interrupts):
    section = f"{{_type: elasticsearch, endpoint: '{silent}', index: x, shutdown_timeout: 4, timeout: 60}}"
    command = [sys.executable, "-m", "millstream", "run", "--config_file", flow(section, "wait")]
    with subprocess.Popen(
        [*command, "--input", "hello"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as run:
        while run.stderr.readline() != "waiting\n":
            pass
        for _ in range(interrupts):
            run.send_signal(signal.SIGINT)
            time.sleep(1)
        began = time.monotonic()
        run.communicate(timeout=60)
        waited = time.monotonic() - began
    assert run.returncode == 130
    assert waited < 2 if interrupts == 2 else 1 < waited < 20


def test_info_lists_exporters_and_processors(millstream):
    listed = json.loads(millstream("info", "--json").stdout)
    (file,) = (item for item in listed["exporters"] if item["name"] == "file")
    path = next(key for key in file["keys"] if key["name"] == "path")
    assert (path["type"], path["required"], path["default"]) == ("Path", True, None)
    assert path["aliases"] == ["output_path", "file_path"]
    assert {"otlp", "phoenix", "elasticsearch", "data_flywheel_elasticsearch", "langfuse"} <= {
        item["name"] for item in listed["exporters"]
    }
    assert [item["name"] for item in listed["processors"]] == [
        "cross_workflow_processor",
        "redaction",
        "sampling",
        "tagging",
        "truncation",
        "workflow_relationship_processor",
    ]


def test_the_journal_is_kept_small(write, millstream_process, home):
    limits = "general: {telemetry: {journal: {max_bytes: 1}}}\n"
    path = str(write(limits + "workflow: {_type: python, target: 'shouting.py:shout'}\n", shouting=SHOUT))
    assert millstream_process("run", "--config_file", path, "--input", "a").returncode == 0
    done = millstream_process("run", "--config_file", path, "--input", "b")
    assert done.returncode == 0
    assert "is over general.telemetry.journal: 1 segment was removed" in done.stderr
    assert [span.input for span in open_store(home).spans() if span.name == "shout"] == ["b"]


def test_what_is_removed_undelivered_is_counted_for_its_exporter(write, millstream_process, home, tmp_path):
    (tmp_path / "folder").symlink_to("/proc/nowhere")
    path = str(
        write(
            """
            general:
              telemetry:
                tracing: {out: {_type: file, path: folder/traces.jsonl}}
                journal: {max_bytes: 1}
            workflow: {_type: python, target: 'shouting.py:shout'}
            """,
            shouting=SHOUT,
        )
    )
    assert millstream_process("run", "--config_file", path, "--input", "a").returncode == 0
    done = millstream_process("run", "--config_file", path, "--input", "b")
    assert (done.returncode, done.stdout) == (0, "B\n")
    assert "1 segment was removed" in done.stderr
    removed, _, kept = done.stderr.partition("2 of the spans had not been delivered to out")
    assert "they are kept" not in removed
    assert "2 of 2 spans are not delivered to out yet" in kept  # those of this run
    status = json.loads(millstream_process("journal", "status", "--home", str(home), "--json").stdout)
    (sink,) = status["sinks"]
    assert (sink["left"], sink["counts"]["evicted"], sink["counts"]["sent"]) == (2, 2, 0)
    (tmp_path / "folder").unlink()
    assert millstream_process("ship", "--config_file", path, "--once").returncode == 0
    assert [line["input"] for line in lines(tmp_path / "folder" / "traces.jsonl")][1:] == ["b"]
