"""Folders and disks that do not take what a profile writes: told in words, and nothing is left by halves."""

import json
import os
import subprocess
import sys

import msgspec
import pytest

from tests.profiler.profiler_synthetic import runs
from tests.profiler.test_profile_command import run

FILES = 12
LIMIT = 300_000


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "spans.jsonl"
    path.write_bytes(b"\n".join([msgspec.json.encode(one) for one in runs(40, seed=2)]))
    return path


def limited(source, folder):
    """The command in a process that may not write a file above `LIMIT`, as when a disk fills up."""
    code = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}))\n"
        "from millstream.cli import main\n"
        "main(['profile', sys.argv[1], '--output_dir', sys.argv[2]])"
    )
    command = [sys.executable, "-c", code, str(source), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_file_that_does_not_fit_is_named_and_the_others_are_written(source, tmp_path):
    out = tmp_path / "out"
    done = limited(source, out)
    assert done.returncode == 4
    names = {path.name for path in out.iterdir()}
    assert {"findings.json", "gantt_chart.png", "trace.json"} <= names
    assert not {"all_requests_profiler_traces.json", "standardized_data_all.csv", "report.html"} & names
    assert all(path.stat().st_size < LIMIT for path in out.iterdir())
    told = done.stderr.replace("\n", " ")
    assert "standardized_data_all.csv" in told
    assert ": File too large; make room, or choose another output_dir." in told
    assert "Traceback" not in told
    assert "Error:" not in told.partition("could not be written")[2]
    assert "open " not in done.stdout  # there is no report


def test_written_twice_the_second_is_there_and_what_failed_is_older(source, tmp_path):
    out = tmp_path / "out"
    assert run("profile", source, "--output_dir", out, cwd=tmp_path).returncode == 0
    assert len(list(out.iterdir())) == FILES
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    source.write_bytes(b"\n".join([msgspec.json.encode(one) for one in runs(35, seed=3)]))
    done = limited(source, out)
    assert done.returncode == 4
    assert "; what is there is older." in done.stderr.replace("\n", " ")
    assert {path.name for path in out.iterdir()} == before.keys()
    assert (out / "report.html").read_bytes() == before["report.html"]
    assert json.loads((out / "findings.json").read_bytes())["requests"]["n"] == 35
    assert run("profile", source, "--output_dir", out, cwd=tmp_path).returncode == 0
    assert (out / "report.html").read_bytes() != before["report.html"]


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_in_the_way_of_the_folder_is_named(out, source, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = run("profile", source, "--output_dir", out, cwd=tmp_path)
    assert done.returncode == 4
    reason = "it is a file" if out == "file" else "file is a file"
    assert f"Cannot make the folder {out}: {reason}. Choose another output_dir." in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(source, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    done = run("profile", source, "--output_dir", "out", cwd=tmp_path)
    assert done.returncode == 4
    assert ": Permission denied; choose another output_dir." in done.stderr.replace("\n", " ")
    assert list((tmp_path / "out").iterdir()) == []
