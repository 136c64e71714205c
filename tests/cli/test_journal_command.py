import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from millstream import open_store, start_span, track_function
from millstream.span import Span


def millstream(*arguments, **kwargs):
    command = [sys.executable, "-W", "error", "-m", "millstream", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **kwargs)


@pytest.fixture
def recorded(home):
    @track_function
    def f(number):
        return {"number": number}

    with start_span("first") as span:
        f(1)
    f(2)
    return span.trace_id


def test_export_prints_whole_spans(recorded):
    lines = millstream("journal", "export").stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert set(Span.__struct_fields__) - {"input", "output"} <= set(json.loads(line))


def test_export_of_one_trace_to_a_file_that_can_be_read_again(recorded, tmp_path):
    target = tmp_path / "spans.jsonl"
    assert millstream("journal", "export", "--trace", recorded, "--output", str(target)).returncode == 0
    assert sorted(span.name for span in open_store(target).spans()) == ["f", "first"]


def test_export_to_parquet(recorded, tmp_path):
    target = tmp_path / "spans.parquet"
    assert millstream("journal", "export", "--output", str(target)).returncode == 0
    assert sorted(pyarrow.parquet.read_table(target)["name"].to_pylist()) == ["f", "f", "first"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--output", "spans.txt"], 2, "must end in .jsonl or .parquet"),
        (["--output", "/nowhere/spans.jsonl"], 4, "cannot be written"),
        (["--home", "/nowhere"], 2, "does not exist"),
    ],
)
def test_export_errors(recorded, arguments, code, message):
    result = millstream("journal", "export", *arguments)
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_export_into_a_closed_pipe_is_quiet(home):
    for _ in range(5):
        with start_span("long", input="x" * 70_000):
            pass
    result = subprocess.run(
        [
            "bash",
            "-c",
            f"{sys.executable} -m millstream journal export | head -c 10; echo ${{PIPESTATUS[0]}}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout, result.stderr) == ('{"trace_id0\n', "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    "arguments",
    [["journal", "export"], ["journal", "status"], ["journal", "status", "--json"], ["journal", "--help"]],
)
def test_a_full_disk_is_said(recorded, arguments):
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "millstream", *arguments], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert result.returncode == 4
    assert b"the output cannot be written: No space left" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_status(home, recorded):
    status = json.loads(millstream("journal", "status", "--json").stdout)
    assert (status["spans"], status["segments"], status["live"], status["open_spans"]) == (3, 1, 1, 0)
    text = millstream("journal", "status").stdout
    assert "3 spans in 1 segment, " in text
    again = json.loads(millstream("journal", "status", "--json").stdout)
    assert again["spans"] == 3
    (home / "manifest.sqlite").unlink()
    assert json.loads(millstream("journal", "status", "--json").stdout)["spans"] == 3


def test_status_of_nothing(tmp_path):
    result = millstream("journal", "status", "--home", str(tmp_path / "none"))
    assert (result.returncode, "nothing is recorded yet" in result.stdout) == (0, True)


def test_status_shows_processors_that_failed_in_processes_that_have_ended(tmp_path):
    program = """
        import sys
        import millstream

        def redact(span):
            raise ValueError("secret")

        section = {"_type": "file", "path": sys.argv[1], "processors": [redact]}
        with millstream.deliver_to({"out": section}):
            for _ in range(3):
                with millstream.start_span("a", input="secret"):
                    pass
    """
    home = tmp_path / "home"
    for _ in range(2):
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "out.jsonl")],
            env={**os.environ, "MILLSTREAM_HOME": str(home)},
            check=True,
            timeout=60,
        )
    shown = millstream("journal", "status", "--home", str(home)).stdout
    assert "out: 6 went without content: the processor redact raised ValueError\n" in shown
    assert "secret" not in shown
    (sink,) = json.loads(millstream("journal", "status", "--home", str(home), "--json").stdout)["sinks"]
    assert sink["counts"]["sent"] == 6
    assert sink["counts"]["processor_faults"] == {"redact raised ValueError": 6}


def test_doctor(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    result = millstream("doctor")
    assert result.returncode == 0, result.stdout
    assert "integrations: " in result.stdout
    assert ", langchain, " in result.stdout
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    findings = json.loads(millstream("doctor", "--json").stdout)
    (server,) = [finding for finding in findings if finding["what"].startswith("model server")]
    assert server["ok"] is False
    assert millstream("doctor").returncode == 4
    monkeypatch.setenv("OPENAI_BASE_URL", "file:///etc/passwd")
    assert "must begin with http" in millstream("doctor").stdout


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("http://localhost:abc/v1", "k", "is not a URL (nonnumeric port"),
        ("http://[bad/v1", "k", "is not a URL"),
        ("http://127.0.0.1:9/v 1", "k", "is not a URL"),
        ("http://127.0.0.1:9/v1", "sk-secret\n", "OPENAI_API_KEY holds"),
        ("http://127.0.0.1:9/v1", "sk-secret\u00fc", "OPENAI_API_KEY holds"),
    ],
)
def test_doctor_finds_settings_that_cannot_work(monkeypatch, url, key, said):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    result = millstream("doctor")
    assert (result.returncode, result.stderr) == (4, "")
    assert said in result.stdout
    assert "secret" not in result.stdout


