"""An agent against the real stand-in server: answers, errors, limits, and a server that is not there."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

RULES = """
models: {able: }
api_key: right
rules:
  - {when: {last_user_matches: "limited"}, reply: {error: {status: 429, message: "slow down"}}}
  - {when: {last_user_matches: "broken"}, reply: {error: {status: 500, message: "on fire"}}}
default: "You said: $user"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a stand-in."""
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    command = [sys.executable, "-c", "from millstream.cli import main; main()", "simulate", "llm"]
    process = subprocess.Popen(
        [*command, "--config", str(rules), "--exit-with-parent"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.terminate()
    process.communicate()


def _config(runs, base_url: str, **llm: object) -> None:
    model = {
        "_type": "openai",
        "model_name": "able",
        "base_url": base_url,
        "api_key": "right",
        "max_retries": 0,
    }
    content = {
        "llms": {"main": {**model, **llm}},
        "workflow": {"_type": "tool_calling_agent", "llm_name": "main"},
        "eval": {
            "general": {
                "output_dir": "out",
                "max_concurrency": 2,
                "dataset": {"_type": "csv", "file_path": "data.csv"},
            },
            "evaluators": {
                "accuracy": {"_type": "exact_match"},
                "tokens": {"_type": "avg_tokens_per_llm_end"},
                "calls": {"_type": "avg_num_llm_calls"},
            },
        },
    }
    (runs.folder / "config.yml").write_text(yaml.safe_dump(content))


def test_answers_tokens_and_failures_of_the_server(runs, server):
    _config(runs, server)
    runs.data(
        ("a", "hello", "You said: hello"),
        ("b", "limited", "x"),
        ("c", "broken", "x"),
        ("d", "bye", "You said: bye"),
    )
    done = runs.run()
    assert done.returncode == 3, done.stderr
    rows = {row["id"]: row for row in runs.json("workflow_output.json")}
    assert rows["a"]["error"] is rows["d"]["error"] is None
    assert "(429): slow down" in rows["b"]["error"]["message"]
    assert "(500): on fire" in rows["c"]["error"]["message"]
    assert runs.json("accuracy_output.json")["average_score"] == 0.5
    tokens = {item["id"]: item["score"] for item in runs.json("tokens_output.json")["eval_output_items"]}
    assert tokens["a"] > 0
    assert tokens["b"] is None
    assert runs.json("calls_output.json")["average_score"] == 1  # failed calls are calls


def test_a_server_that_is_down_is_one_message_and_nothing_is_finished(runs, server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    _config(runs, nowhere)
    runs.data(*((str(number), f"hello {number}", f"You said: hello {number}") for number in range(10)))
    done = runs.run()
    assert done.returncode == 4
    assert f"no model server answers at {nowhere}" in done.stderr
    assert "All of the first 3 items failed" in done.stderr
    assert "run the same command again" in done.stderr
    assert "--resume" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert runs.results() == []
    _config(runs, server)  # another port of this machine is the same workflow
    resumed = runs.run("--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert runs.json("accuracy_output.json")["average_score"] == 1


def test_a_wrong_key_is_one_message_without_the_key(runs, server):
    _config(runs, server, api_key="wrong-and-secret")
    runs.data(*((str(number), "hello", "x") for number in range(10)))
    done = runs.run()
    assert done.returncode == 4
    assert "refused the API key (401)" in done.stderr
    assert runs.results() == []
    runs.data(("a", "hello", "x"))
    assert runs.run("--override", "llms.main.api_key", "right").returncode == 0
    for file in (Path("out/config_effective.yml"), Path("out/config_metadata.json")):
        text = file.read_text()
        assert "********" in text
        assert "wrong-and-secret" not in text
        assert "right" not in text


def test_a_server_that_fails_every_item_for_other_reasons_does_not_stop_the_run(runs, server):
    _config(runs, server)
    runs.data(*((str(number), "broken", "x") for number in range(6)))
    assert runs.run().returncode == 3
    assert len(runs.results()) == 6


def test_a_server_that_goes_away_later_fails_items(runs, server):
    _config(runs, server)
    (runs.folder / "data.csv").write_text("id,question,answer\na,hello,You said: hello\n")
    assert runs.run().returncode == 0
    # With one item answered, the others are failures of their own.
    from millstream.evaluation.reachability import Reachability
    from millstream.evaluation.results import ItemError, ItemResult

    def result(number: int, error: Exception | None) -> ItemResult:
        kept = None if error is None else ItemError(type(error).__name__, str(error))
        return ItemResult(str(number), 1, number, "q", None, None, kept, None, None, None)

    reachability = Reachability(10, 2)
    down = ConnectionRefusedError("down")
    assert reachability.judge(result(0, down), down) == []
    assert [one.id for one in reachability.judge(result(1, None), None)] == ["0", "1"]
    for number in range(2, 10):
        assert len(reachability.judge(result(number, down), down)) == 1
