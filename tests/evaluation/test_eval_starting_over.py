"""A folder with an earlier run: it stays whole until the next one has something to put there."""

import signal
from pathlib import Path

import pytest
import yaml

THREE = (("a", "one", "ONE"), ("b", "two", "TWO"), ("c", "three", "THREE"))

DOWN = '''
import socket

def answer(question: str) -> str:
    """Its server is not there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    socket.create_connection(("127.0.0.1", port))
    return question
'''


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def finished(runs):
    """A folder with a finished run."""
    runs.config()
    runs.data(*THREE)
    (runs.folder / "down.py").write_text(DOWN)
    assert runs.run().returncode == 0
    return runs


def test_a_refused_resume_changes_nothing(finished):
    before = _content(finished.out)
    finished.config(target="flow.py:sync_answer")
    assert finished.run("--resume").returncode == 2
    assert _content(finished.out) == before


def test_skip_workflow_without_answers_leaves_nothing(runs):
    runs.config()
    runs.data(*THREE)
    assert runs.run("--skip_workflow").returncode == 2
    assert not runs.out.exists()


def test_a_server_that_is_down_leaves_the_earlier_run_whole(finished):
    before = _content(finished.out)
    finished.config(target="down.py:answer", evaluators={"other": {"_type": "exact_match"}})
    done = finished.run()
    assert done.returncode == 4
    assert "--resume" not in done.stderr  # there is nothing to resume
    assert _content(finished.out) == before


def test_the_first_result_takes_the_folder_over(finished):
    kept = finished.results()
    finished.config(evaluators={"other": {"_type": "exact_match"}}, max_concurrency=1)
    finished.data(("a", "one", "ONE"), ("b", "hang", "HANG"))
    process = finished.start(CALL_S="0")
    while not (finished.out / "results.previous.jsonl").exists() or not finished.results():
        assert process.poll() is None, process.communicate()
    process.kill()
    _, err = process.communicate()
    assert f"The results of the earlier run (3 items) are now in {Path('out/results.previous.jsonl')}" in err
    assert finished.results("results.previous.jsonl") == kept
    assert {path.name for path in finished.out.iterdir()} == {
        ".lock",
        "results.jsonl",
        "results.previous.jsonl",
        "scores.previous.jsonl",
        "config_effective.yml",
        "config_metadata.json",
    }
    effective = yaml.safe_load((finished.out / "config_effective.yml").read_text())
    assert list(effective["eval"]["evaluators"]) == ["other"]


def test_no_earlier_results_are_ever_overwritten(finished):
    first = finished.results()
    for ids in ("ab", "a"):
        finished.data(*(row for row in THREE if row[0] in ids))
        done = finished.run()
        assert "The results of the earlier run" in done.stderr
    assert finished.results("results.previous.jsonl") == first
    assert [result["id"] for result in finished.results("results.previous.2.jsonl")] == ["a", "b"]
    assert len(finished.results()) == 1


def test_skip_workflow_scores_what_a_stopped_run_has(runs):
    runs.config(max_concurrency=1)
    runs.data(("a", "one", "ONE"), ("b", "two", "no"), ("c", "hang", "HANG"))
    process = runs.start(CALL_S="0")
    while len(runs.results()) < 2:
        assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    asked = len(runs.asked())
    done = runs.run("--skip_workflow")
    assert done.returncode == 3
    assert "2 of 3 items have an answer in out/results.jsonl" in done.stderr
    assert "--resume asks the others" in done.stderr
    assert len(runs.asked()) == asked
    accuracy = runs.json("accuracy_output.json")
    assert (accuracy["average_score"], accuracy["n"], accuracy["missing"]) == (0.5, 2, 1)
    assert runs.json("config_metadata.json")["state"] == "running"  # it can be resumed still


def test_stopped_before_anything_was_done_says_so(runs):
    runs.config()
    runs.data(("a", "hang", "A"))
    process = runs.start()
    while not runs.asked():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    done = runs.finish(process, 15)
    assert done.returncode == 130
    assert "Stopped before any item was finished" in done.stderr
    assert "--resume" not in done.stderr
    assert "Stopping; press Ctrl-C again to stop at once" in done.stderr


def test_an_output_folder_that_is_a_file(runs):
    runs.config(output_dir="afile")
    runs.data(*THREE)
    (runs.folder / "afile").write_text("")
    done = runs.run()
    assert done.returncode == 4
    assert "afile is a file, not a folder" in done.stderr
    assert "--resume" not in done.stderr


def test_a_file_that_cannot_be_written_advises_resume_only_with_results(runs):
    runs.config()
    runs.data(*THREE)
    runs.out.mkdir()
    (runs.out / "config_effective.yml").mkdir()  # cannot be replaced by a file
    done = runs.run()
    assert done.returncode == 4
    assert "config_effective.yml cannot be written" in done.stderr
    assert "--resume" not in done.stderr
    (runs.out / "config_effective.yml").rmdir()
    (runs.out / "accuracy_output.json").mkdir()
    done = runs.run()
    assert done.returncode == 4
    assert "3 results are kept; the same command with --resume goes on" in done.stderr