def test_doctor_of_a_server_that_does_not_speak_http(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        result = millstream("doctor")
        thread.join()
    assert (result.returncode, result.stderr) == (4, "")
    assert "does not speak HTTP" in result.stdout


def test_compact_status_prune_and_query(home, recorded):
    assert millstream("journal", "compact").stdout == f"{home}: nothing new; 1 segment is being written\n"
    every = [json.loads(line) for line in millstream("journal", "export").stdout.splitlines()]
    environment = {**os.environ, "MILLSTREAM_HOME": str(home)}
    subprocess.run(
        [sys.executable, "-c", "import millstream\nwith millstream.start_span('ended'): pass"],
        check=True,
        env=environment,
    )
    assert millstream("journal", "compact").stdout == (
        f"{home}: 1 span of 1 segment written to 1 file; 1 segment is being written\n"
    )
    assert json.loads(millstream("journal", "compact", "--json").stdout)["files"] == []
    assert "compacted: 1 span in 1 Parquet file, 0.0 MB" in millstream("journal", "status").stdout
    assert json.loads(millstream("journal", "status", "--json").stdout)["parquet"]["spans"] == 1
    pruned = millstream("journal", "prune", "--compacted").stdout
    assert pruned == f"{home}: 1 segment was removed (0.0 MB, 1 span); 1 of the spans is kept in Parquet\n"
    found = [json.loads(line) for line in millstream("journal", "export").stdout.splitlines()]
    assert sorted(one["name"] for one in found) == sorted([*(one["name"] for one in every), "ended"])
    rows = millstream(
        "journal", "query", "--json", "SELECT name, count(*) AS n FROM spans GROUP BY ALL ORDER BY 1"
    )
    assert [json.loads(line) for line in rows.stdout.splitlines()] == [
        {"name": "ended", "n": 1},
        {"name": "f", "n": 2},
        {"name": "first", "n": 1},
    ]
    table = millstream(
        "journal", "query", "SELECT input->>'number' AS number FROM spans WHERE name = 'f' ORDER BY 1"
    )
    assert table.stdout.split() == ["number", "1", "2"]
    assert millstream("journal", "prune", "--max-age", "0s").stdout.startswith(
        f"{home}: 1 Parquet file was removed"
    )


def test_query_errors(recorded):
    wrong = millstream("journal", "query", "SELEC name FROM spans")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("millstream: The query cannot be answered: Parser Error")
    assert millstream("journal", "query", "--home", "/nowhere", "SELECT 1").returncode == 2


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("", 'There is no query; try "SELECT count(*) FROM spans"'),
        (" ; ", 'There is no query; try "SELECT count(*) FROM spans"'),
        ("SELECT 1 AS a, 2 AS b, 3 AS a", "'a'; tell them apart by AS"),
    ],
)
def test_a_query_without_an_answer(recorded, sql, says):
    done = millstream("journal", "query", "--json", sql)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_compacting_what_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    done = millstream("journal", "compact", "--home", str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "file is no folder. Give the folder that was recorded into" in done.stderr


def test_exporting_what_was_compacted_without_the_extra(home):
    """Also where the manifest tells of the file, so that it need not be opened."""
    record = "import millstream; millstream.start_span('one').__enter__().__exit__(None, None, None)"
    subprocess.run([sys.executable, "-c", record], check=True)
    assert millstream("journal", "compact").returncode == 0
    assert millstream("journal", "status").returncode == 0
    code = "import sys; sys.modules['pyarrow'] = None; from millstream.cli import main; main()"
    command = [sys.executable, "-c", code, "journal", "export"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 4
    assert "needs the extra [profiling]: pip install 'millstream[profiling]'" in done.stderr


def test_a_query_is_interrupted(recorded):
    sql = "SELECT count(*) FROM range(100000000) a, range(100000) b WHERE a.range * b.range % 7 = 3"
    command = [sys.executable, "-m", "millstream", "journal", "query", sql]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            for _ in range(300):  # until it is at it
                if sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().split()[13:15])) > 300:
                    break
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=15)
        finally:
            process.kill()
    assert process.returncode not in (0, -signal.SIGKILL)
    assert "Traceback" not in told
